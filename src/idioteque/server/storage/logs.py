"""The log's rows: what followed after a message's beginning, and when. How they are read is in `log_pages.py`."""

from __future__ import annotations

from collections.abc import Iterable

from idioteque.database import SqlValue, Transaction
from idioteque.server.model import LogRow, States
from idioteque.server.storage.messages import headers_text
from idioteque.server.storage.numbers import first_number, next_number

DELIVERED = int(States.DELIVERED)  # flags of an enum are slow to test
INSERT = f"""INSERT INTO logs (number, message_id, states, status, error, next_at_ms, headers, body)
    VALUES ({next_number("logs")}, :message_id, :states, :status, :error, :next_at_ms, :headers, :body)"""  # noqa: S608 - a constant


def insert_logs(tx: Transaction, rows: Iterable[LogRow]) -> None:
    """Add moments to the log; of an answer that succeeded, only the status is kept, and its body."""
    tx.execute_many(INSERT, [_parameters(row) for row in rows])


def delete_logs_before(tx: Transaction, time_ms: int, count_max: int) -> int:
    """Delete old rows, and the messages that nothing refers to any more; return how many rows."""
    # The oldest first; a bounded bite, so that other writers wait shortly.
    rows = tx.execute(
        """DELETE FROM logs WHERE number IN (SELECT number FROM logs WHERE number < :before
        ORDER BY number LIMIT :count_max) RETURNING message_id""",
        {"before": first_number(time_ms), "count_max": count_max},
    )
    delete_orphans(tx, {row[0] for row in rows})
    return len(rows)


def count_ended(tx: Transaction) -> int:
    """Return how many messages have ended and are no dead letters: those are kept by a time of their own."""
    # Each count is a walk through one index.
    rows = tx.execute(
        """SELECT (SELECT COUNT(*) FROM messages) - (SELECT COUNT(*) FROM deliveries)
        - (SELECT COUNT(*) FROM dead_letters)"""
    )
    return int(rows[0][0])


def delete_oldest_logs(tx: Transaction, count_max: int) -> int:
    """Delete the oldest messages that have ended and are no dead letters, with their logs; return how many."""
    # In the order of the table.
    found = tx.execute(
        """SELECT id FROM messages m
        WHERE NOT EXISTS (SELECT 1 FROM deliveries d WHERE d.leased IN (0, 1) AND d.message_id = m.id)
        AND NOT EXISTS (SELECT 1 FROM dead_letters x WHERE x.message_id = m.id) ORDER BY number LIMIT :count""",
        {"count": count_max},
    )
    # By the index of messages.
    tx.execute_many("DELETE FROM logs WHERE message_id = :id", [{"id": row[0]} for row in found])
    # Nothing refers to them now.
    tx.execute_many("DELETE FROM messages WHERE id = :id", [{"id": row[0]} for row in found])
    return len(found)


def delete_orphans(tx: Transaction, message_ids: Iterable[str]) -> None:
    """Delete those of the messages that have ended and stand in no log and no dead letter."""
    # Three look-ups by index each.
    tx.execute_many(
        """DELETE FROM messages WHERE id = :id
        AND NOT EXISTS (SELECT 1 FROM deliveries d WHERE d.leased IN (0, 1) AND d.message_id = :id)
        AND NOT EXISTS (SELECT 1 FROM dead_letters x WHERE x.message_id = :id)
        AND NOT EXISTS (SELECT 1 FROM logs l WHERE l.message_id = :id)""",
        [{"id": message_id} for message_id in message_ids],
    )


def _parameters(row: LogRow) -> tuple[SqlValue, ...]:
    first, states, answer = first_number(row.time_ms), int(row.states), row.answer
    if answer is None:
        return first, row.message_id, states, None, None, row.next_at_ms, None, None
    headers = None if states & DELIVERED else headers_text(answer.headers)
    return first, row.message_id, states, answer.status, answer.error, row.next_at_ms, headers, answer.body or None
