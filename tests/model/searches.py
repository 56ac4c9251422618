"""Searches: every schedule within a budget, or schedules by chance."""

from __future__ import annotations

import random
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

from tests.model.explorer import ENDLESS, STEPS_MAX, WORK, Budget, Case, Choice, Course, Schedule, run
from tests.model.protocol import Protocol
from tests.model.store import rules_of


@dataclass(slots=True)
class Found:
    """What a search came to: `is_whole` when it tried everything there is."""

    schedules: int = 0
    states: int = 0
    is_whole: bool = True
    violations: list[Schedule] = field(default_factory=list[Schedule])


@dataclass(frozen=True, slots=True)
class Scope:
    """What a search may do: faults within a budget, once it is used up one of `then`, and departures beside them.

    With `thaws`, a delivery that stood still may go on at any later moment; without, once nothing else moves.
    """

    budget: Budget
    then: Collection[str] = ()
    preemptions: int = 0
    thaws: bool = True
    schedules_max: int = 10**7
    alike: int = 1


@dataclass(frozen=True, slots=True)
class Branch:
    """A schedule that is to be tried: the beginning of another one, and something else at that place."""

    log: Sequence[Choice] = ()
    place: int = 0
    option: Choice | None = None
    deviations: tuple[tuple[int, Choice], ...] = ()
    preemptions: int = 0


def replay(protocol: Protocol, case: Case, budget: Budget, deviations: Mapping[int, Choice]) -> Schedule | None:
    """Run one schedule; return it with what went wrong, or None."""
    place = -1

    def choose(options: list[Choice]) -> Choice:
        nonlocal place
        place += 1
        choice = deviations.get(place, options[0])
        return choice if choice in options else options[0]

    _, error = run(protocol, case, budget, choose)
    return None if error is None else Schedule(tuple(sorted(deviations.items())), error)


def exhaustive(protocol: Protocol, case: Case, scope: Scope) -> Found:
    """Try every schedule within the scope, as far as no other one has led to the same state before."""
    found, seen = Found(), set[int]()
    stack = [Branch(preemptions=scope.preemptions)]
    with rules_of(protocol.rules):
        while stack:
            if found.schedules >= scope.schedules_max or len(found.violations) >= scope.alike:
                found.is_whole = False
                break
            branch = stack.pop()
            found.schedules += 1
            error = _follow(Course(protocol, case, scope.budget, scope.then), branch, scope, seen, stack)
            if error is not None:
                found.violations.append(Schedule(branch.deviations, error))
    found.states = len(seen)
    return found


def _follow(course: Course, branch: Branch, scope: Scope, seen: set[int], stack: list[Branch]) -> str | None:
    """Go on to the end, or to where another schedule has been; put what else could be done on the stack."""
    log = list(branch.log[: branch.place])
    for choice in log:
        course.do(choice)
    if branch.option is not None:
        course.do(branch.option)
        log.append(branch.option)
    is_branching = branch.preemptions > 0 or course.is_open
    while len(log) < STEPS_MAX:
        if is_branching or not course.world.running:
            state = course.state(branch.preemptions)
            if state in seen:
                return None
            seen.add(state)
        options = course.options()
        if not options:
            return course.world.observer.verdict()
        place = len(log)
        for option in options[1:]:
            preemptions = branch.preemptions - (option[0] in ("step", "deliver", "tick"))
            if preemptions >= 0 and (scope.thaws or option[0] != "thaw"):
                stack.append(Branch(log, place, option, (*branch.deviations, (place, option)), preemptions))
        log.append(options[0])
        course.do(options[0])
    return ENDLESS


def randomized(protocol: Protocol, case: Case, budget: Budget, seeds: Sequence[int], rate: float = 0.1) -> Found:
    """Try random schedules, each from its seed."""
    found = Found()
    for seed in seeds:
        chance = random.Random(seed)
        log: list[tuple[list[Choice], Choice]] = []

        def choose(options: list[Choice], chance: random.Random = chance, log: list = log) -> Choice:
            faults = [option for option in options if option[0] not in WORK]
            work = [option for option in options if option[0] in WORK]
            choice = chance.choice(faults) if faults and chance.random() < rate else chance.choice(work)
            log.append((options, choice))
            return choice

        _, error = run(protocol, case, budget, choose)
        found.schedules += 1
        if error is not None:
            deviations = tuple((place, choice) for place, (options, choice) in enumerate(log) if choice != options[0])
            found.violations.append(Schedule(deviations, f"seed {seed}: {error}"))
    return found
