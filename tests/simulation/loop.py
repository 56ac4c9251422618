"""An event loop of our own: one per simulated process, so that a process can stop for ever between two callbacks."""

from __future__ import annotations

import asyncio
import contextvars
import heapq
from collections import deque
from collections.abc import Callable, Coroutine
from concurrent.futures import Executor
from typing import Any

MICROSECONDS = 1_000_000
BURIAL_TURNS_MAX = 200


class Timers:
    """The time of the whole world, in whole microseconds, and what is to happen later."""

    def __init__(self, start_ms: int) -> None:
        self.now_us = start_ms * 1000
        self._count = 0
        self._heap: list[tuple[int, int, asyncio.Handle | None, Callable[[], None]]] = []

    def at(self, when_us: int, call: Callable[[], None], handle: asyncio.Handle | None = None) -> None:
        """Have something called at a time; not if its `handle` is cancelled until then."""
        self._count += 1
        heapq.heappush(self._heap, (max(when_us, self.now_us), self._count, handle, call))

    def after(self, seconds: float, call: Callable[[], None]) -> None:
        """Have something called after so many seconds."""
        self.at(self.now_us + round(seconds * MICROSECONDS), call)

    def next_us(self) -> int | None:
        """Return when the next thing happens, or None when nothing ever will."""
        while self._heap and self._heap[0][2] is not None and self._heap[0][2].cancelled():
            heapq.heappop(self._heap)
        return self._heap[0][0] if self._heap else None

    def advance(self) -> None:
        """Go to the time of the next thing, and do all that is due then."""
        due_us = self.next_us()
        assert due_us is not None
        self.now_us = due_us
        while (next_us := self.next_us()) is not None and next_us <= due_us:
            heapq.heappop(self._heap)[3]()


class SimulatedLoop(asyncio.AbstractEventLoop):
    """Runs callbacks in the order in which they were asked for, as asyncio promises, a turn at a time.

    What it knows of time are the world's timers. While it `is_frozen`, it runs nothing; once it `is_dead`, nothing
    more ever, and whatever is asked of it from outside goes nowhere.
    """

    def __init__(self, timers: Timers, on_error: Callable[[dict[str, Any]], None]) -> None:
        self.ready: deque[asyncio.Handle] = deque()
        self.is_dead = False
        self.is_frozen = False
        self._is_burying = False
        self._tasks: list[asyncio.Task[Any]] = []
        self._timers = timers
        self._on_error = on_error

    def turn(self) -> None:
        """Run what is ready now, and not what becomes ready by that."""
        asyncio._set_running_loop(self)
        try:
            for _ in range(len(self.ready)):
                handle = self.ready.popleft()
                if not handle.cancelled():
                    handle._run()
                if (self.is_dead or self.is_frozen) and not self._is_burying:
                    return
        finally:
            asyncio._set_running_loop(None)

    def bury(self) -> None:
        """End the tasks that a dead process left, when nothing that they do can matter any more."""
        self.is_dead = self._is_burying = True
        for task in self._tasks:  # first of all those that have not begun: they need not
            task.cancel()
        for _ in range(BURIAL_TURNS_MAX):
            if not self.ready:
                self._tasks = [task for task in self._tasks if not task.done()]
                for task in self._tasks:
                    task.cancel()
            if not self.ready:
                break
            self.turn()
        self._is_burying = False

    # ---- what asyncio asks for

    def call_soon(self, callback: Any, *args: Any, context: contextvars.Context | None = None) -> asyncio.Handle:
        handle = asyncio.Handle(callback, args, self, context)
        if not self.is_dead or self._is_burying:
            self.ready.append(handle)
        return handle

    call_soon_threadsafe = call_soon

    def call_later(
        self, delay: float, callback: Any, *args: Any, context: contextvars.Context | None = None
    ) -> asyncio.TimerHandle:
        return self.call_at(self.time() + delay, callback, *args, context=context)

    def call_at(
        self, when: float, callback: Any, *args: Any, context: contextvars.Context | None = None
    ) -> asyncio.TimerHandle:
        handle = asyncio.TimerHandle(when, callback, args, self, context)
        if self._is_burying:
            self.ready.append(handle)
        else:
            self._timers.at(round(when * MICROSECONDS), lambda: self._arrive(handle), handle)
        return handle

    def _arrive(self, handle: asyncio.Handle) -> None:
        if not self.is_dead:
            self.ready.append(handle)

    def _timer_handle_cancelled(self, handle: asyncio.TimerHandle) -> None:
        return

    def time(self) -> float:
        return self._timers.now_us / MICROSECONDS

    def create_future(self) -> asyncio.Future[Any]:
        return asyncio.Future(loop=self)

    def create_task(
        self, coro: Coroutine[Any, Any, Any], *, name: str | None = None, context: contextvars.Context | None = None
    ) -> asyncio.Task[Any]:
        task = asyncio.Task(coro, loop=self, name=name, context=context)
        self._tasks.append(task)
        return task

    def run_in_executor(self, executor: Executor | None, func: Callable[..., Any], *args: Any) -> asyncio.Future[Any]:
        """Call what was meant for a thread in a later turn: no thread runs free."""
        future = self.create_future()

        def call() -> None:
            try:
                result = func(*args)
            except BaseException as error:
                if not future.done():
                    future.set_exception(error)
            else:
                if not future.done():
                    future.set_result(result)

        self.call_soon(call)
        return future

    def get_debug(self) -> bool:
        return False

    def is_running(self) -> bool:
        return not self.is_dead

    def is_closed(self) -> bool:
        return False

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        if not self.is_dead:
            self._on_error(context)
