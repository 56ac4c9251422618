"""Outcomes that are recorded while a pass is at work, let through in the order of their commits.

Another delivery may record an event, or the end of a step of its own, beside a step that runs in this one. The answer
to a commit says its place in the history: what stands behind a gap is held until the pass has learned what is in it, so
that what the function sees is at each moment a beginning of the history, which is what every replay sees.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from idioteque.paths import Path
from idioteque.store import Recorded


@dataclass(slots=True)
class _Early:
    """An outcome behind a gap, and the steps whose outcomes were on their way then and may be what is in it."""

    recorded: Recorded
    expected: set[Path]


class Arrivals:
    """The end of what a pass knows without a gap, and what it holds beyond that."""

    def __init__(self, known: Sequence[Recorded]) -> None:
        self.last = known[-1].seq if known else 0
        """The `seq` up to which everything is known."""
        self._early: dict[int, _Early] = {}
        self._on_the_way: set[Path] = set()

    def expect(self, path: Path) -> None:
        """Note that the outcome of a step is about to be recorded in this pass."""
        self._on_the_way.add(path)

    def expect_no_more(self, path: Path) -> None:
        """Note that it was answered, or that there was none."""
        self._on_the_way.discard(path)
        for early in self._early.values():
            early.expected.discard(path)

    def add(self, recorded: Recorded) -> Sequence[Recorded]:
        """Take the outcome of a step; return what may be seen now, in order."""
        self.expect_no_more(recorded.path)
        if recorded.seq > self.last + 1:
            self._early[recorded.seq] = _Early(recorded, set(self._on_the_way))
            return ()
        self.last = max(self.last, recorded.seq)
        return (recorded, *self._following()) if self._early else (recorded,)

    @property
    def is_missing(self) -> bool:
        """Whether there is a gap that nothing which is on its way will fill."""
        return bool(self._early) and not self._early[min(self._early)].expected

    def fill(self, found: Sequence[Recorded]) -> Sequence[Recorded]:
        """Close the gap with what was found since `last`, perhaps nothing; return what may be seen now, in order."""
        upto = max(self.last, *sorted(self._early)[:1], *(recorded.seq for recorded in found), 0)
        ready = {recorded.seq: recorded for recorded in found if recorded.seq > self.last}
        for seq in [seq for seq in self._early if seq <= upto]:
            ready[seq] = self._early.pop(seq).recorded
        self.last = upto
        return (*(ready[seq] for seq in sorted(ready)), *self._following())

    def _following(self) -> Sequence[Recorded]:
        ready: list[Recorded] = []
        while self.last + 1 in self._early:
            self.last += 1
            ready.append(self._early.pop(self.last).recorded)
        return ready
