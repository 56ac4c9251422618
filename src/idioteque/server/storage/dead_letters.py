"""The dead-letter queue: messages whose attempts are used up, with the last answer, oldest first."""

from __future__ import annotations

import re
from collections.abc import Sequence

from idioteque.database import Row, SqlValue, Transaction
from idioteque.server.errors import BadRequest
from idioteque.server.model import Answer, DeadLetter, Filter, Page
from idioteque.server.storage.filters import conditions, one_of
from idioteque.server.storage.logs import delete_orphans
from idioteque.server.storage.messages import (
    MESSAGE_COLUMN_COUNT,
    MESSAGE_COLUMNS,
    headers_of,
    headers_text,
    message_of,
)

_CURSOR = re.compile(r"([0-9]{1,15})-([A-Za-z0-9_]{1,64})")


def insert_dead_letters(tx: Transaction, letters: Sequence[DeadLetter]) -> None:
    """Store dead letters."""
    tx.execute_many(
        """INSERT INTO dead_letters (id, message_id, time_ms, status, error, headers, body)
        VALUES (:id, :message_id, :time_ms, :status, :error, :headers, :body)""",
        [_parameters(letter) for letter in letters],
    )


def list_dead_letters(tx: Transaction, chosen: Filter, page: Page) -> tuple[list[DeadLetter], str | None]:
    """Return dead letters in the order of time, and the cursor behind them, None when there are no more."""
    clauses, parameters = _conditions(chosen)
    if page.cursor is not None:
        clauses.append(f"(x.time_ms, x.id) {'>' if page.earliest_first else '<'} (:cursor_ms, :cursor_id)")
        parameters["cursor_ms"], parameters["cursor_id"] = _parsed_cursor(page.cursor)
    direction = "ASC" if page.earliest_first else "DESC"
    where = f"WHERE {' AND '.join(clauses)}" if clauses else ""
    rows = tx.execute(
        f"""SELECT {MESSAGE_COLUMNS}, x.id, x.time_ms, x.status, x.error, x.headers, x.body
        FROM dead_letters x JOIN messages m ON m.id = x.message_id {where}
        ORDER BY x.time_ms {direction}, x.id {direction} LIMIT :count""",  # noqa: S608 - constants, see filters.py
        {**parameters, "count": page.count + 1},
    )
    letters = [_letter_of(row) for row in rows]
    if len(letters) <= page.count:
        return letters, None
    last = letters[page.count - 1]
    return letters[: page.count], f"{last.time_ms}-{last.id}"


def delete_dead_letters(tx: Transaction, letters: Sequence[DeadLetter]) -> list[DeadLetter]:
    """Delete dead letters; return those that were still there."""
    # Whoever deletes a letter has it: two retries of one letter give one message.
    deleted = [
        letter
        for letter in letters
        if tx.execute("DELETE FROM dead_letters WHERE id = :id RETURNING 1", {"id": letter.id})
    ]
    delete_orphans(tx, [letter.message.id for letter in deleted])
    return deleted


def count_dead_letters_before(tx: Transaction, time_ms: int) -> int:
    """Return how many dead letters are older."""
    # A range of the index by time.
    rows = tx.execute("SELECT COUNT(*) FROM dead_letters WHERE time_ms < :time_ms", {"time_ms": time_ms})
    return int(rows[0][0])


def delete_dead_letters_before(tx: Transaction, time_ms: int, count_max: int) -> int:
    """Delete old dead letters, and the messages that nothing refers to any more; return how many."""
    # The oldest first; a bounded bite.
    rows = tx.execute(
        """DELETE FROM dead_letters WHERE id IN (SELECT id FROM dead_letters WHERE time_ms < :time_ms
        ORDER BY time_ms, id LIMIT :count_max) RETURNING message_id""",
        {"time_ms": time_ms, "count_max": count_max},
    )
    delete_orphans(tx, {row[0] for row in rows})
    return len(rows)


def _conditions(chosen: Filter) -> tuple[list[str], dict[str, SqlValue]]:
    if chosen.ids is not None:
        parameters: dict[str, SqlValue] = {}
        return [one_of("x.id", "dead_letter_id", chosen.ids, parameters)], parameters
    clauses, parameters = conditions(chosen, "x.time_ms")
    if chosen.response_statuses:
        clauses.append(one_of("x.status", "response_status", chosen.response_statuses, parameters))
    return clauses, parameters


def _letter_of(row: Row) -> DeadLetter:
    id_, time_ms, status, error, headers, body = row[MESSAGE_COLUMN_COUNT:]
    return DeadLetter(id_, message_of(row), time_ms, Answer(status, headers_of(headers), body, error))


def _parsed_cursor(cursor: str) -> tuple[int, str]:
    match = _CURSOR.fullmatch(cursor)
    if match is None:
        raise BadRequest(f"invalid cursor {cursor[:100]!r}: pass the one that the list before gave")
    return int(match[1]), match[2]


def _parameters(letter: DeadLetter) -> dict[str, SqlValue]:
    return {
        "id": letter.id,
        "message_id": letter.message.id,
        "time_ms": letter.time_ms,
        "status": letter.answer.status,
        "error": letter.answer.error,
        "headers": headers_text(letter.answer.headers),
        "body": letter.answer.body,
    }
