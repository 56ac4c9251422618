"""Events as they arrived at mounts: out of the log of any QStash, with what a store of runs tells that each did."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

from idioteque.client import Json, QStash
from idioteque.console.entries import Payload, payload, text, unpacked
from idioteque.console.rendering import pretty
from idioteque.dispatcher import EventEnvelope, decode
from idioteque.errors import EventRejected, InvalidValue
from idioteque.insight import Effects, Insight
from idioteque.paths import path_text
from idioteque.records import Status

LOOKED_AT_MAX = 1000
ENTRIES_COUNT = 100
TIMELINE_MAX = 1000
SAID_LENGTH_MAX = 300
STATES = ("DELIVERED", "ERROR", "FAILED")
"""The states in which a message has arrived: each is an answer of the mount, or the lack of one."""


@dataclass(frozen=True, slots=True)
class Started:
    """A run that an event started."""

    id: str
    function_id: str
    status: Status


@dataclass(frozen=True, slots=True)
class Woke:
    """A wait that an event ended."""

    run_id: str
    step: str


@dataclass(frozen=True, slots=True)
class EventLine:
    """An event that came to a mount: `said` is what the mount answered last.

    `why` tells, of one that started and woke nothing, why that is; "" while the store tells what it did.
    """

    at_ms: int
    event_id: str
    type: str
    message_id: str
    url: str
    state: str
    said: str
    event: Payload
    started: tuple[Started, ...]
    woke: tuple[Woke, ...]
    why: str


class Arrivals:
    """Looks for events; `insight` is None where no store of runs is known, `mount_url` where no mount is.

    A bare event is told from other messages by the URL of the mount alone; our own envelopes are known anywhere.
    """

    def __init__(self, api: QStash, insight: Insight | None, mount_url: str | None, chars_max: int) -> None:
        self._api, self._insight = api, insight
        self._mount_url, self._chars_max = mount_url, chars_max

    async def page(
        self, type_name: str, cursor: str | None, count: int
    ) -> tuple[tuple[EventLine, ...], int, str | None]:
        """Return about so many of the latest events, of one type if it is named; how many answers were looked at for
        them, and the cursor of those that follow."""
        rows: dict[str, tuple[Json, EventEnvelope]] = {}
        looked_at = 0
        while len(rows) < count and looked_at < LOOKED_AT_MAX:
            page = await self._api.events([("state", state) for state in STATES], cursor, ENTRIES_COUNT)
            looked_at += len(page.entries)
            for row in page.entries:
                envelope = self._envelope(row)
                if envelope is not None and type_name in ("", type_in(envelope.event)):
                    rows.setdefault(text(row, "messageId"), (row, envelope))
            cursor = page.cursor
            if cursor is None:
                break
        return await self._lines(list(rows.values())), looked_at, cursor

    async def of(self, message_id: str) -> tuple[EventLine, bytes, list[Json]] | None:
        """Return the event of a message, the whole of its JSON, and the message's entries in the log."""
        asked = [("messageId", message_id), ("order", "earliestFirst")]
        rows = (await self._api.events(asked, count=TIMELINE_MAX)).entries
        envelope = self._envelope(rows[-1]) if rows else None
        if envelope is None:
            return None
        [line] = await self._lines([(rows[-1], envelope)])
        return line, envelope.event, rows

    def _envelope(self, row: Json) -> EventEnvelope | None:
        body, message_id = unpacked(row, "body"), text(row, "messageId")
        if b'"idioteque"' not in body[:200] and text(row, "url") != self._mount_url:
            return None
        try:
            envelope = decode(body, message_id)
        except (EventRejected, InvalidValue):
            return None
        return envelope if isinstance(envelope, EventEnvelope) else None

    async def _lines(self, rows: Sequence[tuple[Json, EventEnvelope]]) -> tuple[EventLine, ...]:
        effects: Sequence[Effects | None] = [None] * len(rows)
        if self._insight is not None:
            effects = await self._insight.effects([envelope.event_id for _, envelope in rows])
        return tuple(
            _line(row, envelope, one, self._chars_max) for (row, envelope), one in zip(rows, effects, strict=True)
        )


def type_in(event: bytes) -> str:
    """Return the `type` of an event, "" when it has none."""
    document: object = json.loads(event)
    return text(cast(Json, document), "type") if isinstance(document, dict) else ""


def _line(row: Json, envelope: EventEnvelope, effects: Effects | None, chars_max: int) -> EventLine:
    known = effects or Effects()
    state = text(row, "state")
    said = _said(unpacked(row, "responseBody")) or text(row, "error")[:SAID_LENGTH_MAX]
    started = tuple(Started(run.run_id, run.function_id, run.status) for run in known.runs)
    woke = tuple(Woke(run_id, path_text(path)) for run_id, path in known.woke)
    return EventLine(
        at_ms=int(text(row, "time") or 0),
        event_id=envelope.event_id,
        type=type_in(envelope.event),
        message_id=text(row, "messageId"),
        url=text(row, "url"),
        state=state,
        said=said,
        event=payload(pretty(envelope.event).encode(), chars_max),
        started=started,
        woke=woke,
        why="" if started or woke else _why(state, said, is_known=effects is not None),
    )


def _said(answer: bytes) -> str:
    """Return what a mount's answer says: its message, or the whole of it."""
    said = answer.decode(errors="replace")
    try:
        document: object = json.loads(said)
    except (ValueError, RecursionError):
        document = None
    if isinstance(document, dict):
        fields = cast(Json, document)
        said = text(fields, "message") or text(fields, "error") or said
    return " ".join(said.split())[:SAID_LENGTH_MAX]


def _why(state: str, said: str, *, is_known: bool) -> str:
    """Say why an event did nothing: the mount's answer tells."""
    match state:
        case "FAILED":
            return f"its message was given up and is a dead letter: {said or 'no answer'}"
        case "DELIVERED":
            text = said or "the mount accepted it and said nothing"
            return text if is_known else f"the mount said: {text} (no store of runs is known here)"
        case "ERROR":
            return f"the mount did not accept it yet: {said or 'no answer'}; it is tried again"
        case _:
            return "its message is on its way"
