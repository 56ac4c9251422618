"""How background duties run: an alarm instead of polling, and work that gathers while one write is under way."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine
from typing import Generic, TypeVar

from idioteque.clock import Clock
from idioteque.errors import DatabaseBroken, DatabaseError

Item = TypeVar("Item")
Result = TypeVar("Result")

RETRY_AFTER_FAULT_S = 1.0

logger = logging.getLogger("idioteque.server")


class Alarm:
    """Lets one duty sleep until a time, or until somebody rings."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._event = asyncio.Event()

    def ring(self) -> None:
        """Wake the sleeper, or spare it the next sleep."""
        self._event.set()

    async def wait(self, until_ms: int | None) -> None:
        """Return at a time (None: never), or when somebody rings or has rung."""
        if until_ms is not None and not self._event.is_set():
            wait_s = (until_ms - self._clock.now_ms()) / 1000
            if wait_s <= 0:
                return
            timer = asyncio.ensure_future(self._clock.sleep(wait_s))
            timer.add_done_callback(self._ended)
            try:
                await self._event.wait()
            finally:
                timer.cancel()
        else:
            await self._event.wait()
        self._event.clear()

    def _ended(self, timer: asyncio.Future[None]) -> None:
        if not timer.cancelled():  # a timer given up must not wake the next sleep
            self._event.set()


class Gathering(Generic[Item, Result]):
    """Hands items to `work` in lists: while one list is being worked on, the next one gathers.

    One commit then serves many callers, at no wait when there is only one.
    """

    def __init__(self, work: Callable[[list[Item]], Awaitable[list[Result]]]) -> None:
        self._work = work
        self._waiting: list[tuple[Item, asyncio.Future[Result] | None]] = []
        self._task: asyncio.Task[None] | None = None

    def add(self, item: Item) -> asyncio.Future[Result]:
        """Return the result of an item, when it is there; an error of its list is an error of each of it."""
        future: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
        self._waiting.append((item, future))
        self._start()
        return future

    def put(self, item: Item) -> None:
        """Add an item whose result nobody waits for; `work` must deal with its own errors."""
        self._waiting.append((item, None))
        self._start()

    async def idle(self) -> None:
        """Return once everything added so far is done."""
        while self._task is not None:
            await asyncio.shield(self._task)

    def _start(self) -> None:
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._run())

    async def _run(self) -> None:
        try:
            while self._waiting:
                taken, self._waiting = self._waiting, []
                try:
                    results = await self._work([item for item, _ in taken])
                except Exception as error:
                    _fail(taken, error)
                    continue
                for (_, future), result in zip(taken, results, strict=True):
                    if future is not None and not future.done():
                        future.set_result(result)
        finally:
            self._task = None


class Duties:
    """The background tasks of a server, started and stopped together."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._tasks: list[asyncio.Task[None]] = []

    def start(self, name: str, duty: Callable[[], Coroutine[object, object, None]]) -> None:
        """Run a duty until the stop; after a fault of the world it is begun again a second later."""
        self._tasks.append(asyncio.get_running_loop().create_task(self._keep_up(name, duty), name=f"idioteque-{name}"))

    async def stop(self) -> None:
        """Cancel every duty and wait until it has ended."""
        tasks, self._tasks = self._tasks, []
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _keep_up(self, name: str, duty: Callable[[], Coroutine[object, object, None]]) -> None:
        while True:
            try:
                await duty()
            except DatabaseBroken:
                return  # the server is told by the database itself, and stops
            except DatabaseError as error:
                logger.error("the %s waits for the database: %s", name, error)
            except Exception:
                logger.exception("the %s failed and is begun again in %g s", name, RETRY_AFTER_FAULT_S)
            await self._clock.sleep(RETRY_AFTER_FAULT_S)


def _fail(taken: list[tuple[Item, asyncio.Future[Result] | None]], error: Exception) -> None:
    waited_for = [future for _, future in taken if future is not None]
    if not waited_for:
        raise error
    for future in waited_for:
        if not future.done():
            future.set_exception(error)
