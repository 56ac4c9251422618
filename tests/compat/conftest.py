"""A real server and a real destination, shared by the tests of one module."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.destination import Destination, Received, open_destination
from tests.processes import ServerProcess, start_server


def by_path(request: Received) -> int | tuple[int, dict[str, str], bytes]:
    """Answer with the status that the path ends with, e.g. `/500`; 200 for any other."""
    last = request.target.partition("?")[0].rpartition("/")[2]
    return (int(last), {"X-Answer": "yes"}, b"said no") if last.isdigit() else 200


@pytest.fixture(scope="module")
def destination() -> Iterator[Destination]:
    with open_destination(by_path) as opened:
        yield opened


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    process = start_server(tmp_path_factory.mktemp("server"))
    yield process
    assert process.stop() == 0
