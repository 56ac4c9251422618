"""What is tried: which programs, in which modes, with which faults."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from tests.model.explorer import FAULTS, Case
from tests.model.programs import MODES, PROGRAMS, SMALL
from tests.model.protocol import Protocol
from tests.model.search import MANY
from tests.model.searches import Found, Scope, exhaustive, randomized

AS_BUILT = Protocol()
OPERATORS = {"giveup": 1, "cancel": 1, "retry": 1}


@dataclass(frozen=True, slots=True)
class Job:
    """One search: exhaustive within a scope, or random with so many seeds."""

    kind: str
    case: Case
    scope: Scope = field(default_factory=lambda: Scope({}))
    seeds: range = range(0)

    def search(self) -> Found:
        if self.seeds:
            return randomized(AS_BUILT, self.case, self.scope.budget, self.seeds)
        return exhaustive(AS_BUILT, self.case, self.scope)


def singles(programs: Sequence[str], *, schedules_max: int = 10**7) -> Iterator[Job]:
    """Every schedule with one fault, with transport deduplication and without."""
    for program in programs:
        for mode in MODES:
            for fault in FAULTS:
                scope = Scope({fault: 1}, schedules_max=schedules_max)
                yield Job("one fault", Case(program, mode), scope)
            for fault in ("kill", "dup"):
                scope = Scope({fault: 1}, schedules_max=schedules_max)
                yield Job("one fault, no deduplication", Case(program, mode, False), scope)


def pairs(programs: Sequence[str] = SMALL) -> Iterator[Job]:
    """Every schedule with two faults, and every one with a fault and a pre-emption."""
    for program in programs:
        for mode in MODES:
            case = Case(program, mode)
            for first in FAULTS:
                yield Job("two faults", case, Scope({first: 1}, FAULTS, thaws=False))
            for fault in FAULTS:
                yield Job("one fault, one pre-emption", case, Scope({fault: 1}, preemptions=1))
            yield Job("two faults, no deduplication", Case(program, mode, False), Scope({"kill": 1, "dup": 1}))


def chances(count: int, seed: int = 0) -> Iterator[Job]:
    """Random schedules with many faults, for every program."""
    seeds = range(seed, seed + count)
    for program in PROGRAMS:
        for mode in MODES:
            yield Job("random", Case(program, mode), Scope(MANY), seeds)
            yield Job("random", Case(program, mode), Scope({**MANY, **OPERATORS}), seeds)
            yield Job("random, no deduplication", Case(program, mode, False), Scope(MANY), seeds)
