"""The SQL of the run store, and how its rows become the ledger's and back."""

from __future__ import annotations

from typing import Any

from idioteque.clock import Clock, SystemClock
from idioteque.database import Row, SqlValue, Transaction
from idioteque.ledger import Holder, RunRow, SeatRow, StepRow
from idioteque.paths import BODY, Path, path_of, path_text
from idioteque.store import NewRun, Outcome, Watcher

RUN_COLUMNS = (
    "run_id, event_id, function_id, options, created_at_ms, status, finished_at_ms, outcome_ok, outcome, attempts,"
    " strikes, due_at_ms, last_error, epoch, trouble, seq, tokens, token, lease_until_ms, alive_at_ms, owner,"
    " message_id, retried, dirty, gen"
)
STEP_COLUMNS = (
    "path, outcome_ok, outcome, seq, attempts, strikes, begun, due_at_ms, committed_at_ms, last_error, taken,"
    " waits_for, took_ms"
)

READ_RUN = f"SELECT {RUN_COLUMNS} FROM runs WHERE run_id = :run_id"  # noqa: S608 - constant columns

_SEAT_COLUMNS = "path, token, lease_until_ms, alive_at_ms, owner, message_id, retried, strikes, wake, sent"

READ_SEAT = f"SELECT {_SEAT_COLUMNS} FROM seats WHERE run_id = :run_id AND path = :path"  # noqa: S608

# The steps of a run whose own messages were accepted, and which have no outcome yet.
SEATS = """SELECT path FROM seats AS s WHERE run_id = :run_id AND sent = 1 AND NOT EXISTS
    (SELECT 1 FROM steps AS t WHERE t.run_id = s.run_id AND t.path = s.path AND t.seq > 0)"""

# A step's lease as it now is.
SAVE_SEAT = """INSERT INTO seats (run_id, path, token, lease_until_ms, alive_at_ms, owner, message_id, retried, strikes,
        wake, sent)
    VALUES (:run_id, :path, :token, :lease_until_ms, :alive_at_ms, :owner, :message_id, :retried, :strikes, :wake,
        :sent)
    ON CONFLICT (run_id, path) DO UPDATE SET token = :token, lease_until_ms = :lease_until_ms,
        alive_at_ms = :alive_at_ms, owner = :owner, message_id = :message_id, retried = :retried, strikes = :strikes,
        wake = :wake, sent = :sent"""

# A message of the step's own is on its way; whoever came first may have gone further.
NOTE_SEAT = """INSERT INTO seats (run_id, path, token, lease_until_ms, alive_at_ms, owner, message_id, retried, strikes,
        wake, sent)
    VALUES (:run_id, :path, 0, 0, 0, '', '', 0, 0, 0, 1) ON CONFLICT (run_id, path) DO UPDATE SET sent = 1"""

FORGET_SEAT = "DELETE FROM seats WHERE run_id = :run_id AND path = :path"

# A new run; another delivery may have created it first, and then that one stands.
CREATE_RUN = """INSERT INTO runs (run_id, event_id, function_id, options, created_at_ms, status, attempts, strikes,
        due_at_ms, epoch, seq, tokens, token, lease_until_ms, alive_at_ms, owner, message_id, retried,
        dirty, gen)
    VALUES (:run_id, :event_id, :function_id, :options, :created_at_ms, 'running', 0, :strikes, 0, 0, 0, :tokens,
        :token, :lease_until_ms, :alive_at_ms, :owner, :message_id, :retried, 0, 0)
    ON CONFLICT (run_id) DO NOTHING"""

# The event is stored once for all functions that it starts; the first one to be stored is the event for good.
CREATE_EVENT = "INSERT INTO run_events (event_id, event) VALUES (:event_id, :event) ON CONFLICT (event_id) DO NOTHING"

# Everything about a run that an operation may have changed.
SAVE_RUN = """UPDATE runs SET status = :status, finished_at_ms = :finished_at_ms, outcome_ok = :outcome_ok,
        outcome = :outcome, attempts = :attempts, strikes = :strikes, due_at_ms = :due_at_ms, last_error = :last_error,
        epoch = :epoch, trouble = :trouble, seq = :seq, tokens = :tokens, token = :token,
        lease_until_ms = :lease_until_ms, alive_at_ms = :alive_at_ms, owner = :owner, message_id = :message_id,
        retried = :retried, dirty = :dirty, gen = :gen
    WHERE run_id = :run_id"""

# What recording a step's outcome changes in the run whose lease it ran under.
NOTE_PROGRESS = "UPDATE runs SET seq = :seq, strikes = :strikes, alive_at_ms = :alive_at_ms WHERE run_id = :run_id"

# What its end changes in a run.
END_RUN = """UPDATE runs SET status = :status, finished_at_ms = :finished_at_ms, outcome_ok = :outcome_ok,
        outcome = :outcome, token = 0, strikes = 0
    WHERE run_id = :run_id"""

READ_EVENT = "SELECT event FROM run_events WHERE event_id = :event_id"

# The whole history of a run.
READ_STEPS = f"SELECT {STEP_COLUMNS} FROM steps WHERE run_id = :run_id ORDER BY seq, path"  # noqa: S608

# What became of a run since the last outcome that the reader knows, that one included, and what is unfinished. `known`
# is 1 at least: it alone bounds the search, which a second bound would make a search of all.
READ_LATER_STEPS = f"""SELECT {STEP_COLUMNS} FROM steps WHERE run_id = :run_id AND seq = 0
    UNION ALL SELECT {STEP_COLUMNS} FROM steps WHERE run_id = :run_id AND seq >= :known"""  # noqa: S608

# A step and those inside it: the character after the one that parts keys ends the range.
READ_INSIDE = f"""SELECT {STEP_COLUMNS} FROM steps
    WHERE run_id = :run_id AND (path = :path OR (path > :first AND path < :beyond)) ORDER BY seq, path"""  # noqa: S608

READ_STEP = f"SELECT {STEP_COLUMNS} FROM steps WHERE run_id = :run_id AND path = :path"  # noqa: S608

# A step's row as it now is; its outcome was written only if there was none, which the ledger saw to under the lock.
SAVE_STEP = """INSERT INTO steps (run_id, path, outcome_ok, outcome, seq, attempts, strikes, begun, due_at_ms,
        committed_at_ms, last_error, taken, waits_for, took_ms)
    VALUES (:run_id, :path, :outcome_ok, :outcome, :seq, :attempts, :strikes, :begun, :due_at_ms, :committed_at_ms,
        :last_error, :taken, :waits_for, :took_ms)
    ON CONFLICT (run_id, path) DO UPDATE SET outcome_ok = :outcome_ok, outcome = :outcome, seq = :seq,
        attempts = :attempts, strikes = :strikes, begun = :begun, due_at_ms = :due_at_ms,
        committed_at_ms = :committed_at_ms, last_error = :last_error, taken = :taken,
        waits_for = :waits_for, took_ms = :took_ms"""

# The outcome of a step that nothing is known of.
ADD_STEP = """INSERT INTO steps (run_id, path, outcome_ok, outcome, seq, attempts, strikes, begun, due_at_ms,
        committed_at_ms, took_ms)
    VALUES (:run_id, :path, :outcome_ok, :outcome, :seq, 0, 0, 0, 0, :committed_at_ms, :took_ms)
    ON CONFLICT (run_id, path) DO NOTHING"""

WATCH = """INSERT INTO watchers (run_id, path, seat, type, condition)
    VALUES (:run_id, :path, :seat, :type, :condition)
    ON CONFLICT (run_id, path, type) DO NOTHING"""

UNWATCH = "DELETE FROM watchers WHERE run_id = :run_id AND path = :path"

# Nothing finds a run that has ended.
UNWATCH_ALL = "DELETE FROM watchers WHERE run_id = :run_id"


def time_ms(tx: Transaction, clock: Clock) -> int:
    """Return the database's time where it has one of its own; but a test's clock goes before."""
    if tx.now_ms is None or not isinstance(clock, SystemClock):
        return clock.now_ms()
    return tx.now_ms


def create(tx: Transaction, run_id: str, new: NewRun, now_ms: int) -> RunRow:
    """Return a run that is not stored, stored now unless somebody else was first."""
    run = begin_run(run_id, new, now_ms)
    add_event(tx, new)
    add_run(tx, run)
    stored = load_run(tx, run_id)
    assert stored is not None
    return stored


def begin_run(run_id: str, new: NewRun, now_ms: int) -> RunRow:
    return RunRow(run_id, new.event_id, new.function_id, new.options, now_ms)


def add_event(tx: Transaction, new: NewRun) -> bytes:
    """Store an event and return it as it came first."""
    if tx.changed(CREATE_EVENT, {"event_id": new.event_id, "event": new.event}):
        return new.event
    event: bytes = tx.execute(READ_EVENT, {"event_id": new.event_id})[0][0]
    return event


def add_run(tx: Transaction, run: RunRow) -> bool:
    """Store a new run; return False, having done nothing, when it is stored already."""
    created = tx.changed(
        CREATE_RUN,
        {
            "run_id": run.run_id,
            "event_id": run.event_id,
            "function_id": run.function_id,
            "options": run.options,
            "created_at_ms": run.created_at_ms,
            "strikes": run.strikes,
            "tokens": run.tokens,
            "token": run.token,
            "lease_until_ms": run.lease_until_ms,
            "alive_at_ms": run.alive_at_ms,
            "owner": run.owner,
            "message_id": run.message_id,
            "retried": run.retried,
        },
    )
    return bool(created)


def add_step(tx: Transaction, run_id: str, step: StepRow, outcome: Outcome) -> bool:
    """Store the outcome of a step; return False, having done nothing, when there is a row of it already."""
    row: dict[str, SqlValue] = {
        "run_id": run_id,
        "path": path_text(step.path),
        "outcome_ok": int(outcome.ok),
        "outcome": outcome.payload,
        "seq": step.seq,
        "committed_at_ms": step.committed_at_ms,
        "took_ms": outcome.took_ms,
    }
    return bool(tx.changed(ADD_STEP, row))


def note_progress(tx: Transaction, run: RunRow) -> None:
    row: dict[str, SqlValue] = {"run_id": run.run_id, "seq": run.seq, "strikes": run.strikes}
    tx.execute(NOTE_PROGRESS, {**row, "alive_at_ms": run.alive_at_ms})


def end_run(tx: Transaction, run: RunRow, outcome: Outcome) -> None:
    tx.execute(
        END_RUN,
        {
            "run_id": run.run_id,
            "status": run.status,
            "finished_at_ms": run.finished_at_ms,
            "outcome_ok": int(outcome.ok),
            "outcome": outcome.payload,
        },
    )


def load_run(tx: Transaction, run_id: str) -> RunRow | None:
    """Read a run and lock it: the first thing that every operation does.

    The operations of a run take turns on this row, so what is read after it is current. One statement that locked the
    row and read the steps would take the steps from before it waited for the lock.
    """
    rows = tx.execute(f"{READ_RUN} {tx.lock_row}", {"run_id": run_id})
    return run_of(rows[0]) if rows else None


def run_of(row: Row) -> RunRow:
    columns: tuple[Any, ...] = (*row[:7], _outcome(row[7], row[8]), *row[9:])
    return RunRow(*columns)


def save_run(tx: Transaction, run: RunRow) -> None:
    tx.execute(
        SAVE_RUN,
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
            "dirty": run.dirty,
            "gen": run.gen,
        },
    )


def load_holder(tx: Transaction, run: RunRow, path: Path) -> Holder:
    """Return whose lease a path names: the body's, or that of a step with deliveries of its own."""
    if path == BODY:
        return run
    rows = tx.execute(READ_SEAT, {"run_id": run.run_id, "path": path_text(path)})
    return SeatRow(path_of(rows[0][0]), *rows[0][1:]) if rows else SeatRow(path)


def save_holder(tx: Transaction, run: RunRow, holder: Holder) -> None:
    """Keep what an operation changed in a run and in the lease it was made under."""
    save_run(tx, run)
    if isinstance(holder, RunRow):
        return
    tx.execute(
        SAVE_SEAT,
        {
            "run_id": run.run_id,
            "path": path_text(holder.path),
            "token": holder.token,
            "lease_until_ms": holder.lease_until_ms,
            "alive_at_ms": holder.alive_at_ms,
            "owner": holder.owner,
            "message_id": holder.message_id,
            "retried": holder.retried,
            "strikes": holder.strikes,
            "wake": holder.wake,
            "sent": holder.sent,
        },
    )


def watcher_of(row: Row) -> Watcher:
    columns: tuple[Any, ...] = (row[0], path_of(row[1]), *row[2:8], path_of(row[8]))
    return Watcher(*columns)


def seats_of(tx: Transaction, run_id: str) -> list[Path]:
    return [path_of(row[0]) for row in tx.execute(SEATS, {"run_id": run_id})]


def inside(tx: Transaction, run_id: str, path: Path) -> list[StepRow]:
    text = path_text(path)
    row: dict[str, SqlValue] = {"run_id": run_id, "path": text, "first": f"{text}/", "beyond": f"{text}0"}
    return [step_of(each) for each in tx.execute(READ_INSIDE, row)]


def load_step(tx: Transaction, run_id: str, path: Path) -> StepRow:
    rows = tx.execute(READ_STEP, {"run_id": run_id, "path": path_text(path)})
    return step_of(rows[0]) if rows else StepRow(path)


def step_of(row: Row) -> StepRow:
    return StepRow(path_of(row[0]), _outcome(row[1], row[2], row[12]), *row[3:12])


def save_step(tx: Transaction, run_id: str, step: StepRow) -> None:
    tx.execute(
        SAVE_STEP,
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
            "taken": step.taken,
            "waits_for": step.waits_for,
            "took_ms": None if step.outcome is None else step.outcome.took_ms,
        },
    )


def listing(*, status: str | None, function_id: str | None, before: str | None) -> str:
    """Return the query of a page of runs, the newest first, from behind the last run of the page before.

    Only what is asked for stands in it, so that an index by status or by function can serve it.
    """
    asked = (
        (status, "status = :status"),
        (function_id, "function_id = :function_id"),
        (
            before,
            "(created_at_ms, run_id) < (SELECT b.created_at_ms, b.run_id FROM runs AS b WHERE b.run_id = :before)",
        ),
    )
    clauses = [clause for value, clause in asked if value is not None]
    where = f"WHERE {' AND '.join(clauses)}" if clauses else ""
    return f"""SELECT {RUN_COLUMNS} FROM runs {where}
        ORDER BY created_at_ms DESC, run_id DESC LIMIT :limit"""  # noqa: S608 - constant clauses


def _outcome(ok: int | None, payload: bytes | None, took_ms: int | None = None) -> Outcome | None:
    return None if ok is None or payload is None else Outcome(bool(ok), payload, took_ms)
