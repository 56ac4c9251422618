"""Operations on their way to a database's one writing thread: they come from any event loop and leave in groups."""

from __future__ import annotations

import asyncio
import contextlib
import queue
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, TypeVar

from idioteque.database.protocol import Transaction

T = TypeVar("T")


@dataclass(eq=False, slots=True)
class Waiting:
    """An operation, and the future with which its caller waits in an event loop."""

    operation: Callable[[Transaction], Any]
    future: asyncio.Future[Any]
    loop: asyncio.AbstractEventLoop
    tries: int = 0
    """How often it was undone to be run again."""
    locked_since_s: float | None = None
    """The monotonic time since when it has not got the rows that it needs."""


Settled = tuple[Waiting, Any, BaseException | None]
"""What became of an operation: its result, or the error to raise."""


class Groups:
    """The queue before the writer; `operations_max` bounds a group."""

    def __init__(self, operations_max: int) -> None:
        self._operations_max = operations_max
        self._waiting: queue.SimpleQueue[Waiting | None] = queue.SimpleQueue()
        self._is_over = False

    def put(self, operation: Callable[[Transaction], T]) -> asyncio.Future[T]:
        """Let an operation wait; its future belongs to the running event loop."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()
        self._waiting.put(Waiting(operation, future, loop))
        return future

    def end(self) -> None:
        """Nothing is put in any more."""
        self._waiting.put(None)

    def next(self, again: Iterable[Waiting] = ()) -> list[Waiting] | None:
        """Return all that waits, behind what is to be run `again`; wait for something, and return None at the end."""
        group = list(again)
        with contextlib.suppress(queue.Empty):
            while len(group) < self._operations_max and not self._is_over:
                following = self._waiting.get(block=not group)
                if following is None:
                    self._is_over = True
                else:
                    group.append(following)
        return group or None


def answer(settled: Iterable[Settled]) -> None:
    """Tell the callers, with a single call into each event loop."""
    by_loop: dict[asyncio.AbstractEventLoop, list[Settled]] = {}
    for outcome in settled:
        by_loop.setdefault(outcome[0].loop, []).append(outcome)
    for loop, outcomes in by_loop.items():
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
            loop.call_soon_threadsafe(resolve, outcomes)


def resolve(outcomes: Iterable[Settled]) -> None:
    """Tell the callers, in their event loop."""
    for waiting, result, error in outcomes:
        if waiting.future.done():
            continue
        if error is None:
            waiting.future.set_result(result)
        else:
            waiting.future.set_exception(error)
