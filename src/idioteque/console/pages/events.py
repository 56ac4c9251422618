"""Events: what arrived, what each set going, and if nothing, why; send one again, or another one by a form."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import cast

from idioteque.client import Json
from idioteque.console.arrivals import Arrivals, EventLine
from idioteque.console.entries import Entry, text, timeline
from idioteque.console.forms import EventForm, event_from, forms_of
from idioteque.console.frame import Answer, Done, NotShown, Page, Screen, Visit
from idioteque.console.sending import publish_event
from idioteque.errors import InvalidValue
from idioteque.insight import insight_of

EVENTS_MAX = 50


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
    lines, looked_at, cursor = await _arrivals(visit).page(wanted, cursor, EVENTS_MAX)
    return Page("events.html", EventsView(lines, wanted, looked_at, visit.services.runs is not None, cursor))


async def show_event(visit: Visit) -> Answer:
    event, _, rows = await _found(visit)
    return Page("event.html", EventView(event, timeline(rows, visit.services.settings.shown_chars_max)))


async def send_again(visit: Visit) -> Answer:
    """Publish an event like this one under an id of its own: under the same one, it would start nothing."""
    event, whole, _ = await _found(visit)
    return await _published(visit, event.url, whole)


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


async def _found(visit: Visit) -> tuple[EventLine, bytes, list[Json]]:
    found = await _arrivals(visit).of(visit.path["id"])
    if found is None:
        raise NotShown(f"message {visit.path['id'][:100]} carries no event, or its time in the log is over")
    return found


def _arrivals(visit: Visit) -> Arrivals:
    settings = visit.services.settings
    look = None if visit.services.runs is None else insight_of(visit.services.runs.store)
    return Arrivals(visit.api, look, settings.mount_url, settings.shown_chars_max)


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
