"""The list of runs: filters in the address, keyset pages, and bulk actions that first say how many they concern."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import get_args

from idioteque.console.arrivals import type_in
from idioteque.console.desk import COUNT_MAX
from idioteque.console.frame import Answer, Done, Page, Screen, Visit
from idioteque.console.mounts import mount_of
from idioteque.errors import IdiotequeError, InvalidValue
from idioteque.records import RunRecord, Status, describe

PAGE_COUNT = 50
STATUSES: tuple[Status, ...] = get_args(Status)
BULK: Mapping[str, Sequence[Status]] = {"cancel": ("running", "waiting"), "retry": ("failed", "cancelled")}
UNASKED: Mapping[str, Sequence[Status]] = {"cancel": ("running", "waiting"), "retry": ("failed",)}
"""Which runs a bulk action without a status means: somebody meant it when he cancelled a run."""


@dataclass(frozen=True, slots=True)
class RunLine:
    """A run in the list."""

    id: str
    function_id: str
    event_id: str
    event_type: str
    status: Status
    created_at_ms: int
    duration_ms: int | None
    attempts: int
    messages: int
    error: str


@dataclass(frozen=True, slots=True)
class Count:
    """How many runs have a status; at the limit of counting, `is_more` says that there may be more."""

    status: Status
    count: int
    is_more: bool


@dataclass(frozen=True, slots=True)
class RunsView:
    """A page of runs; `next` is the cursor of the following one, None on the last.

    `counts` has how many runs have each status, of the function or of all; none where the store does not tell.
    `id` is the run or the event that was asked for by its id, in place of the filters.
    """

    runs: tuple[RunLine, ...]
    status: str
    function: str
    id: str
    counts: tuple[Count, ...]
    functions: tuple[str, ...]
    next: str | None
    has_store: bool


@dataclass(frozen=True, slots=True)
class BulkView:
    """What a bulk action would change: `ids`, at most the limit, and whether there are more."""

    verb: str
    status: str
    function: str
    ids: tuple[str, ...]
    has_more: bool
    count_max: int


def line_of(record: RunRecord) -> RunLine:
    """Return a run as one line."""
    outcome = record.outcome
    error = describe(outcome.payload) if outcome is not None and not outcome.ok else record.error or ""
    duration_ms = None if record.finished_at_ms is None else max(0, record.finished_at_ms - record.created_at_ms)
    return RunLine(
        record.run_id, record.function_id, record.event_id, type_in(record.event), record.status,
        record.created_at_ms, duration_ms, record.attempts, record.messages, error,
    )  # fmt: skip


def _status(name: str) -> Status | None:
    found: list[Status] = [status for status in STATUSES if name == status]
    if name and not found:
        raise InvalidValue(f"status {name[:40]!r} must be one of {', '.join(STATUSES)}")
    return found[0] if found else None


async def list_runs(visit: Visit) -> Answer:
    status, function = _status(visit.asked("status")), visit.asked("function")
    if visit.services.runs is None:
        return Page("runs.html", RunsView((), "", "", "", (), (), None, has_store=False))
    wanted = visit.asked("id")
    counts = tuple(
        Count(each, count, count >= COUNT_MAX) for each, count in (await visit.runs.counts(function or None)).items()
    )
    functions = tuple(await visit.runs.functions())
    if wanted:
        found, cursor = await visit.runs.by_id(wanted), None
    else:
        found, cursor = await visit.runs.page(status, function or None, PAGE_COUNT, visit.asked("cursor") or None)
    lines = tuple(line_of(record) for record in found)
    return Page("runs.html", RunsView(lines, status or "", function, wanted, counts, functions, cursor, has_store=True))


async def count_bulk(visit: Visit) -> Answer:
    """Say which runs an action would change: those that were ticked, or all that fit the filters."""
    verb, ids = visit.given("verb"), visit.all_given("id")
    status, function = _status(visit.given("status")), visit.given("function")
    if verb not in BULK:
        raise InvalidValue(f"{verb[:40]!r} is no action on runs")
    count_max, has_more = visit.services.settings.bulk_max, False
    if not ids:
        wanted: Sequence[Status] = UNASKED[verb] if status is None else (status,)
        for one in wanted:
            found, cursor = await visit.runs.page(one, function or None, count_max, None)
            ids += [record.run_id for record in found if record.status in BULK[verb]]
            has_more = has_more or cursor is not None
    has_more = has_more or len(ids) > count_max
    return Page("bulk.html", BulkView(verb, status or "", function, tuple(ids[:count_max]), has_more, count_max))


async def change_many(visit: Visit) -> Answer:
    """Change the runs that were counted before; those that have changed meanwhile stay as they are."""
    verb, ids = visit.given("verb"), visit.all_given("id")[: visit.services.settings.bulk_max]
    if verb not in BULK:
        raise InvalidValue(f"{verb[:40]!r} is no action on runs")
    against: list[str] = []
    for run_id in ids:
        try:
            await change(visit, run_id, verb)
        except IdiotequeError as error:
            against.append(f"{run_id}: {error}")
    done = f"{verb}: {len(ids) - len(against)} of {len(ids)} runs"
    return Done(f"{done}; {against[0]}" if against else done, "/runs", is_failure=bool(against), target=", ".join(ids))


async def change(visit: Visit, run_id: str, verb: str) -> str:
    """Cancel or retry one run; return what came of it, in words."""
    record = await visit.runs.record(run_id)
    mount_url = None if record is None else await mount_of(visit, record)
    runs = visit.runs.runs(mount_url, visit.session.token)
    if verb == "cancel":
        return f"the run is {await runs.cancel(run_id)}"
    if record is not None and mount_url is None:
        visit.runs.refuse_to_send()
    await runs.retry(run_id)
    return "the run goes on"


screens = (
    Screen("/runs", list_runs),
    Screen("/runs/bulk/count", count_bulk, act="run.bulk-count", looks_only=True),
    Screen("/runs/bulk", change_many, act="run.bulk"),
)
