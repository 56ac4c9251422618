"""Runs in a SQL database: every operation loads the run's row, applies the ledger's rule, and writes what changed."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from idioteque import ledger
from idioteque.clock import Clock, SystemClock
from idioteque.database import Database, Row, SqlValue, Transaction, migrate, open_database, sqlite_path
from idioteque.ledger import RunRow, StepRow
from idioteque.store import (
    BODY,
    Begun,
    Claim,
    Claimed,
    Committed,
    Due,
    Failed,
    Gone,
    Lease,
    Lost,
    NewRun,
    Outcome,
    Path,
    ReleaseKind,
    RunRecord,
    Scheduled,
    Status,
    Trouble,
    Unknown,
    path_of,
    path_text,
)

T = TypeVar("T")

_RUN_COLUMNS = (
    "run_id, event_id, function_id, options, created_at_ms, status, finished_at_ms, outcome_ok, outcome, attempts,"
    " strikes, due_at_ms, last_error, epoch, trouble, seq, tokens, token, lease_until_ms, alive_at_ms, owner,"
    " message_id, retried"
)
_STEP_COLUMNS = "path, outcome_ok, outcome, seq, attempts, strikes, begun, due_at_ms, committed_at_ms, last_error"

# The first thing every operation does: a run's operations take turns on this row, so what is read after it is current.
_LOCK_RUN = f"SELECT {_RUN_COLUMNS} FROM runs WHERE run_id = :run_id"  # noqa: S608 - constant columns

# A new run; another delivery may have created it first, and then that one stands.
_CREATE_RUN = """INSERT INTO runs (run_id, event_id, function_id, options, created_at_ms, status, attempts, strikes,
        due_at_ms, epoch, seq, tokens, token, lease_until_ms, alive_at_ms, owner, message_id, retried)
    VALUES (:run_id, :event_id, :function_id, :options, :now_ms, 'running', 0, 0, 0, 0, 0, 0, 0, 0, 0, '', '', 0)
    ON CONFLICT (run_id) DO NOTHING"""

# The event is stored once for all functions that it starts; the first one to be stored is the event for good.
_CREATE_EVENT = "INSERT INTO run_events (event_id, event) VALUES (:event_id, :event) ON CONFLICT (event_id) DO NOTHING"

# Everything about a run that an operation may have changed.
_SAVE_RUN = """UPDATE runs SET status = :status, finished_at_ms = :finished_at_ms, outcome_ok = :outcome_ok,
        outcome = :outcome, attempts = :attempts, strikes = :strikes, due_at_ms = :due_at_ms, last_error = :last_error,
        epoch = :epoch, trouble = :trouble, seq = :seq, tokens = :tokens, token = :token,
        lease_until_ms = :lease_until_ms, alive_at_ms = :alive_at_ms, owner = :owner, message_id = :message_id,
        retried = :retried
    WHERE run_id = :run_id"""

_READ_EVENT = "SELECT event FROM run_events WHERE event_id = :event_id"

# The whole history of a run.
_READ_STEPS = f"SELECT {_STEP_COLUMNS} FROM steps WHERE run_id = :run_id ORDER BY seq, path"  # noqa: S608

_READ_STEP = f"SELECT {_STEP_COLUMNS} FROM steps WHERE run_id = :run_id AND path = :path"  # noqa: S608

# A step's row as it now is; its outcome was written only if there was none, which the ledger saw to under the lock.
_SAVE_STEP = """INSERT INTO steps (run_id, path, outcome_ok, outcome, seq, attempts, strikes, begun, due_at_ms,
        committed_at_ms, last_error)
    VALUES (:run_id, :path, :outcome_ok, :outcome, :seq, :attempts, :strikes, :begun, :due_at_ms, :committed_at_ms,
        :last_error)
    ON CONFLICT (run_id, path) DO UPDATE SET outcome_ok = :outcome_ok, outcome = :outcome, seq = :seq,
        attempts = :attempts, strikes = :strikes, begun = :begun, due_at_ms = :due_at_ms,
        committed_at_ms = :committed_at_ms, last_error = :last_error"""

# A page of runs, the newest first, from behind the last run of the page before.
_LIST = f"""SELECT {_RUN_COLUMNS} FROM runs
    WHERE (:status IS NULL OR status = :status) AND (:function_id IS NULL OR function_id = :function_id)
      AND (:before IS NULL OR (created_at_ms, run_id) <
          (SELECT b.created_at_ms, b.run_id FROM runs AS b WHERE b.run_id = :before))
    ORDER BY created_at_ms DESC, run_id DESC LIMIT :limit"""  # noqa: S608


class SqlStore:
    """A `Store` in a database of its own or beside other tables: `SqlStore("sqlite:///runs.db")`."""

    def __init__(self, database: Database | str, clock: Clock | None = None) -> None:
        self._url = database if isinstance(database, str) else None
        self._database = None if isinstance(database, str) else database
        self._clock = clock or SystemClock()
        self._process_id = os.getpid()
        self._opening = threading.Lock()
        self._migrated: Database | None = None
        if self._url is not None:
            sqlite_path(self._url)

    async def claim(self, claim: Claim) -> Claimed:
        now_ms = self._clock.now_ms()

        def operation(tx: Transaction) -> Claimed:
            run = _load_run(tx, claim.run_id)
            is_new = run is None
            if run is None:
                if claim.new is None:
                    return Unknown()
                run = _create(tx, claim.run_id, claim.new, now_ms)
            refused = ledger.claim(run, claim, now_ms)
            _save_run(tx, run)
            if refused is not None:
                return refused
            event = tx.execute(_READ_EVENT, {"event_id": run.event_id})[0][0]
            rows = [] if is_new else tx.execute(_READ_STEPS, {"run_id": run.run_id})
            return ledger.started(run, event, [_step_of(row) for row in rows])

        return await self._write(operation)

    async def commit(self, lease: Lease, path: Path, outcome: Outcome) -> Committed:
        now_ms = self._clock.now_ms()

        def operation(tx: Transaction) -> Committed:
            run = _load_run(tx, lease.run_id)
            if run is None:
                return Lost(None, held=False)
            if path == BODY:
                answer = ledger.commit_body(run, lease.token, outcome, now_ms)
                _save_run(tx, run)
                return answer
            step = _load_step(tx, lease.run_id, path)
            before = step.seq
            answer = ledger.commit_step(run, step, lease.token, outcome, now_ms)
            if step.seq != before:
                _save_step(tx, run.run_id, step)
                _save_run(tx, run)
            return answer

        return await self._write(operation)

    async def begin(self, lease: Lease, path: Path, *, at_most_once: bool = False) -> Begun:
        def operation(tx: Transaction) -> Begun:
            run = _load_run(tx, lease.run_id)
            if run is None:
                return Gone()
            step = _load_step(tx, lease.run_id, path)
            around = [_load_step(tx, lease.run_id, path[:n]) for n in range(1, len(path))]
            around = [outer for outer in around if outer.strikes]
            answer = ledger.begin(run, step, around, lease.token, at_most_once)
            if not isinstance(answer, Gone):
                for row in (step, *around):
                    _save_step(tx, run.run_id, row)
                _save_run(tx, run)
            return answer

        return await self._write(operation)

    async def fail(self, lease: Lease, path: Path, attempts: int, due_at_ms: int, error: str) -> Failed:
        now_ms = self._clock.now_ms()

        def operation(tx: Transaction) -> Failed:
            run = _load_run(tx, lease.run_id)
            if run is None:
                return Gone()
            step = _load_step(tx, lease.run_id, path)
            answer = ledger.fail(run, step, lease.token, attempts, due_at_ms, error, now_ms)
            if not isinstance(answer, Gone):
                _save_step(tx, run.run_id, step)
                _save_run(tx, run)
            return answer

        return await self._write(operation)

    async def schedule(self, lease: Lease, path: Path, due_at_ms: int) -> Scheduled:
        def operation(tx: Transaction) -> Scheduled:
            run = _load_run(tx, lease.run_id)
            if run is None:
                return Gone()
            step = _load_step(tx, lease.run_id, path)
            answer = ledger.schedule(run, step, lease.token, due_at_ms)
            if isinstance(answer, Due):
                _save_step(tx, run.run_id, step)
            return answer

        return await self._write(operation)

    async def release(
        self, lease: Lease, kind: ReleaseKind, *, due_at_ms: int = 0, error: str | None = None
    ) -> int | None:
        def operation(tx: Transaction) -> int | None:
            run = _load_run(tx, lease.run_id)
            if run is None:
                return None
            attempts = ledger.release(run, lease.token, kind, due_at_ms, error)
            _save_run(tx, run)
            return attempts

        return await self._write(operation)

    async def renew(self, leases: Sequence[Lease], lease_ms: int) -> Sequence[bool]:
        now_ms = self._clock.now_ms()

        def operation(tx: Transaction) -> list[bool]:
            held: list[bool] = []
            for lease in leases:
                run = _load_run(tx, lease.run_id)
                held.append(run is not None and ledger.renew(run, lease.token, lease_ms, now_ms))
                if run is not None and held[-1]:
                    _save_run(tx, run)
            return held

        return await self._write(operation)

    async def trouble(self, run_id: str, trouble: Trouble, new: NewRun | None = None) -> None:
        now_ms = self._clock.now_ms()

        def operation(tx: Transaction) -> None:
            run = _load_run(tx, run_id) or (None if new is None else _create(tx, run_id, new, now_ms))
            if run is not None:
                ledger.note_trouble(run, trouble)
                _save_run(tx, run)

        await self._write(operation)

    async def cancel(self, run_id: str) -> Status | None:
        now_ms = self._clock.now_ms()

        def operation(tx: Transaction) -> Status | None:
            run = _load_run(tx, run_id)
            if run is None:
                return None
            status = ledger.cancel(run, now_ms)
            _save_run(tx, run)
            return status

        return await self._write(operation)

    async def reopen(self, run_id: str) -> int | None:
        def operation(tx: Transaction) -> int | None:
            run = _load_run(tx, run_id)
            if run is None:
                return None
            steps = [_step_of(row) for row in tx.execute(_READ_STEPS, {"run_id": run_id})]
            changed = ledger.reopen(run, steps)
            if changed is None:
                return None
            for step in changed:
                _save_step(tx, run_id, step)
            _save_run(tx, run)
            return run.epoch

        return await self._write(operation)

    async def get(self, run_id: str) -> RunRecord | None:
        def operation(tx: Transaction) -> RunRecord | None:
            run = _load_run(tx, run_id)
            if run is None:
                return None
            event = tx.execute(_READ_EVENT, {"event_id": run.event_id})[0][0]
            steps = [_step_of(row) for row in tx.execute(_READ_STEPS, {"run_id": run_id})]
            return ledger.record(run, event, steps)

        return await self._read(operation)

    async def list(
        self,
        *,
        status: Status | None = None,
        function_id: str | None = None,
        limit: int = 50,
        before: str | None = None,
    ) -> Sequence[RunRecord]:
        wanted: dict[str, SqlValue] = {
            "status": status,
            "function_id": function_id,
            "limit": limit,
            "before": before,
        }

        def operation(tx: Transaction) -> list[RunRecord]:
            runs = [_run_of(row) for row in tx.execute(_LIST, wanted)]
            return [ledger.record(run, tx.execute(_READ_EVENT, {"event_id": run.event_id})[0][0]) for run in runs]

        return await self._read(operation)

    async def close(self) -> None:
        if self._database is not None:
            await self._database.close()

    async def _write(self, operation: Callable[[Transaction], T]) -> T:
        return await (await self._ready()).write(operation)

    async def _read(self, operation: Callable[[Transaction], T]) -> T:
        return await (await self._ready()).read(operation)

    async def _ready(self) -> Database:
        """Open a database that was given by URL at its first use, and again in a process forked since then."""
        database = self._database
        if database is None or (self._url is not None and self._process_id != os.getpid()):
            with self._opening:
                if self._database is database:
                    self._database = open_database(self._url or "")
                    self._process_id = os.getpid()
                    self._migrated = None
                database = self._database
        assert database is not None
        if self._migrated is not database:
            await migrate(database, "runs", "idioteque.stores.migrations")
            self._migrated = database
        return database


def _create(tx: Transaction, run_id: str, new: NewRun, now_ms: int) -> RunRow:
    tx.execute(_CREATE_EVENT, {"event_id": new.event_id, "event": new.event})
    tx.execute(
        _CREATE_RUN,
        {
            "run_id": run_id,
            "event_id": new.event_id,
            "function_id": new.function_id,
            "options": new.options,
            "now_ms": now_ms,
        },
    )
    run = _load_run(tx, run_id)
    assert run is not None
    return run


def _load_run(tx: Transaction, run_id: str) -> RunRow | None:
    rows = tx.execute(_LOCK_RUN, {"run_id": run_id})
    return _run_of(rows[0]) if rows else None


def _run_of(row: Row) -> RunRow:
    columns: tuple[Any, ...] = (*row[:7], _outcome(row[7], row[8]), *row[9:])
    return RunRow(*columns)


def _save_run(tx: Transaction, run: RunRow) -> None:
    tx.execute(
        _SAVE_RUN,
        {
            "run_id": run.run_id,
            "status": run.status,
            "finished_at_ms": run.finished_at_ms,
            "outcome_ok": None if run.outcome is None else int(run.outcome.ok),
            "outcome": None if run.outcome is None else run.outcome.payload,
            "attempts": run.attempts,
            "strikes": run.strikes,
            "due_at_ms": run.due_at_ms,
            "last_error": run.last_error,
            "epoch": run.epoch,
            "trouble": run.trouble,
            "seq": run.seq,
            "tokens": run.tokens,
            "token": run.token,
            "lease_until_ms": run.lease_until_ms,
            "alive_at_ms": run.alive_at_ms,
            "owner": run.owner,
            "message_id": run.message_id,
            "retried": run.retried,
        },
    )


def _load_step(tx: Transaction, run_id: str, path: Path) -> StepRow:
    rows = tx.execute(_READ_STEP, {"run_id": run_id, "path": path_text(path)})
    return _step_of(rows[0]) if rows else StepRow(path)


def _step_of(row: Row) -> StepRow:
    return StepRow(path_of(row[0]), _outcome(row[1], row[2]), *row[3:])


def _save_step(tx: Transaction, run_id: str, step: StepRow) -> None:
    tx.execute(
        _SAVE_STEP,
        {
            "run_id": run_id,
            "path": path_text(step.path),
            "outcome_ok": None if step.outcome is None else int(step.outcome.ok),
            "outcome": None if step.outcome is None else step.outcome.payload,
            "seq": step.seq,
            "attempts": step.attempts,
            "strikes": step.strikes,
            "begun": step.begun,
            "due_at_ms": step.due_at_ms,
            "committed_at_ms": step.committed_at_ms,
            "last_error": step.last_error,
        },
    )


def _outcome(ok: int | None, payload: bytes | None) -> Outcome | None:
    return None if ok is None or payload is None else Outcome(bool(ok), payload)
