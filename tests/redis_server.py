"""Redis for the tests: one at an address that is given, else a private one from the binary of this machine.

`IDIOTEQUE_TEST_REDIS` gives the URL of a server whose keys the tests may fill under prefixes of their own. Where there
is neither, the tests fail; `tests/install_services.sh`, which `make test` runs, installs what is missing.
"""

from __future__ import annotations

import itertools
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import redis

from tests.services import END_S, READY_S, free_port, wait_until

DURABLE = {"save": "", "appendonly": "yes", "appendfsync": "always", "daemonize": "no"}

_numbers = itertools.count(1)


@dataclass
class RedisServer:
    """A running server."""

    url: str

    def prefix(self) -> str:
        return f"test-{os.getpid()}-{next(_numbers)}"

    def room(self, **options: object) -> str:
        """Return the URL of an empty store of one test's own."""
        asked = "".join(f"&{name}={value}" for name, value in options.items())
        return f"{self.url}?prefix={self.prefix()}{asked}"

    def execute(self, *command: str | int) -> object:
        """Run one command beside whatever the tests do."""
        with redis.Redis.from_url(self.url, protocol=2) as client:
            return client.execute_command(*command)


@dataclass
class PrivateRedis(RedisServer):
    """A server of ours, which can be killed and started again on the same port; every write is on the disk."""

    folder: Path
    port: int
    settings: dict[str, str] = field(default_factory=dict)
    process: subprocess.Popen[bytes] | None = None

    @classmethod
    def create(cls, **settings: str) -> PrivateRedis:
        port = free_port()
        folder = Path(tempfile.mkdtemp(prefix="idioteque-redis-"))
        server = cls(f"redis://127.0.0.1:{port}/0", folder, port, settings)
        server.start()
        return server

    def start(self) -> None:
        """Start the server and return once it answers."""
        binary = shutil.which("redis-server")
        assert binary, "no redis-server: install Redis, or set IDIOTEQUE_TEST_REDIS=redis://host:6379/0"
        settings = {"port": str(self.port), "bind": "127.0.0.1", "dir": str(self.folder), **DURABLE, **self.settings}
        flags = [part for name, value in settings.items() for part in (f"--{name.replace('_', '-')}", value)]
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen([binary, *flags], stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        wait_until(self._is_ready, READY_S, f"Redis to start: {self.folder}/log")

    def kill(self) -> None:
        """End the server as a crash would."""
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait(END_S)

    def remove(self) -> None:
        """End the server and forget what it stored."""
        self.kill()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _is_ready(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, (self.folder / "log").read_text()
        try:
            return self.execute("PING") in (b"PONG", True)
        except redis.ConnectionError:
            return False


@pytest.fixture(scope="session")
def redis_server() -> Iterator[RedisServer]:
    """The server of all tests."""
    given = os.environ.get("IDIOTEQUE_TEST_REDIS")
    if given:
        yield RedisServer(given)
        return
    server = PrivateRedis.create()
    yield server
    server.remove()


@pytest.fixture
def private_redis() -> Iterator[PrivateRedis]:
    """A server that a test may kill and start again."""
    server = PrivateRedis.create()
    yield server
    server.remove()


@pytest.fixture
def redis_url(redis_server: RedisServer) -> str:
    """An empty store in the server, of one test's own."""
    return redis_server.room()
