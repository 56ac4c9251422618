"""The log in pages: the states that began with a message stand with the message, what followed in rows of its own.

Both are kept in the order of time; of one millisecond, what began comes before what followed.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

from idioteque.database import Row, SqlValue, Transaction
from idioteque.server.errors import BadRequest
from idioteque.server.model import Answer, Filter, LogEntry, Page, States
from idioteque.server.storage import filters
from idioteque.server.storage.filters import conditions, is_found_by_index
from idioteque.server.storage.messages import MESSAGE_COLUMN_COUNT, MESSAGE_COLUMNS, headers_of, message_of
from idioteque.server.storage.numbers import NUMBER_MAX, first_number, time_of

BEGUN, FOLLOWED = 0, 1
STATES_OF_BEGUN = States.CREATED | States.ACTIVE
FREQUENT = States.ACTIVE | States.DELIVERED
RARE = (
    int(States.ERROR | States.RETRY),
    int(States.ERROR | States.FAILED),
    int(States.ERROR | States.CANCELED),
    int(States.CANCEL_REQUESTED),
    int(States.CANCEL_REQUESTED | States.CANCELED),
)
"""The states that begin together, but for those of `FREQUENT`: an index has the rows of each."""

STATE_MAX = 255

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


Placed = tuple[_Place, LogEntry]


@dataclass(frozen=True, slots=True)
class _Asked:
    """What a page is asked for; nothing older than `since_ms` is listed."""

    chosen: Filter
    page: Page
    start: _Place | None
    since_ms: int


def list_logs(tx: Transaction, chosen: Filter, page: Page, since_ms: int) -> tuple[list[LogEntry], str | None]:
    """Return entries in the order of time, and the cursor behind them, None when there are no more.

    What is older than `since_ms` is not listed, though its message may be there still.
    """
    start = _parsed_cursor(page.cursor)
    asked = _Asked(chosen, page, start, since_ms)
    placed: list[Placed] = []
    ends: list[_Place] = []
    for found, end in (_begun(tx, asked), *_followed(tx, asked)):
        placed += found
        ends += [] if end is None else [end]
    earliest_first = page.earliest_first
    if start is not None:
        placed = [each for each in placed if (each[0] > start if earliest_first else each[0] < start)]
    end = (min(ends) if earliest_first else max(ends)) if ends else None
    if end is not None:
        placed = [each for each in placed if (each[0] <= end if earliest_first else each[0] >= end)]
    placed.sort(key=lambda each: each[0], reverse=not earliest_first)
    entries = [entry for _, entry in placed[: page.count]]
    if len(placed) > page.count:
        return entries, placed[page.count - 1][0].cursor
    return entries, None if end is None else end.cursor


def _begun(tx: Transaction, asked: _Asked) -> tuple[list[Placed], _Place | None]:
    """Return the entries of messages themselves, and the place up to which was looked, if that is not the end."""
    chosen = asked.chosen
    if chosen.states is not None and not chosen.states & STATES_OF_BEGUN:
        return [], None
    table = "messages m INDEXED BY messages_labelled" if _is_by_label(chosen) else "messages m"
    clauses, parameters = conditions(chosen, None)
    if chosen.states is not None:
        clauses.append("(m.begun & :states) <> 0")
        parameters["states"] = chosen.states.value
    narrow = ["m.labels <> ''"] if _is_by_label(chosen) else []
    rows, end = _rows(tx, asked, BEGUN, f"{MESSAGE_COLUMNS}, m.number, m.begun", table, "", narrow, clauses, parameters)
    placed = [each for row in rows for each in _entries(row, BEGUN, row[-2], row[-1], chosen.states, None, None)]
    return placed, end


def _followed(tx: Transaction, asked: _Asked) -> Iterator[tuple[list[Placed], _Place | None]]:
    """Yield the entries of the log's rows as `_begun` does; an answer goes with the states that report an outcome."""
    states = asked.chosen.states
    if states is None or states & FREQUENT:
        if states != States.CREATED:
            yield _rows_of_log(tx, asked, "logs l", [])
        return
    for value in RARE:
        if value & states:
            yield _rows_of_log(tx, asked, "logs l INDEXED BY logs_rare", [f"l.states > 4 AND l.states = {value}"])


def _rows_of_log(tx: Transaction, asked: _Asked, table: str, narrow: list[str]) -> tuple[list[Placed], _Place | None]:
    clauses, parameters = conditions(asked.chosen, None)
    if asked.chosen.states is not None and not narrow:
        clauses.append("(l.states & :states) <> 0")
        parameters["states"] = asked.chosen.states.value
    columns = f"{MESSAGE_COLUMNS}, l.number, l.states, l.status, l.error, l.next_at_ms, l.headers, l.body"
    join = "JOIN messages m ON m.id = l.message_id"
    rows, end = _rows(tx, asked, FOLLOWED, columns, table, join, narrow, clauses, parameters)
    placed: list[Placed] = []
    for row in rows:
        number, states, status, error, next_at_ms, headers, body = row[MESSAGE_COLUMN_COUNT:]
        answer = None if status is None else Answer(status, headers_of(headers or ""), body or b"", error)
        placed += _entries(row, FOLLOWED, number, states, asked.chosen.states, answer, next_at_ms)
    return placed, end


def _rows(
    tx: Transaction,
    asked: _Asked,
    source: int,
    columns: str,
    table: str,
    join: str,
    narrow: Iterable[str],
    clauses: Iterable[str],
    parameters: dict[str, SqlValue],
) -> tuple[list[Row], _Place | None]:
    """Return rows of a page in the order of their numbers; `narrow` is what the named index has the rows of.

    Where they are compared with a filter one by one, only `LOOKED_AT_MAX` are: the place of the last is returned then.
    """
    chosen, page = asked.chosen, asked.page
    number = "m.number" if source == BEGUN else "l.number"
    direction = "ASC" if page.earliest_first else "DESC"
    low, high = _range(source, asked)
    within = " AND ".join([*narrow, f"{number} BETWEEN :low AND :high"])
    end: _Place | None = None
    if not is_found_by_index(chosen) and (chosen.fields or chosen.labels or chosen.states is not None):
        # A walk of a bounded length.
        last = tx.execute(
            f"SELECT {number} FROM {table} WHERE {within} ORDER BY {number} {direction} LIMIT 1 OFFSET :looked_at",  # noqa: S608 - constants
            {"low": low, "high": high, "looked_at": filters.LOOKED_AT_MAX},
        )
        if last:
            low, high = (low, last[0][0]) if page.earliest_first else (last[0][0], high)
            end = _Place(time_of(last[0][0]), source, last[0][0], STATE_MAX if page.earliest_first else 0)
    where = " AND ".join([within, *clauses])
    # In the order of the table, or of the index that is named.
    rows = tx.execute(
        f"SELECT {columns} FROM {table} {join} WHERE {where} ORDER BY {number} {direction} LIMIT :count",  # noqa: S608 - constants, see filters.py
        {**parameters, "low": low, "high": high, "count": page.count + 2},
    )
    return rows, end


def _is_by_label(chosen: Filter) -> bool:
    return bool(chosen.labels) and not is_found_by_index(chosen)


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


def _range(source: int, asked: _Asked) -> tuple[int, int]:
    """Return the first and the last number of rows that may hold entries of the page."""
    chosen, start, earliest_first = asked.chosen, asked.start, asked.page.earliest_first
    low = first_number(max(asked.since_ms, chosen.from_ms or 0))
    high = NUMBER_MAX if chosen.to_ms is None else first_number(chosen.to_ms + 1) - 1
    if start is None:
        return low, high
    if source == start.source:
        return (max(low, start.number), high) if earliest_first else (low, min(high, start.number))
    border = first_number(start.time_ms + (1 if source < start.source else 0))
    return (max(low, border), high) if earliest_first else (low, min(high, border - 1))


def _parsed_cursor(cursor: str | None) -> _Place | None:
    if cursor is None:
        return None
    match = _CURSOR.fullmatch(cursor)
    if match is None or int(match[2]) > NUMBER_MAX:
        raise BadRequest(f"invalid cursor {cursor[:100]!r}: pass the one that the list before gave")
    return _Place(time_of(int(match[2])), int(match[1]), int(match[2]), int(match[3]))
