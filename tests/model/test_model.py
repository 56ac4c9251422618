"""The part of the model that is quick enough for every run of the tests; `make model` does the whole."""

from __future__ import annotations

import pytest

from tests.model import known
from tests.model.explorer import Case, run
from tests.model.mutants import MUTANTS, Mutant
from tests.model.plan import AS_BUILT, singles
from tests.model.programs import MODES, PROGRAMS
from tests.model.search import MANY, find
from tests.model.searches import randomized

KNOWN = known.load()
SINGLES_MAX = 20
SEEDS = range(3)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("program", PROGRAMS)
def test_no_single_fault_breaks_a_program(program: str, mode: str) -> None:
    jobs = [job for job in singles([program], schedules_max=SINGLES_MAX) if job.case.mode == mode]
    assert [(job.scope.budget, each) for job in jobs for each in job.search().violations] == []


@pytest.mark.parametrize("program", PROGRAMS)
def test_many_faults_at_random_break_nothing(program: str) -> None:
    for mode in MODES:
        assert randomized(AS_BUILT, Case(program, mode), MANY, SEEDS).violations == []


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_a_mutant_is_found_out(mutant: Mutant) -> None:
    """By the schedule that is kept for it, or by a new search when the protocol has changed since."""
    assert known.is_found_out(mutant, *KNOWN[mutant.name]) or find(mutant)[0] is not None


def test_a_schedule_happens_the_same_way_twice() -> None:
    traces = []
    for _ in range(2):
        log: list[object] = []
        run(AS_BUILT, Case("mixpar", "inline"), {"kill": 1}, lambda options, log=log: log.append(options) or options[0])
        traces.append(log)
    assert traces[0] == traces[1]
    assert len(traces[0]) > 20


def test_enough_rules_are_broken() -> None:
    names = [mutant.name for mutant in MUTANTS]
    assert len(set(names)) == len(names) >= 70
    assert set(names) == set(KNOWN)
