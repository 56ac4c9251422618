"""What still moves by itself while virtual time stands still: the user's own code, in tasks and in threads."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Generator
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

from idioteque.bridge import call_anywhere, is_async
from idioteque.errors import IdiotequeError
from idioteque.store import Lease
from idioteque.testing.clock import ManualClock

TURNS_TO_SETTLE = 50
REAL_TIME_MAX_S = 30.0
"""How long, in real time, everything may stand still while a step or a function is at work."""


class HarnessError(IdiotequeError, AssertionError):
    """The test cannot go on: something hangs or never ends, or there is no such run."""


class Crashed(Exception):
    """Raised by whatever a process does that is taken to have died."""


@dataclass(eq=False, slots=True)
class Delivery:
    """One delivery in progress, as if in a process of its own, which a fault can end."""

    died: asyncio.Future[None]
    leases: set[Lease] = field(default_factory=set[Lease])
    threads: set[object] = field(default_factory=set[object])
    parked: list[asyncio.Future[None]] = field(default_factory=list[asyncio.Future[None]])
    is_dead: bool = False

    async def die(self) -> None:
        """End the process here: nothing that it does from now on takes effect. Never returns."""
        self.is_dead = True
        loop = self.died.get_loop()
        loop.call_soon_threadsafe(self._tell)
        if asyncio.get_running_loop() is loop:
            last: asyncio.Future[None] = loop.create_future()
            self.parked.append(last)
            await last
        raise Crashed("the process was lost")

    def bury(self) -> None:
        """Let go of whatever still waits where it died."""
        for future in self.parked:
            if not future.done():
                future.cancel()

    def _tell(self) -> None:
        if not self.died.done():
            self.died.set_result(None)


delivery_here: ContextVar[Delivery | None] = ContextVar("idioteque-delivery", default=None)
"""The delivery that the code at hand belongs to, also in the tasks and threads that it starts."""


@dataclass(eq=False, slots=True)
class Activity:
    """A function or a step at work; it rests while it waits for the engine or for the clock."""

    name: str
    run_id: str
    resting: int = 0


activity_here: ContextVar[Activity | None] = ContextVar("idioteque-activity", default=None)


class Movement:
    """Counts what is at work on one event loop, and tells when everything has come to rest."""

    def __init__(self, release_held: Callable[[], bool]) -> None:
        self._loop = asyncio.get_running_loop()
        self._release_held = release_held
        self._activities: set[Activity] = set()
        self._changes = 0
        self._changed = asyncio.Event()
        self._error: HarnessError | None = None

    @contextlib.contextmanager
    def activity(self, name: str, run_id: str) -> Generator[None, None, None]:
        """Count what is inside as at work, under this name."""
        activity = Activity(name, run_id)
        self._activities.add(activity)
        activity_here.set(activity)  # until the end of the task, which the engine made for this alone
        self.touch()
        try:
            yield
        finally:
            self._activities.discard(activity)
            self.touch()

    @contextlib.contextmanager
    def resting(self) -> Generator[None, None, None]:
        """Count the activity that comes here as waiting for something else."""
        activity = activity_here.get()
        if activity is None:
            yield
            return
        activity.resting += 1
        self.touch()
        try:
            yield
        finally:
            activity.resting -= 1
            self.touch()

    async def call(self, call: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Call an async or a plain callable; a thread is remembered until it ends, even when nobody awaits it."""
        delivery = delivery_here.get()
        if delivery is None or is_async(call):
            return await call_anywhere(call, args, kwargs)
        thread = object()

        def called(*args: Any, **kwargs: Any) -> Any:
            delivery.threads.add(thread)
            try:
                return call(*args, **kwargs)
            finally:
                delivery.threads.discard(thread)
                with contextlib.suppress(RuntimeError):  # the loop is closed
                    self._loop.call_soon_threadsafe(self.touch)

        return await call_anywhere(called, args, kwargs)

    def touch(self) -> None:
        """Something has changed."""
        self._changes += 1
        self._changed.set()

    def fail(self, error: HarnessError) -> None:
        """Have the test told that it cannot go on."""
        self._error = self._error or error
        self.touch()

    async def stillness(self) -> None:
        """Return once nothing moves any more without the passing of time; raise `HarnessError` when that never is."""
        while True:
            changes = self._changes
            for _ in range(TURNS_TO_SETTLE):
                await asyncio.sleep(0)
            if self._error is not None:
                error, self._error = self._error, None
                raise error
            if changes != self._changes:
                continue
            moving = sorted(activity.name for activity in self._activities if not activity.resting)
            if moving:
                await self._change(moving[0])
            elif not self._release_held():
                return

    async def threads_ended(self, delivery: Delivery) -> None:
        """Return once no thread of a delivery is at work."""
        while delivery.threads:
            await self._change("a thread of a delivery that is over")

    async def _change(self, what: str) -> None:
        self._changed.clear()
        try:
            async with asyncio.timeout(REAL_TIME_MAX_S):
                await self._changed.wait()
        except TimeoutError:
            raise HarnessError(
                f"{what} has been at work for {REAL_TIME_MAX_S:g} s of real time; what does it wait for?"
            ) from None


class HarnessClock(ManualClock):
    """A `ManualClock` that also waits for what happens in threads, and whose sleepers count as resting."""

    def __init__(self, start_ms: int, movement: Movement) -> None:
        super().__init__(start_ms)
        self._movement = movement

    async def sleep(self, seconds: float) -> None:
        with self._movement.resting():
            await super().sleep(seconds)

    async def settle(self) -> None:
        await self._movement.stillness()
