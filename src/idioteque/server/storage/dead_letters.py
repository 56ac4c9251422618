"""The dead-letter queue: messages whose attempts are used up, with the last answer, oldest first."""

from __future__ import annotations

import re
from collections.abc import Sequence

from idioteque.database import Row, SqlValue, Transaction
from idioteque.server.errors import BadRequest
from idioteque.server.model import Answer, DeadLetter, Filter, Page
from idioteque.server.storage import filters
from idioteque.server.storage.filters import conditions, is_found_by_index, one_of
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
    """Return dead letters in the order of time, and the cursor behind them, None when there are no more.

    Where letters are compared with a filter one by one, only `LOOKED_AT_MAX` are: the page ends there.
    """
    statuses: tuple[int | None, ...] = () if chosen.ids is not None else chosen.response_statuses
    found: list[DeadLetter] = []
    ends: list[tuple[int, str]] = []
    for status in statuses or (None,):
        letters, end = _list(tx, chosen, page, status)
        found += letters
        ends += [] if end is None else [end]
    end = (min(ends) if page.earliest_first else max(ends)) if ends else None
    if end is not None:
        found = [each for each in found if (_place(each) <= end if page.earliest_first else _place(each) >= end)]
    found.sort(key=_place, reverse=not page.earliest_first)
    letters = found[: page.count]
    if len(found) > page.count:
        end = _place(letters[-1])
    return letters, None if end is None else f"{end[0]}-{end[1]}"


def _list(
    tx: Transaction, chosen: Filter, page: Page, status: int | None
) -> tuple[list[DeadLetter], tuple[int, str] | None]:
    """Return letters, of one status unless it is None, and the place up to which was looked, if that is not the end."""
    direction = "ASC" if page.earliest_first else "DESC"
    order = f"ORDER BY x.time_ms {direction}, x.id {direction}"
    within, parameters = _within(chosen, page)
    clauses, compared = _conditions(chosen)
    table, end = "dead_letters x", None
    compares = bool(clauses) and chosen.ids is None and not is_found_by_index(chosen)
    if status is not None:
        table = "dead_letters x INDEXED BY dead_letters_status"
        within.append("x.status = :status")
        parameters["status"] = status
    elif compares:
        table = "dead_letters x INDEXED BY dead_letters_time"
    if compares:
        # A walk of a bounded length.
        last = tx.execute(
            f"SELECT x.time_ms, x.id FROM {table} WHERE {' AND '.join(within)} {order} LIMIT 1 OFFSET :looked_at",  # noqa: S608
            {**parameters, "looked_at": filters.LOOKED_AT_MAX - 1},
        )
        if last:
            parameters["end_ms"], parameters["end_id"] = end = last[0][0], last[0][1]
            within.append(f"(x.time_ms, x.id) {'<=' if page.earliest_first else '>='} (:end_ms, :end_id)")
    # In the order of an index.
    rows = tx.execute(
        f"""SELECT {MESSAGE_COLUMNS}, x.id, x.time_ms, x.status, x.error, x.headers, x.body
        FROM {table} JOIN messages m ON m.id = x.message_id WHERE {" AND ".join([*within, *clauses])}
        {order} LIMIT :count""",  # noqa: S608 - constants, see filters.py
        {**parameters, **compared, "count": page.count + 1},
    )
    return [_letter_of(row) for row in rows], end


def _place(letter: DeadLetter) -> tuple[int, str]:
    return letter.time_ms, letter.id


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


def _within(chosen: Filter, page: Page) -> tuple[list[str], dict[str, SqlValue]]:
    """Return conditions on the order: dates, and the cursor."""
    clauses, parameters = ["x.time_ms >= 0"], dict[str, SqlValue]()
    if chosen.ids is None and chosen.from_ms is not None:
        clauses.append("x.time_ms >= :from_ms")
        parameters["from_ms"] = chosen.from_ms
    if chosen.ids is None and chosen.to_ms is not None:
        clauses.append("x.time_ms <= :to_ms")
        parameters["to_ms"] = chosen.to_ms
    if page.cursor is not None:
        clauses.append(f"(x.time_ms, x.id) {'>' if page.earliest_first else '<'} (:cursor_ms, :cursor_id)")
        parameters["cursor_ms"], parameters["cursor_id"] = _parsed_cursor(page.cursor)
    return clauses, parameters


def _conditions(chosen: Filter) -> tuple[list[str], dict[str, SqlValue]]:
    """Return what letters are compared with."""
    if chosen.ids is not None:
        parameters: dict[str, SqlValue] = {}
        return [one_of("x.id", "dead_letter_id", chosen.ids, parameters)], parameters
    return conditions(chosen, None)


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
