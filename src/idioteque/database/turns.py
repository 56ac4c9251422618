"""Operations on their way to the one connection that writes: run in a turn of their event loop, flushed by a thread.

The SQL of an operation takes microseconds, a flush takes a hundred times as long. A thread that did both would pass the
interpreter's lock to and fro with the event loop at every statement. So the loop runs what has gathered, after its
other callbacks had their chance to bring more, and a thread does nothing but commit; meanwhile the next group gathers.
What comes from several event loops at once, what takes long, and what meets another process that writes, is run by the
thread.

To wake a thread and to be woken by it takes as long as a quick disk's flush. So where operations come one by one, as of
a function whose steps follow each other, the loop commits them in its own turn, as long as the latest commits were all
quick: one that is slow makes the loop wait once, and what follows is the thread's again. Where many come at once, the
loop has better things to do than to wait for the disk.
"""

from __future__ import annotations

import asyncio
import contextlib
import queue
import threading
from collections import deque
from collections.abc import Callable
from typing import Protocol, TypeVar

from idioteque.database.groups import Settled, Waiting, resolve
from idioteque.database.protocol import Transaction

PASSES = 2
"""How often a turn lets the other callbacks of its loop go first: the more share a commit, the less each costs."""

FEW = 2
"""The operations that one delivery may bring at once: an event that arrives, and the claim of its run."""
FEW_IN_A_ROW = 8
"""How many groups must have been of few before the next such one is taken for the work of one delivery alone."""

T = TypeVar("T")


class Connection(Protocol):
    """The connection as its turns see it; one thread at a time calls it, and it never raises."""

    def run(self, group: list[Waiting]) -> list[Settled] | None:
        """Run operations up to their commit without ever waiting; None, and nothing done, where that cannot be."""
        ...

    def commit(self, settled: list[Settled], *, tends: bool = True) -> list[Settled]:
        """Commit what was run; return what then became of each. With `tends`, do what is due after commits as well."""
        ...

    @property
    def is_quick(self) -> bool:
        """Whether a commit may be expected to take no time to speak of, and nothing else is due after it."""
        ...

    def settle(self, group: list[Waiting]) -> list[Settled]:
        """Run and commit, waiting as long as it takes."""
        ...


class Turns:
    """Decides who uses a connection when; `operations_max` bounds a group."""

    def __init__(self, connection: Connection, operations_max: int, name: str) -> None:
        self._connection = connection
        self._operations_max = operations_max
        self._door = threading.Lock()
        self._waiting: deque[Waiting] = deque()
        self._turn_of: asyncio.AbstractEventLoop | None = None
        """Whose turn is coming; others leave it to the thread, since a loop may end before its turn."""
        self._is_used = False
        """Whether the connection is in use, by a loop's turn or by the thread."""
        self._is_for_thread = False
        """Whether no single loop's turn may run what waits."""
        self._is_ended = False
        self._few_in_a_row = 0
        self._jobs: queue.SimpleQueue[list[Settled] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, name=name, daemon=True)
        self._thread.start()

    def put(self, operation: Callable[[Transaction], T], *, is_long: bool) -> asyncio.Future[T]:
        """Let an operation wait; its future belongs to the running event loop."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()
        with self._door:
            if is_long or (self._waiting and self._waiting[-1].loop is not loop):
                self._is_for_thread = True
            self._waiting.append(Waiting(operation, future, loop))
            if self._is_used:
                pass
            elif self._is_for_thread:
                self._give_to_thread()
            elif self._turn_of is None:
                self._turn_of = loop
                loop.call_soon(self._turn, loop, PASSES)
        return future

    def end(self) -> None:
        """Nothing is put in any more; the thread does what waits, and ends."""
        with self._door:
            self._is_ended = True
            if not self._is_used:
                self._give_to_thread()

    def join(self) -> None:
        """Wait for the thread."""
        self._thread.join()

    def _give_to_thread(self) -> None:
        self._turn_of, self._is_used = None, True
        self._jobs.put(None)

    def _take(self) -> list[Waiting]:
        group = [self._waiting.popleft() for _ in range(min(len(self._waiting), self._operations_max))]
        self._is_for_thread = self._is_for_thread and bool(self._waiting)
        return group

    # ---- in an event loop

    def _turn(self, loop: asyncio.AbstractEventLoop, passes: int) -> None:
        if passes:
            loop.call_soon(self._turn, loop, passes - 1)
            return
        with self._door:
            if self._turn_of is not loop:
                return  # the thread was faster
            self._turn_of, self._is_used = None, True
            group = self._take()
        settled: list[Settled] | None = None
        is_committed = False
        try:
            settled = self._connection.run(group)
            self._few_in_a_row = self._few_in_a_row + 1 if len(group) <= FEW else 0
            if settled is not None and self._few_in_a_row > FEW_IN_A_ROW and self._connection.is_quick:
                settled, is_committed = self._connection.commit(settled, tends=False), True
        finally:
            if is_committed and settled is not None:
                self._pass_on(settled, loop)
            else:
                if settled is None:
                    with self._door:
                        self._waiting.extendleft(reversed(group))
                self._jobs.put(settled)

    def _resolve(self, settled: list[Settled], turn_of: asyncio.AbstractEventLoop | None) -> None:
        resolve(settled)
        if turn_of is not None:
            turn_of.call_soon(self._turn, turn_of, PASSES)

    # ---- in the thread

    def _work(self) -> None:
        goes_on = True
        while goes_on:
            settled = self._jobs.get()
            if settled is None:
                with self._door:
                    group = self._take()
                settled = self._connection.settle(group)
            else:
                settled = self._connection.commit(settled)
            goes_on = self._pass_on(settled)

    def _pass_on(self, settled: list[Settled], here: asyncio.AbstractEventLoop | None = None) -> bool:
        """Tell the callers, with a single call into each event loop but this one, and say who is next; False at the end
        of the thread's work."""
        with self._door:
            self._is_used = False
            if self._waiting and (self._is_for_thread or self._is_ended):
                self._give_to_thread()
            elif self._is_ended and here is not None:
                self._give_to_thread()  # which has been waiting for its last turn
            elif self._waiting:
                self._turn_of = self._waiting[0].loop
            turn_of, goes_on = self._turn_of, bool(self._waiting) or not self._is_ended
        by_loop: dict[asyncio.AbstractEventLoop, list[Settled]] = {} if turn_of is None else {turn_of: []}
        for outcome in settled:
            by_loop.setdefault(outcome[0].loop, []).append(outcome)
        for loop, outcomes in by_loop.items():
            if loop is here:
                self._resolve(outcomes, turn_of if loop is turn_of else None)
                continue
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
                loop.call_soon_threadsafe(self._resolve, outcomes, turn_of if loop is turn_of else None)
        return goes_on
