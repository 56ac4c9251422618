"""Schedules: what may happen next, what happens if nobody interferes, and all the ways to interfere."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from tests.model.messages import HORIZON_MS
from tests.model.operator import Operator
from tests.model.programs import PROGRAMS
from tests.model.protocol import Protocol
from tests.model.store import rules_of
from tests.model.world import LEASE_MS, OVERDUE_MS, Running, World

STEPS_MAX = 3_000
"""A schedule that is longer goes round in circles."""
ALIKE_MAX = 3
"""How many violations a search looks for."""

Choice = tuple[str | int, ...]
Budget = Mapping[str, int]
Choose = Callable[[list[Choice]], Choice]
WORK = ("step", "deliver", "tick", "thaw", "redrive")
FAULTS = (
    "kill",
    "lost",
    "away",
    "dup",
    "freeze",
    "expire",
    "redel",
    "term",
    "giveup",
    "cancel",
    "retry",
    "keep",
    "purge",
)
COSTLY = ("kill", "freeze", "expire", "term")
"""Faults that may cost one more run of each step in progress."""


@dataclass(frozen=True, slots=True)
class Case:
    """A program in a mode, over a transport that may or may not take repetitions for one message."""

    program: str
    mode: str
    deduplicates: bool = True


@dataclass(frozen=True, slots=True)
class Schedule:
    """What was chosen differently: at which choice, and what."""

    deviations: tuple[tuple[int, Choice], ...]
    error: str


@dataclass(slots=True)
class Found:
    """What a search came to: `is_whole` when it tried everything there is."""

    schedules: int = 0
    is_whole: bool = True
    violations: list[Schedule] = None  # type: ignore[assignment]

    def __post_init__(self) -> None:
        self.violations = []


def run(protocol: Protocol, case: Case, budget: Budget, choose: Choose) -> tuple[World, str | None]:
    """Let everything happen in the order that `choose` wants; return how it ended and what went wrong."""
    left = dict(budget)
    with rules_of(protocol.rules):
        world = World(protocol, PROGRAMS[case.program], case.mode, deduplicates=case.deduplicates)
        for _ in range(STEPS_MAX):
            options = _work(world)
            if not options:
                break
            options += _faults(world, left)
            choice = choose(options)
            if choice[0] in left:
                left[str(choice[0])] -= 1
            _do(world, choice)
            if world.observer.violation is not None:
                break
        else:
            return world, "it goes round in circles"
        return world, world.observer.verdict()


def _work(world: World) -> list[Choice]:
    """Return what can go on, the default first."""
    now_ms, awake = world.clock_ms, [running for running in world.running if not running.is_frozen]
    options: list[Choice] = [
        ("step", running.number, task) for running in awake for task, _, until in running.moves if until <= now_ms
    ]
    options += [("deliver", place) for place in range(len(world.queue))]
    if not options and world.next_ms() is not None:
        options = [("tick",)]
    options += [("thaw", running.number) for running in world.running if running.is_frozen]
    if not options and world.dead:
        options = [("redrive",)]
    return options


def _faults(world: World, left: dict[str, int]) -> list[Choice]:
    """Return what can go wrong, within what is left of each kind."""
    options: list[Choice] = []
    deliveries = [running for running in world.running if running.message is not None]
    for kind in ("kill", "freeze", "expire", "term"):
        if left.get(kind):
            options += [(kind, each.number) for each in deliveries if not each.is_frozen]
    for kind in ("redel", "giveup"):
        if left.get(kind):
            able = [each for each in deliveries if each.message and each.message.uid not in world.given_up]
            options += [(kind, each.number, harder) for each in able for harder in (0, 1)]
    if left.get("lost"):
        options += [
            ("lost", each.number, task) for each in deliveries for task, did, _ in each.moves if did == "answer"
        ]
    if left.get("away"):
        able = [each for each in deliveries if each.moves and each.moves[0][1] in ("new", "answer")]
        options += [("away", each.number) for each in able if not each.fails_next]
    if left.get("dup"):
        waiting = {message.uid for message in world.delayed}
        options += [("dup", each.uid) for each in world.history if each.uid not in waiting]
    status = world.store.status(world.program.main)
    if left.get("cancel") and status in ("running", "waiting"):
        options.append(("cancel",))
    if left.get("retry") and status in ("failed", "cancelled"):
        options.append(("retry",))
    if left.get("purge") and status in ("completed", "failed", "cancelled") and not (world.running or world.queue):
        options.append(("purge",))
    if left.get("keep") and world.next_ms() is not None:
        options.append(("keep",))
    return options


def _do(world: World, choice: Choice) -> None:
    kind, *at = choice
    world.observer.odd_times += kind in ("keep", "dup", "redel", "deliver" if at[:1] != [0] else "")
    if kind in ("step", "lost"):
        world.observer.errors += kind == "lost"
        world.move(_running(world, at[0]), "lost" if kind == "lost" else "go", int(at[1]))
    elif kind == "deliver":
        world.deliver(world.queue.pop(int(at[0])))
    elif kind == "dup":
        world.deliver(world.history[int(at[0]) - 1])
    elif kind == "tick" or kind == "keep":
        world.pass_time(world.next_ms() or world.clock_ms)
    elif kind == "thaw":
        _thaw(world, _running(world, at[0]))
    elif kind == "redrive":
        world.redrive()
    elif kind == "cancel":
        world.command(Operator(world).cancel(world.program.main))
    elif kind == "retry":
        world.command(Operator(world).retry(world.program.main))
    elif kind == "purge":
        _purge(world)
    else:
        _disturb(world, str(kind), _running(world, at[0]), bool(at[1:] and at[1]))


def _disturb(world: World, kind: str, running: Running, is_harder: bool) -> None:
    message = running.message
    assert message is not None
    world.observer.falls += kind in COSTLY or (kind in ("redel", "giveup") and is_harder)
    world.observer.errors += kind == "away"
    if kind == "kill":
        world.lose(running)
    elif kind == "term":
        world.terminate(running)
    elif kind == "away":
        running.fails_next = True
    elif kind == "expire":
        world.pass_time(world.clock_ms + LEASE_MS + 1, without=running)
    elif kind == "freeze":
        running.is_frozen = True
        world.pass_time(world.clock_ms + LEASE_MS + 1)
        world.redeliver(message, at_once=True)
    elif kind == "redel":  # harder: its signs of life are overdue as well
        if is_harder:
            world.pass_time(world.clock_ms + OVERDUE_MS, without=running)
        world.redeliver(message, at_once=True)
    else:
        world.give_up(message)
        if is_harder:
            world.lose(running)


def _thaw(world: World, running: Running) -> None:
    """Let a delivery go on that stood still; the first it does is to give signs of life."""
    running.is_frozen = False
    world.renew(running)


def _purge(world: World) -> None:
    run_id = world.program.main
    world.pass_time(world.clock_ms + HORIZON_MS + 1)
    world.store.forget(run_id)
    world.observer.forgotten(run_id)


def _running(world: World, number: object) -> Running:
    return next(running for running in world.running if running.number == number)


# ---- searches


def replay(protocol: Protocol, case: Case, budget: Budget, deviations: Mapping[int, Choice]) -> Schedule | None:
    """Run one schedule; return it with what went wrong, or None."""
    _, error = _deviating(protocol, case, budget, deviations)
    return None if error is None else Schedule(tuple(sorted(deviations.items())), error)


def _deviating(
    protocol: Protocol, case: Case, budget: Budget, deviations: Mapping[int, Choice]
) -> tuple[list[tuple[list[Choice], Choice]], str | None]:
    log: list[tuple[list[Choice], Choice]] = []

    def choose(options: list[Choice]) -> Choice:
        choice = deviations.get(len(log), options[0])
        if choice not in options:
            choice = options[0]
        log.append((options, choice))
        return choice

    _, error = run(protocol, case, budget, choose)
    return log, error


def exhaustive(
    protocol: Protocol,
    case: Case,
    budget: Budget,
    *,
    preemptions: int = 0,
    schedules_max: int = 10**7,
    alike: int = 1,
    thaws: bool = True,
) -> Found:
    """Try every schedule with so many faults and, beyond that, so many departures from the default order.

    With `thaws`, a delivery that stood still may go on at any later moment; without, once nothing else moves.
    """
    found = Found()
    stack: list[dict[int, Choice]] = [{}]
    while stack:
        if found.schedules >= schedules_max or len(found.violations) >= alike:
            found.is_whole = False
            break
        deviations = stack.pop()
        log, error = _deviating(protocol, case, budget, deviations)
        found.schedules += 1
        if error is not None:
            found.violations.append(Schedule(tuple(sorted(deviations.items())), error))
        spent = sum(choice[0] in ("step", "deliver") for choice in deviations.values())
        for place in range(max(deviations, default=-1) + 1, len(log)):
            options, chosen = log[place]
            for option in options:
                is_preemption = option[0] in ("step", "deliver", "tick")
                if option == chosen or (is_preemption and spent >= preemptions):
                    continue
                if option[0] == "thaw" and not thaws:
                    continue
                stack.append({**deviations, place: option})
    return found


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
