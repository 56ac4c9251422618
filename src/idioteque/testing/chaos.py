"""Rehearsals of one test: where a process could be lost or a delivery misbehave, and whether the test still ends alike.

The pytest plugin runs a test once to list its boundaries and then once for each of them; every harness that the test
opens takes part by itself.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field

from idioteque.store import Status

BOUNDARIES_MAX = 2000
TEXT_LENGTH_MAX = 300


@dataclass(frozen=True, slots=True)
class Boundary:
    """A place where something can go wrong: its number in the test, from 1, and what happens there.

    `occurrence` counts, from 1, the places of the test that have the same text: by both it is found again.
    """

    number: int
    text: str
    occurrence: int

    def __str__(self) -> str:
        return f"boundary {self.number}: {self.text}"


@dataclass(frozen=True, slots=True, order=True)
class RunEnd:
    """What became of a run: JSON texts, and the steps that have an outcome as `path: status`."""

    function_id: str
    status: Status
    event: str
    result: str
    steps: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Ending:
    """What one harness saw in the end: its runs, the events that were published, and outcomes recorded repeatedly."""

    runs: tuple[RunEnd, ...]
    events: tuple[str, ...]
    repeated: tuple[str, ...] = ()


class Rehearsal:
    """One pass of a test: it lists the boundaries that come up and lets a fault happen at one of them, if at any."""

    def __init__(self, fault: Boundary | None = None) -> None:
        self.boundaries: list[Boundary] = []
        self.endings: list[Ending] = []
        self.is_reached = False
        """Whether the fault has happened."""
        self._fault = fault
        self._seen: Counter[str] = Counter()
        self._lock = threading.Lock()

    def reach(self, text: str) -> bool:
        """Come to a boundary; return whether the fault happens now."""
        with self._lock:
            self._seen[text] += 1
            boundary = Boundary(len(self.boundaries) + 1, text, self._seen[text])
            self.boundaries.append(boundary)
            fault = self._fault
            happens = fault is not None and (fault.text, fault.occurrence) == (text, boundary.occurrence)
            self.is_reached = self.is_reached or happens
            return happens


@dataclass(slots=True)
class Stage:
    """Where the plugin puts the rehearsal that is on, for the harnesses to find."""

    rehearsal: Rehearsal | None = None


stage: ContextVar[Stage | None] = ContextVar("idioteque-chaos", default=None)


def current_rehearsal() -> Rehearsal | None:
    """Return the rehearsal that is on, or None."""
    here = stage.get()
    return None if here is None else here.rehearsal


@dataclass(slots=True)
class Comparison:
    """Holds the endings of a test's passes against those of the first one.

    What differs between two passes without a fault, such as a drawn number in a result, is not compared.
    """

    first: Sequence[Ending]
    control: Sequence[Ending]
    is_exact: bool = field(init=False)

    def __post_init__(self) -> None:
        self.is_exact = _exact(self.first) == _exact(self.control)

    def difference(self, endings: Sequence[Ending]) -> str | None:
        """Return in words how a pass ended differently, or None."""
        repeated = [text for ending in endings for text in ending.repeated]
        if repeated:
            return f"an outcome was recorded more than once: {', '.join(repeated)}"
        view = _exact if self.is_exact else _coarse
        before, after = Counter(view(self.first)), Counter(view(endings))
        if before == after:
            return None
        return "\n".join(
            [
                "it did not end as without the fault",
                *(f"  without: {line[:TEXT_LENGTH_MAX]}" for line in sorted((before - after).elements())),
                *(f"  with:    {line[:TEXT_LENGTH_MAX]}" for line in sorted((after - before).elements())),
            ]
        )


def _exact(endings: Sequence[Ending]) -> list[str]:
    lines = [
        f"run of {run.function_id} on {run.event}: {run.status}, result {run.result}, steps [{', '.join(run.steps)}]"
        for ending in endings
        for run in ending.runs
    ]
    return sorted([*lines, *(f"published {event}" for ending in endings for event in ending.events)])


def _coarse(endings: Sequence[Ending]) -> list[str]:
    lines = [
        f"run of {run.function_id}: {run.status}, {len(run.steps)} steps" for ending in endings for run in ending.runs
    ]
    return sorted([*lines, *("published an event" for ending in endings for _ in ending.events)])
