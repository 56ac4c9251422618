"""What is tried: which programs, in which modes, with which faults."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations_with_replacement

from tests.model.explorer import FAULTS, Budget, Case, Found, exhaustive, randomized
from tests.model.programs import MODES, RARE, SMALL, SOUND
from tests.model.protocol import Protocol
from tests.model.search import MANY

AS_BUILT = Protocol()
OPERATORS = {"giveup": 1, "cancel": 1, "retry": 1}


@dataclass(frozen=True, slots=True)
class Job:
    """One search: exhaustive with so many departures from the default order, or random with so many seeds."""

    kind: str
    case: Case
    budget: Budget
    preemptions: int = 0
    schedules_max: int = 10**7
    seeds: range = range(0)
    thaws: bool = True

    def search(self) -> Found:
        if self.seeds:
            return randomized(AS_BUILT, self.case, self.budget, self.seeds)
        return exhaustive(
            AS_BUILT,
            self.case,
            self.budget,
            preemptions=self.preemptions,
            schedules_max=self.schedules_max,
            thaws=self.thaws,
        )


def singles(programs: Iterator[str] | list[str], *, schedules_max: int = 10**7) -> Iterator[Job]:
    """Every schedule with one fault, with transport deduplication and without."""
    for program in programs:
        for mode in MODES:
            for fault in FAULTS:
                yield Job("one fault", Case(program, mode), {fault: 1}, schedules_max=schedules_max)
            yield Job("one fault, no deduplication", Case(program, mode, False), {"kill": 1}, 0, schedules_max)
            yield Job("one fault, no deduplication", Case(program, mode, False), {"dup": 1}, 0, schedules_max)


def pairs(programs: tuple[str, ...] = SMALL) -> Iterator[Job]:
    """Every schedule with two faults, and every one with a fault and a pre-emption."""
    for program in programs:
        for mode in MODES:
            for first, second in combinations_with_replacement(FAULTS, 2):
                budget = {first: 2} if first == second else {first: 1, second: 1}
                yield Job("two faults", Case(program, mode), budget, thaws=False)
            for fault in FAULTS:
                yield Job("one fault, one pre-emption", Case(program, mode), {fault: 1}, preemptions=1)
            yield Job("two faults, no deduplication", Case(program, mode, False), {"kill": 1, "dup": 1})


def chances(count: int, seed: int = 0) -> Iterator[Job]:
    """Random schedules with many faults, for every program."""
    seeds = range(seed, seed + count)
    for program in (each for each in SOUND if each not in RARE):
        for mode in MODES:
            yield Job("random", Case(program, mode), MANY, seeds=seeds)
            yield Job("random", Case(program, mode), {**MANY, **OPERATORS}, seeds=seeds)
            yield Job("random, no deduplication", Case(program, mode, False), MANY, seeds=seeds)
