"""The log: what happened to messages and when, in pages. Filters concern the message, which is stored once."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from idioteque.database import Row, SqlValue, Transaction
from idioteque.server.errors import BadRequest
from idioteque.server.model import Answer, Filter, LogEntry, LogRow, Page, States
from idioteque.server.storage.filters import conditions
from idioteque.server.storage.messages import (
    MESSAGE_COLUMN_COUNT,
    MESSAGE_COLUMNS,
    headers_of,
    headers_text,
    message_of,
)

_CURSOR = re.compile(r"([0-9]{1,15})-([0-9]{1,18})-([0-9]{1,3})")


def insert_logs(tx: Transaction, rows: Iterable[LogRow]) -> None:
    """Add moments to the log; of an answer that succeeded, only the status is kept, and its body."""
    tx.execute_many(
        """INSERT INTO logs (time_ms, message_id, states, status, error, next_at_ms, headers, body)
        VALUES (:time_ms, :message_id, :states, :status, :error, :next_at_ms, :headers, :body)""",
        [_parameters(row) for row in rows],
    )


def list_logs(tx: Transaction, chosen: Filter, page: Page) -> tuple[list[LogEntry], str | None]:
    """Return entries in the order of time, and the cursor behind them, None when there are no more."""
    clauses, parameters = conditions(chosen, "l.time_ms")
    start = _parsed_cursor(page.cursor)
    if chosen.states is not None:
        clauses.append("(l.states & :states) <> 0")
        parameters["states"] = int(chosen.states)
    if start is not None:
        clauses.append(f"(l.time_ms, l.number) {'>=' if page.earliest_first else '<='} (:cursor_ms, :cursor_number)")
        parameters["cursor_ms"], parameters["cursor_number"] = start[:2]
    rows = tx.execute(_query(clauses, page), {**parameters, "count": page.count + 2})
    entries = [
        entry
        for row in rows
        for entry in _entries(row, chosen.states, page.earliest_first)
        if start is None or _is_behind(entry, start, page.earliest_first)
    ]
    if len(entries) <= page.count:
        return entries, None
    return entries[: page.count], entries[page.count - 1].cursor


def delete_logs_before(tx: Transaction, time_ms: int, count_max: int) -> int:
    """Delete old rows, and the messages that nothing refers to any more; return how many rows."""
    # The oldest first; a bounded bite, so that other writers wait shortly.
    rows = tx.execute(
        """DELETE FROM logs WHERE number IN (SELECT number FROM logs WHERE time_ms < :time_ms
        ORDER BY time_ms, number LIMIT :count_max) RETURNING message_id""",
        {"time_ms": time_ms, "count_max": count_max},
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
    # Ids sort by age.
    found = tx.execute(
        """SELECT id FROM messages m WHERE NOT EXISTS (SELECT 1 FROM deliveries d WHERE d.message_id = m.id)
        AND NOT EXISTS (SELECT 1 FROM dead_letters x WHERE x.message_id = m.id) ORDER BY id LIMIT :count""",
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
        AND NOT EXISTS (SELECT 1 FROM deliveries d WHERE d.message_id = :id)
        AND NOT EXISTS (SELECT 1 FROM dead_letters x WHERE x.message_id = :id)
        AND NOT EXISTS (SELECT 1 FROM logs l WHERE l.message_id = :id)""",
        [{"id": message_id} for message_id in message_ids],
    )


def _query(clauses: Sequence[str], page: Page) -> str:
    where = f"WHERE {' AND '.join(clauses)}" if clauses else ""
    direction = "ASC" if page.earliest_first else "DESC"
    return f"""SELECT {MESSAGE_COLUMNS}, l.time_ms, l.number, l.states, l.status, l.error, l.next_at_ms, l.headers,
        l.body FROM logs l JOIN messages m ON m.id = l.message_id {where}
        ORDER BY l.time_ms {direction}, l.number {direction} LIMIT :count"""  # noqa: S608 - constants, see filters.py


def _entries(row: Row, wanted: States | None, earliest_first: bool) -> list[LogEntry]:
    """Return the states of one row as entries; an answer goes with those that report an outcome."""
    message = message_of(row)
    time_ms, number, states, status, error, next_at_ms, headers, body = row[MESSAGE_COLUMN_COUNT:]
    answer = None if status is None else Answer(status, headers_of(headers or ""), body or b"", error)
    begun = [state for state in States if states & state and (wanted is None or wanted & state)]
    return [
        LogEntry(
            message,
            time_ms,
            state,
            None if state is States.RETRY else answer,
            next_at_ms if state is States.RETRY else None,
            f"{time_ms}-{number}-{state.value}",
        )
        for state in (begun if earliest_first else reversed(begun))
    ]


def _is_behind(entry: LogEntry, start: tuple[int, int, int], earliest_first: bool) -> bool:
    """Whether an entry comes after the cursor; only the cursor's own row can hold some that do not."""
    time_ms, number, state = _parsed_cursor(entry.cursor) or (0, 0, 0)
    if (time_ms, number) != start[:2]:
        return True
    return state > start[2] if earliest_first else state < start[2]


def _parsed_cursor(cursor: str | None) -> tuple[int, int, int] | None:
    if cursor is None:
        return None
    match = _CURSOR.fullmatch(cursor)
    if match is None:
        raise BadRequest(f"invalid cursor {cursor[:100]!r}: pass the one that the list before gave")
    return int(match[1]), int(match[2]), int(match[3])


def _parameters(row: LogRow) -> dict[str, SqlValue]:
    answer = row.answer
    failed = answer is not None and not row.states & States.DELIVERED
    return {
        "time_ms": row.time_ms,
        "message_id": row.message_id,
        "states": row.states.value,
        "status": None if answer is None else answer.status,
        "error": None if answer is None else answer.error,
        "next_at_ms": row.next_at_ms,
        "headers": headers_text(answer.headers) if answer is not None and failed else None,
        "body": answer.body if answer is not None and answer.body else None,
    }
