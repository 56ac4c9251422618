"""PostgreSQL for the tests: one at an address that is given, else a private one from the binaries of this machine.

`IDIOTEQUE_TEST_POSTGRES` gives the URL of a database in which schemas may be created. Without it a cluster is made in a
temporary folder, durable as in production, and ended by its pid. Where there is neither, the tests fail;
`tests/install_services.sh`, which `make test` runs, installs what is missing.
"""

from __future__ import annotations

import glob
import itertools
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import psycopg
import pytest

from idioteque.clock import SystemClock

READY_S = 30.0
END_S = 30.0
LOOK_EVERY_S = 0.02
PASSWORD = "not a secret: % / @"
QUOTED = "not%20a%20secret%3A%20%25%20%2F%20%40"

BINARIES = (
    "/usr/lib/postgresql/*/bin",
    "/usr/local/pgsql/bin",
    "/usr/pgsql-*/bin",
    "/opt/homebrew/opt/postgresql*/bin",
    "/usr/local/opt/postgresql*/bin",
)
# As many servers have it, but for the size; fsync and synchronous_commit stay on.
SETTINGS = {"shared_buffers": "32MB", "max_connections": "60", "listen_addresses": "127.0.0.1", "log_lock_waits": "on"}

_numbers = itertools.count(1)


def postgres_binary(name: str) -> str:
    """Return the path of one of PostgreSQL's programs; fail when it is not installed."""
    folders = [folder for pattern in BINARIES for folder in sorted(glob.glob(pattern), reverse=True)]
    found = shutil.which(name) or next((path for f in folders if (path := shutil.which(name, path=f))), None)
    assert found, f"no {name}: install PostgreSQL, or set IDIOTEQUE_TEST_POSTGRES=postgresql://user:password@host/name"
    return os.path.realpath(found)


@dataclass
class PostgresServer:
    """A running server; the user of `url` may create schemas and databases."""

    url: str

    def execute(self, statement: str) -> list[tuple[object, ...]]:
        """Run one statement beside whatever the tests do; return its rows."""
        with psycopg.connect(self.url, autocommit=True) as admin:
            done = admin.execute(statement.encode())
            return done.fetchall() if done.description else []

    def create_schema(self) -> str:
        """Make room for one test, with names of its own, and return the URL that leads there."""
        name = f"idioteque_test_{os.getpid()}_{next(_numbers)}"
        self.execute(f"CREATE SCHEMA {name}")
        return f"{self.url}{'&' if '?' in self.url else '?'}options=-csearch_path%3D{name}"

    def drop_schema(self, url: str) -> None:
        self.execute(f"DROP SCHEMA {url.rpartition('%3D')[2]} CASCADE")


@dataclass
class PrivatePostgres(PostgresServer):
    """A server of ours, which can be killed and started again on the same port."""

    folder: Path
    port: int
    settings: dict[str, str] = field(default_factory=dict)
    process: subprocess.Popen[bytes] | None = None

    @classmethod
    def create(cls, **settings: str) -> PrivatePostgres:
        """Make a cluster in a new folder and start it."""
        folder = Path(tempfile.mkdtemp(prefix="idioteque-postgres-"))
        account = _account()
        if account is not None:
            shutil.chown(folder, account)
        secret = folder / "password"
        secret.write_text(PASSWORD)
        _run([
            *(postgres_binary("initdb"), "--pgdata", str(folder / "data"), "--no-sync", "--username", "tester"),
            *("--pwfile", str(secret), "--auth", "scram-sha-256", "--encoding", "UTF8", "--locale", "C"),
        ], folder)  # fmt: skip
        port = free_port()
        url = f"postgresql://tester:{QUOTED}@127.0.0.1:{port}/postgres"
        server = cls(url, folder, port, {**SETTINGS, **settings})
        server.start()
        return server

    @property
    def log(self) -> Path:
        return self.folder / "log"

    def start(self) -> None:
        """Start the server and return once it takes connections."""
        options = {**self.settings, "port": str(self.port), "unix_socket_directories": str(self.folder)}
        flags = [flag for name, value in options.items() for flag in ("-c", f"{name}={value}")]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [postgres_binary("postgres"), "-D", str(self.folder / "data"), *flags],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=self.folder,
                user=_account(), extra_groups=_groups(),
            )  # fmt: skip
        wait_until(self._is_ready, READY_S, f"PostgreSQL to start: {self.log}")

    def kill(self) -> None:
        """End the server as its crash would: nothing is flushed that was not flushed before."""
        self._end(signal.SIGQUIT)

    def remove(self) -> None:
        """End the server and forget what it stored."""
        self._end(signal.SIGQUIT)
        shutil.rmtree(self.folder, ignore_errors=True)

    def _end(self, how: signal.Signals) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(how)
            self.process.wait(END_S)

    def _is_ready(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, self.log.read_text()
        try:
            psycopg.connect(self.url, connect_timeout=2).close()
        except psycopg.OperationalError:
            return False
        return True


def wait_until(condition: Callable[[], bool], timeout_s: float, what: str) -> None:
    """Return once a condition holds; fail when it does not in time."""
    clock, never = SystemClock(), threading.Event()
    deadline_s = clock.monotonic_s() + timeout_s
    while not condition():
        assert clock.monotonic_s() < deadline_s, f"waited {timeout_s:g} s for {what}"
        never.wait(LOOK_EVERY_S)


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    """The server of all tests."""
    given = os.environ.get("IDIOTEQUE_TEST_POSTGRES")
    if given:
        yield PostgresServer(given)
        return
    server = PrivatePostgres.create()
    yield server
    server.remove()


@pytest.fixture(scope="session")
def private_postgres(postgres: PostgresServer) -> Iterator[PrivatePostgres]:
    """A server that a test may kill and start again."""
    if isinstance(postgres, PrivatePostgres):
        yield postgres
        return
    server = PrivatePostgres.create()
    yield server
    server.remove()


@pytest.fixture
def postgres_url(postgres: PostgresServer) -> Iterator[str]:
    """An empty room in the database, of one test's own."""
    url = postgres.create_schema()
    yield url
    postgres.drop_schema(url)


def _account() -> str | None:
    """Return the account under which the server runs, as it refuses to run under root's."""
    if os.geteuid() != 0:
        return None
    import pwd

    known = {entry.pw_name for entry in pwd.getpwall()}
    return "postgres" if "postgres" in known else "nobody"


def _groups() -> list[int] | None:
    return [] if os.geteuid() == 0 else None


def _run(command: list[str], folder: Path) -> None:
    done = subprocess.run(
        command, cwd=folder, user=_account(), extra_groups=_groups(), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
