"""Events: what arrived, what each set going, and if nothing, why; send one again, or another one by a form."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

from idioteque.client import Json
from idioteque.console.entries import Entry, Payload, payload, text, timeline, unpacked
from idioteque.console.forms import EventForm, event_from, forms_of
from idioteque.console.frame import Answer, Done, NotShown, Page, Screen, Visit
from idioteque.console.pages.runs import event_type
from idioteque.console.rendering import pretty
from idioteque.console.sending import publish_event
from idioteque.dispatcher import EventEnvelope, decode
from idioteque.errors import EventRejected, InvalidValue
from idioteque.insight import Effects
from idioteque.paths import path_text
from idioteque.records import Status

EVENTS_MAX = 50
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


@dataclass(frozen=True, slots=True)
class EventsView:
    """The latest events among the answers that were looked at, of one type or of all."""

    events: tuple[EventLine, ...]
    type: str
    looked_at: int
    has_store: bool
    next: str | None


@dataclass(frozen=True, slots=True)
class EventView:
    """One event with every attempt to deliver it."""

    event: EventLine
    entries: tuple[Entry, ...]


@dataclass(frozen=True, slots=True)
class NewEventView:
    """A form for an event: `forms` are those of the worker's schema, none when that is not known."""

    url: str
    type: str
    forms: tuple[EventForm, ...]
    form: EventForm | None
    raw: str
    why_no_forms: str


async def list_events(visit: Visit) -> Answer:
    wanted, cursor = visit.asked("type"), visit.asked("cursor") or None
    rows: dict[str, tuple[Json, EventEnvelope]] = {}
    looked_at = 0
    while len(rows) < EVENTS_MAX and looked_at < LOOKED_AT_MAX:
        page = await visit.api.events([("state", state) for state in STATES], cursor, ENTRIES_COUNT)
        looked_at += len(page.entries)
        for row in page.entries:
            envelope = _envelope(visit, row)
            if envelope is not None and wanted in ("", event_type(envelope.event)):
                rows.setdefault(text(row, "messageId"), (row, envelope))
        cursor = page.cursor
        if cursor is None:
            break
    lines = await _lines(visit, list(rows.values()))
    return Page("events.html", EventsView(lines, wanted, looked_at, visit.services.runs is not None, cursor))


async def show_event(visit: Visit) -> Answer:
    row, envelope, rows = await _found(visit)
    [line] = await _lines(visit, [(row, envelope)])
    return Page("event.html", EventView(line, timeline(rows, visit.services.settings.shown_chars_max)))


async def send_again(visit: Visit) -> Answer:
    """Publish an event like this one under an id of its own: under the same one, it would start nothing."""
    row, envelope, _ = await _found(visit)
    return await _published(visit, text(row, "url"), envelope.event)


async def show_new(visit: Visit) -> Answer:
    """Show a form for a type of events, or one for JSON where the schema is not known."""
    forms, url, why = await _forms(visit)
    wanted = visit.asked("type") or (forms[0].type if forms else "")
    form = next((one for one in forms if one.type == wanted), None)
    raw = visit.asked("event") or (_skeleton(form) if form else '{\n  "type": ""\n}')
    shown = None if visit.asked("as") == "json" or visit.asked("event") else form
    return Page("event_new.html", NewEventView(visit.asked("url") or url, wanted, forms, shown, raw, why))


async def send_new(visit: Visit) -> Answer:
    """Publish what the form holds; whether it fits the schema, the mount decides."""
    url = visit.given("url").strip()
    if visit.given("as") == "json":
        try:
            document: object = json.loads(visit.given("event"))
        except (ValueError, RecursionError) as error:
            raise InvalidValue(f"the event is not JSON: {error}") from None
    else:
        forms, _, _ = await _forms(visit)
        form = next((one for one in forms if one.type == visit.given("type")), None)
        if form is None:
            raise InvalidValue(f"the worker knows no event of type {visit.given('type')[:80]!r}; send it as JSON")
        document = event_from(form, visit.given)
    return await _published(visit, url, json.dumps(document, ensure_ascii=False, allow_nan=False).encode())


async def _published(visit: Visit, url: str, event: bytes) -> Done:
    published = await publish_event(visit, url, event)
    said = f"event {published.event_id} is accepted; it is shown here once its message is delivered"
    return Done(said, "/events", target=f"{published.event_id} to {url}")


async def _found(visit: Visit) -> tuple[Json, EventEnvelope, list[Json]]:
    asked = [("messageId", visit.path["id"]), ("order", "earliestFirst")]
    rows = (await visit.api.events(asked, count=TIMELINE_MAX)).entries
    envelope = _envelope(visit, rows[-1]) if rows else None
    if envelope is None:
        raise NotShown(f"message {visit.path['id'][:100]} carries no event, or its time in the log is over")
    return rows[-1], envelope, rows


def _envelope(visit: Visit, row: Json) -> EventEnvelope | None:
    """Return the event that a message carries to a mount: our own envelope, or a bare one where the mount is known."""
    body, message_id = unpacked(row, "body"), text(row, "messageId")
    if b'"idioteque"' not in body[:200] and text(row, "url") != visit.services.settings.mount_url:
        return None
    try:
        envelope = decode(body, message_id)
    except (EventRejected, InvalidValue):
        return None
    return envelope if isinstance(envelope, EventEnvelope) else None


async def _lines(visit: Visit, rows: Sequence[tuple[Json, EventEnvelope]]) -> tuple[EventLine, ...]:
    effects: Sequence[Effects | None] = [None] * len(rows)
    if visit.services.runs is not None:
        effects = await visit.services.runs.effects([envelope.event_id for _, envelope in rows])
    return tuple(_line(visit, row, envelope, one) for (row, envelope), one in zip(rows, effects, strict=True))


def _line(visit: Visit, row: Json, envelope: EventEnvelope, effects: Effects | None) -> EventLine:
    known = effects or Effects()
    state = text(row, "state")
    said = _said(unpacked(row, "responseBody")) or text(row, "error")[:SAID_LENGTH_MAX]
    started = tuple(Started(run.run_id, run.function_id, run.status) for run in known.runs)
    woke = tuple(Woke(run_id, path_text(path)) for run_id, path in known.woke)
    return EventLine(
        at_ms=int(text(row, "time") or 0),
        event_id=envelope.event_id,
        type=event_type(envelope.event),
        message_id=text(row, "messageId"),
        url=text(row, "url"),
        state=state,
        said=said,
        event=payload(pretty(envelope.event).encode(), visit.services.settings.shown_chars_max),
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


async def _forms(visit: Visit) -> tuple[tuple[EventForm, ...], str, str]:
    """Return the forms of the worker's events, the mount's URL as far as known, and why there are no forms."""
    mount_url = visit.services.settings.mount_url or ""
    if visit.services.describe is None:
        return (), mount_url, "start the console with --app MODULE:WORKER to get a form for each type of events"
    known = await visit.services.describe()
    if known is None:
        return (), mount_url, "the worker could not be loaded; the log of this process says why"
    schema = known.get("schema")
    forms = forms_of(cast(Json, schema)) if isinstance(schema, dict) else ()
    why = "" if forms else "the worker's events schema is not made of objects with fields"
    return forms, mount_url or text(known, "mount_url"), why


def _skeleton(form: EventForm) -> str:
    event: Json = {"type": form.type} if form.type else {}
    return json.dumps({**event, **{field.name: field.value for field in form.fields}}, indent=2, ensure_ascii=False)


screens = (
    Screen("/events", list_events),
    Screen("/events/new", show_new),
    Screen("/events/send", send_new, act="event.send"),
    Screen("/events/{id}", show_event),
    Screen("/events/{id}/again", send_again, act="event.again"),
)
