"""A `Filter` as SQL: parameters for every value, and columns only from the list here."""

from __future__ import annotations

from idioteque.database import SqlValue
from idioteque.server.model import Filter

LOOKED_AT_MAX = 10_000
"""Rows that are compared with a filter for one page: it ends there, with fewer entries or none, and a cursor."""

COLUMNS = {
    "url": "m.url", "host": "m.host", "path": "m.path", "caller_ip": "m.caller_ip",
    "schedule_id": "m.schedule_id", "topic_name": "m.topic_name",
    "queue_name": "m.queue_name", "flow_key": "m.flow_key",
}  # fmt: skip
"""The message columns that `Filter.fields` may name."""

INDEXED = {"schedule_id", "topic_name", "queue_name", "flow_key"}
"""Those of which an index has the messages; the others are compared one by one."""


def is_found_by_index(chosen: Filter) -> bool:
    """Whether an index leads to the messages that agree with a filter, or to few more."""
    return bool(chosen.message_ids) or not INDEXED.isdisjoint(chosen.fields)


def conditions(chosen: Filter, time_column: str | None) -> tuple[list[str], dict[str, SqlValue]]:
    """Return conditions on a message `m` (to be joined by AND) and their parameters.

    Dates concern `time_column`; None leaves them to the caller.
    """
    clauses: list[str] = []
    parameters: dict[str, SqlValue] = {}
    for name, values in chosen.fields.items():
        # A field that no message can have (yet) matches none.
        clauses.append(one_of(COLUMNS[name], name, values, parameters) if name in COLUMNS else "1 = 0")
    if chosen.labels:
        alternatives: list[str] = []
        for place, label in enumerate(chosen.labels):
            parameters[f"label_{place}"] = f",{label},"
            # Contains, without LIKE: its wildcards and its case differ between databases.
            alternatives.append(f"replace(m.labels, :label_{place}, '') <> m.labels")
        clauses.append(f"({' OR '.join(alternatives)})")
    if chosen.message_ids:
        clauses.append(one_of("m.id", "message_id", chosen.message_ids, parameters))
    if time_column is not None and chosen.from_ms is not None:
        clauses.append(f"{time_column} >= :from_ms")
        parameters["from_ms"] = chosen.from_ms
    if time_column is not None and chosen.to_ms is not None:
        clauses.append(f"{time_column} <= :to_ms")
        parameters["to_ms"] = chosen.to_ms
    return clauses, parameters


def one_of(column: str, name: str, values: tuple[str, ...] | tuple[int, ...], parameters: dict[str, SqlValue]) -> str:
    """Return the condition that a column has one of the values, adding them to the parameters."""
    names = [f"{name}_{place}" for place in range(len(values))]
    parameters.update(zip(names, values, strict=True))
    return f"{column} IN ({', '.join(f':{each}' for each in names)})"
