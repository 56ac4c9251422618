"""How background duties run: an alarm instead of polling, and work that gathers while one write is under way."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine
from functools import partial
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
        self._items: list[Item] = []
        self._tells: list[Callable[[Result | BaseException], object] | None] = []
        self._task: asyncio.Task[None] | None = None

    def add(self, item: Item) -> asyncio.Future[Result]:
        """Return the result of an item, when it is there; an error of its list is an error of each of it."""
        future: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
        self.put(item, partial(_resolve, future))
        return future

    def put(self, item: Item, tell: Callable[[Result | BaseException], object] | None = None) -> None:
        """Add an item; `tell` is called with its result or the error of its list, in a later turn of the loop.

        Where nobody is to be told, `work` must deal with its own errors.
        """
        self._items.append(item)
        self._tells.append(tell)
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._run())

    async def idle(self) -> None:
        """Return once everything added so far is done."""
        while self._task is not None:
            await asyncio.shield(self._task)

    async def _run(self) -> None:
        try:
            while self._items:
                items, self._items = self._items, []
                tells, self._tells = self._tells, []
                try:
                    results = await self._work(items)
                except Exception as error:
                    if all(tell is None for tell in tells):
                        raise
                    for tell in tells:
                        _tell(tell, error)
                    continue
                for tell, result in zip(tells, results, strict=True):
                    if tell is not None:
                        _tell(tell, result)
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


def _tell(tell: Callable[[Result | BaseException], object] | None, outcome: Result | BaseException) -> None:
    """Tell one; the others are told whatever comes of it."""
    try:
        if tell is not None:
            tell(outcome)
    except Exception:
        logger.exception("what follows from a commit failed")


def _resolve(future: asyncio.Future[Result], outcome: Result | BaseException) -> None:
    if future.done():
        return
    if isinstance(outcome, BaseException):
        future.set_exception(outcome)
    else:
        future.set_result(outcome)
