"""The outcomes that a run has already, handed to the awaits of a pass one after the other, in the order of commits."""

from __future__ import annotations

from collections.abc import Sequence

from idioteque.paths import Path
from idioteque.store import Outcome, Recorded
from tests.model.usercode import Future, Loop


class History:
    """One pass's view of the past, and of what was recorded meanwhile."""

    def __init__(self, loop: Loop, recorded: Sequence[Recorded]) -> None:
        self._loop = loop
        self._outcomes = {entry.path: entry.outcome for entry in recorded}
        self._order = [
            entry.path
            for entry in recorded
            if not any(entry.path[:length] in self._outcomes for length in range(1, len(entry.path)))
        ]
        self._next = 0
        self._waiting: dict[Path, Future] = {}
        self._receiver: object = None

    def __contains__(self, path: Path) -> bool:
        return path in self._outcomes

    def next(self, path: Path) -> Outcome | None:
        """Hand an outcome out at once: to who was given the last one, or when the loop has settled since."""
        if path not in self._order[self._next : self._next + 1]:
            return None
        if self._receiver not in (None, self._loop.current):
            return None
        self._next, self._receiver = self._next + 1, self._loop.current
        return self._outcomes[path]

    def ask(self, path: Path) -> Future:
        """Return what will be the outcome, once it is recorded and has its turn."""
        future = Future(self._loop)
        if path in self._outcomes and path not in self._order[self._next :]:
            future.resolve(self._outcomes[path])
        else:
            self._waiting[path] = future
        return future

    def add(self, recorded: Recorded, *, has_turn: bool) -> None:
        if recorded.path not in self._outcomes:
            self._outcomes[recorded.path] = recorded.outcome
            self._order += [recorded.path] if has_turn else []

    def hand_out(self) -> bool:
        """Give the next outcome that is waited for, now that the loop has settled; return whether there was one."""
        self._receiver = None
        for place in range(self._next, len(self._order)):
            future = self._waiting.pop(self._order[place], None)
            if future is not None:
                self._next = place + 1
                future.resolve(self._outcomes[self._order[place]])
                return True
        return False
