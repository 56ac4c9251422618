"""The server alone: a producer of plain messages, and a destination that does nothing but count."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from contextlib import closing
from pathlib import Path
from typing import ClassVar

from bench.figures import OURS
from bench.processes import LOOK_EVERY_S, Child, Producer, free_port
from bench.sites.ours import READY, Ours, credentials, serve_command
from bench.sites.site import PYTHON, Site

WARM_UP_MESSAGES = 500
SOON_MS = 3_600_000  # what is due later is pending, not under way


class ServerAlone(Site):
    """`pending` is the folder of a database that was filled before, and whose messages wait for this destination."""

    name: ClassVar[str] = OURS
    works: ClassVar[frozenset[str]] = frozenset({"D1", "D2"})
    settings: ClassVar[str] = Ours.settings

    def __init__(self, folder: Path, pending: Path | None = None, destination_port: int | None = None) -> None:
        super().__init__(folder)
        self._database = pending or folder
        self._port = destination_port or free_port()
        self.ready_s = 0.0
        """How long the server took to be ready."""

    @classmethod
    async def prepare(cls) -> dict[str, str]:
        return await Ours.prepare()

    async def start(self) -> None:
        port = free_port()
        self.environment = {
            **credentials(port),
            "BENCH_JOURNAL": str(self.journal_path),
            "BENCH_PORT": str(self._port),
            "BENCH_DESTINATION": f"http://127.0.0.1:{self._port}/",
        }
        self._destination = self.child("destination", [PYTHON, "-m", "bench.destination"], self.environment)
        await self._destination.accepts(self._port)
        began_s = time.monotonic()
        self.server = self.child("server", serve_command(port, self._database), self.environment)
        await self.server.said(READY)
        self.ready_s = time.monotonic() - began_s
        command = [PYTHON, "-m", "bench.sites.server_producer"]
        self._producer = self.producing("producer", command, self.environment)
        await self._producer.listens()

    async def restart_server(self) -> float:
        """Kill the server, start it again on what it left, and return how long it took to be ready, seconds."""
        self.server.kill()
        self.server.log.write_text("")
        began_s = time.monotonic()
        self.server.start()
        await self.server.said(READY)
        return time.monotonic() - began_s

    @property
    def producer(self) -> Producer:
        return self._producer

    @property
    def worker(self) -> Child:
        return self._destination

    async def warm_up(self) -> None:
        await self.drained(WARM_UP_MESSAGES)

    async def drained(self, count: int) -> float:
        """Publish messages and return how long it took until every one was delivered and its end stored, seconds."""
        first, called_ns = await self.order("message", count)
        await self.all_ended(first, count)
        while self._is_under_way():
            await asyncio.sleep(LOOK_EVERY_S)
        return time.monotonic() - min(called_ns) / 1e9

    def _is_under_way(self) -> bool:
        with closing(sqlite3.connect(f"file:{self._database / 'server.db'}?mode=ro", uri=True)) as database:
            # What is leased stands at one end of the table; the others by the index of what is due.
            found = database.execute(
                """SELECT EXISTS (SELECT 1 FROM deliveries WHERE leased = 1)
                OR EXISTS (SELECT 1 FROM deliveries WHERE leased = 0 AND origin = ? AND visible_at_ms < ?)""",
                (f"http://127.0.0.1:{self._port}", int(time.time() * 1000) + SOON_MS),
            )
            return bool(found.fetchone()[0])
