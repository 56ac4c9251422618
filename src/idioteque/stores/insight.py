"""What a SQL database tells of many runs at once, always from an index and never from more rows than it tells of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import get_args

from idioteque import snapshots
from idioteque.clock import Clock
from idioteque.database import SqlValue, Transaction
from idioteque.insight import EFFECTS_MAX, Effects
from idioteque.ledger import StepRow
from idioteque.paths import path_of
from idioteque.store import NewRun, RunRecord, Status, StepRecord
from idioteque.stores.opening import OpenedDatabase
from idioteque.stores.tables import (
    READ_EVENT,
    RUN_COLUMNS,
    add_event,
    add_run,
    add_step,
    begin_run,
    load_run,
    run_of,
    save_run,
    time_ms,
)

STATUSES: tuple[Status, ...] = get_args(Status)

# As many entries of the index by status, or by function and status, as are to be told at most.
COUNT = "SELECT COUNT(*) FROM (SELECT 1 FROM runs WHERE status = :status LIMIT :limit) AS found"
COUNT_OF_ONE = """SELECT COUNT(*) FROM
    (SELECT 1 FROM runs WHERE function_id = :function_id AND status = :status LIMIT :limit) AS found"""

# From each function to the next one, by a search of the index for each.
FUNCTIONS = """WITH RECURSIVE names (name) AS (
        SELECT MIN(function_id) FROM runs
        UNION ALL SELECT (SELECT MIN(function_id) FROM runs WHERE function_id > names.name)
            FROM names WHERE names.name IS NOT NULL)
    SELECT name FROM names WHERE name IS NOT NULL LIMIT :limit"""

# The runs that an event started, as far as they began with it.
STARTED = f"""SELECT {RUN_COLUMNS} FROM runs WHERE event_id = :event_id
    ORDER BY created_at_ms, run_id LIMIT :limit"""  # noqa: S608 - constant columns

# The waits that an event ended.
WOKE = "SELECT run_id, path FROM steps WHERE taken = :event_id ORDER BY run_id, path LIMIT :limit"


class SqlInsight:
    """The part of `SqlStore` that tells of many runs."""

    _database: OpenedDatabase
    _clock: Clock

    async def counts(self, function_id: str | None, limit: int) -> Mapping[Status, int]:
        query = COUNT if function_id is None else COUNT_OF_ONE
        asked: dict[str, SqlValue] = {"limit": limit}
        if function_id is not None:
            asked["function_id"] = function_id

        def operation(tx: Transaction) -> dict[Status, int]:
            return {status: int(tx.execute(query, {**asked, "status": status})[0][0]) for status in STATUSES}

        return await self._database.read(operation)

    async def functions(self, limit: int) -> Sequence[str]:
        def operation(tx: Transaction) -> list[str]:
            return [str(row[0]) for row in tx.execute(FUNCTIONS, {"limit": limit})]

        return await self._database.read(operation)

    async def effects(self, event_ids: Sequence[str]) -> Sequence[Effects]:
        return await self._database.read(lambda tx: [_effects(tx, event_id) for event_id in event_ids])

    async def seed(self, run_id: str, new: NewRun, steps: Sequence[StepRecord]) -> bool:
        def operation(tx: Transaction) -> bool:
            if load_run(tx, run_id) is not None:
                return False
            now_ms = time_ms(tx, self._clock)
            run = begin_run(run_id, new, now_ms)
            add_event(tx, new)
            add_run(tx, run)
            run.status = "waiting"
            for step in steps:
                if step.outcome is not None:
                    run.seq += 1
                    outcome = replace(step.outcome, took_ms=step.took_ms)
                    add_step(tx, run_id, StepRow(step.path, outcome, run.seq, committed_at_ms=now_ms), outcome)
            save_run(tx, run)
            return True

        return await self._database.write(operation)


def _effects(tx: Transaction, event_id: str) -> Effects:
    asked: dict[str, SqlValue] = {"event_id": event_id, "limit": EFFECTS_MAX}
    runs: list[RunRecord] = []
    for row in tx.execute(STARTED, asked):
        run = run_of(row)
        runs.append(snapshots.record(run, tx.execute(READ_EVENT, {"event_id": run.event_id})[0][0]))
    return Effects(runs, [(str(run_id), path_of(path)) for run_id, path in tx.execute(WOKE, asked)])
