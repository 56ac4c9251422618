"""One run: where its time went, why it is not moving, what it was given and gave back, and what can be done with it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from starlette.responses import Response

from idioteque.console.cases import pytest_case
from idioteque.console.entries import Payload, curl, payload
from idioteque.console.frame import Answer, Done, NotShown, Page, Screen, Visit
from idioteque.console.history import AttemptLine, JournalLine, LoggedLine, attempt_lines, journal, logged_lines
from idioteque.console.mounts import mount_of
from idioteque.console.pages.runs import RunLine, change, line_of
from idioteque.console.rendering import pretty
from idioteque.console.traffic import MESSAGES_MAX, Delivery, deliveries_of, place_in_line
from idioteque.console.waterfall import Waterfall, waterfall
from idioteque.errors import InvalidValue, RunUnknown
from idioteque.function import FAILURE_SUFFIX, failure_event_id, run_id
from idioteque.paths import path_text
from idioteque.payloads import unpacked
from idioteque.records import RunRecord, described
from idioteque.rerun import ORIGIN

TABS = ("summary", "input", "output", "error", "attempts", "messages", "logs")
ENDED = ("completed", "failed", "cancelled")


@dataclass(frozen=True, slots=True)
class Reason:
    """Why a run is not moving: a cause of the closed list, in words, and until when if that is known."""

    cause: str
    text: str
    until_ms: int | None


@dataclass(frozen=True, slots=True)
class Failing:
    """An error of the run (`where` is "the function") or of a step."""

    where: str
    type: str
    message: str
    traceback: str


@dataclass(frozen=True, slots=True)
class RunView:
    """A run with all that its tabs show; `origin` is the run and the step that it goes on from, if it does.

    `deliveries`, `journal` and `lines` are read for their tabs alone; `lines_cut` others were written before them, and
    `keeps_lines` is whether the store keeps any. `steps` can be resumed from.
    """

    run: RunLine
    tab: str
    tabs: tuple[str, ...]
    why: Reason | None
    waterfall: Waterfall
    input: Payload
    output: Payload | None
    errors: tuple[Failing, ...]
    attempts: tuple[AttemptLine, ...]
    deliveries: tuple[Delivery, ...]
    journal: tuple[JournalLine, ...]
    lines: tuple[LoggedLine, ...]
    lines_cut: int
    keeps_lines: bool
    steps: tuple[str, ...]
    origin: tuple[str, str] | None
    mount_url: str
    curl: str
    pytest: str
    finished_at_ms: int | None
    messages_max: int = MESSAGES_MAX


async def show_run(visit: Visit) -> Answer:
    record = await _record(visit)
    tab = visit.asked("tab") or "summary"
    if tab not in TABS:
        raise InvalidValue(f"there is no tab {tab[:40]!r}")
    deliveries = await deliveries_of(visit, record) if tab in ("messages", "logs") else ()
    log = await visit.runs.log(record.run_id) if tab == "logs" else None
    mount_url = await mount_of(visit, record) or ""
    chars_max = visit.services.settings.shown_chars_max
    output = None
    if record.outcome is not None and record.outcome.ok:
        output = payload(pretty(unpacked(record.outcome.payload)).encode(), chars_max)
    view = RunView(
        run=line_of(record),
        tab=tab,
        tabs=TABS,
        why=await _reason(visit, record),
        waterfall=waterfall(record, visit.now_ms),
        input=payload(pretty(record.event).encode(), chars_max),
        output=output,
        errors=tuple(_errors(record)),
        attempts=attempt_lines(record),
        deliveries=deliveries,
        journal=journal(record, deliveries) if tab == "logs" else (),
        lines=logged_lines(log),
        lines_cut=0 if log is None else log.cut,
        keeps_lines=log is not None,
        steps=tuple(path_text(step.path) for step in record.steps) if record.status in ENDED else (),
        origin=_origin(record),
        mount_url=mount_url,
        curl=curl(visit.services.settings.api_url, mount_url or "https://YOUR-MOUNT", _JSON, record.event),
        pytest=pytest_case(record, await _failure_of(visit, record)),
        finished_at_ms=record.finished_at_ms,
    )
    return Page("run.html", view)


_JSON = (("Content-Type", "application/json"),)


async def _reason(visit: Visit, record: RunRecord) -> Reason | None:
    if record.status in ENDED:
        return None
    mount_url = await mount_of(visit, record)
    found = await visit.runs.runs(mount_url, visit.session.token).why(record.run_id)
    if found is None:  # it has ended meanwhile
        return None
    said = found.text
    if found.cause == "throttled" and (place := await place_in_line(visit, record)) is not None:
        said += f"; its own is number {place}"
    return Reason(found.cause, said, None if found.until is None else round(found.until.timestamp() * 1000))


async def _failure_of(visit: Visit, record: RunRecord) -> RunRecord | None:
    """Return the run of the function's `on_failure`, if there is one."""
    if record.status != "failed":
        return None
    event_id = failure_event_id(record.run_id, record.epoch)
    return await visit.runs.record(run_id(event_id, record.function_id + FAILURE_SUFFIX))


def _origin(record: RunRecord) -> tuple[str, str] | None:
    options: dict[str, Any] = json.loads(record.options)
    match options.get(ORIGIN):
        case [str(run_id), str(step)]:
            return run_id, step
        case _:
            return None


def _errors(record: RunRecord) -> Sequence[Failing]:
    found: list[Failing] = []
    if record.outcome is not None and not record.outcome.ok:
        found.append(_failing("the function", record.outcome.payload))
    elif record.error:
        found.append(Failing("the function", "", record.error, ""))
    for step in record.steps:
        where = path_text(step.path)
        if step.outcome is not None and not step.outcome.ok:
            found.append(_failing(where, step.outcome.payload))
        elif step.outcome is None and step.error:
            found.append(Failing(where, "", step.error, ""))
    return found


def _failing(where: str, recorded: bytes) -> Failing:
    error = described(recorded)
    return Failing(where, str(error["type"]), str(error["message"]), str(error.get("traceback", "")))


async def download(visit: Visit) -> Answer:
    """Hand out a whole payload as a file, which no browser shows as a page."""
    record, what = await _record(visit), visit.path["what"]
    body = {
        "input": record.event,
        "output": unpacked(record.outcome.payload) if record.outcome is not None else b"",
    }.get(what)
    if body is None:
        raise NotShown(f"a run has no {what[:40]!r}")
    name = f"{record.run_id}-{what}.bin"
    headers = {"Content-Disposition": f'attachment; filename="{name}"'}
    return Response(body, media_type="application/octet-stream", headers=headers)


async def cancel_run(visit: Visit) -> Answer:
    return Done(await change(visit, visit.path["id"], "cancel"), f"/runs/{visit.path['id']}")


async def retry_run(visit: Visit) -> Answer:
    return Done(await change(visit, visit.path["id"], "retry"), f"/runs/{visit.path['id']}")


async def run_anew(visit: Visit) -> Answer:
    """Start the function again with an event that was edited; it is another run, and this one stays."""
    record = await _record(visit)
    mount_url = await mount_of(visit, record)
    if mount_url is None:
        visit.runs.refuse_to_send()
    try:
        event: object = json.loads(visit.given("event"))
    except (ValueError, RecursionError) as error:
        raise InvalidValue(f"the event is not JSON: {error}") from None
    started = await visit.runs.start_again(record, event, str(mount_url), visit.session.token)
    return Done(f"run {started} is on its way", f"/runs/{record.run_id}", target=f"{record.run_id} -> {started}")


async def resume_run(visit: Visit) -> Answer:
    """Run the function again from a step on, as a new run with the results of what had ended before."""
    record, step = await _record(visit), visit.given("step")
    mount_url = await mount_of(visit, record)
    if mount_url is None:
        visit.runs.refuse_to_send()
    again = await visit.runs.runs(mount_url, visit.session.token).resume(record.run_id, step)
    said = f"run {again} goes on from {step}"
    return Done(said, f"/runs/{again}", target=f"{record.run_id} from {step} -> {again}")


async def _record(visit: Visit) -> RunRecord:
    record = await visit.runs.record(visit.path["id"])
    if record is None:
        raise RunUnknown(visit.path["id"])
    return record


screens = (
    Screen("/runs/{id}", show_run),
    Screen("/runs/{id}/cancel", cancel_run, act="run.cancel"),
    Screen("/runs/{id}/retry", retry_run, act="run.retry"),
    Screen("/runs/{id}/resume", resume_run, act="run.resume"),
    Screen("/runs/{id}/again", run_anew, act="run.again"),
    Screen("/runs/{id}/raw/{what}", download),
)
