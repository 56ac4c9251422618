"""The outcomes that a run has already, handed to the awaits of a replay in the order in which they were committed.

The order matters: of two steps in `gather` that both failed, the one that failed first is raised first, on the first
run because it happened so, and on every replay because it is handed out so.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from idioteque.paths import Path
from idioteque.store import Outcome, Recorded


class History:
    """One replay's view of the past."""

    def __init__(self, recorded: Sequence[Recorded]) -> None:
        self._outcomes = {entry.path: entry.outcome for entry in recorded}
        self._order = [
            entry.path for entry in recorded if len(entry.path) == 1 or not self._is_inside_another(entry.path)
        ]
        self._place = {path: place for place, path in enumerate(self._order)}
        self._next = 0
        self._waiting: dict[Path, asyncio.Future[None]] = {}

    def _is_inside_another(self, path: Path) -> bool:
        """Whether an enclosing step has an outcome: then nobody will ask for this one again."""
        return any(path[:length] in self._outcomes for length in range(1, len(path)))

    def __contains__(self, path: Path) -> bool:
        return path in self._outcomes

    @property
    def is_waited_for(self) -> bool:
        """Whether somebody waits for a turn that has not come."""
        return bool(self._waiting)

    def next(self, path: Path) -> Outcome | None:
        """Hand a known outcome out if its turn is now; None when it is not, or nothing is known."""
        if self._next == len(self._order) or self._order[self._next] != path:
            return None
        self._next += 1
        if self._waiting:
            self._call_next()
        return self._outcomes[path]

    def turn(self, path: Path) -> asyncio.Future[None] | None:
        """Return None when a known outcome may be handed out now, else a future that is done when it may."""
        place = self._place.get(path, -1)
        if place == self._next:
            self._next += 1
            self._call_next()
        elif place > self._next:
            future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiting[path] = future
            return future
        return None

    def outcome(self, path: Path) -> Outcome:
        """Return a known outcome."""
        return self._outcomes[path]

    def add(self, path: Path, outcome: Outcome) -> None:
        """Remember what was recorded in this pass, for a container whose next attempt asks again; it has no turn."""
        self._outcomes[path] = outcome

    def skip(self) -> bool:
        """Let the earliest of those who wait have its turn, since what came before it is not asked for any more."""
        if not self._waiting:
            return False
        self._next = min(self._place[path] for path in self._waiting)
        self._call_next()
        return True

    def _call_next(self) -> None:
        while self._next < len(self._order) and self._order[self._next] in self._waiting:
            future = self._waiting.pop(self._order[self._next])
            self._next += 1
            if not future.done():
                future.set_result(None)
