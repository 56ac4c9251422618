"""This project: `idioteque serve`, a worker under uvicorn and a producer, each a process; SQLite, fsync full."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from importlib import metadata
from pathlib import Path
from typing import ClassVar

from bench.figures import OURS
from bench.processes import Child, Producer, free_port
from bench.sites.site import PYTHON, Site
from idioteque.ids import new_signing_key, new_token

READY = r"idioteque is running at (http://\S+)"


def credentials(port: int) -> dict[str, str]:
    """Return the environment of a server on this port and of those who use it."""
    return {
        "QSTASH_URL": f"http://127.0.0.1:{port}",
        "QSTASH_TOKEN": new_token("bench"),
        "QSTASH_CURRENT_SIGNING_KEY": new_signing_key(),
        "QSTASH_NEXT_SIGNING_KEY": new_signing_key(),
    }


def serve_command(port: int, folder: Path) -> list[str]:
    """Return the command of a server that keeps its messages in a folder and reaches this machine."""
    return [
        *(PYTHON, "-m", "idioteque", "serve", "--port", str(port), "--allow-private", "127.0.0.0/8"),
        *("--database", f"sqlite:///{folder / 'server.db'}"),
    ]


class Ours(Site):
    name: ClassVar[str] = OURS
    works: ClassVar[frozenset[str]] = frozenset({"W1", "W1-lat", "W2", "W3", "W4", "W4-isolated", "W5"})
    settings: ClassVar[str] = (
        "server, worker (the mount as plain ASGI on uvicorn, with a process for each core in W1 and W2, else with one)"
        " and producer; both halves on SQLite in WAL mode with `synchronous=FULL`"
    )

    @classmethod
    async def prepare(cls) -> dict[str, str]:
        return {name: metadata.version(name) for name in ("idioteque", "uvicorn", "apsw")}

    async def start(self) -> None:
        port, worker_port = free_port(), free_port()
        environment = {
            **credentials(port),
            "BENCH_FOLDER": str(self.folder),
            "BENCH_WORKER_URL": f"http://127.0.0.1:{worker_port}",
            "BENCH_JOURNAL": str(self.journal_path),
        }
        self.server = self.child("server", serve_command(port, self.folder), environment)
        self._worker_port = worker_port
        self._worker = self.child("worker", self._worker_command(worker_port), environment)
        self._producer = self.producing("producer", [PYTHON, "-m", "bench.sites.ours_producer"], environment)
        await self.server.said(READY)
        await self.worker_is_back()
        await self._producer.listens()

    def _worker_command(self, port: int) -> list[str]:
        return [
            *(PYTHON, "-m", "uvicorn", "--factory", "bench.sites.ours_app:make_app", "--port", str(port)),
            *("--log-level", "warning", "--no-access-log"),
            *(("--workers", str(self.processes_max)) if self.processes_max > 1 else ()),
        ]

    async def worker_is_back(self) -> None:
        await self._worker.accepts(self._worker_port)

    @property
    def producer(self) -> Producer:
        return self._producer

    @property
    def worker(self) -> Child:
        return self._worker

    def message_count(self) -> int:
        """Return how many messages the server has ever taken in."""
        with closing(sqlite3.connect(f"file:{self.folder / 'server.db'}?mode=ro", uri=True)) as database:
            return int(database.execute("SELECT COUNT(*) FROM messages").fetchone()[0])
