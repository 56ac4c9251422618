"""One pass over a function under its lease: known steps give their recorded outcome, the others run in place.

A pass is a generator that yields which of its tasks can move and is told which one moves; each yield is a place where
the process can be killed, stopped, or left behind by others.
"""

from __future__ import annotations

from collections.abc import Coroutine, Generator, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from idioteque.engine.arrivals import Arrivals
from idioteque.engine.endings import (
    Concluded,
    Ending,
    Faulted,
    LeaseLost,
    Missing,
    Postponed,
    Raised,
    Returned,
    Suspended,
)
from idioteque.paths import BODY, Path
from idioteque.store import NEVER_MS, Claim, Lease, Outcome, Recorded, Started
from tests.model import usercode
from tests.model.history import History
from tests.model.steps import CatchUp, StepTask, task_of
from tests.model.usercode import Future, Loop, PassOver, StepFailed, Task

if TYPE_CHECKING:
    from tests.model.programs import Body
    from tests.model.world import Running, World


@dataclass(frozen=True, slots=True)
class Spec:
    """A step as the function asks for it. Its first `fails` calls raise; `pause_ms` is the back-off after a failure."""

    path: Path
    kind: str = "call"
    body: Body | None = None
    fails: int = 0
    attempts: int = 1
    pause_ms: int = 0
    once: bool = False
    isolate: bool = False
    is_poison: bool = False
    of: str = ""
    """The event that a wait is for, or the function that an invocation starts."""
    for_ms: int = NEVER_MS

    @property
    def calls_max(self) -> int:
        """How often the callable is called without a fault."""
        return 4 if self.is_poison else min(self.attempts, self.fails + 1)


class Context:
    """What a function under test is given."""

    def __init__(self, one: Pass, path: Path) -> None:
        self._one, self._path = one, path

    async def step(self, key: str, **options: Any) -> str:
        return await self._one.execute(Spec((*self._path, key), **options))

    async def sleep(self, key: str, for_ms: int) -> str:
        return await self._one.execute(Spec((*self._path, key), "sleep", for_ms=for_ms))

    async def wait(self, key: str, event: str, for_ms: int = NEVER_MS) -> str:
        return await self._one.execute(Spec((*self._path, key), "wait", of=event, for_ms=for_ms))

    async def invoke(self, key: str, function: str) -> str:
        return await self._one.execute(Spec((*self._path, key), "invoke", of=function))

    def gather(self, *coroutines: Coroutine[Future, None, Any]) -> Future:
        return usercode.gather(self._one.loop, coroutines)

    async def lent(self, spec: Spec) -> str:
        return await self._one.execute(spec)

    @property
    def attempt(self) -> int:
        """1 for the function's first attempt."""
        return self._one.started.attempts + 1

    @property
    def event_id(self) -> str:
        return self._one.started.event_id

    def race(self, *coroutines: Coroutine[Future, None, Any]) -> Coroutine[Future, None, Any]:
        return usercode.race(self._one.loop, coroutines)

    def note(self, name: str, value: object) -> None:
        """Say what the function concludes here, which must be the same in every pass."""
        self._one.world.observer.noted(self._one.run_id, self._one.epoch, name, value)


class Pass:
    """One run under one lease: its body, or the one step whose lease it is, for which the body is replayed."""

    def __init__(self, world: World, running: Running, claim: Claim, started: Started, target: Path) -> None:
        self.world, self.running, self.claim, self.started = world, running, claim, started
        self.run_id = run_id = claim.run_id
        self.lease = Lease(run_id, started.token, target)
        self.epoch = started.epoch
        self.is_careful = started.strikes > 1
        self.unfinished = dict(started.unfinished)
        self.postponed: dict[Path, Postponed] = {}
        self.scheduled: dict[Path, bool] = {}
        self.offers: dict[Path, Spec] = {}
        self.recorded: list[Recorded] = []
        self.has_left = False
        self.awaits = False
        self.turn: StepTask | None = None
        self.loop = Loop()
        self.history = History(self.loop, started.outcomes)
        self.arrivals = Arrivals(started.outcomes)
        self.are_others = target == BODY or started.strikes > 1
        self.is_catching_up = False
        self.tasks: dict[int, StepTask] = {}
        self._concluded: Concluded | None = None
        self._target_met = target == BODY
        self._fault: BaseException | None = None
        self._is_allowed = False
        self._once: list[Path] = []
        self._is_lost = False
        self._is_ended = False
        self.is_over = False
        self._roots: list[Task] = []

    def run(self, body: Body) -> Generator[Any, Any, Ending]:
        """Run the function as far as it gets; no step is left running when this returns."""
        root = self.spawn(body, BODY)
        try:
            while True:
                self.settle()
                if root.is_done and not any(task.spec.path == self.lease.path for task in self.tasks.values()):
                    break
                if self._movable():
                    yield from self._move()
                else:
                    break
            self._is_ended = True
            while self._movable():
                yield from self._move()
                self.loop.settle()
            return self._ending(root)
        finally:
            self.is_over = True

    def settle(self) -> None:
        """Let the function go on as far as it can, and hand out one outcome after the other."""
        self.loop.settle()
        while not self.is_stopping and self.history.hand_out():
            self.loop.settle()

    def spawn(self, body: Body, path: Path) -> Task:
        """Begin a function, or a step that runs steps."""
        root = Task(self.loop, body(Context(self, path)))
        self._roots.append(root)
        return root

    def close(self) -> None:
        """Cancel what is parked."""
        self.is_over = True
        for root in self._roots:
            root.close()

    def _movable(self) -> list[tuple[int, StepTask]]:
        return [(number, task) for number, task in self.tasks.items() if task.is_active]

    def _move(self) -> Iterator[Any]:
        able = [(number, task) for number, task in self._movable() if task.can_take_turn(self)]
        self.world.observer.width = max(self.world.observer.width, len(self._movable()))
        command, number = yield [(number, task.did, task.until_ms) for number, task in able]
        task = self.tasks[number]
        if task.go_on(command):
            del self.tasks[number]

    def _ending(self, root: Task) -> Ending:
        if self._fault is not None:
            return Faulted(self._fault)
        if self._is_lost:
            return LeaseLost()
        if self._concluded is not None:
            return self._concluded
        if not self._target_met:
            return Missing()
        if not root.is_done or self.lease.path != BODY:
            return Suspended(tuple(self.postponed.values()), self.scheduled, self.awaits, self.has_left)
        return Returned(root.value) if root.error is None else Raised(root.error)

    # ---- what the function asks for

    async def execute(self, spec: Spec) -> str:
        outcome = await self._outcome(spec)
        self.world.observer.seen(self.run_id, self.epoch, spec.path, outcome)
        if outcome.ok:
            return outcome.payload.decode()
        raise StepFailed(outcome.payload.decode())

    async def _outcome(self, spec: Spec) -> Outcome:
        if self.is_over:
            raise PassOver
        if self.is_stopping:
            await Future(self.loop)
        outcome = self.history.next(spec.path)
        if outcome is not None:
            return outcome
        is_known, future = spec.path in self.history, self.history.ask(spec.path)
        if not is_known and self.is_ours(spec):
            self.begin(task_of(self, spec))
        return await future

    def is_ours(self, spec: Spec) -> bool:
        """Whether a step runs in this pass, and not in a delivery of its own or of another step."""
        if self.lease.path != BODY:
            self._target_met = self._target_met or spec.path == self.lease.path
            return spec.path[:1] == self.lease.path
        if len(spec.path) > 1 or not self.has_own_delivery(spec):
            return True
        known = self.unfinished.get(spec.path)
        if known is not None and known.is_sent:
            self.awaits = True
        else:
            self.scheduled[spec.path] = spec.once
        self.offers[spec.path] = spec
        return False

    def has_own_delivery(self, spec: Spec) -> bool:
        return (spec.isolate or self.world.is_isolated) and spec.kind == "call"

    def begin(self, task: StepTask) -> None:
        """Run a step in a task of its own."""
        if task.spec.once:
            self._once.append(task.spec.path)
        self.are_others |= task.spec.kind in ("wait", "invoke")
        self.tasks[max(self.tasks, default=0) + 1] = task

    # ---- what is recorded meanwhile

    def remember(self, recorded: Recorded) -> None:
        self.allow()
        self.show(self.arrivals.add(recorded))

    def show(self, arrived: Sequence[Recorded]) -> None:
        """Add what may be seen now to the history; learn of a gap before it that nothing else will fill."""
        for each in arrived:
            if not self.recorded or each.seq > self.recorded[-1].seq:
                self.recorded.append(each)
            for known in (self.scheduled, self.postponed, self.offers):
                known.pop(each.path, None)
            inside = any(task.spec.path == each.path[:1] for task in self.tasks.values())
            self.history.add(each, has_turn=len(each.path) == 1 or inside)
        if not self.arrivals.is_missing or self.is_stopping or self.is_catching_up:
            return
        if self.are_others:
            self.is_catching_up = True
            self.begin(CatchUp(self, Spec(("",), "later")))
        else:
            self.show(self.arrivals.fill(()))

    # ---- what steps and leases tell

    @property
    def is_stopping(self) -> bool:
        """Whether nothing new may start."""
        return self._is_lost or self._is_ended or self._fault is not None or self._concluded is not None

    def lose(self) -> None:
        self._is_lost = True

    def conclude(self, wake: int) -> None:
        self._concluded = Concluded(wake)

    def fault(self, error: BaseException) -> None:
        self._fault = self._fault or error

    def allow(self) -> None:
        """Something was recorded: from now on it may be left to another delivery to go on."""
        self._is_allowed = True

    def leaves(self, path: Path) -> bool:
        """Whether a step is not to start, or not to be tried again, since the delivery's time is over."""
        if not (self.running.is_late and self._is_allowed) or self.is_inside_once(path):
            return False
        self.has_left = True
        return True

    def is_inside_once(self, path: Path) -> bool:
        return any(path[: len(once)] == once for once in self._once)
