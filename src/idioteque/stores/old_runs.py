"""Old runs in a SQL database: finding those that nothing holds, and deleting those that ended long ago."""

from __future__ import annotations

from collections.abc import Sequence

from idioteque import snapshots
from idioteque.database import SqlValue, Transaction
from idioteque.store import NEVER_MS, RunRecord
from idioteque.stores.opening import OpenedDatabase
from idioteque.stores.tables import READ_EVENT, RUN_COLUMNS, load_run, run_of

# Unfinished runs without a sign of life since a time, and without anything that falls due after it. What follows on the
# due times is of waits without an end, as in the ledger's `is_stalled`.
STALLED = f"""SELECT {RUN_COLUMNS} FROM runs AS r
    WHERE r.created_at_ms < :before_ms AND r.status IN ('running', 'waiting')
      AND r.alive_at_ms < :before_ms AND r.due_at_ms < :before_ms
      AND (r.token = 0 OR r.lease_until_ms < :before_ms)
      AND NOT EXISTS (SELECT 1 FROM steps AS s WHERE s.run_id = r.run_id
          AND (s.committed_at_ms >= :before_ms
              OR (s.outcome_ok IS NULL AND s.due_at_ms >= :before_ms AND s.due_at_ms < :never_ms)))
      AND NOT EXISTS (SELECT 1 FROM seats AS t WHERE t.run_id = r.run_id
          AND (t.alive_at_ms >= :before_ms OR (t.token <> 0 AND t.lease_until_ms >= :before_ms)))
      AND (r.token <> 0
          OR NOT EXISTS (SELECT 1 FROM steps AS s WHERE s.run_id = r.run_id
              AND s.outcome_ok IS NULL AND s.due_at_ms >= :never_ms)
          OR EXISTS (SELECT 1 FROM steps AS s WHERE s.run_id = r.run_id
              AND s.outcome_ok IS NULL AND s.due_at_ms < :never_ms AND s.path NOT LIKE '%/%')
          OR EXISTS (SELECT 1 FROM seats AS t WHERE t.run_id = r.run_id AND (t.token <> 0 OR (t.sent = 1
              AND NOT EXISTS (SELECT 1 FROM steps AS s WHERE s.run_id = r.run_id AND s.path = t.path
                  AND s.outcome_ok IS NOT NULL)))))
    ORDER BY r.created_at_ms, r.run_id LIMIT :limit"""  # noqa: S608 - constant columns

# Messages of steps' own count as not sent.
FORGET_SENT = "UPDATE seats SET sent = 0 WHERE run_id = :run_id"

# Runs that ended long ago. They began before that, so the index by age leads to them.
ENDED = """SELECT run_id, event_id FROM runs
    WHERE created_at_ms < :before_ms AND finished_at_ms < :before_ms
    ORDER BY created_at_ms, run_id LIMIT :limit"""

# All that is a run's. A name that it holds is free again.
DELETIONS = (
    "DELETE FROM steps WHERE run_id = :run_id",
    "DELETE FROM seats WHERE run_id = :run_id",
    "DELETE FROM run_deliveries WHERE run_id = :run_id",
    "DELETE FROM step_attempts WHERE run_id = :run_id",
    "DELETE FROM run_lines WHERE run_id = :run_id",
    "DELETE FROM watchers WHERE run_id = :run_id",
    "DELETE FROM marks WHERE value = :run_id",
    "DELETE FROM runs WHERE run_id = :run_id",
)

# What a stray repetition of an event's message might still meet.
OLD_DISMISSALS = "SELECT run_id, name FROM dismissals WHERE at_ms < :before_ms ORDER BY at_ms LIMIT :limit"

FORGET_DISMISSAL = "DELETE FROM dismissals WHERE run_id = :run_id AND name = :name"

# What has not begun has no name when it was dismissed, nor when that is forgotten.
FREE = """DELETE FROM marks WHERE value = :run_id
    AND NOT EXISTS (SELECT 1 FROM runs WHERE runs.run_id = :run_id AND tokens > 0)"""

# The event goes with the last of its runs.
DELETE_EVENT = """DELETE FROM run_events WHERE event_id = :event_id
    AND NOT EXISTS (SELECT 1 FROM runs WHERE runs.event_id = :event_id)"""


class OldRuns:
    """The part of `SqlStore` that looks after old runs."""

    _database: OpenedDatabase

    async def stalled(self, before_ms: int, limit: int) -> Sequence[RunRecord]:
        def operation(tx: Transaction) -> list[RunRecord]:
            asked = {"before_ms": before_ms, "never_ms": NEVER_MS, "limit": limit}
            runs = [run_of(row) for row in tx.execute(STALLED, asked)]
            events = [tx.execute(READ_EVENT, {"event_id": run.event_id})[0][0] for run in runs]
            return [snapshots.record(run, event) for run, event in zip(runs, events, strict=True)]

        return await self._database.read(operation)

    async def forget_sent(self, run_id: str) -> None:
        def operation(tx: Transaction) -> None:
            load_run(tx, run_id)  # for its lock, as every operation on a run's steps
            tx.execute(FORGET_SENT, {"run_id": run_id})

        await self._database.write(operation)

    async def purge(self, before_ms: int, limit: int) -> int:
        def operation(tx: Transaction) -> int:
            found = tx.execute(f"{ENDED} {tx.lock_rows}", {"before_ms": before_ms, "limit": limit})
            for statement in DELETIONS:
                tx.execute_many(statement, [{"run_id": run_id} for run_id, _ in found])
            tx.execute_many(DELETE_EVENT, [{"event_id": event_id} for _, event_id in found])
            asked: dict[str, SqlValue] = {"before_ms": before_ms, "limit": limit - len(found)}
            old = tx.execute(f"{OLD_DISMISSALS} {tx.lock_rows}", asked)
            tx.execute_many(FREE, [{"run_id": run_id} for run_id, _ in old])
            tx.execute_many(FORGET_DISMISSAL, [{"run_id": run_id, "name": name} for run_id, name in old])
            return len(found) + len(old)

        return await self._database.write(operation, is_long=True)
