"""Whoever publishes events and looks at runs: a process that never dies, but whose calls can fail."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, TypeVar

from idioteque.dispatcher import EventEnvelope, Outgoing
from idioteque.errors import IdiotequeError, InvalidValue
from idioteque.function import run_id
from idioteque.ids import derived_id
from idioteque.runs import ENDED, Run, Runs
from tests.simulation.ports import DispatcherPort, StorePort

if TYPE_CHECKING:
    from tests.simulation.world import World

TRIES_MAX = 30
LOOKS_MAX = 400
LOOK_EVERY_S_MAX = 300.0

T = TypeVar("T")


class Client:
    """The outside: it runs the program's script."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.dispatcher = DispatcherPort(world.outside)
        self._tasks: list[asyncio.Task[Any]] = []
        store: Any = StorePort(world.outside, world.storage.store)
        dispatcher: Any = self.dispatcher
        self._runs = Runs(store, dispatcher, {}, world.program.schema, world.outside)

    def begin(self) -> None:
        """Start with the script."""
        self.began_us = self.world.timers.now_us
        self._spawn(self.world.program.script(self))

    def _spawn(self, coroutine: Any) -> None:
        loop = self.world.outside.loop
        loop.call_soon(lambda: self._tasks.append(loop.create_task(coroutine)))

    def check(self) -> None:
        """Everything that it began must have ended well."""
        for task in self._tasks:
            if not task.done():
                self.world.violate(f"the client hangs: {task.get_coro()}")
            elif task.exception() is not None:
                self.world.violate(f"the client failed: {task.exception()!r}")

    # ---- what scripts do

    async def publish(self, event: Any, event_id: str, *, delay_s: float = 0.0) -> None:
        """Publish an event until it is known to be accepted."""
        body = EventEnvelope(event_id, self.world.program.schema.encode(event)).encode()
        outgoing = Outgoing(body, derived_id("dd", "event", event_id), delay_s)
        await self._until_done(lambda: self.dispatcher.send([outgoing]))

    async def sleep(self, seconds: float) -> None:
        """Let time pass."""
        await self.world.outside.sleep(seconds)

    async def ended(self, event_id: str, function_id: str) -> Run | None:
        """Wait for the end of a run and return it; None when it does not end, or never was."""
        return await self.until(lambda run: run is not None and run.status in ENDED, event_id, function_id)

    async def until(self, is_so: Callable[[Run | None], bool], event_id: str, function_id: str) -> Run | None:
        """Look at a run until it is as wanted; return None when it does not become so."""
        pause_s = 0.5
        for _ in range(LOOKS_MAX):
            run = await self._until_done(lambda: self._runs.get(run_id(event_id, function_id)))
            if is_so(run):
                return run
            await self.sleep(pause_s)
            pause_s = min(LOOK_EVERY_S_MAX, pause_s * 1.5)
        return None

    async def retry(self, event_id: str, function_id: str) -> None:
        """Let a run that failed go on."""
        await self._until_done(lambda: self._runs.retry(run_id(event_id, function_id)), InvalidValue)

    def cancel(self, run: str) -> None:
        """Cancel a run, beside whatever the script does."""
        self._spawn(self._cancelled(run))

    async def _cancelled(self, run: str) -> None:
        try:
            await self._until_done(lambda: self._runs.cancel(run), InvalidValue)
        except TimeoutError:
            if await self._until_done(lambda: self._runs.get(run)) is not None:
                raise
            # Its event never began it: nothing was there to be cancelled.

    async def _until_done(self, call: Callable[[], Awaitable[T]], *resigning: type[Exception]) -> T | None:
        for _ in range(TRIES_MAX):
            try:
                return await call()
            except resigning:
                return None
            except IdiotequeError:
                await self.sleep(1.0)
        raise TimeoutError("the client gave up")
