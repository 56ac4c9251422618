"""The outcomes that a run has already, handed to the awaits of a replay in the order of their commits."""

from __future__ import annotations

from collections.abc import Sequence

from idioteque.paths import Path
from idioteque.store import Outcome, Recorded
from tests.model.usercode import Future, Loop


class History:
    """One replay's view of the past."""

    def __init__(self, loop: Loop, recorded: Sequence[Recorded]) -> None:
        self._loop = loop
        self._outcomes = {entry.path: entry.outcome for entry in recorded}
        self._order = [
            entry.path
            for entry in recorded
            if not any(entry.path[:length] in self._outcomes for length in range(1, len(entry.path)))
        ]
        self._place = {path: place for place, path in enumerate(self._order)}
        self._next = 0
        self._waiting: dict[Path, Future] = {}

    def __contains__(self, path: Path) -> bool:
        return path in self._outcomes

    def outcome(self, path: Path) -> Outcome:
        return self._outcomes[path]

    def add(self, path: Path, outcome: Outcome) -> None:
        self._outcomes[path] = outcome

    def turn(self, path: Path) -> Future | None:
        """Return None when an outcome may be handed out now, else a future that is done when it may."""
        place = self._place.get(path, -1)
        if place == self._next:
            self._next += 1
            self._call_next()
        elif place > self._next:
            future = self._waiting[path] = Future(self._loop)
            return future
        return None

    def skip(self) -> bool:
        """Let the earliest of those who wait have its turn, since nobody asks any more for what came before it."""
        if not self._waiting:
            return False
        self._next = min(self._place[path] for path in self._waiting)
        self._call_next()
        return True

    def _call_next(self) -> None:
        while self._next < len(self._order) and self._order[self._next] in self._waiting:
            future = self._waiting.pop(self._order[self._next])
            self._next += 1
            future.resolve()
