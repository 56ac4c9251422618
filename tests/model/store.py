"""The store of the model: the real store in memory, whose rules are `ledger.py`'s, under watch.

Each operation is one atomic step. Whether other stores answer alike is what the contract tests prove.
"""

from __future__ import annotations

from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, TypeVar

from idioteque import ledger
from idioteque.paths import BODY, Path
from idioteque.store import Committed, Failed, Go, Lease, Outcome, Won
from idioteque.stores import memory

if TYPE_CHECKING:
    from tests.model.protocol import Rules
    from tests.model.world import World

T = TypeVar("T")


@contextmanager
def rules_of(rules: Rules) -> Iterator[None]:
    """Let the store follow other rules for a while; none named means the real ones."""
    real = memory.ledger
    memory.ledger = SimpleNamespace(**{**vars(ledger), **rules}) if rules else ledger  # type: ignore[assignment]
    try:
        yield
    finally:
        memory.ledger = real


class ModelStore(memory.MemoryStore):
    """Tells the observer what is recorded, and where a failure would override somebody who is at work."""

    def __init__(self, world: World) -> None:
        super().__init__(world)  # type: ignore[arg-type]
        self._world = world

    def now(self, operation: Coroutine[Any, Any, T]) -> T:
        """Carry out an operation, which never waits for anything."""
        try:
            operation.send(None)
        except StopIteration as end:
            return end.value
        raise AssertionError("a store in memory never waits")

    async def commit(self, lease: Lease, path: Path, outcome: Outcome) -> Committed:
        is_fenced = not outcome.ok and self._is_held_by_another(lease)
        answer = await super().commit(lease, path, outcome)
        if isinstance(answer, Won):
            self._world.observer.recorded(lease, path, outcome, is_fenced=is_fenced)
        return answer

    async def take(self, run_id: str, path: Path, event_id: str, outcome: Outcome) -> Committed:
        answer = await super().take(run_id, path, event_id, outcome)
        if isinstance(answer, Won):
            self._world.observer.recorded(Lease(run_id, 0), path, outcome, is_fenced=False)
            self._world.observer.took(run_id, event_id)
        return answer

    async def fail(
        self, lease: Lease, path: Path, attempts: int, due_at_ms: int, error: str, took_ms: int | None = None
    ) -> Failed:
        is_fenced = self._is_held_by_another(lease)
        answer = await super().fail(lease, path, attempts, due_at_ms, error, took_ms)
        if isinstance(answer, Go):
            self._world.observer.progressed(lease, path)
            if is_fenced:
                self._world.observer.blame(f"a failure of {path} was recorded against a live holder")
        return answer

    async def release(self, lease: Lease, kind: Any, **details: Any) -> Any:
        released = await super().release(lease, kind, **details)
        if released is not None and kind != "shutdown":
            self._world.observer.progressed(lease, lease.path)
        return released

    async def reopen(self, run_id: str) -> int | None:
        epoch = await super().reopen(run_id)
        if epoch is not None:
            kept = {path for path, step in self._runs[run_id].steps.items() if step.outcome is not None}
            self._world.observer.reopened(run_id, epoch, kept)
        return epoch

    def kept(self) -> tuple[object, ...]:
        """Return all that is stored."""
        return self._runs, self._watchers, self._marks, self._dismissals, self._mailbox

    # ---- what only the observer asks

    def epoch(self, run_id: str) -> int:
        stored = self._runs.get(run_id)
        return 0 if stored is None else stored.run.epoch

    def status(self, run_id: str) -> str | None:
        stored = self._runs.get(run_id)
        return None if stored is None else stored.run.status

    def outcome(self, run_id: str) -> Outcome | None:
        stored = self._runs.get(run_id)
        return None if stored is None else stored.run.outcome

    def created_at_ms(self, run_id: str) -> int:
        return self._runs[run_id].run.created_at_ms

    def letter_ms(self, event_id: str) -> int | None:
        posted = self._mailbox.get(event_id)
        return None if posted is None else posted[1].accepted_at_ms

    def has_begun(self, run_id: str) -> bool:
        stored = self._runs.get(run_id)
        return stored is not None and stored.run.tokens > 0

    @property
    def run_ids(self) -> list[str]:
        return list(self._runs)

    def purged(self, before_ms: int) -> list[str]:
        """Delete the runs whose retention is over, and return them."""
        before = self.run_ids
        self.now(self.purge(before_ms, 10**6))
        return [run_id for run_id in before if run_id not in self._runs]

    def _is_held_by_another(self, lease: Lease) -> bool:
        stored = self._runs.get(lease.run_id)
        if stored is None:
            return False
        holder = stored.run if lease.path == BODY else stored.seats.get(lease.path)
        return holder is not None and holder.is_held_by_another(lease.token, self._world.clock_ms)
