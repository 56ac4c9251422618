"""Figures: what each workload yields, what is aimed at, and the arithmetic of the table."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field

OURS = "idioteque"


@dataclass(frozen=True, slots=True)
class Target:
    """A bound for our median: `bound` itself or, with `against`, so many times another median (subject, figure)."""

    bound: float
    is_least: bool = True
    against: tuple[str, str] | None = None

    @property
    def text(self) -> str:
        """Say it in a few characters."""
        sign = "≥" if self.is_least else "≤"
        if self.against is None:
            return f"{sign} {number(self.bound)}"
        subject, figure = self.against
        return f"{sign} {self.bound:g} x {subject if subject != OURS else figure.partition('.')[0]}"


@dataclass(frozen=True, slots=True)
class Measure:
    """One row of the table. `figure` is `WORK.NAME`;"""

    figure: str
    label: str
    more_is_better: bool = False
    target: Target | None = None

    @property
    def work(self) -> str:
        return self.figure.partition(".")[0]


@dataclass(frozen=True, slots=True)
class Summary:
    """The values of all repeats of one figure."""

    median: float
    low: float
    high: float
    count: int

    @property
    def spread(self) -> float:
        """How far lowest and highest are apart, as a part of the median; 0 where the median is 0."""
        return (self.high - self.low) / self.median if self.median else 0.0


@dataclass
class Results:
    """What was measured: a value for each repeat, by figure and subject; and why others are missing."""

    values: dict[tuple[str, str], list[float]] = field(default_factory=dict[tuple[str, str], list[float]])
    notes: list[str] = field(default_factory=list[str])

    def add(self, work: str, subject: str, figures: dict[str, float]) -> None:
        """Take in the figures of one repeat."""
        for name, value in figures.items():
            self.values.setdefault((f"{work}.{name}", subject), []).append(value)

    def summary(self, figure: str, subject: str) -> Summary | None:
        """Return what the repeats gave, None when there is nothing."""
        values = self.values.get((figure, subject))
        if not values:
            return None
        return Summary(statistics.median(values), min(values), max(values), len(values))

    def ratio(self, measure: Measure, subject: str) -> float | None:
        """Return how many times as good as a peer we are, by the medians; None when one of them is missing or zero."""
        ours, theirs = self.summary(measure.figure, OURS), self.summary(measure.figure, subject)
        if ours is None or theirs is None or not ours.median or not theirs.median:
            return None
        return ours.median / theirs.median if measure.more_is_better else theirs.median / ours.median

    def is_met(self, measure: Measure) -> bool | None:
        """Whether our median keeps the target; None when there is none, or nothing to hold against it."""
        ours, target = self.summary(measure.figure, OURS), measure.target
        if ours is None or target is None:
            return None
        bound = target.bound
        if target.against is not None:
            subject, figure = target.against
            other = self.summary(figure, subject)
            if other is None:
                return None
            bound *= other.median
        return ours.median >= bound if target.is_least else ours.median <= bound


def percentile(values: Sequence[float], part: float) -> float:
    """Return the value that `part` of all values do not exceed (the nearest rank)."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(part * len(ordered)) - 1)]


def number(value: float) -> str:
    """Write a number with three digits that count."""
    if value == 0:
        return "0"
    digits = max(0, 2 - math.floor(math.log10(abs(value))))
    text = f"{value:,.{min(digits, 3)}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


MEASURES = (
    Measure("W1.rate", "W1 events/s", True, Target(2.5, against=("restate", "W1.rate"))),
    Measure("W1.cpu_ms", "W1 CPU ms an event"),
    Measure("W1-lat.body_p50", "W1-lat to the body, p50 ms", target=Target(3, is_least=False)),
    Measure("W1-lat.body_p95", "W1-lat to the body, p95 ms"),
    Measure("W1-lat.body_p99", "W1-lat to the body, p99 ms", target=Target(10, is_least=False)),
    Measure("W1-lat.done_p50", "W1-lat to the end, p50 ms"),
    Measure("W1-lat.done_p99", "W1-lat to the end, p99 ms"),
    Measure("W2.rate", "W2 durable steps/s", True, Target(4, against=("restate", "W2.rate"))),
    Measure("W2.cpu_s", "W2 CPU s per 1,000 steps"),
    Measure("W3.seconds", "W3 1,000 parallel steps, s", target=Target(0.5, is_least=False)),
    Measure("W4.seconds_100", "W4 100 steps in a row, s"),
    Measure("W4.seconds_300", "W4 300 steps in a row, s"),
    Measure("W4.seconds_1000", "W4 1,000 steps in a row, s"),
    Measure("W4.seconds_3000", "W4 3,000 steps in a row, s"),
    Measure("W4.ms_a_step", "W4 ms a step, the longest row", target=Target(0.3, is_least=False)),
    Measure("W4.growth", "W4 a step at 1,000 over one at 100", target=Target(2, is_least=False)),
    Measure("W4-isolated.seconds_100", "W4-isolated, 100 steps, s"),
    Measure("W4-isolated.seconds_300", "W4-isolated, 300 steps, s"),
    Measure("W4-isolated.seconds_1000", "W4-isolated, 1,000 steps, s"),
    Measure("W4-isolated.seconds_3000", "W4-isolated, 3,000 steps, s"),
    Measure("W4-isolated.growth", "W4-isolated, a step at 1,000 over one at 100", target=Target(2, is_least=False)),
    Measure("W4-isolated.extra", "W4-isolated, messages beyond one a step, most", target=Target(2, is_least=False)),
    Measure("W5.done", "W5 runs that were finished, of all", True, Target(1)),
    Measure("W5.seconds", "W5 all done, s after the restart", target=Target(2, is_least=False)),
    Measure("W5.again", "W5 step bodies that were run again"),
    Measure("W5.repeated", "W5 step bodies run again, per run in flight", target=Target(1, is_least=False)),
    Measure("D1.rate", "D1 messages/s", True, Target(10_000)),
    Measure("D1.cpu_us", "D1 server CPU us a message", target=Target(80, is_least=False)),
    Measure("D1.rss_mb", "D1 peak RSS, MB"),
    Measure("D2.rate", "D2 messages/s, a million pending", True, Target(0.8, against=(OURS, "D1.rate"))),
    Measure("D2.cpu_us", "D2 server CPU us a message", target=Target(1.2, is_least=False, against=(OURS, "D1.cpu_us"))),
    Measure("D2.rss_mb", "D2 peak RSS, MB", target=Target(300, is_least=False)),
    Measure("D2.ready_s", "D2 ready after a kill, s", target=Target(2, is_least=False)),
)
