"""The HTTP traffic of a run: what the log of the public API tells of the messages that were at work on it."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass
from typing import Any

from idioteque.client import PAGE_COUNT_MAX, Json
from idioteque.console.entries import Entry, Payload, carried, headers_of, number, payload, text, timeline, unpacked
from idioteque.console.frame import Visit
from idioteque.errors import IdiotequeError
from idioteque.paths import path_text
from idioteque.records import RunRecord

MESSAGES_MAX = 50
ASKED_AT_ONCE = 8


@dataclass(frozen=True, slots=True)
class Took:
    """A moment at which a delivery of a message took up the run, or its step `step`; `retried` went before it."""

    step: str
    retried: int
    at_ms: int


@dataclass(frozen=True, slots=True)
class Delivery:
    """A message that was at work on the run: when it took it up, and what the log knows of it (perhaps nothing)."""

    message_id: str
    took: tuple[Took, ...]
    url: str
    method: str
    headers: tuple[tuple[str, str], ...]
    body: Payload
    entries: tuple[Entry, ...]


async def deliveries_of(visit: Visit, record: RunRecord) -> tuple[Delivery, ...]:
    """Return the latest `MESSAGES_MAX` messages of a run, in the order in which they came."""
    took: dict[str, list[Took]] = {}
    for one in record.deliveries:
        took.setdefault(one.message_id, []).append(Took(path_text(one.path), one.retried, one.at_ms))
    shown = list(took.items())[-MESSAGES_MAX:]
    gate = asyncio.Semaphore(ASKED_AT_ONCE)

    async def rows(message_id: str) -> list[Json]:
        try:
            async with gate:
                return (await visit.api.events([("messageId", message_id), ("order", "earliestFirst")])).entries
        except IdiotequeError:
            return []

    found = await asyncio.gather(*(rows(message_id) for message_id, _ in shown))
    chars_max = visit.services.settings.shown_chars_max
    return tuple(
        _delivery(message_id, moments, said, chars_max)
        for (message_id, moments), said in zip(shown, found, strict=True)
    )


async def place_in_line(visit: Visit, record: RunRecord) -> int | None:
    """Return the place, from 1, of the first message of a run among those that wait behind its flow-control key.

    None when the server does not tell who waits, or none of the first hundred is this run's.
    """
    options: dict[str, Any] = json.loads(record.options)
    flow = options.get("flow")
    if flow is None:
        return None
    try:
        line = await visit.api.waiting([("flowControlKey", str(flow[0]))]) or []
        places = {text(one, "messageId"): number(one, "place") for one in line}
        if not places:
            return None
        wanted = [("messageId", message_id) for message_id in places]
        rows = (await visit.api.events([*wanted, ("state", "CREATED")], count=PAGE_COUNT_MAX)).entries
    except IdiotequeError:
        return None
    bodies = {text(row, "messageId"): unpacked(row, "body") for row in rows}
    own = [places[one] for one, body in bodies.items() if one in places and _is_of(record, body, one)]
    return min(own, default=None)


def _is_of(record: RunRecord, body: bytes, message_id: str) -> bool:
    found = carried(body, message_id)
    return found is not None and found.run_id == record.run_id


def _delivery(message_id: str, took: list[Took], rows: list[Json], chars_max: int) -> Delivery:
    last: Json = rows[-1] if rows else {}
    return Delivery(
        message_id,
        tuple(took),
        text(last, "url"),
        text(last, "method"),
        headers_of(last, "header"),
        payload(unpacked(last, "body"), chars_max),
        timeline(rows, chars_max),
    )
