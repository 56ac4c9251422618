"""Events: what arrived, what each set going, and if nothing, what the mount said; send one again, or another."""

from __future__ import annotations

from dataclasses import dataclass

from idioteque.console.entries import text, unpacked
from idioteque.console.frame import Answer, Page, Screen, Visit
from idioteque.console.pages.runs import event_type
from idioteque.console.rendering import pretty
from idioteque.dispatcher import EventEnvelope, decode
from idioteque.errors import EventRejected, InvalidValue

PAGE_COUNT = 100
EVENT_CHARS_MAX = 4000


@dataclass(frozen=True, slots=True)
class EventLine:
    """An event that came to a mount: `said` is what the mount answered, which tells what was started or why nothing."""

    at_ms: int
    event_id: str
    type: str
    message_id: str
    url: str
    state: str
    said: str
    event: str


@dataclass(frozen=True, slots=True)
class EventsView:
    """The events among a page of delivered and failed messages, the latest first."""

    events: tuple[EventLine, ...]
    looked_at: int
    next: str | None


async def list_events(visit: Visit) -> Answer:
    filters = [("state", "DELIVERED"), ("state", "ERROR"), ("state", "FAILED")]
    page = await visit.api.events(filters, visit.asked("cursor") or None, PAGE_COUNT)
    lines: list[EventLine] = []
    for row in page.entries:
        message_id, body = text(row, "messageId"), unpacked(row, "body")
        try:
            envelope = decode(body, message_id) if b'"idioteque"' in body[:200] else None
        except (EventRejected, InvalidValue):
            continue
        if not isinstance(envelope, EventEnvelope):
            continue
        kind = event_type(envelope.event)
        said = unpacked(row, "responseBody").decode(errors="replace")[:300] or text(row, "error")[:300]
        shown = pretty(envelope.event)[:EVENT_CHARS_MAX]
        at_ms = int(text(row, "time") or 0)
        lines.append(
            EventLine(at_ms, envelope.event_id, kind, message_id, text(row, "url"), text(row, "state"), said, shown)
        )
    return Page("events.html", EventsView(tuple(lines), len(page.entries), page.cursor))


screens = (Screen("/events", list_events),)
