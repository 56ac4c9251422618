"""The search for the schedule that finds a mutant out, the simplest first."""

from __future__ import annotations

from collections.abc import Iterator

from tests.model.explorer import Budget, Case, Schedule
from tests.model.mutants import Mutant
from tests.model.searches import Scope, exhaustive, randomized

BESIDE = {"kill": 1, "dup": 1}
MANY = {"kill": 4, "dup": 3, "freeze": 2, "expire": 1, "redel": 2, "term": 1, "lost": 1, "away": 1, "keep": 2}
SEARCHES_MAX = 150
SEEDS = range(200)


def find(mutant: Mutant, schedules_max: int = SEARCHES_MAX) -> tuple[tuple[Case, Schedule] | None, int]:
    """Return the first schedule that finds a mutant out, if any does, and how many were tried."""
    tried = 0
    for budget, preemptions in _budgets(mutant):
        for case in _cases(mutant):
            scope = Scope(budget, preemptions=preemptions, schedules_max=schedules_max)
            found = exhaustive(mutant.protocol, case, scope)
            tried += found.schedules
            if found.violations:
                return (case, found.violations[0]), tried
    for budget in ({}, {**MANY, **dict.fromkeys(mutant.faults, 2)}):
        for case in _cases(mutant):
            found = randomized(mutant.protocol, case, budget, SEEDS)
            tried += found.schedules
            if found.violations:
                return (case, found.violations[0]), tried
    return None, tried


def _budgets(mutant: Mutant) -> Iterator[tuple[Budget, int]]:
    yield {}, 0
    for fault in mutant.faults:
        yield {fault: 1}, 0
    yield {}, 1
    for fault in mutant.faults:
        yield {fault: 1}, 1
    for fault in mutant.faults:
        yield {fault: 2}, 0
        for other in BESIDE:
            if other != fault:
                yield {fault: 1, other: 1}, 0


def _cases(mutant: Mutant) -> Iterator[Case]:
    for program in mutant.programs:
        for mode in mutant.modes:
            yield Case(program, mode)
