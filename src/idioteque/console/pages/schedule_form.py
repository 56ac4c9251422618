"""The form of a schedule: a new one, or one that there is; its ticks are told while its cron is written."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, fields

from idioteque.client import ApiRefusal, Json
from idioteque.console.entries import forwarded, headers_of, items, plain_body, text
from idioteque.console.frame import Answer, Done, Page, Screen, Visit
from idioteque.console.pages.resources import Tick, ticks_of
from idioteque.console.resending import headers_of_schedule, refuse_redacted
from idioteque.console.writing import body_text, headers_text, written_body, written_headers
from idioteque.cron import parse_cron
from idioteque.errors import InvalidValue

METHODS = ("POST", "GET", "PUT", "PATCH", "DELETE")
UTC = "UTC"
ZONED = re.compile(r"(?:CRON_TZ|TZ)=(\S*)[ \t]+(.*)")
FIELD_OF_WORD: Mapping[str, str] = {
    "cron": "cron", "time zone": "cron", "schedule-id": "id", "queue": "queue", "retries": "retries",
    "label": "label", "method": "method", "header": "headers", "url": "destination", "destination": "destination",
    "endpoint": "destination", "group": "destination", "body": "body",
}  # fmt: skip
"""The field that an error of the API is about, by the first word of these that is in it."""
OWN_FIELDS = frozenset(("upstash-method", "upstash-retries", "upstash-label", "content-type"))
"""Publish headers that a field of the form stands for; so do all those that are forwarded."""


@dataclass(frozen=True, slots=True)
class Draft:
    """What stands in the fields of the form, as it was written."""

    id: str = ""
    destination: str = ""
    cron: str = ""
    zone: str = UTC
    queue: str = ""
    method: str = "POST"
    headers: str = ""
    body: str = ""
    retries: str = ""
    label: str = ""

    @property
    def whole_cron(self) -> str:
        """The expression with its zone, as the protocol has it."""
        fields_of_it, zone = self.cron.strip(), self.zone.strip()
        return fields_of_it if zone in ("", UTC) else f"CRON_TZ={zone} {fields_of_it}"


@dataclass(frozen=True, slots=True)
class ScheduleFormView:
    """The form; `kept` are publish headers of a schedule that is edited which have no field here and stay as they are.

    `is_body_kept` says that its body is none that a form can show, and stays. `field` is the one that `error` is about,
    "" for none of them.
    """

    is_new: bool
    draft: Draft
    ticks: tuple[Tick, ...]
    kept: tuple[tuple[str, str], ...]
    is_body_kept: bool
    field: str
    error: str


@dataclass(frozen=True, slots=True)
class TicksView:
    """The next ticks of a cron, or why it has none."""

    ticks: tuple[Tick, ...]
    error: str


async def show_new(visit: Visit) -> Answer:
    draft = Draft(destination=visit.asked("destination"), queue=visit.asked("queue"))
    return _form(visit, None, draft)


async def show_edit(visit: Visit) -> Answer:
    row = await visit.api.schedule(visit.path["id"])
    return _form(visit, row, _draft_of(row))


async def make(visit: Visit) -> Answer:
    """Make a schedule; one of the same id is not overwritten."""
    draft = _written(visit)
    if draft.id and await _exists(visit, draft.id):
        return _form(visit, None, draft, "id", f"there is a schedule {draft.id[:100]!r}: edit that one")
    return await _saved(visit, None, draft)


async def edit(visit: Visit) -> Answer:
    """Change a schedule; its past, its pause and what the form has no field for stay."""
    return await _saved(visit, await visit.api.schedule(visit.path["id"]), _written(visit))


async def show_ticks(visit: Visit) -> Answer:
    """Tell the next ticks of a cron that is being written."""
    draft = Draft(cron=visit.asked("cron"), zone=visit.asked("zone") or UTC)
    ticks, error = _next_ticks(visit, draft)
    return Page("ticks.html", TicksView(ticks, error))


async def _saved(visit: Visit, row: Json | None, draft: Draft) -> Answer:
    schedule_id = draft.id if row is None else text(row, "scheduleId")
    try:
        headers = [*_headers(row, draft), ("Upstash-Cron", draft.whole_cron)]
        named = (("Upstash-Schedule-Id", schedule_id), ("Upstash-Queue-Name", draft.queue))
        headers += [(name, value) for name, value in named if value]
        made = await visit.api.create_schedule(draft.destination, headers, _body(row, draft))
    except ApiRefusal as refusal:
        if refusal.status not in (400, 404, 412):
            raise
        return _form(visit, row, draft, _field_of(refusal.text), refusal.text)
    except InvalidValue as error:
        return _form(visit, row, draft, _field_of(str(error)), str(error))
    made_id = text(made, "scheduleId") or schedule_id
    return Done(f"schedule {made_id} is {'made' if row is None else 'changed'}", "/schedules", target=made_id)


def _form(visit: Visit, row: Json | None, draft: Draft, field: str = "", error: str = "") -> Page:
    ticks, _ = _next_ticks(visit, draft)
    kept = () if row is None else tuple(_kept_headers(row))
    is_body_kept = row is not None and body_text(plain_body(row)) is None
    view = ScheduleFormView(row is None, draft, ticks, kept, is_body_kept, field, error)
    return Page("schedule_form.html", view, 400 if error else 200, refusal=error)


def _next_ticks(visit: Visit, draft: Draft) -> tuple[tuple[Tick, ...], str]:
    if not draft.cron.strip():
        return (), ""
    try:
        first_ms = parse_cron(draft.whole_cron).next_ms(visit.now_ms)
    except InvalidValue as error:
        return (), str(error)
    return (ticks_of(draft.whole_cron, first_ms), "") if first_ms is not None else ((), "it has no tick in sight")


def _draft_of(row: Json) -> Draft:
    cron, zone = text(row, "cron"), UTC
    if (zoned := ZONED.fullmatch(cron)) is not None:
        zone, cron = zoned[1], zoned[2]
    return Draft(
        id=text(row, "scheduleId"), destination=text(row, "destination"), cron=cron, zone=zone,
        queue=text(row, "queueName"), method=text(row, "method") or "POST",
        headers=headers_text(headers_of(row, "header")), body=body_text(plain_body(row)) or "",
        retries=text(row, "retries"), label=",".join(str(one) for one in items(row, "labels")) or text(row, "label"),
    )  # fmt: skip


def _written(visit: Visit) -> Draft:
    several = ("headers", "body")
    return Draft(**{
        one.name: visit.written(one.name) if one.name in several else visit.given(one.name).strip()
        for one in fields(Draft)
    })  # fmt: skip


def _headers(row: Json | None, draft: Draft) -> list[tuple[str, str]]:
    named = (("Upstash-Method", draft.method), ("Upstash-Retries", draft.retries), ("Upstash-Label", draft.label))
    kept = [] if row is None else _kept_headers(row)
    own = forwarded(written_headers(draft.headers))
    return [*kept, *own, *((name, value) for name, value in named if value)]


def _kept_headers(row: Json) -> list[tuple[str, str]]:
    refuse_redacted(row)
    return [
        (name, value)
        for name, value in headers_of_schedule(row)
        if name.lower() not in OWN_FIELDS and not name.lower().startswith("upstash-forward-")
    ]


def _body(row: Json | None, draft: Draft) -> bytes:
    if row is None:
        return draft.body.encode()
    kept = plain_body(row)
    written = None if body_text(kept) is None else draft.body
    edited = written_body(written, kept)
    return kept if edited is None else edited


async def _exists(visit: Visit, schedule_id: str) -> bool:
    try:
        await visit.api.schedule(schedule_id)
    except ApiRefusal as refusal:
        if refusal.status != 404:
            raise
        return False
    return True


def _field_of(error: str) -> str:
    found = [(place, field) for word, field in FIELD_OF_WORD.items() if (place := error.lower().find(word)) >= 0]
    return min(found)[1] if found else ""


screens = (
    Screen("/schedules/new", show_new),
    Screen("/schedules/new", make, act="schedule.make"),
    Screen("/schedules/ticks", show_ticks),
    Screen("/schedules/{id}/edit", show_edit),
    Screen("/schedules/{id}/edit", edit, act="schedule.edit"),
)
