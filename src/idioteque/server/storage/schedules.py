"""Schedules: what is repeated, when it is due next, and how its last messages fared."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import cast

from idioteque.database import Row, Transaction
from idioteque.server.model import Schedule, States

_COLUMNS = (
    "id, cron, destination, headers, body, queue_name, caller_ip, created_at_ms, paused, next_at_ms, last_at_ms,"
    " fired_at_ms, message_ids, error"
)


def find_schedule(tx: Transaction, schedule_id: str) -> Schedule | None:
    """Return a schedule, or None."""
    # By primary key.
    rows = tx.execute(f"SELECT {_COLUMNS} FROM schedules WHERE id = :id", {"id": schedule_id})  # noqa: S608 - a constant
    return _schedule_of(rows[0]) if rows else None


def list_schedules(tx: Transaction) -> list[Schedule]:
    """Return all schedules, the oldest first."""
    # They are bounded by a quota.
    return [_schedule_of(row) for row in tx.execute(f"SELECT {_COLUMNS} FROM schedules ORDER BY created_at_ms, id")]  # noqa: S608


def count_schedules(tx: Transaction) -> int:
    """Return how many schedules there are."""
    # A walk through the primary key.
    return int(tx.execute("SELECT COUNT(*) FROM schedules")[0][0])


def save_schedule(tx: Transaction, schedule: Schedule) -> None:
    """Store a schedule in place of the one of its id."""
    # Whoever overwrites one has read it in the same transaction.
    tx.execute(
        """INSERT INTO schedules (id, cron, destination, headers, body, queue_name, caller_ip, created_at_ms, paused,
            next_at_ms, last_at_ms, fired_at_ms, message_ids, error)
        VALUES (:id, :cron, :destination, :headers, :body, :queue_name, :caller_ip, :created_at_ms, :paused,
            :next_at_ms, :last_at_ms, :fired_at_ms, :message_ids, :error)
        ON CONFLICT (id) DO UPDATE SET cron = excluded.cron, destination = excluded.destination,
            headers = excluded.headers, body = excluded.body, queue_name = excluded.queue_name,
            caller_ip = excluded.caller_ip, paused = excluded.paused, next_at_ms = excluded.next_at_ms,
            error = excluded.error""",
        {
            "id": schedule.id,
            "cron": schedule.cron,
            "destination": schedule.destination,
            "headers": json.dumps(list(schedule.headers)),
            "body": schedule.body,
            "queue_name": schedule.queue_name,
            "caller_ip": schedule.caller_ip,
            "created_at_ms": schedule.created_at_ms,
            "paused": int(schedule.paused),
            "next_at_ms": schedule.next_at_ms,
            "last_at_ms": schedule.last_at_ms,
            "fired_at_ms": schedule.fired_at_ms,
            "message_ids": json.dumps(schedule.message_ids),
            "error": schedule.error,
        },
    )


def set_paused(tx: Transaction, schedule_id: str, next_at_ms: int | None, *, paused: bool) -> None:
    """Pause or resume a schedule."""
    # By primary key.
    tx.execute(
        "UPDATE schedules SET paused = :paused, next_at_ms = :next_at_ms WHERE id = :id",
        {"id": schedule_id, "paused": int(paused), "next_at_ms": next_at_ms},
    )


def delete_schedule(tx: Transaction, schedule_id: str) -> None:
    """Delete a schedule, if there is one."""
    # By primary key.
    tx.execute("DELETE FROM schedules WHERE id = :id", {"id": schedule_id})


def next_schedule_ms(tx: Transaction) -> int | None:
    """Return when the next schedule is due, or None."""
    # The first entry of the index.
    rows = tx.execute("SELECT next_at_ms FROM schedules WHERE next_at_ms IS NOT NULL ORDER BY next_at_ms LIMIT 1")
    return rows[0][0] if rows else None


def due_schedules(tx: Transaction, now_ms: int, count_max: int) -> list[Schedule]:
    """Return schedules that are due, those first that have been for the longest."""
    # From the beginning of the index.
    rows = tx.execute(
        f"""SELECT {_COLUMNS} FROM schedules WHERE next_at_ms IS NOT NULL AND next_at_ms <= :now_ms
        ORDER BY next_at_ms, id LIMIT :count""",  # noqa: S608 - a constant
        {"now_ms": now_ms, "count": count_max},
    )
    return [_schedule_of(row) for row in rows]


def advance(
    tx: Transaction,
    schedule: Schedule,
    tick_ms: int,
    next_at_ms: int | None,
    message_ids: Sequence[str] | None,
    error: str | None,
) -> bool:
    """Move a due schedule behind a tick; False when somebody else did, or changed it: then its tick is theirs.

    `message_ids` is None when the tick makes no messages.
    """
    # Conditional on the tick that was read: of two that fire it, one succeeds.
    rows = tx.execute(
        """UPDATE schedules SET next_at_ms = :next_at_ms, last_at_ms = :tick_ms, error = :error,
            fired_at_ms = CASE WHEN :fired = 1 THEN :tick_ms ELSE fired_at_ms END,
            message_ids = CASE WHEN :fired = 1 THEN :message_ids ELSE message_ids END
        WHERE id = :id AND next_at_ms = :due_ms RETURNING 1""",
        {
            "id": schedule.id,
            "due_ms": schedule.next_at_ms,
            "tick_ms": tick_ms,
            "next_at_ms": next_at_ms,
            "fired": int(message_ids is not None),
            "message_ids": json.dumps(list(message_ids or ())),
            "error": error,
        },
    )
    return bool(rows)


def message_fates(tx: Transaction, message_ids: Sequence[str]) -> dict[str, str]:
    """Return how messages fared: `IN_PROGRESS`, `SUCCESS` or `FAIL`; those that nothing is known of are left out."""
    fates: dict[str, str] = {}
    for message_id in message_ids:
        # Three look-ups by index.
        rows = tx.execute(
            """SELECT CASE
                WHEN EXISTS (SELECT 1 FROM deliveries d WHERE d.leased IN (0, 1) AND d.message_id = :id)
                    THEN 'IN_PROGRESS'
                WHEN EXISTS (SELECT 1 FROM logs l WHERE l.message_id = :id AND (l.states & :delivered) <> 0)
                    THEN 'SUCCESS'
                ELSE 'FAIL' END
            FROM messages m WHERE m.id = :id""",
            {"id": message_id, "delivered": States.DELIVERED.value},
        )
        if rows:
            fates[message_id] = rows[0][0]
    return fates


def _schedule_of(row: Row) -> Schedule:
    id_, cron, destination, headers, body, queue_name, caller_ip = row[:7]
    created_at_ms, paused, next_at_ms, last_at_ms, fired_at_ms, message_ids, error = row[7:]
    return Schedule(
        id_,
        cron,
        destination,
        tuple((name, value) for name, value in cast(list[tuple[str, str]], json.loads(headers))),
        body,
        queue_name,
        caller_ip,
        created_at_ms,
        bool(paused),
        next_at_ms,
        last_at_ms,
        fired_at_ms,
        tuple(cast(list[str], json.loads(message_ids))),
        error,
    )
