"""What a store may offer to those who look at many runs: counts, names, what an event did, and a run that goes on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, cast

from idioteque.paths import Path
from idioteque.store import NewRun, RunRecord, Status, StepRecord, Store, required

EFFECTS_MAX = 200
"""How many runs, and how many steps, are told of one event."""


@dataclass(frozen=True, slots=True)
class Effects:
    """What an event set going: `runs` began with it (without their steps), `woke` are the run and step that took it."""

    runs: Sequence[RunRecord] = ()
    woke: Sequence[tuple[str, Path]] = ()


class Insight(Protocol):
    """The operations of a store that tells of many runs at once. None of them reads more than what it tells of."""

    async def counts(self, function_id: str | None, limit: int) -> Mapping[Status, int]:
        """Return how many runs have each status, of one function or of all; no count goes on beyond `limit`."""
        ...

    async def functions(self, limit: int) -> Sequence[str]:
        """Return the ids of functions that have runs, in alphabetical order."""
        ...

    async def effects(self, event_ids: Sequence[str]) -> Sequence[Effects]:
        """Return for each of these events what it set going, each bounded by `EFFECTS_MAX`."""
        ...

    async def seed(self, run_id: str, new: NewRun, steps: Sequence[StepRecord]) -> bool:
        """Create a run that waits, with these steps' outcomes for its history; return False when it is there already.

        No delivery has been at work on it: whoever calls this sends it a message.
        """
        ...


def insight_of(store: Store) -> Insight | None:
    """Return the store as one that tells of many runs, or None when it does not."""
    return cast(Insight, store) if hasattr(store, "effects") else None


def insight_into(store: Store) -> Insight:
    """Return the store as one that tells of many runs; raise `ConfigurationError` when it does not."""
    return required(insight_of(store), store, "tell of many runs at once")
