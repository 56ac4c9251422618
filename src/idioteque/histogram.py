"""How values are spread, counted so cheaply that the hot path can afford it; whoever wants to see it adds it up."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence

DURATIONS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 900.0)
DELAYS_S = (*DURATIONS_S, 3600.0, 21_600.0, 86_400.0)
GROUP_SIZES = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0)


class Histogram:
    """Counts values by upper bounds, which belong to their bucket. One thread observes; any thread may look."""

    __slots__ = ("_bounds", "_counts", "total")

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = tuple(bounds)
        self._counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def observe(self, value: float) -> None:
        """Count one value."""
        self._counts[bisect_left(self._bounds, value)] += 1
        self.total += value

    @property
    def count(self) -> int:
        """How many values there were."""
        return sum(self._counts)

    @property
    def counts(self) -> tuple[int, ...]:
        """How many values each bucket has: those of the bounds, and the one for all above them."""
        return tuple(self._counts)

    def buckets(self) -> list[tuple[str, float]]:
        """Return each upper bound, as text, with how many values are not above it; the last is `+Inf`, for all."""
        names = [*(f"{bound:g}" for bound in self._bounds), "+Inf"]
        counts = list(self._counts)
        return [(name, sum(counts[: place + 1])) for place, name in enumerate(names)]


def quantile(bounds: Sequence[float], counts: Sequence[int], part: float) -> float | None:
    """Return about the value that so large a part of the values are not above; None when there is none.

    As in Prometheus, the values of a bucket count as spread evenly over it; above the last bound it is that bound.
    """
    wanted = sum(counts) * part
    below = 0
    if not wanted:
        return None
    for place, (bound, count) in enumerate(zip(bounds, counts, strict=False)):
        if count and below + count >= wanted:
            lower = bounds[place - 1] if place else 0.0
            return lower + (bound - lower) * (wanted - below) / count
        below += count
    return bounds[-1]
