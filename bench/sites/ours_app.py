"""Our worker, run by uvicorn: the functions of all workloads, mounted twice, once for each mode."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, Field

from bench.journal import BEGAN, ENDED, Journal
from idioteque import Context, QStashDispatcher, Worker
from idioteque.mounts.asgi import Receive, Scope, Send

RESULT = {"v": "x" * 91}  # 100 bytes of JSON
SLOW_STEP_S = 0.02
ASGI = Callable[[Scope, Receive, Send], Awaitable[None]]
MODES: tuple[Literal["inline"], Literal["isolated"]] = ("inline", "isolated")


class Numbered(BaseModel):
    number: int
    steps: int = 1


class One(Numbered):
    type: Literal["one"] = "one"


class Sequence(Numbered):
    type: Literal["seq"] = "seq"


class Parallel(Numbered):
    type: Literal["par"] = "par"


class Slow(Numbered):
    type: Literal["slow"] = "slow"


class Nap(Numbered):
    type: Literal["nap"] = "nap"


Event = Annotated[One | Sequence | Parallel | Slow | Nap, Field(discriminator="type")]
EVENTS: dict[str, type[One | Sequence | Parallel | Slow | Nap]] = {
    "one": One, "seq": Sequence, "par": Parallel, "slow": Slow, "nap": Nap,
}  # fmt: skip


async def nothing() -> None:
    """The step of W1."""


async def result() -> dict[str, str]:
    return RESULT


def make_worker(folder: Path, dispatcher: QStashDispatcher) -> Worker:
    """Return a worker, as its own process and the producer make it."""
    return Worker(events_schema=Event, store=f"sqlite:///{folder / 'runs.db'}", dispatcher=dispatcher)


def dispatcher_for(mode: str, base_url: str) -> QStashDispatcher:
    """Return the dispatcher whose messages are delivered in this mode."""
    return QStashDispatcher(mount_url=f"{base_url}/{mode}", retries=10)


def declare(worker: Worker, journal: Journal) -> None:
    """Give the worker the functions of the workloads."""

    async def slow_step(number: int, place: int) -> dict[str, str]:
        journal.note(number, place)
        await asyncio.sleep(SLOW_STEP_S)
        return RESULT

    @worker.function("one", on="one")
    async def one(event: One, ctx: Context) -> None:
        journal.note(event.number, BEGAN)
        await ctx.execute("step", nothing)
        journal.note(event.number, ENDED)

    @worker.function("seq", on="seq")
    async def sequence(event: Sequence, ctx: Context) -> None:
        journal.note(event.number, BEGAN)
        for place in range(event.steps):
            await ctx.execute(f"step-{place}", result)
        journal.note(event.number, ENDED)

    @worker.function("par", on="par")
    async def parallel(event: Parallel, ctx: Context) -> None:
        journal.note(event.number, BEGAN)
        await asyncio.gather(*(ctx.execute(f"step-{place}", result) for place in range(event.steps)))
        journal.note(event.number, ENDED)

    @worker.function("slow", on="slow")
    async def slow(event: Slow, ctx: Context) -> None:
        journal.note(event.number, BEGAN)
        for place in range(event.steps):
            await ctx.execute(f"step-{place}", slow_step, event.number, place)
        journal.note(event.number, ENDED)

    @worker.function("nap", on="nap")
    async def nap(event: Nap, ctx: Context) -> None:
        journal.note(event.number, BEGAN)
        await ctx.sleep("nap", "1d")
        journal.note(event.number, ENDED)

    _ = (one, sequence, parallel, slow, nap)


def make_app() -> ASGI:
    """Return the application that answers at `/inline` and at `/isolated`."""
    folder, base_url = Path(os.environ["BENCH_FOLDER"]), os.environ["BENCH_WORKER_URL"]
    worker = make_worker(folder, dispatcher_for("inline", base_url))
    declare(worker, Journal(os.environ["BENCH_JOURNAL"]))
    mounts = {f"/{mode}": dispatcher_for(mode, base_url).mount(worker, mode=mode) for mode in MODES}

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        mount = mounts["/inline"] if scope["type"] == "lifespan" else mounts[scope["path"]]
        await mount(scope, receive, send)

    return app
