"""A worker that can kill itself with SIGKILL at a named moment, once."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel
from starlette.applications import Starlette
from starlette.routing import Route

from idioteque import Context, QStashDispatcher, Worker
from idioteque.ids import nonce
from idioteque.paths import BODY
from idioteque.paths import Path as StepPath
from idioteque.store import Committed, Lease, Outcome
from idioteque.stores import SqlStore

STEPS = ("a", "b", "c")
PARALLEL = ("p1", "p2", "p3")
WORK_S = 0.01


class Job(BaseModel):
    type: Literal["job"] = "job"
    number: int


class Moments:
    """Kills this process at a moment that was ordered by creating a file `die-MOMENT`; the file is gone then."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def reach(self, moment: str) -> None:
        order = self._directory / f"die-{moment}"
        if order.exists():
            order.unlink()
            os.kill(os.getpid(), signal.SIGKILL)


class DyingStore(SqlStore):
    """Dies before or after a commit, when that was ordered."""

    moments: Moments

    async def commit(self, lease: Lease, path: StepPath, outcome: Outcome) -> Committed:
        name = "body" if path == BODY else path[-1]
        self.moments.reach(f"before-commit-{name}")
        answer = await super().commit(lease, path, outcome)
        self.moments.reach(f"after-commit-{name}")
        return answer


def make_worker(directory: Path, mount_url: str) -> Worker:
    store = DyingStore(f"sqlite:///{directory / 'runs.db'}")
    store.moments = Moments(directory)
    worker = Worker(events_schema=Job, store=store, dispatcher=QStashDispatcher(mount_url=mount_url, retries=10))
    journal = os.open(directory / "effects.log", os.O_CREAT | os.O_WRONLY | os.O_APPEND, 0o600)

    async def effect(ctx: Context, name: str) -> str:
        receipt = nonce()
        os.write(journal, f"{ctx.run_id} {name} {receipt}\n".encode())
        await asyncio.sleep(WORK_S)
        return receipt

    @worker.function("work", on="job")
    async def work(event: Job, ctx: Context) -> dict[str, Any]:
        results = {name: await ctx.execute(name, effect, ctx, name) for name in STEPS}
        both = await asyncio.gather(*(ctx.execute(name, effect, ctx, name) for name in PARALLEL))
        return {**results, **dict(zip(PARALLEL, both, strict=True))}

    return worker


def make_app() -> Starlette:
    worker = make_worker(Path(os.environ["FAULTS_DIRECTORY"]), os.environ["FAULTS_MOUNT_URL"])
    assert isinstance(worker.dispatcher, QStashDispatcher)
    return Starlette(routes=[Route("/api/worker", worker.dispatcher.mount(worker))])
