"""What a SQL database keeps of a run's past for those who look at it: its deliveries, and attempts that failed."""

from __future__ import annotations

from collections.abc import Iterable

from idioteque.database import Row, SqlValue, Transaction
from idioteque.ledger import Holder, RunRow, StepRow
from idioteque.paths import BODY, Path, path_of, path_text
from idioteque.records import ATTEMPTS_KEPT, AttemptRecord, DeliveryRecord, error_line
from idioteque.store import Claim

# A delivery took a lease; the claim may be repeated.
NOTE_DELIVERY = """INSERT INTO run_deliveries (run_id, token, path, message_id, retried, at_ms)
    VALUES (:run_id, :token, :path, :message_id, :retried, :at_ms) ON CONFLICT (run_id, token) DO NOTHING"""

# The latest deliveries of a run: one that waits for years has more than anybody wants to see.
READ_DELIVERIES = """SELECT path, message_id, retried, at_ms FROM run_deliveries WHERE run_id = :run_id
    ORDER BY token DESC LIMIT 200"""

# An attempt failed; that may be told twice.
NOTE_ATTEMPT = """INSERT INTO step_attempts (run_id, path, epoch, attempt, at_ms, took_ms, error)
    VALUES (:run_id, :path, :epoch, :attempt, :at_ms, :took_ms, :error)
    ON CONFLICT (run_id, path, epoch, attempt) DO NOTHING"""

# All but the latest attempts of a step.
FORGET_ATTEMPTS = """DELETE FROM step_attempts WHERE run_id = :run_id AND path = :path AND (epoch, attempt) NOT IN
    (SELECT epoch, attempt FROM step_attempts WHERE run_id = :run_id AND path = :path
        ORDER BY epoch DESC, attempt DESC LIMIT :kept)"""

# What failed before the run as it stands; of a run with very many such steps, a part.
READ_ATTEMPTS = """SELECT path, epoch, attempt, at_ms, took_ms, error FROM step_attempts WHERE run_id = :run_id
    ORDER BY path, epoch, attempt LIMIT 2000"""


def note_delivery(tx: Transaction, run_id: str, holder: Holder, claim: Claim, now_ms: int) -> None:
    tx.execute(
        NOTE_DELIVERY,
        {
            "run_id": run_id,
            "token": holder.token,
            "path": path_text(claim.path),
            "message_id": claim.message_id,
            "retried": claim.retried,
            "at_ms": now_ms,
        },
    )


def note_attempt(
    tx: Transaction, run: RunRow, path: Path, attempt: int, at_ms: int, took_ms: int | None, error: str
) -> None:
    row: dict[str, SqlValue] = {"run_id": run.run_id, "path": path_text(path)}
    what: dict[str, SqlValue] = {"epoch": run.epoch, "attempt": attempt, "at_ms": at_ms, "took_ms": took_ms}
    tx.execute(NOTE_ATTEMPT, {**row, **what, "error": error})
    if attempt > ATTEMPTS_KEPT or run.epoch:
        tx.execute(FORGET_ATTEMPTS, {**row, "kept": ATTEMPTS_KEPT})


def note_ends(tx: Transaction, run: RunRow, steps: Iterable[StepRow]) -> None:
    """Keep the failures that opening a run again is about to take out of its history."""
    if run.outcome is not None and not run.outcome.ok:
        at_ms = run.finished_at_ms or run.created_at_ms
        note_attempt(tx, run, BODY, run.attempts + 1, at_ms, None, error_line(run.outcome.payload))
    for step in steps:
        if step.outcome is not None and not step.outcome.ok:
            at_ms, said = step.committed_at_ms or run.created_at_ms, error_line(step.outcome.payload)
            note_attempt(tx, run, step.path, step.attempts + 1, at_ms, step.outcome.took_ms, said)


def deliveries_of(tx: Transaction, run_id: str) -> list[DeliveryRecord]:
    """Return the latest deliveries of a run, in their order."""
    rows = tx.execute(READ_DELIVERIES, {"run_id": run_id})
    return [DeliveryRecord(path_of(row[0]), row[1], row[2], row[3]) for row in reversed(rows)]


def attempts_of(tx: Transaction, run_id: str) -> list[AttemptRecord]:
    """Return the failed attempts of a run, the oldest first."""
    found = [_attempt(row) for row in tx.execute(READ_ATTEMPTS, {"run_id": run_id})]
    return sorted(found, key=lambda attempt: attempt.at_ms)


def _attempt(row: Row) -> AttemptRecord:
    return AttemptRecord(path_of(row[0]), *row[1:])
