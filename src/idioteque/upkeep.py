"""What a store may offer besides running its runs: finding those that nothing holds, and the end of their retention."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, cast

from idioteque.store import RunRecord, Store


class Upkeep(Protocol):
    """The operations of a store that looks after old runs; each is atomic, and may be repeated."""

    async def stalled(self, before_ms: int, limit: int) -> Sequence[RunRecord]:
        """Return unfinished runs, the oldest first and without their steps, that nothing has held since a time.

        Held is a run whose lease, or that of one of its steps, ended later, which showed a sign of life later, or of
        which something falls due later: a back-off, a sleep, the timeout of a wait. A wait without an end holds a run
        that was handed back and has nothing else to do.
        """
        ...

    async def forget_sent(self, run_id: str) -> None:
        """Forget which steps' own messages were accepted, so that the next delivery of the run sends them again."""
        ...

    async def purge(self, before_ms: int, limit: int) -> int:
        """Delete runs that ended before a time, with all that is theirs; return how many were deleted, at most `limit`.

        Dismissals from before it go as well, and count, unless the store lets them expire.
        """
        ...


def upkeep_of(store: Store) -> Upkeep | None:
    """Return the store as one that looks after old runs, or None when it does not."""
    return cast(Upkeep, store) if hasattr(store, "purge") else None
