"""Filters and pages as query parameters and JSON bodies; an unknown, misspelt or empty one is refused, never 'all'."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import cast
from urllib.parse import parse_qsl

from idioteque.server.errors import BadRequest
from idioteque.server.model import Filter, Page, States
from idioteque.server.wire.target import TOKEN_PARAMETER

FIELDS: Mapping[str, str] = {
    "url": "url",
    "host": "host",
    "path": "path",
    "callerIp": "caller_ip",
    "callerIP": "caller_ip",
    "topicName": "topic_name",
    "queueName": "queue_name",
    "scheduleId": "schedule_id",
    "flowControlKey": "flow_key",
    "source": "source",
}
VALUES_MAX = 1000
LOG_COUNT_MAX = 1000
DEAD_LETTER_COUNT_MAX = 100
PENDING_COUNT_MAX = 10_000

_INTEGER = re.compile(r"[0-9]{1,15}")
_DATES = {"fromDate", "toDate"}
_STATES: Mapping[str, States] = {
    **{cast(str, state.name): state for state in States},
    "CANCELLED": States.CANCELED,
    "IN_PROGRESS": States.ACTIVE | States.RETRY | States.ERROR,
}


@dataclass(frozen=True, slots=True)
class Kind:
    """What one list understands: the parameters that may be given, and the one that names ids."""

    allowed: frozenset[str]
    ids: str
    count_max: int
    earliest_first: bool


_COMMON = _DATES | {"label", "count"} | (set(FIELDS) - {"source"})
_PAGED = {"cursor", "order"}

MESSAGES = Kind(frozenset(_COMMON | {"messageIds"}), "messageIds", 10**9, earliest_first=True)
PENDING = Kind(frozenset(_COMMON | {"messageId"}), "", PENDING_COUNT_MAX, earliest_first=True)
LOGS = Kind(frozenset(_COMMON | _PAGED | {"messageIds", "messageId", "state"}), "", LOG_COUNT_MAX, earliest_first=False)
DEAD_LETTERS = Kind(
    frozenset((_COMMON - {"host", "path"}) | _PAGED | {"dlqIds", "messageId", "responseStatus", "source"}),
    "dlqIds",
    DEAD_LETTER_COUNT_MAX,
    earliest_first=True,
)


def parse_selection(kind: Kind, query: str, body: bytes = b"") -> tuple[Filter, Page]:
    """Return what a query and, for the SDKs that send one, a JSON body select.

    Nothing at all selects everything. An empty list of ids selects nothing; any other empty value is refused.
    """
    values: dict[str, list[str]] = {}
    for name, given in (*_query_values(query), *_body_values(body)):
        if name not in kind.allowed:
            raise BadRequest(f"unknown filter {name[:100]!r}; known are {', '.join(sorted(kind.allowed))}")
        if not all(given) or not (given or name == kind.ids):
            raise BadRequest(f"filter {name} is empty; leave it out, or give it a value")
        values.setdefault(name, []).extend(given)
    return _filter(kind, values), _page(kind, values)


def _filter(kind: Kind, values: Mapping[str, Sequence[str]]) -> Filter:
    if kind.ids in values:
        return Filter(ids=tuple(dict.fromkeys(values[kind.ids])))
    _source(values.get("source", ()))
    fields: dict[str, tuple[str, ...]] = {}
    for name, column in FIELDS.items():
        if name in values:
            fields[column] = (*fields.get(column, ()), *values[name])
    return Filter(
        fields=fields,
        labels=_labels(values.get("label", ())),
        from_ms=_integer("fromDate", values),
        to_ms=_integer("toDate", values),
        response_statuses=_integers("responseStatus", values.get("responseStatus", ())),
        states=_states(values.get("state", ())),
        message_ids=(*values.get("messageId", ()), *values.get("messageIds", ())),
    )


def _page(kind: Kind, values: Mapping[str, Sequence[str]]) -> Page:
    count = _integer("count", values)
    if count is not None and count < 1:
        raise BadRequest("count must be 1 or more")
    order = values.get("order", ("earliestFirst" if kind.earliest_first else "latestFirst",))[-1]
    if order not in ("earliestFirst", "latestFirst"):
        raise BadRequest(f"order {order[:100]!r} must be earliestFirst or latestFirst")
    cursor = values.get("cursor", (None,))[-1]
    return Page(min(count or 100, kind.count_max), cursor, order == "earliestFirst", has_count=count is not None)


def _labels(values: Sequence[str]) -> tuple[str, ...]:
    labels = tuple(label.strip() for value in values for label in value.split(","))
    if not all(labels):
        raise BadRequest("filter label is empty; leave it out, or give it a value")
    return labels


def _states(values: Sequence[str]) -> States | None:
    if not values:
        return None
    chosen = States(0)
    for value in values:
        state = _STATES.get(value.upper())
        if state is None:
            raise BadRequest(f"state {value[:100]!r} must be one of {', '.join(_STATES)}")
        chosen |= state
    return chosen


def _integer(name: str, values: Mapping[str, Sequence[str]]) -> int | None:
    numbers = _integers(name, values.get(name, ()))
    return numbers[-1] if numbers else None


def _integers(name: str, values: Iterable[str]) -> tuple[int, ...]:
    for value in values:
        if _INTEGER.fullmatch(value) is None:
            raise BadRequest(f"{name} {value[:100]!r} must be an integer of zero or more")
    return tuple(int(value) for value in values)


def _source(values: Sequence[str]) -> None:
    """Dead letters of workflows can be asked for; there are none."""
    for value in values:
        if value != "workflow":
            raise BadRequest(f"source {value[:100]!r} must be workflow")


def _document_of(body: bytes) -> dict[str, object]:
    try:
        document: object = json.loads(body)
    except (ValueError, RecursionError):
        raise BadRequest("the body is not JSON") from None
    if not isinstance(document, dict):
        raise BadRequest("the body must be a JSON object")
    return cast(dict[str, object], document)


def _query_values(query: str) -> Iterator[tuple[str, list[str]]]:
    try:
        pairs = parse_qsl(query, keep_blank_values=True, max_num_fields=VALUES_MAX)
    except ValueError:
        raise BadRequest(f"the query has more than {VALUES_MAX} parameters") from None
    for name, value in pairs:
        if name.lower() != TOKEN_PARAMETER:
            yield name, [value]


def _body_values(body: bytes) -> Iterator[tuple[str, list[str]]]:
    if not body:
        return
    document = _document_of(body)
    if not document:
        raise BadRequest("the body selects nothing; name a filter, or send no body to mean everything")
    for name, value in document.items():
        values = cast(list[object], value) if isinstance(value, list) else [value]
        if len(values) > VALUES_MAX:
            raise BadRequest(f"{name[:100]} has more than {VALUES_MAX} values")
        for each in values:
            if isinstance(each, bool) or not isinstance(each, str | int):
                raise BadRequest(f"{name[:100]} must be a string, or a list of strings")
            if isinstance(each, str) and any("\ud800" <= character <= "\udfff" for character in each):
                raise BadRequest(f"{name[:100]} contains half of a surrogate pair")
        yield name, [str(each) for each in values]
