"""What the tests of this folder lean on."""

from __future__ import annotations

import pytest

from tests.library.engine.rig import Rig


@pytest.fixture
def rig() -> Rig:
    """A worker whose steps each have a delivery of their own: where the flaws were."""
    return Rig("sqlite", "isolated")


@pytest.fixture(params=["inline", "isolated"])
def either(request: pytest.FixtureRequest) -> Rig:
    """A worker in each of the two modes."""
    return Rig("sqlite", request.param)
