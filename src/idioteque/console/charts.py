"""Figures over time as SVG: one path for each series, so that a live page stays small, and a title for each part."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

WIDTH = 288  # of the drawing, in its own units
HEIGHT = 100
PARTS = 24  # of a chart that tell their figures when they are pointed at


@dataclass(frozen=True, slots=True)
class Moment:
    """What happened in a stretch of time; the times are those from when a message was due to its delivery."""

    from_ms: int
    accepted: int
    delivered: int
    failed: int
    p50_ms: int | None
    p95_ms: int | None


@dataclass(frozen=True, slots=True)
class Series:
    """A series: `kind` is its colour, `path` its outline in the chart's units."""

    kind: str
    name: str
    path: str


@dataclass(frozen=True, slots=True)
class Part:
    """A part of the chart in the chart's units, and what it tells."""

    x: float
    width: float
    title: str


@dataclass(frozen=True, slots=True)
class Chart:
    """A chart; `top` says what its height stands for."""

    title: str
    top: str
    series: tuple[Series, ...]
    parts: tuple[Part, ...]


@dataclass(frozen=True, slots=True)
class Span:
    """The time that a chart shows, in milliseconds, and the length of one stretch of it."""

    since_ms: int
    until_ms: int
    step_ms: int

    def x(self, at_ms: int) -> float:
        """Return where a moment stands, in the chart's units."""
        return (at_ms - self.since_ms) * WIDTH / max(1, self.until_ms - self.since_ms)

    @property
    def bar(self) -> float:
        """The width of a stretch, in the chart's units."""
        return self.step_ms * WIDTH / max(1, self.until_ms - self.since_ms)


Told = Callable[[int | None], str]
"""Says a duration in milliseconds."""


def counts_chart(moments: Sequence[Moment], span: Span, duration: Told) -> Chart:
    """Return how many attempts succeeded and failed, one upon the other."""
    most = max([1, *(one.delivered + one.failed for one in moments)])
    good = [(one.from_ms, 0.0, one.delivered / most) for one in moments]
    bad = [(one.from_ms, one.delivered / most, (one.delivered + one.failed) / most) for one in moments]

    def told(some: Sequence[Moment]) -> str:
        return f"{sum(one.delivered for one in some)} delivered, {sum(one.failed for one in some)} failed"

    series = (Series("good", "delivered", _path(good, span)), Series("bad", "failed", _path(bad, span)))
    return Chart("Attempts", f"{most:,} in {duration(span.step_ms)} at most", series, _parts(moments, span, told))


def times_chart(moments: Sequence[Moment], span: Span, duration: Told) -> Chart:
    """Return how long messages took, on a scale where ten times as long is one step higher."""
    known = [one for one in moments if one.p95_ms is not None]
    longest = max([1, *(one.p95_ms or 0 for one in known)])

    def height(ms: int | None) -> float:
        return math.log1p(ms or 0) / math.log1p(longest)

    def told(some: Sequence[Moment]) -> str:
        times = [one for one in some if one.p95_ms is not None]
        if not times:
            return "nothing delivered"
        middle = sorted(one.p50_ms or 0 for one in times)[len(times) // 2]
        return f"median {duration(middle)}, 95 % within {duration(max(one.p95_ms or 0 for one in times))}"

    slow = [(one.from_ms, height(one.p50_ms), height(one.p95_ms)) for one in known]
    usual = [(one.from_ms, 0.0, height(one.p50_ms)) for one in known]
    series = (Series("usual", "median", _path(usual, span)), Series("slow", "95th percentile", _path(slow, span)))
    return Chart(
        "Time to delivery",
        f"{duration(longest)} at most; the scale is logarithmic",
        series,
        _parts(moments, span, told),
    )


def _path(bars: Sequence[tuple[int, float, float]], span: Span) -> str:
    """Return bars as one outline; each is a beginning, and its lower and upper end as parts of the height."""
    drawn: list[str] = []
    for at_ms, low, high in bars:
        if high > low:
            left = span.x(at_ms)
            right, top, bottom = left + span.bar * 0.85, HEIGHT * (1 - high), HEIGHT * (1 - low)
            drawn.append(f"M{left:.2f} {bottom:.1f}V{top:.1f}H{right:.2f}V{bottom:.1f}Z")
    return "".join(drawn)


def _parts(moments: Sequence[Moment], span: Span, told: Callable[[Sequence[Moment]], str]) -> tuple[Part, ...]:
    length_ms = max(1, (span.until_ms - span.since_ms) // PARTS)
    inside: dict[int, list[Moment]] = {}
    for one in moments:
        inside.setdefault(min(PARTS - 1, max(0, (one.from_ms - span.since_ms) // length_ms)), []).append(one)
    width = WIDTH / PARTS
    return tuple(Part(place * width, width, told(some)) for place, some in sorted(inside.items()))
