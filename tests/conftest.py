"""What every test may lean on."""

from __future__ import annotations

import os
import socket

import pytest

pytest_plugins = ["tests.services", "tests.redis_server"]


@pytest.fixture(autouse=True)
def environment_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hide the settings and credentials of whoever runs the tests."""
    for name in list(os.environ):
        if name.startswith(("QSTASH_", "IDIOTEQUE_")):
            monkeypatch.delenv(name)


@pytest.fixture
def unused_port() -> int:
    """A loopback port on which nobody listens."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port: int = taken.getsockname()[1]
    return port
