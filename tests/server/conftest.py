"""A server that needs no process: see `house.py`."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.server.house import House, open_house


@pytest.fixture
async def house() -> AsyncIterator[House]:
    """A server whose destinations all answer 200."""
    async with open_house() as opened:
        yield opened
