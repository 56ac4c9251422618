"""The overview: what runs, waits, is tried again and was given up, and what happened lately.

Our own server tells it all (`/status`). Over another QStash, it is what its newest log entries say: a sample.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import cast

from idioteque.client import Json
from idioteque.console.charts import Chart, Moment, Span, counts_chart, times_chart
from idioteque.console.desk import COUNT_MAX
from idioteque.console.entries import Entry, entry_of, items, number
from idioteque.console.frame import Answer, Page, Screen, Visit
from idioteque.console.pages.runs import RunLine, line_of
from idioteque.console.rendering import duration
from idioteque.records import Status

SAMPLE_MAX = 500
SAMPLE_STRETCHES = 48
SHOWN: tuple[Status, ...] = ("running", "waiting", "failed")
READ_MAX = 200
LINES = 8
DAY_MS = 86_400_000
RECENT_MS = 15 * 60_000
SAMPLED = ("ACTIVE", "DELIVERED", "ERROR", "FAILED")


@dataclass(frozen=True, slots=True)
class Tile:
    """A figure: a count, or of another `unit`; `is_more` when counting stopped there, None when nobody tells."""

    name: str
    value: float | None
    unit: str = "count"
    is_more: bool = False
    link: str = ""
    kind: str = ""


@dataclass(frozen=True)
class OverviewView:
    """What is going on. `is_told`: the server tells; otherwise times and attempts are a sample of the log."""

    is_told: bool
    messages: tuple[Tile, ...]
    run_counts: tuple[Tile, ...]
    span: Span
    moments: tuple[Moment, ...]
    runs: tuple[RunLine, ...]
    has_store: bool

    @property
    def charts(self) -> tuple[Chart, ...]:
        """The moments, drawn."""
        return counts_chart(self.moments, self.span, duration), times_chart(self.moments, self.span, duration)


@dataclass(frozen=True, slots=True)
class _Lately:
    """What is known of the messages."""

    is_told: bool
    tiles: tuple[Tile, ...]
    span: Span
    moments: tuple[Moment, ...]


async def show_overview(visit: Visit) -> Answer:
    status, run_counts = await asyncio.gather(visit.api.status(), _run_counts(visit))
    lately = await _sampled(visit) if status is None else told(status, visit.now_ms)
    runs = () if visit.services.runs is None else (await visit.runs.page(None, None, LINES, None))[0]
    view = OverviewView(
        is_told=lately.is_told,
        messages=lately.tiles,
        run_counts=run_counts,
        span=lately.span,
        moments=lately.moments,
        runs=tuple(line_of(record) for record in runs),
        has_store=visit.services.runs is not None,
    )
    return Page("overview.html", view)


async def _run_counts(visit: Visit) -> tuple[Tile, ...]:
    """Count the runs of the statuses that matter; where the store cannot, by reading the first of them."""
    if visit.services.runs is None:
        return ()
    counted = await visit.runs.counts(None)
    tiles: list[Tile] = []
    for status in SHOWN:
        if counted:
            count, is_more = counted[status], counted[status] >= COUNT_MAX
        else:
            found, cursor = await visit.runs.page(status, None, READ_MAX, None)
            count, is_more = len(found), cursor is not None
        tiles.append(Tile(status, count, is_more=is_more, link=f"/runs?status={status}", kind=status))
    return tuple(tiles)


# ---- what our own server tells


def told(status: Json, now_ms: int) -> _Lately:
    """Return what `/status` says, of the last day."""
    step_ms = max(1, number(status, "stretchMs"))
    until_ms = (now_ms // step_ms + 1) * step_ms
    moments = [_moment(cast(Json, one)) for one in items(status, "activity") if isinstance(one, dict)]
    most, retrying, letters = (number(status, name) for name in ("countedMax", "retrying", "deadLetters"))
    in_flight = number(status, "inFlight")
    waiting = max(0, number(status, "pending") - in_flight - retrying)
    latency = status.get("latency")
    times: Mapping[str, object] = cast(Json, latency) if isinstance(latency, dict) else {}
    since_ms = max(now_ms - RECENT_MS, min(number(status, "startedAt"), now_ms - 60_000))
    recent = sum(one.accepted for one in moments if one.from_ms + step_ms > since_ms)
    due_ms = status.get("oldestDueAt")
    tiles = (
        Tile("in flight", in_flight, link="/messages?state=ACTIVE", kind="running"),
        Tile("waiting", waiting, link="/messages?state=CREATED", kind="waiting"),
        Tile("retrying", retrying, is_more=retrying >= most > 0, link="/messages?state=RETRY", kind="retrying"),
        Tile("dead letters", letters, is_more=letters >= most > 0, link="/dead-letters", kind="failed"),
        Tile("accepted a minute", round(recent * 60_000 / (now_ms - since_ms), 1), "rate"),
        Tile("median, due to delivered", _ms(times, "p50Seconds"), "ms"),
        Tile("95th percentile", _ms(times, "p95Seconds"), "ms"),
        Tile("oldest due message", due_ms if isinstance(due_ms, int) else 0, "since"),
    )
    return _Lately(True, tiles, Span(until_ms - DAY_MS, until_ms, step_ms), tuple(moments))


def _moment(row: Json) -> Moment:
    failed = number(row, "retried") + number(row, "deadLettered")
    return Moment(
        number(row, "from"), number(row, "accepted"), number(row, "delivered"), failed,
        _ms(row, "p50Seconds"), _ms(row, "p95Seconds"),
    )  # fmt: skip


def _ms(row: Mapping[str, object], name: str) -> int | None:
    value = row.get(name)
    return round(value * 1000) if isinstance(value, int | float) and not isinstance(value, bool) else None


# ---- what the log of any QStash tells


async def _sampled(visit: Visit) -> _Lately:
    page, letters, queues = await asyncio.gather(
        visit.api.events([("state", state) for state in SAMPLED], None, SAMPLE_MAX),
        visit.api.dead_letters([], None, 100),
        visit.api.queues(),
    )
    entries = [entry_of(row, 0) for row in page.entries]
    ends = [entry for entry in entries if entry.state != "ACTIVE"]
    now_ms = visit.now_ms
    since_ms = min((entry.at_ms for entry in ends), default=now_ms - 1)
    times = sorted(took for _, took in _times_ms(entries))
    tiles = (
        Tile("in queues", sum(number(queue, "lag") for queue in queues), link="/queues", kind="waiting"),
        Tile("dead letters", len(letters.entries), is_more=letters.cursor is not None, link="/dead-letters",
             kind="failed"),
        Tile("attempts a minute", round(len(ends) * 60_000 / max(1000, now_ms - since_ms), 1) if ends else 0, "rate"),
        Tile("median attempt", times[len(times) // 2] if times else None, "ms"),
        Tile("95th percentile", times[len(times) * 95 // 100] if times else None, "ms"),
        Tile("oldest due message", None, "since"),
    )  # fmt: skip
    step_ms = max(1, (now_ms - since_ms) // SAMPLE_STRETCHES + 1)
    span = Span(since_ms, since_ms + step_ms * SAMPLE_STRETCHES, step_ms)
    return _Lately(False, tiles, span, _moments(ends, dict(_times_ms(entries)), span))


def _times_ms(entries: Sequence[Entry]) -> list[tuple[Entry, int]]:
    """Return how long attempts took: from the moment a message became active to the state that followed."""
    ended: dict[str, Entry] = {}
    times: list[tuple[Entry, int]] = []
    for entry in entries:  # the latest first
        if entry.state != "ACTIVE":
            ended[entry.message_id] = entry
        elif (end := ended.pop(entry.message_id, None)) is not None:
            times.append((end, max(0, end.at_ms - entry.at_ms)))
    return times


def _moments(ends: Sequence[Entry], times: Mapping[Entry, int], span: Span) -> tuple[Moment, ...]:
    inside: dict[int, list[Entry]] = {}
    for entry in ends:
        inside.setdefault((entry.at_ms - span.since_ms) // span.step_ms, []).append(entry)
    moments: list[Moment] = []
    for place, some in sorted(inside.items()):
        took = sorted(times[entry] for entry in some if entry in times)
        delivered = sum(entry.state == "DELIVERED" for entry in some)
        moments.append(
            Moment(
                span.since_ms + place * span.step_ms, 0, delivered, len(some) - delivered,
                took[len(took) // 2] if took else None, took[len(took) * 95 // 100] if took else None,
            )
        )  # fmt: skip
    return tuple(moments)


screens = (Screen("/", show_overview),)
