"""A run's steps as bars over time: nested lanes, what each stretch was spent on, and idle gaps made short."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass

from idioteque.paths import Path
from idioteque.store import NEVER_MS, RunRecord, StepRecord

GAP_SHARE = 0.2
"""A stretch in which nothing happens is cut short when it is more than this part of the whole; a run that did nothing
but wait is drawn as it was."""
GAP_MS_MIN = 2000
GAP_WIDTH = 0.06
TICKS = 5
WIDTH_MIN = 0.4
LANES_MAX = 500


@dataclass(frozen=True, slots=True)
class Bar:
    """A stretch of a lane: `x` and `width` are percents, `kind` is queued, run, wait, backoff, failed or open."""

    kind: str
    x: float
    width: float
    title: str


@dataclass(frozen=True, slots=True)
class Lane:
    """One step: `status` completed, failed or pending; `took_ms` None while that is not known."""

    name: str
    path: Path
    depth: int
    status: str
    attempts: int
    bars: tuple[Bar, ...]
    took_ms: int | None
    note: str


@dataclass(frozen=True, slots=True)
class Tick:
    """A mark of the axis: `label` counts from the run's start."""

    x: float
    at_ms: int


@dataclass(frozen=True, slots=True)
class Gap:
    """A place where so much idle time was left out."""

    x: float
    width: float
    ms: int


@dataclass(frozen=True, slots=True)
class Waterfall:
    """The whole picture; `left_out` counts the steps beyond `LANES_MAX`."""

    lanes: tuple[Lane, ...]
    ticks: tuple[Tick, ...]
    gaps: tuple[Gap, ...]
    left_out: int


@dataclass(frozen=True, slots=True)
class _Stretch:
    kind: str
    begin_ms: int
    end_ms: int
    title: str


class _Scale:
    """Turns moments into percents, with idle stretches cut short."""

    def __init__(self, busy: Sequence[tuple[int, int]], begin_ms: int, end_ms: int) -> None:
        self.begin_ms, self.end_ms = begin_ms, max(end_ms, begin_ms + 1)
        whole_ms = self.end_ms - begin_ms
        idle = _idle(busy, begin_ms, self.end_ms) if busy else []
        self.idle = [(a, b) for a, b in idle if b - a > max(GAP_MS_MIN, GAP_SHARE * whole_ms)]
        shown_ms = whole_ms - sum(b - a for a, b in self.idle)
        self._per_ms = max(0.0, 1 - GAP_WIDTH * len(self.idle)) * 100 / max(1, shown_ms)

    def x(self, at_ms: int) -> float:
        at_ms = min(max(at_ms, self.begin_ms), self.end_ms)
        place, since_ms = 0.0, self.begin_ms
        for a, b in self.idle:
            if at_ms <= a:
                break
            place += (a - since_ms) * self._per_ms
            place += GAP_WIDTH * 100 * (min(at_ms, b) - a) / (b - a)
            since_ms = b
        return round(place + max(0, at_ms - since_ms) * self._per_ms, 2)


class _Known:
    """What a record tells of the beginnings of steps, looked up in no more than the time of a search."""

    def __init__(self, record: RunRecord) -> None:
        self.created_at_ms = record.created_at_ms
        self._commits = sorted(step.committed_at_ms for step in record.steps if step.committed_at_ms is not None)
        self._came: dict[Path, int] = {}
        for one in record.deliveries:
            self._came[one.path] = min(one.at_ms, self._came.get(one.path, one.at_ms))

    def before(self, at_ms: int) -> int:
        """Return the last moment before which a step with an unknown start cannot have ended: what came before it."""
        place = bisect_left(self._commits, at_ms)
        return max(self.created_at_ms, self._commits[place - 1]) if place else self.created_at_ms

    def queued(self, path: Path) -> tuple[_Stretch, ...]:
        """Return how long a step in a delivery of its own lay in the queue before the first; nothing for others."""
        came_ms = self._came.get(path, self.created_at_ms)
        since_ms = self.before(came_ms)
        return (_Stretch("queued", since_ms, came_ms, "in the queue"),) if since_ms < came_ms else ()


def waterfall(record: RunRecord, now_ms: int) -> Waterfall:
    """Draw a run as it stands at a moment."""
    known, end_ms = _Known(record), record.finished_at_ms or now_ms
    stretches = {step.path: _stretches(step, known, now_ms, end_ms) for step in record.steps}
    busy = [(s.begin_ms, s.end_ms) for each in stretches.values() for s in each if s.kind != "wait"]
    edges = [(record.created_at_ms, record.created_at_ms + 1), (end_ms - 1, end_ms)] if busy else []
    scale = _Scale([*busy, *edges], record.created_at_ms, end_ms)
    ordered = _ordered(record.steps, stretches)
    lanes = [_lane(path, step, stretches.get(path, ()), scale) for path, step in ordered[:LANES_MAX]]
    ticks = tuple(_ticks(scale))
    gaps = tuple(Gap(scale.x(a), round(scale.x(b) - scale.x(a), 2), b - a) for a, b in scale.idle)
    return Waterfall(tuple(lanes), ticks, gaps, max(0, len(ordered) - LANES_MAX))


def _stretches(step: StepRecord, known: _Known, now_ms: int, run_end_ms: int) -> tuple[_Stretch, ...]:
    end_ms = step.committed_at_ms
    since_ms = known.before(end_ms or now_ms)
    if end_ms is None:
        return _open_stretches(step, known, since_ms, now_ms, run_end_ms)
    if step.took_ms is None:
        return (_Stretch("wait", since_ms, end_ms, "waited"),)
    begin_ms = max(known.created_at_ms, end_ms - step.took_ms)
    kind = "run" if step.outcome is not None and step.outcome.ok else "failed"
    own = _Stretch(kind, begin_ms, end_ms, "ran")
    queued = known.queued(step.path)
    if not step.attempts:
        return (*queued, own)
    tried_ms = min(queued[0].end_ms if queued else since_ms, begin_ms)
    return (*queued, _Stretch("backoff", tried_ms, begin_ms, _tried(step)), own)


def _open_stretches(step: StepRecord, known: _Known, since_ms: int, now_ms: int, end_ms: int) -> tuple[_Stretch, ...]:
    if step.waits_for is not None:
        return (_Stretch("wait", since_ms, end_ms, f"waits for {step.waits_for}"),)
    queued = known.queued(step.path)
    since_ms = queued[0].end_ms if queued else since_ms
    if step.attempts:
        return (*queued, _Stretch("backoff", since_ms, end_ms, _tried(step)))
    if 0 < step.due_at_ms <= NEVER_MS and step.due_at_ms > now_ms:
        return (_Stretch("wait", since_ms, end_ms, "sleeps"),)
    return (*queued, _Stretch("open", since_ms, end_ms, "at work"))


def _tried(step: StepRecord) -> str:
    return f"{step.attempts} failed attempts, and back-off"


def _ordered(
    steps: Sequence[StepRecord], stretches: dict[Path, tuple[_Stretch, ...]]
) -> list[tuple[Path, StepRecord | None]]:
    """Return every step below the one it lies in, in the order of their beginnings."""
    known = {step.path: step for step in steps}
    paths = {path[:depth]: None for path in known for depth in range(1, len(path) + 1)}
    begins = dict.fromkeys(paths, NEVER_MS)
    for path, each in stretches.items():
        begin_ms = min((one.begin_ms for one in each), default=NEVER_MS)
        for depth in range(1, len(path) + 1):
            begins[path[:depth]] = min(begins[path[:depth]], begin_ms)
    order = sorted(paths, key=lambda path: tuple((begins[path[:n]], path[n - 1]) for n in range(1, len(path) + 1)))
    return [(path, known.get(path)) for path in order]


def _lane(path: Path, step: StepRecord | None, stretches: Sequence[_Stretch], scale: _Scale) -> Lane:
    bars = tuple(
        Bar(s.kind, scale.x(s.begin_ms), max(WIDTH_MIN, round(scale.x(s.end_ms) - scale.x(s.begin_ms), 2)), s.title)
        for s in stretches
    )
    if step is None:
        return Lane(path[-1], path, len(path) - 1, "pending", 0, bars, None, "")
    status = "pending" if step.outcome is None else "completed" if step.outcome.ok else "failed"
    return Lane(path[-1], path, len(path) - 1, status, step.attempts, bars, step.took_ms, step.error or "")


def _idle(busy: Sequence[tuple[int, int]], begin_ms: int, end_ms: int) -> list[tuple[int, int]]:
    found: list[tuple[int, int]] = []
    until_ms = begin_ms
    for a, b in sorted(busy):
        if a > until_ms:
            found.append((until_ms, min(a, end_ms)))
        until_ms = max(until_ms, b)
    if until_ms < end_ms:
        found.append((until_ms, end_ms))
    return found


def _ticks(scale: _Scale) -> list[Tick]:
    whole_ms = scale.end_ms - scale.begin_ms
    shown = [scale.begin_ms + whole_ms * n // TICKS for n in range(TICKS + 1)]
    found: list[Tick] = []
    for at_ms in shown:
        inside = any(a < at_ms < b for a, b in scale.idle)
        x = scale.x(at_ms)
        if not inside and (not found or x - found[-1].x > 8):
            found.append(Tick(x, at_ms - scale.begin_ms))
    return found
