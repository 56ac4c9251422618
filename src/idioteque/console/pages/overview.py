"""The overview, from bounded samples of the newest entries, and the system: what this is, and who did what."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import metadata

from idioteque.console.audit import Act
from idioteque.console.entries import Entry, entry_of, number
from idioteque.console.frame import Answer, Page, Screen, Visit
from idioteque.console.pages.runs import RunLine, line_of

SAMPLE_MAX = 500
COLUMNS = 48
COUNT_MAX = 200
LINES = 8


@dataclass(frozen=True, slots=True)
class Count:
    """How many there are; `is_more` when counting stopped at the bound."""

    name: str
    count: int
    is_more: bool
    link: str
    kind: str


@dataclass(frozen=True, slots=True)
class Column:
    """A stretch of the chart: `x` and the heights are percents of it."""

    x: float
    good: float
    bad: float
    title: str


@dataclass(frozen=True, slots=True)
class OverviewView:
    """What is going on; the chart and the times are those of the newest entries of the log."""

    counts: tuple[Count, ...]
    columns: tuple[Column, ...]
    since_ms: int
    p50_ms: int | None
    p95_ms: int | None
    per_minute: float
    runs: tuple[RunLine, ...]
    has_store: bool


@dataclass(frozen=True, slots=True)
class SystemView:
    """What this console is over, and its last actions."""

    version: str
    api_url: str
    store: str
    may_act: bool
    acts: tuple[Act, ...]


async def show_overview(visit: Visit) -> Answer:
    filters = [("state", state) for state in ("ACTIVE", "DELIVERED", "ERROR", "FAILED")]
    page, letters, queues, counts = await asyncio.gather(
        visit.api.events(filters, None, SAMPLE_MAX),
        visit.api.dead_letters([], None, 100),
        visit.api.queues(),
        _run_counts(visit),
    )
    entries = [entry_of(row, 0) for row in page.entries]
    lag = sum(number(queue, "lag") for queue in queues)
    counts += [
        Count("dead letters", len(letters.entries), letters.cursor is not None, "/dead-letters", "failed"),
        Count("in queues", lag, False, "/queues", "waiting"),
    ]
    times = sorted(_times_ms(entries))
    ends = [entry for entry in entries if entry.state != "ACTIVE"]
    since_ms = min((entry.at_ms for entry in ends), default=0)
    minutes = max(1 / 60, (visit.now_ms - since_ms) / 60_000) if ends else 1
    runs = () if visit.services.runs is None else (await visit.runs.page(None, None, LINES, None))[0]
    view = OverviewView(
        counts=tuple(counts),
        columns=tuple(_columns(ends, since_ms, visit.now_ms)),
        since_ms=since_ms,
        p50_ms=times[len(times) // 2] if times else None,
        p95_ms=times[len(times) * 95 // 100] if times else None,
        per_minute=round(len(ends) / minutes, 1),
        runs=tuple(line_of(record) for record in runs),
        has_store=visit.services.runs is not None,
    )
    return Page("overview.html", view)


async def _run_counts(visit: Visit) -> list[Count]:
    if visit.services.runs is None:
        return []
    counts: list[Count] = []
    for status in ("running", "waiting", "failed"):
        found, cursor = await visit.runs.page(status, None, COUNT_MAX, None)
        counts.append(Count(f"runs {status}", len(found), cursor is not None, f"/runs?status={status}", status))
    return counts


def _times_ms(entries: Sequence[Entry]) -> list[int]:
    """Return how long attempts took: from the moment a message became active to the state that followed."""
    ended: dict[str, int] = {}
    times: list[int] = []
    for entry in entries:  # the latest first
        if entry.state != "ACTIVE":
            ended[entry.message_id] = entry.at_ms
        elif entry.message_id in ended:
            times.append(max(0, ended.pop(entry.message_id) - entry.at_ms))
    return times


def _columns(entries: Sequence[Entry], since_ms: int, now_ms: int) -> list[Column]:
    width_ms = max(1, (now_ms - since_ms) // COLUMNS + 1)
    good, bad = [0] * COLUMNS, [0] * COLUMNS
    for entry in entries:
        place = min(COLUMNS - 1, max(0, (entry.at_ms - since_ms) // width_ms))
        (good if entry.state == "DELIVERED" else bad)[place] += 1
    most = max([1, *(a + b for a, b in zip(good, bad, strict=True))])
    return [
        Column(round(n * 100 / COLUMNS, 2), round(a * 100 / most, 1), round(b * 100 / most, 1), f"{a} good, {b} not")
        for n, (a, b) in enumerate(zip(good, bad, strict=True))
    ]


async def show_system(visit: Visit) -> Answer:
    settings = visit.services.settings
    store = (settings.store or "").partition("@")[2] or settings.store or ""
    view = SystemView(
        metadata.version("idioteque"), settings.api_url, store, visit.session.may_act, visit.services.audit.acts
    )
    return Page("system.html", view)


screens = (Screen("/", show_overview), Screen("/system", show_system))
