"""Runs in this process's memory: for tests and first steps. They are gone when the process is."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from itertools import islice

from idioteque import ledger, snapshots
from idioteque.clock import Clock, SystemClock
from idioteque.ledger import REOPENED, RunRow, SeatRow, StepRow
from idioteque.paths import BODY, Path
from idioteque.runlog import Log
from idioteque.store import (
    MAILBOX_MS,
    Begun,
    Claim,
    Claimed,
    Committed,
    Failed,
    Go,
    Gone,
    Lease,
    Letter,
    Lost,
    NewRun,
    Outcome,
    Released,
    ReleaseKind,
    RunRecord,
    Scheduled,
    Status,
    Trouble,
    Unknown,
    Watcher,
    Won,
)
from idioteque.stores.memory_insight import Diary, MemoryInsight, Stored
from idioteque.stores.memory_log import MemoryRunLog


class MemoryStore(MemoryInsight, MemoryRunLog):
    """A `Store` without a disk. No operation awaits anything, so each is atomic; a lock serves other threads' loops."""

    def __init__(self, clock: Clock | None = None) -> None:
        self._clock = clock or SystemClock()
        self._runs: dict[str, Stored] = {}
        self._events: dict[str, bytes] = {}
        self._watchers: dict[str, dict[tuple[str, Path], Watcher]] = {}
        self._marks: dict[str, tuple[str, int]] = {}
        self._dismissals: dict[str, dict[str, tuple[str, int]]] = {}
        """Of runs that met another one at a name: by run and name, who that was, and when."""
        self._mailbox: dict[str, tuple[str, Letter]] = {}
        self._diary = Diary()
        self._logs: dict[str, Log] = {}
        self._lock = threading.Lock()

    async def claim(self, claim: Claim) -> Claimed:
        now_ms = self._clock.now_ms()
        with self._lock:
            stored = self._runs.get(claim.run_id)
            if stored is None:
                if claim.new is None:
                    return Unknown()
                stored = self._create(claim.run_id, claim.new)
            if claim.path != BODY:
                return self._claim_step(stored, claim, now_ms)
            refused = ledger.claim(stored.run, claim, now_ms)
            if refused is not None:
                return refused
            self._diary.came(claim.run_id, stored.run.token, claim, now_ms)
            return stored.snapshot(stored.run, claim.known)

    def _claim_step(self, stored: Stored, claim: Claim, now_ms: int) -> Claimed:
        step = stored.steps.setdefault(claim.path, StepRow(claim.path))
        seat = stored.seats.setdefault(claim.path, SeatRow(claim.path))
        refused = ledger.claim_step(stored.run, step, seat, claim, now_ms)
        if refused is not None:
            return refused
        self._diary.came(claim.run_id, seat.token, claim, now_ms)
        if claim.inside:
            steps = [each for path, each in stored.steps.items() if path[: len(claim.path)] == claim.path]
            return snapshots.started(stored.run, stored.event, steps, seat)
        return stored.snapshot(seat, claim.known)

    async def commit(self, lease: Lease, path: Path, outcome: Outcome) -> Committed:
        now_ms = self._clock.now_ms()
        with self._lock:
            stored = self._runs.get(lease.run_id)
            if stored is None:
                return Lost(None, held=False)
            if path == BODY:
                answer = ledger.commit_body(stored.run, lease.token, outcome, now_ms)
                if isinstance(answer, Won):
                    self._forget_watchers(lease.run_id)
                return answer
            step = stored.step(path)
            if path == lease.path:
                seat = stored.seats.setdefault(path, SeatRow(path))
                answer = ledger.commit_seat(stored.run, step, seat, lease.token, outcome, now_ms)
            else:
                holder = stored.holder(lease.path)
                answer = ledger.commit_step(stored.run, step, holder, lease.token, outcome, now_ms)
            if step.outcome is not None:
                stored.steps[path] = step
            if step.waits_for is not None:
                self._forget_watchers(lease.run_id, path)
            return answer

    async def sent(self, lease: Lease, paths: Sequence[Path]) -> None:
        with self._lock:
            stored = self._runs.get(lease.run_id)
            if stored is not None:
                for path in paths:
                    stored.seats.setdefault(path, SeatRow(path)).sent = 1

    async def begin(self, lease: Lease, path: Path, *, at_most_once: bool = False) -> Begun:
        with self._lock:
            stored = self._runs.get(lease.run_id)
            if stored is None:
                return Gone()
            step = stored.step(path)
            around = [stored.steps[path[:n]] for n in range(1, len(path)) if path[:n] in stored.steps]
            answer = ledger.begin(stored.run, step, around, stored.holder(lease.path), lease.token, at_most_once)
            if not isinstance(answer, Gone):
                stored.steps[path] = step
            return answer

    async def fail(
        self, lease: Lease, path: Path, attempts: int, due_at_ms: int, error: str, took_ms: int | None = None
    ) -> Failed:
        now_ms = self._clock.now_ms()
        with self._lock:
            stored = self._runs.get(lease.run_id)
            if stored is None:
                return Gone()
            step = stored.step(path)
            answer = ledger.fail(
                stored.run, step, stored.holder(lease.path), lease.token, attempts, due_at_ms, error, now_ms
            )
            if not isinstance(answer, Gone):
                stored.steps[path] = step
            if isinstance(answer, Go):
                self._diary.failed(stored.run, path, attempts, now_ms, took_ms, error)
            return answer

    async def schedule(self, lease: Lease, path: Path, due_at_ms: int, waits_for: str | None = None) -> Scheduled:
        with self._lock:
            stored = self._runs.get(lease.run_id)
            if stored is None:
                return Gone()
            step = stored.step(path)
            answer = ledger.schedule(stored.run, step, stored.holder(lease.path), lease.token, due_at_ms, waits_for)
            if not isinstance(answer, Gone):
                stored.steps[path] = step
            return answer

    async def watch(self, lease: Lease, path: Path, types: Sequence[str], where: bytes) -> None:
        with self._lock:
            stored = self._runs.get(lease.run_id)
            if stored is None or not stored.run.is_open or not stored.holder(lease.path).is_held_by(lease.token):
                return
            run = stored.run
            watcher = Watcher(
                run_id=run.run_id,
                path=path,
                event_id=run.event_id,
                function_id=run.function_id,
                where=where,
                created_at_ms=run.created_at_ms,
                epoch=run.epoch,
                options=run.options,
                seat=lease.path,
            )
            for type_name in types:
                self._watchers.setdefault(type_name, {}).setdefault((run.run_id, path), watcher)
                stored.watched.add((type_name, path))

    async def unwatch(self, run_id: str, path: Path) -> None:
        with self._lock:
            self._forget_watchers(run_id, path)

    def _forget_watchers(self, run_id: str, path: Path | None = None) -> None:
        """Forget what finds a step of a run, or with None any of them."""
        stored = self._runs.get(run_id)
        if stored is None:
            return
        for type_name, watched in [each for each in stored.watched if path in (None, each[1])]:
            stored.watched.discard((type_name, watched))
            del self._watchers[type_name][run_id, watched]

    async def arrive(self, event_id: str, type_name: str, event: bytes) -> tuple[Letter, Sequence[Watcher]]:
        now_ms = self._clock.now_ms()
        with self._lock:
            _, letter = self._mailbox.setdefault(event_id, (type_name, Letter(event_id, event, now_ms)))
            for _, old in list(islice(self._mailbox.values(), 10)):  # the oldest come first
                if old.accepted_at_ms < now_ms - MAILBOX_MS and old is not letter:
                    del self._mailbox[old.event_id]
            return letter, list(self._watchers.get(type_name, {}).values())

    async def letters(self, types: Sequence[str], since_ms: int) -> Sequence[Letter]:
        with self._lock:
            found = [letter for name, letter in self._mailbox.values() if name in types]
            return sorted(
                (letter for letter in found if letter.accepted_at_ms >= since_ms),
                key=lambda letter: (letter.accepted_at_ms, letter.event_id),
            )

    async def take(self, run_id: str, path: Path, event_id: str, outcome: Outcome) -> Committed:
        now_ms = self._clock.now_ms()
        with self._lock:
            stored = self._runs.get(run_id)
            if stored is None:
                return Lost(None, held=False)
            step = stored.step(path)
            is_taken = any(other.taken == event_id for other in stored.steps.values())
            answer = ledger.take(stored.run, step, event_id, outcome, is_taken, now_ms)
            if isinstance(answer, Won):
                stored.steps[path] = step
            return answer

    async def occupy(self, name: str, run_id: str, *, until_end: bool) -> str:
        with self._lock:
            dismissed = self._dismissals.get(run_id, {}).get(name)
            if dismissed is not None:
                return dismissed[0]
            holder = self._marks.get(name, ("", 0))[0]
            if not holder or self._is_free(holder, until_end):
                self._marks[name] = (run_id, 0)
                return run_id
            if holder != run_id:
                self._dismissals.setdefault(run_id, {})[name] = (holder, self._clock.now_ms())
            return holder

    def _is_free(self, holder: str, until_end: bool) -> bool:
        """Whether a run has a name no more: it has ended, or it was dismissed and never began."""
        stored = self._runs.get(holder)
        is_over = until_end and stored is not None and not stored.run.is_open
        return is_over or (holder in self._dismissals and not self._has_begun(holder))

    def _has_begun(self, run_id: str) -> bool:
        stored = self._runs.get(run_id)
        return stored is not None and stored.run.tokens > 0

    async def latest(self, name: str, event_id: str, accepted_at_ms: int, run_id: str) -> str:
        with self._lock:
            known = self._marks.get(name, ("", -1))
            newest = max(known, (event_id, accepted_at_ms), key=lambda mark: (mark[1], mark[0]))
            self._marks[name] = newest
            if newest[0] != event_id:
                self._dismissals.setdefault(run_id, {}).setdefault(name, (newest[0], self._clock.now_ms()))
            return newest[0]

    async def release(
        self, lease: Lease, kind: ReleaseKind, *, due_at_ms: int = 0, error: str | None = None
    ) -> Released | None:
        with self._lock:
            stored = self._runs.get(lease.run_id)
            if stored is None:
                return None
            released = ledger.release(stored.run, stored.holder(lease.path), lease.token, kind, due_at_ms, error)
            if released is not None and kind == "failed":
                self._diary.failed(stored.run, BODY, stored.run.attempts, self._clock.now_ms(), None, error or "")
            return released

    async def renew(self, leases: Sequence[Lease], lease_ms: int) -> Sequence[bool]:
        now_ms = self._clock.now_ms()
        with self._lock:
            return [self._renew(lease, lease_ms, now_ms) for lease in leases]

    def _renew(self, lease: Lease, lease_ms: int, now_ms: int) -> bool:
        stored = self._runs.get(lease.run_id)
        if stored is None:
            return False
        return ledger.renew(stored.run, stored.holder(lease.path), lease.token, lease_ms, now_ms)

    async def trouble(self, run_id: str, trouble: Trouble, new: NewRun | None = None) -> None:
        with self._lock:
            stored = self._runs.get(run_id)
            if stored is None and new is not None and run_id not in self._dismissals:
                stored = self._create(run_id, new)
            if stored is not None:
                ledger.note_trouble(stored.run, trouble)

    async def cancel(self, run_id: str) -> Status | None:
        with self._lock:
            stored = self._runs.get(run_id)
            if stored is None:
                return None
            self._forget_watchers(run_id)
            return ledger.cancel(stored.run, self._clock.now_ms())

    async def reopen(self, run_id: str) -> int | None:
        with self._lock:
            stored = self._runs.get(run_id)
            if stored is not None and stored.run.status in REOPENED:
                self._diary.ended(stored)
            changed = None if stored is None else ledger.reopen(stored.run, stored.steps.values())
            if stored is None or changed is None:
                return None
            for step in changed:
                stored.seats.pop(step.path, None)
            for seat in stored.seats.values():  # a message that came when the run had ended is gone
                seat.sent = 0
            return stored.run.epoch

    def _create(self, run_id: str, new: NewRun) -> Stored:
        run = RunRow(run_id, new.event_id, new.function_id, new.options, self._clock.now_ms())
        stored = self._runs[run_id] = Stored(run, self._events.setdefault(new.event_id, new.event))
        return stored

    async def get(self, run_id: str) -> RunRecord | None:
        with self._lock:
            stored = self._runs.get(run_id)
            if stored is None:
                return None
            past = self._diary.deliveries(run_id), self._diary.attempts(run_id)
            return snapshots.record(stored.run, stored.event, stored.steps.values(), *past)

    async def list(
        self,
        *,
        status: Status | None = None,
        function_id: str | None = None,
        limit: int = 50,
        before: str | None = None,
    ) -> Sequence[RunRecord]:
        with self._lock:
            newest_first = sorted(self._runs.values(), key=_age, reverse=True)
            if before is not None:
                mark = _age(self._runs[before]) if before in self._runs else (0, "")
                newest_first = [stored for stored in newest_first if _age(stored) < mark]
            wanted = [
                stored
                for stored in newest_first
                if status in (None, stored.run.status) and function_id in (None, stored.run.function_id)
            ]
            return [snapshots.record(stored.run, stored.event) for stored in wanted[:limit]]

    async def stalled(self, before_ms: int, limit: int) -> Sequence[RunRecord]:
        with self._lock:
            found = [
                stored
                for stored in self._runs.values()
                if ledger.is_stalled(stored.run, stored.steps.values(), stored.seats.values(), before_ms)
            ]
            return [snapshots.record(stored.run, stored.event) for stored in sorted(found, key=_age)[:limit]]

    async def forget_sent(self, run_id: str) -> None:
        with self._lock:
            stored = self._runs.get(run_id)
            if stored is not None:
                for seat in stored.seats.values():
                    seat.sent = 0

    async def purge(self, before_ms: int, limit: int) -> int:
        with self._lock:
            ended = [
                stored.run
                for stored in self._runs.values()
                if stored.run.finished_at_ms is not None and stored.run.finished_at_ms < before_ms
            ][:limit]
            for run in ended:
                self._forget_watchers(run.run_id)
                del self._runs[run.run_id]
                self._diary.forget(run.run_id)
                self._logs.pop(run.run_id, None)
            gone = {run.run_id for run in ended}
            left = {stored.run.event_id for stored in self._runs.values()} if gone else set[str]()
            for event_id in {run.event_id for run in ended} - left:
                self._events.pop(event_id, None)
            self._free(gone)
            return len(ended) + self._forget_dismissals(before_ms, limit - len(ended))

    def _free(self, run_ids: set[str]) -> None:
        for name in [name for name, (value, _) in self._marks.items() if value in run_ids]:
            del self._marks[name]

    def _forget_dismissals(self, before_ms: int, limit: int) -> int:
        old = [
            (run_id, name)
            for run_id, dismissed in self._dismissals.items()
            for name, (_, at_ms) in dismissed.items()
            if at_ms < before_ms
        ][:limit]
        self._free({run_id for run_id, _ in old if not self._has_begun(run_id)})
        for run_id, name in old:
            del self._dismissals[run_id][name]
            if not self._dismissals[run_id]:
                del self._dismissals[run_id]
        return len(old)

    async def close(self) -> None:
        return


def _age(stored: Stored) -> tuple[int, str]:
    return stored.run.created_at_ms, stored.run.run_id
