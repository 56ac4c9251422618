"""The outcomes that a run has, handed to the awaits of a pass one after the other, in the order of their commits.

The order matters: of two steps in `gather` that both failed, the one that failed first is raised first, on the first
run because it happened so, and on every replay because it is handed out so. Between two outcomes for different tasks
the loop has time to settle: what the first one sets going comes to rest before the second one is seen, through however
many layers of `gather` and task groups it has to rise.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Sequence

from idioteque.callers import caller_here
from idioteque.paths import Path
from idioteque.store import Outcome, Recorded

SETTLING_TURNS = 20  # of the loop: a layer of `gather`, or a task group, takes two or three


class _Waiting:
    """Who waits for the outcome of a step."""

    __slots__ = ("futures", "receiver")

    def __init__(self, receiver: object) -> None:
        self.receiver = receiver
        self.futures: list[asyncio.Future[Outcome]] = []
        """More than one when a container's next attempt asks again for what runs still."""


class History:
    """What one pass has seen of the past, and of what was recorded meanwhile; sets `changed` when the loop settles."""

    def __init__(self, recorded: Sequence[Recorded], changed: asyncio.Event) -> None:
        self._outcomes = {entry.path: entry.outcome for entry in recorded}
        self._order = [
            entry.path for entry in recorded if len(entry.path) == 1 or not self._is_inside_another(entry.path)
        ]
        self._place = {path: place for place, path in enumerate(self._order)}
        self._next = 0
        self._waiting: dict[Path, _Waiting] = {}
        self._known_waiting = 0
        """How many of these wait for no more than their turn."""
        self._receiver: object = None
        """Who was given the last outcome: what he asks for next he may have at once."""
        self._is_settled = True
        self._turns_left = 0
        self._is_stopped = False
        self._changed = changed
        self.moves = 0
        """Counts what happens here without anybody asking."""

    def _is_inside_another(self, path: Path) -> bool:
        """Whether an enclosing step has an outcome: then nobody will ask for this one again."""
        return any(path[:length] in self._outcomes for length in range(1, len(path)))

    def __contains__(self, path: Path) -> bool:
        return path in self._outcomes

    @property
    def paths(self) -> Collection[Path]:
        """The steps whose outcomes are known."""
        return self._outcomes.keys()

    @property
    def is_settling(self) -> bool:
        """Whether outcomes will be handed out without anything else having to happen."""
        return self._turns_left > 0

    def next(self, path: Path) -> Outcome | None:
        """Hand a known outcome out if its turn is now; None when it is not, or nothing is known."""
        if self._next == len(self._order) or self._order[self._next] != path:
            return None
        receiver = _asking()
        if receiver is not self._receiver and not self._is_settled:
            return None
        self._next += 1
        self._given(receiver)
        if self._known_waiting:
            self._hand_out()
        return self._outcomes[path]

    def ask(self, path: Path) -> asyncio.Future[Outcome]:
        """Return what will be the outcome of a step, once it is recorded and everything before it was handed out."""
        future: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        place = self._place.get(path)
        if path in self._outcomes and (place is None or place < self._next):
            future.set_result(self._outcomes[path])
            return future
        waiting = self._waiting.get(path)
        if waiting is None:
            waiting = self._waiting[path] = _Waiting(_asking())
            self._known_waiting += place is not None
        waiting.futures.append(future)
        self._hand_out()
        return future

    def add(self, recorded: Recorded, *, has_turn: bool) -> None:
        """Add what comes next in the history; without a turn, nobody in this pass will ask for it."""
        path = recorded.path
        if path in self._outcomes:
            return
        self._outcomes[path] = recorded.outcome
        if has_turn:
            self._place[path] = len(self._order)
            self._order.append(path)
            self._known_waiting += path in self._waiting
            self._hand_out()

    def drop(self, path: Path, error: BaseException | None) -> None:
        """Let those go who wait for a step whose outcome this pass will not see, by an error or a cancellation."""
        waiting = self._waiting.pop(path, None)
        if waiting is None:
            return
        self._known_waiting -= path in self._place
        for future in waiting.futures:
            if future.done():
                continue
            if error is None:
                future.cancel()
            else:
                future.set_exception(error)

    def stop(self) -> None:
        """Hand nothing out any more."""
        self._is_stopped = True

    def close(self) -> None:
        """Let go of whoever waits or was given anything, since they refer to the pass."""
        self.stop()
        self._waiting.clear()
        self._known_waiting = 0
        self._receiver = None

    def _hand_out(self) -> None:
        """Give the outcomes whose turn it is, or let the loop settle first; a cancelled await is passed over."""
        while self._known_waiting and not self._is_stopped:
            path = self._order[self._next]
            waiting = self._waiting.get(path)
            if waiting is None:
                self._settle()
                return
            futures = [future for future in waiting.futures if not future.done()]
            if futures and waiting.receiver is not self._receiver and not self._is_settled:
                self._settle()
                return
            del self._waiting[path]
            self._known_waiting -= 1
            self._next += 1
            for future in futures:
                future.set_result(self._outcomes[path])
            if futures:
                self._given(waiting.receiver)

    def _given(self, receiver: object) -> None:
        self._receiver, self._is_settled = receiver, False
        self.moves += 1
        if self._waiting:
            self._settle()

    def _settle(self) -> None:
        """Let the loop turn until what was handed out last has had all its effects."""
        if not self._turns_left:
            asyncio.get_running_loop().call_soon(self._turn)
        self._turns_left = SETTLING_TURNS

    def _turn(self) -> None:
        loop = asyncio.get_running_loop()
        self._turns_left -= 1
        if self._turns_left and not _is_quiet(loop):
            loop.call_soon(self._turn)
            return
        self._turns_left = 0
        self._is_settled = True
        if self._known_waiting and self._order[self._next] not in self._waiting:  # nobody asks for it any more
            self._next = min(self._place[path] for path in self._waiting if path in self._place)
        self._hand_out()
        if not self._turns_left:
            self.moves += 1
            self._changed.set()


def _asking() -> object:
    """Return who asks: a task, or the thread of a plain function."""
    return caller_here.get(None) or asyncio.current_task()


def _is_quiet(loop: asyncio.AbstractEventLoop) -> bool:
    """Whether nothing else is about to run. asyncio's own loops tell, though not officially; with others, or when many
    deliveries share the loop, the turns are counted."""
    ready = getattr(loop, "_ready", None)
    return ready is not None and not ready
