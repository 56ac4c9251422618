"""What a store in memory tells of many runs at once, and of the past of one."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import get_args

from idioteque import snapshots
from idioteque.clock import Clock
from idioteque.insight import EFFECTS_MAX, Effects
from idioteque.ledger import Holder, RunRow, SeatRow, StepRow
from idioteque.paths import BODY, Path
from idioteque.records import ATTEMPTS_KEPT, DELIVERIES_KEPT, AttemptRecord, DeliveryRecord, error_line
from idioteque.store import Claim, NewRun, Started, Status, StepRecord


@dataclass(slots=True)
class Stored:
    """A run with all that belongs to it."""

    run: RunRow
    event: bytes
    steps: dict[Path, StepRow] = field(default_factory=dict[Path, StepRow])
    seats: dict[Path, SeatRow] = field(default_factory=dict[Path, SeatRow])
    watched: set[tuple[str, Path]] = field(default_factory=set[tuple[str, Path]])

    def step(self, path: Path) -> StepRow:
        """Return a step's row, which is kept only once something was recorded in it."""
        return self.steps.get(path) or StepRow(path)

    def sent(self) -> list[Path]:
        """Return the steps whose own messages were accepted."""
        return [path for path, seat in self.seats.items() if seat.sent]

    def snapshot(self, holder: Holder, known: int) -> Started:
        """Return what the holder of a lease is told."""
        return snapshots.started(self.run, self.event, self.steps.values(), holder, self.sent(), known)

    def holder(self, path: Path) -> Holder:
        """Return whose lease a path names: the body's, or that of a step with deliveries of its own."""
        return self.run if path == BODY else self.seats.get(path) or SeatRow(path)


class Diary:
    """The past of runs, bounded for each: which deliveries they had, and which attempts failed."""

    def __init__(self) -> None:
        self._deliveries: dict[str, dict[int, DeliveryRecord]] = {}
        self._attempts: dict[str, dict[Path, deque[AttemptRecord]]] = {}

    def came(self, run_id: str, token: int, claim: Claim, now_ms: int) -> None:
        """Note the delivery that took a lease; the claim may be repeated."""
        known = self._deliveries.setdefault(run_id, {})
        known.setdefault(token, DeliveryRecord(claim.path, claim.message_id, claim.retried, now_ms))
        if len(known) > DELIVERIES_KEPT:
            del known[next(iter(known))]

    def failed(self, run: RunRow, path: Path, attempt: int, at_ms: int, took_ms: int | None, error: str) -> None:
        """Note a failed attempt; that may be told twice."""
        known = self._attempts.setdefault(run.run_id, {}).setdefault(path, deque(maxlen=ATTEMPTS_KEPT))
        if all((one.epoch, one.attempt) != (run.epoch, attempt) for one in known):
            known.append(AttemptRecord(path, run.epoch, attempt, at_ms, took_ms, error))

    def ended(self, stored: Stored) -> None:
        """Note the failures that opening a run again is about to take out of its history."""
        run = stored.run
        if run.outcome is not None and not run.outcome.ok:
            at_ms = run.finished_at_ms or run.created_at_ms
            self.failed(run, BODY, run.attempts + 1, at_ms, None, error_line(run.outcome.payload))
        for step in stored.steps.values():
            if step.outcome is not None and not step.outcome.ok:
                at_ms, said = step.committed_at_ms or run.created_at_ms, error_line(step.outcome.payload)
                self.failed(run, step.path, step.attempts + 1, at_ms, step.outcome.took_ms, said)

    def deliveries(self, run_id: str) -> list[DeliveryRecord]:
        """Return the latest deliveries of a run, in their order."""
        return list(self._deliveries.get(run_id, {}).values())

    def attempts(self, run_id: str) -> list[AttemptRecord]:
        """Return the failed attempts of a run, the oldest first."""
        found = [attempt for each in self._attempts.get(run_id, {}).values() for attempt in each]
        return sorted(found, key=lambda attempt: attempt.at_ms)

    def forget(self, run_id: str) -> None:
        """Forget a run that is deleted."""
        self._deliveries.pop(run_id, None)
        self._attempts.pop(run_id, None)


class MemoryInsight:
    """The part of `MemoryStore` that tells of many runs."""

    _clock: Clock
    _lock: threading.Lock
    _runs: dict[str, Stored]
    _events: dict[str, bytes]

    async def counts(self, function_id: str | None, limit: int) -> Mapping[Status, int]:
        with self._lock:
            found: dict[Status, int] = dict.fromkeys(get_args(Status), 0)
            for stored in self._runs.values():
                if function_id in (None, stored.run.function_id):
                    found[stored.run.status] += 1
            return {status: min(count, limit) for status, count in found.items()}

    async def functions(self, limit: int) -> Sequence[str]:
        with self._lock:
            return sorted({stored.run.function_id for stored in self._runs.values()})[:limit]

    async def effects(self, event_ids: Sequence[str]) -> Sequence[Effects]:
        with self._lock:
            return [self._effects(event_id) for event_id in event_ids]

    def _effects(self, event_id: str) -> Effects:
        started = [stored for stored in self._runs.values() if stored.run.event_id == event_id]
        started.sort(key=lambda stored: (stored.run.created_at_ms, stored.run.run_id))
        woke = [
            (stored.run.run_id, step.path)
            for stored in self._runs.values()
            for step in stored.steps.values()
            if step.taken == event_id
        ]
        runs = [snapshots.record(stored.run, stored.event) for stored in started[:EFFECTS_MAX]]
        return Effects(runs, sorted(woke)[:EFFECTS_MAX])

    async def seed(self, run_id: str, new: NewRun, steps: Sequence[StepRecord]) -> bool:
        now_ms = self._clock.now_ms()
        with self._lock:
            if run_id in self._runs:
                return False
            run = RunRow(run_id, new.event_id, new.function_id, new.options, now_ms, status="waiting")
            stored = self._runs[run_id] = Stored(run, self._events.setdefault(new.event_id, new.event))
            for step in steps:
                if step.outcome is not None:
                    run.seq += 1
                    outcome = replace(step.outcome, took_ms=step.took_ms)
                    stored.steps[step.path] = StepRow(step.path, outcome, run.seq, committed_at_ms=now_ms)
            return True
