"""DBOS Transact: a library whose workflows run in the application's process; its steps are rows of a database."""

from __future__ import annotations

import asyncio
import sqlite3
from typing import ClassVar

from tests.services import PrivatePostgres

from bench.peers import python_with, versions_of
from bench.processes import Child, Producer, cpu_s
from bench.sites.site import Site

PACKAGES = ("dbos", "psycopg[binary]", "uvloop")
POSTGRES_SETTINGS = {
    "shared_buffers": "512MB",
    "max_connections": "200",
    "max_wal_size": "4GB",
    "checkpoint_timeout": "15min",
    "synchronous_commit": "on",
    "fsync": "on",
}


class DbosSqlite(Site):
    name: ClassVar[str] = "dbos-sqlite"
    works: ClassVar[frozenset[str]] = frozenset({"W1", "W1-lat", "W2", "W3", "W4", "W5"})
    part: ClassVar[float] = 0.2
    steps_max: ClassVar[int] = 1000
    settings: ClassVar[str] = (
        "one process that starts and runs the workflows, 64 at a time; SQLite in WAL mode, whose `synchronous` is FULL"
        " by default; a fifth of the events of W1 and W2"
    )

    @classmethod
    async def prepare(cls) -> dict[str, str]:
        return await versions_of(await python_with("dbos", PACKAGES), ("dbos", "psycopg"))

    async def start(self) -> None:
        python = await python_with("dbos", PACKAGES)
        environment = {"BENCH_DATABASE": await self.database_url(), "BENCH_JOURNAL": str(self.journal_path)}
        self._app = self.producing("dbos-app", [str(python), "-m", "bench.apps.dbos"], environment)
        await self._app.listens()

    async def database_url(self) -> str:
        """Make a database and return its URL."""
        path = self.folder / "dbos.sqlite"
        connection = sqlite3.connect(path)
        connection.execute("PRAGMA journal_mode=WAL")
        connection.close()
        return f"sqlite:///{path}"

    async def worker_is_back(self) -> None:
        await self._app.listens()

    @property
    def producer(self) -> Producer:
        return self._app

    @property
    def worker(self) -> Child:
        return self._app


class DbosPostgres(DbosSqlite):
    name: ClassVar[str] = "dbos-postgres"
    settings: ClassVar[str] = (
        "as above on a private PostgreSQL with `fsync` and `synchronous_commit` on; a fifth of the events of W1 and W2"
    )
    _postgres: PrivatePostgres | None = None

    @classmethod
    async def prepare(cls) -> dict[str, str]:
        postgres = await asyncio.to_thread(PrivatePostgres.create, **POSTGRES_SETTINGS)
        try:
            version = str(postgres.execute("SHOW server_version")[0][0]).split()[0]
        finally:
            postgres.remove()
        return {**await super().prepare(), "postgresql": version}

    async def database_url(self) -> str:
        self._postgres = await asyncio.to_thread(PrivatePostgres.create, **POSTGRES_SETTINGS)
        return self._postgres.url.replace("postgresql://", "postgresql+psycopg://")

    def cpu_s(self) -> float:
        server = self._postgres.process if self._postgres is not None else None
        return super().cpu_s() + (cpu_s(server.pid) if server is not None else 0.0)

    async def stop(self) -> None:
        await super().stop()
        if self._postgres is not None:
            await asyncio.to_thread(self._postgres.remove)
