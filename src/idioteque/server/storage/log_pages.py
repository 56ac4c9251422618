"""The log in pages: the states that began with a message stand with the message, what followed in rows of its own.

Both are kept in the order of time; of one millisecond, what began comes before what followed.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

from idioteque.database import Row, SqlValue, Transaction
from idioteque.server.errors import BadRequest
from idioteque.server.model import Answer, Filter, LogEntry, Page, States
from idioteque.server.storage.filters import conditions
from idioteque.server.storage.messages import MESSAGE_COLUMN_COUNT, MESSAGE_COLUMNS, headers_of, message_of
from idioteque.server.storage.numbers import NUMBER_MAX, first_number, time_of

BEGUN, FOLLOWED = 0, 1
STATES_OF_BEGUN = States.CREATED | States.ACTIVE

_CURSOR = re.compile(r"([01])-([0-9]{1,19})-([0-9]{1,3})")


class _Place(NamedTuple):
    """Where an entry stands in the log, by which entries are ordered."""

    time_ms: int
    source: int
    number: int
    state: int

    @property
    def cursor(self) -> str:
        return f"{self.source}-{self.number}-{self.state}"


def list_logs(tx: Transaction, chosen: Filter, page: Page, since_ms: int) -> tuple[list[LogEntry], str | None]:
    """Return entries in the order of time, and the cursor behind them, None when there are no more.

    What is older than `since_ms` is not listed, though its message may be there still.
    """
    start = _parsed_cursor(page.cursor)
    placed = [*_begun(tx, chosen, page, start, since_ms), *_followed(tx, chosen, page, start, since_ms)]
    if start is not None:
        placed = [(p, entry) for p, entry in placed if (p > start if page.earliest_first else p < start)]
    placed.sort(key=lambda each: each[0], reverse=not page.earliest_first)
    entries = [entry for _, entry in placed[: page.count]]
    return entries, placed[page.count - 1][0].cursor if len(placed) > page.count else None


def _begun(
    tx: Transaction, chosen: Filter, page: Page, start: _Place | None, since_ms: int
) -> Iterator[tuple[_Place, LogEntry]]:
    """Yield the entries of messages themselves."""
    if chosen.states is not None and not chosen.states & STATES_OF_BEGUN:
        return
    clauses, parameters = conditions(chosen, None)
    if chosen.states is not None:
        clauses.append("(m.begun & :states) <> 0")
        parameters["states"] = chosen.states.value
    clauses.append("m.number BETWEEN :low AND :high")
    parameters["low"], parameters["high"] = _range(BEGUN, chosen, page, start, since_ms)
    # In the order of the table.
    rows = tx.execute(
        f"""SELECT {MESSAGE_COLUMNS}, m.number, m.begun FROM messages m WHERE {" AND ".join(clauses)}
        ORDER BY m.number {_direction(page)} LIMIT :count""",  # noqa: S608 - constants, see filters.py
        {**parameters, "count": page.count + 2},
    )
    for row in rows:
        number, begun = row[MESSAGE_COLUMN_COUNT:]
        yield from _entries(row, BEGUN, number, begun, chosen.states, None, None)


def _followed(
    tx: Transaction, chosen: Filter, page: Page, start: _Place | None, since_ms: int
) -> Iterator[tuple[_Place, LogEntry]]:
    """Yield the entries of the log's rows; an answer goes with the states that report an outcome."""
    if chosen.states == States.CREATED:
        return
    clauses, parameters = conditions(chosen, None)
    if chosen.states is not None:
        clauses.append("(l.states & :states) <> 0")
        parameters["states"] = chosen.states.value
    clauses.append("l.number BETWEEN :low AND :high")
    parameters["low"], parameters["high"] = _range(FOLLOWED, chosen, page, start, since_ms)
    # In the order of the table.
    rows = tx.execute(
        f"""SELECT {MESSAGE_COLUMNS}, l.number, l.states, l.status, l.error, l.next_at_ms, l.headers, l.body
        FROM logs l JOIN messages m ON m.id = l.message_id WHERE {" AND ".join(clauses)}
        ORDER BY l.number {_direction(page)} LIMIT :count""",  # noqa: S608 - constants, see filters.py
        {**parameters, "count": page.count + 2},
    )
    for row in rows:
        number, states, status, error, next_at_ms, headers, body = row[MESSAGE_COLUMN_COUNT:]
        answer = None if status is None else Answer(status, headers_of(headers or ""), body or b"", error)
        yield from _entries(row, FOLLOWED, number, states, chosen.states, answer, next_at_ms)


def _entries(
    row: Row,
    source: int,
    number: int,
    states: int,
    wanted: States | None,
    answer: Answer | None,
    next_at_ms: int | None,
) -> Iterator[tuple[_Place, LogEntry]]:
    """Yield the wanted ones of the states that begin at one moment."""
    message, time_ms = message_of(row), time_of(number)
    for state in States:
        if states & state and (wanted is None or wanted & state):
            place = _Place(time_ms, source, number, state.value)
            is_retry = state is States.RETRY
            yield (
                place,
                LogEntry(
                    message,
                    time_ms,
                    state,
                    None if is_retry else answer,
                    next_at_ms if is_retry else None,
                    place.cursor,
                ),
            )


def _range(source: int, chosen: Filter, page: Page, start: _Place | None, since_ms: int) -> tuple[int, SqlValue]:
    """Return the first and the last number of rows that may hold entries of the page."""
    low = first_number(max(since_ms, chosen.from_ms or 0))
    high = NUMBER_MAX if chosen.to_ms is None else first_number(chosen.to_ms + 1) - 1
    if start is None:
        return low, high
    if source == start.source:
        return (max(low, start.number), high) if page.earliest_first else (low, min(high, start.number))
    border = first_number(start.time_ms + (1 if source < start.source else 0))
    return (max(low, border), high) if page.earliest_first else (low, min(high, border - 1))


def _direction(page: Page) -> str:
    return "ASC" if page.earliest_first else "DESC"


def _parsed_cursor(cursor: str | None) -> _Place | None:
    if cursor is None:
        return None
    match = _CURSOR.fullmatch(cursor)
    if match is None or int(match[2]) > NUMBER_MAX:
        raise BadRequest(f"invalid cursor {cursor[:100]!r}: pass the one that the list before gave")
    return _Place(time_of(int(match[2])), int(match[1]), int(match[2]), int(match[3]))
