"""What a process keeps between deliveries: outcomes that it need not read again, and steps that a body asked for."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from idioteque.engine.kept import KEPT_S
from idioteque.engine.remembered import Remembered
from idioteque.paths import Path

if TYPE_CHECKING:
    from tests.model.passes import Spec

KEPT_MS = int(KEPT_S * 1000)


@dataclass(slots=True)
class Kept:
    """The steps that a suspended body lends to their own deliveries, and until when."""

    epoch: int
    until_ms: int
    offers: dict[Path, Spec]


@dataclass(slots=True)
class Memory:
    """One process. That it may die with what it knows is nothing new: a process that knows nothing is the other one."""

    remembered: Remembered = field(default_factory=Remembered)
    kept: dict[str, Kept] = field(default_factory=dict[str, Kept])

    def borrow(self, run_id: str, epoch: int, path: Path, now_ms: int) -> Spec | None:
        """Return a step as a body that is still suspended asked for it."""
        kept = self.kept.get(run_id)
        if kept is None or kept.epoch != epoch or kept.until_ms <= now_ms or path not in kept.offers:
            return None
        kept.until_ms = now_ms + KEPT_MS
        return kept.offers[path]

    def state(self, now_ms: int) -> object:
        """Return what tells this memory from others."""
        kept = [
            (run_id, each.epoch, each.until_ms, list(each.offers))
            for run_id, each in self.kept.items()
            if each.until_ms > now_ms
        ]
        pasts = [
            (run_id, past.epoch, past.created_at_ms, past.outcomes) for run_id, past in self.remembered._runs.items()
        ]
        return kept, pasts
