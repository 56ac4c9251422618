"""The moment after which a delivery starts nothing more, and leaves the rest of its run to another message."""

from __future__ import annotations

from idioteque.clock import Clock
from idioteque.paths import Path


class Deadline:
    """One pass's view of it. A pass that has recorded nothing yet goes on: else the run would never get anywhere."""

    def __init__(self, clock: Clock, at_s: float | None) -> None:
        self._clock = clock
        self._at_s = at_s
        self._is_allowed = False
        self._once: list[Path] = []
        self.has_left = False
        """Whether something was left to another delivery."""

    def allow(self) -> None:
        """Something was recorded."""
        self._is_allowed = True

    def once(self, path: Path) -> None:
        """Leave nothing inside a step that may not start a second time."""
        self._once.append(path)

    def leaves(self, path: Path) -> bool:
        """Return whether a step is not to start, or not to be tried again, in this delivery."""
        if self._at_s is None or not self._is_allowed or self._clock.monotonic_s() < self._at_s:
            return False
        if any(path[: len(once)] == once for once in self._once):
            return False
        self.has_left = True
        return True
