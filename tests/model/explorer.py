"""Schedules: what may happen next, what happens if nobody interferes, and all the ways to interfere."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

from tests.model.messages import HORIZON_MS, Message
from tests.model.operator import HOUR_MS, Operator
from tests.model.programs import PROGRAMS
from tests.model.protocol import Protocol
from tests.model.states import state_of
from tests.model.store import rules_of
from tests.model.world import LEASE_MS, OVERDUE_MS, Running, World

STEPS_MAX = 3_000
"""A schedule that is longer goes round in circles."""
ENDLESS = "it goes round in circles"

Choice = tuple[str | int, ...]
Budget = Mapping[str, int]
Choose = Callable[[list[Choice]], Choice]
WORK = ("step", "deliver", "tick", "thaw", "redrive", "repair")
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
    "late",
    "delete",
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


class Course:
    """One schedule on its way: a world, and the faults that are left of the budget."""

    def __init__(self, protocol: Protocol, case: Case, budget: Budget, then: Collection[str] = ()) -> None:
        self.world = World(protocol, PROGRAMS[case.program], case.mode, deduplicates=case.deduplicates)
        self.left = dict(budget)
        self._then, self._is_last = then, False

    def options(self) -> list[Choice]:
        """Return what can happen next, the default first; nothing when it has come to its end."""
        work = [] if self.world.observer.violation is not None else _work(self.world)
        return work + _faults(self.world, self.left) if work else []

    def do(self, choice: Choice) -> None:
        """Let it happen."""
        kind = str(choice[0])
        if kind in self.left:
            self.left[kind] -= 1
            if self._is_last:
                self.left.clear()
            elif self._then and not any(self.left.values()):
                self.left, self._is_last = dict.fromkeys(self._then, 1), True
        _do(self.world, choice)

    @property
    def is_open(self) -> bool:
        """Whether anything can go wrong yet."""
        return any(self.left.values())

    def state(self, beside: int) -> int:
        """Return the same number where the same can follow."""
        return state_of(self.world, self.left, beside)


def run(protocol: Protocol, case: Case, budget: Budget, choose: Choose) -> tuple[World, str | None]:
    """Let everything happen in the order that `choose` wants; return how it ended and what went wrong."""
    with rules_of(protocol.rules):
        course = Course(protocol, case, budget)
        for _ in range(STEPS_MAX):
            options = course.options()
            if not options:
                return course.world, course.world.observer.verdict()
            course.do(choose(options))
    return course.world, ENDLESS


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
    if not options and world.deleted:
        options = [("repair",)]
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
    if left.get("late"):
        options += [("late", each.number) for each in deliveries if not each.is_late]
    if left.get("delete"):
        waiting = {message.uid: message for message in (*world.queue, *world.delayed)}
        options += [("delete", uid) for uid, message in waiting.items() if _may_be_deleted(world, message)]
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


def _may_be_deleted(world: World, message: Message) -> bool:
    """Whether that can be mended: what never began cannot be found, nor a wait without end whose reminder is gone."""
    if message.kind != "run" or world.store.status(message.run_id) not in ("running", "waiting"):
        return False
    return world.functions[message.function_id].timeout_ms is None


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
    elif kind == "repair":
        _repair(world)
    elif kind == "delete":
        world.delete(next(each for each in (*world.queue, *world.delayed) if each.uid == at[0]))
    elif kind == "late":
        _running(world, at[0]).is_late = True
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


def _repair(world: World) -> None:
    world.deleted = 0
    world.pass_time(world.clock_ms + 2 * HOUR_MS)  # whatever else held it is over for an hour
    world.accepted.clear()  # no transport looks for repetitions for so long
    world.command(Operator(world).repair())


def _purge(world: World) -> None:
    world.pass_time(world.clock_ms + HORIZON_MS + 1)
    for run_id in world.store.purged(world.clock_ms):
        world.observer.forgotten(run_id)
    world.accepted.clear()  # no transport looks for repetitions for so long


def _running(world: World, number: object) -> Running:
    return next(running for running in world.running if running.number == number)
