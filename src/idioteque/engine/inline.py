"""One pass over a function under its lease: known steps give their recorded outcome, the others run in place.

A step that cannot end in this pass *parks*: its await never returns, and once nothing else can move, the function is
cancelled. Nothing is ever raised into the function to stop it, since `gather`, `TaskGroup` and a bare `except` would
each make something else of it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Collection
from contextvars import Context, copy_context
from typing import Any, NoReturn, TypeVar

from idioteque.callers import caller_here, contained
from idioteque.clock import Clock
from idioteque.engine.deadline import Deadline
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
from idioteque.engine.history import SETTLING_TURNS, History
from idioteque.engine.kept import Offer
from idioteque.engine.lines import Lines
from idioteque.engine.meanwhile import Later, Meanwhile
from idioteque.engine.reporting import StepReport
from idioteque.engine.step import Scope, Step, current
from idioteque.engine.timers import Sleep, Wait
from idioteque.errors import DuplicateStepKey, InvalidValue, PassOver
from idioteque.paths import BODY, PATH_DEPTH_MAX, Path, checked_key, path_text
from idioteque.store import Lease, Outcome, Recorded, Started, Store

CLEANUP_S = 5.0
REFUSALS_MAX = 100
"""Code that catches each refusal and asks again is left waiting then, since it would never let go of the loop."""

T = TypeVar("T")

_log = logging.getLogger("idioteque")


class InlinePass:
    """Runs one run under one lease: its body, or the one step `target`, for which the body is replayed to find it.

    With `isolated`, each step of the body gets a delivery of its own instead of running here. When the lease was taken
    before without a result, steps run one at a time and record their start first, so that one that kills its process is
    found out.
    """

    def __init__(
        self,
        run_id: str,
        started: Started,
        store: Store,
        clock: Clock,
        report: StepReport,
        later: Later,
        *,
        target: Path = BODY,
        isolated: bool = False,
        deadline_s: float | None = None,
    ) -> None:
        self.lease = Lease(run_id, started.token, target)
        self.store, self.clock = store, clock
        self.deadline = Deadline(clock, deadline_s)
        self.report = report
        self.lines: Lines | None = None
        """What was logged here; None as long as nothing was."""
        self.turn = asyncio.Lock() if started.strikes > 1 else None
        self.unfinished = dict(started.unfinished)
        self.postponed: dict[Path, Postponed] = {}
        self.awaits = False
        self._isolated = isolated
        self._scheduled: dict[Path, bool] = {}
        self.offers: dict[Path, Offer] = {}
        """The steps that wait for deliveries of their own, as long as this pass is open."""
        self.began_in = Context()
        self._body: asyncio.Future[object] | None = None
        self._concluded: Concluded | None = None
        self._target_met = target == BODY
        self._function_id = started.function_id
        self._changed = asyncio.Event()
        self._history = History(started.outcomes, self._changed)
        self.meanwhile = Meanwhile(started.outcomes, later, are_others=target == BODY or started.strikes > 1)
        self._root = Scope(BODY)
        self._running: dict[Path, asyncio.Task[Outcome | None]] = {}
        self._tasks: set[asyncio.Task[Any]] = set()
        self._active = 0
        self._parked: set[object] = set()
        self._moves = 0
        self._is_lost = False
        self._is_ended = False
        self._refusals = 0
        self._threads: set[object] = set()
        self._fault: BaseException | None = None
        self._misuse: DuplicateStepKey | None = None
        self.is_over = False

    # ---- the pass

    async def run(self, body: Callable[[], Awaitable[object]]) -> Ending:
        """Run the body as far as it gets; no step is left running when this returns.

        A pass that has offers is left open, suspended where it is, and must be closed.
        """

        async def begun() -> object:
            current.set(None)  # a step may have begun this delivery, as its dispatcher's message
            self.began_in = copy_context()
            return await body()

        ending: Ending | None = None
        task = self._body = asyncio.get_running_loop().create_task(contained(begun, self))
        task.add_done_callback(lambda _: self._changed.set())
        try:
            while not self._is_through(task):
                await self._changed.wait()
                self._changed.clear()
                if self.is_stopping and not self._active:
                    break
                if not self._is_idle():
                    continue
                if await self._stays_idle(task):
                    break
                self._changed.set()  # whatever moved may rest again without another word
            self._is_ended = True
            self._history.stop()
            while self._active:
                self._changed.clear()
                await self._changed.wait()
            ending = self._ending(task)
            return ending
        finally:
            if not (isinstance(ending, Suspended) and self.offers):
                await self.close()

    def _is_idle(self) -> bool:
        return not self._active and bool(self._parked) and not self._history.is_settling

    async def _stays_idle(self, task: asyncio.Future[object]) -> bool:
        moves = self._moves, self._history.moves
        for _ in range(SETTLING_TURNS):
            await asyncio.sleep(0)
            if self._is_through(task) or moves != (self._moves, self._history.moves):
                return False
        return True

    def _is_through(self, task: asyncio.Future[object]) -> bool:
        """Whether the body has ended; the one step that a pass is for goes on to its end, needed or not."""
        return task.done() and self.lease.path not in self._running

    def _ending(self, task: asyncio.Future[object]) -> Ending:
        if self._fault is not None:
            return Faulted(self._fault)
        if self._is_lost:
            return LeaseLost()
        if self._concluded is not None:
            return self._concluded
        if not self._target_met:
            return Missing()
        if self._misuse is not None and self.is_refusing:
            return Raised(self._misuse)
        if not task.done() or self.lease.path != BODY:
            return Suspended(tuple(self.postponed.values()), self._scheduled, self.awaits, self.deadline.has_left)
        if self._misuse is not None:
            return Raised(self._misuse)
        if task.cancelled():
            return Raised(asyncio.CancelledError("the function cancelled itself"))
        error = task.exception()
        return Returned(task.result()) if error is None else Raised(error)

    def in_thread(self, call: Callable[..., Any]) -> Callable[..., Any]:
        """Return a plain callable that is known to be at work until its thread ends, whether it is awaited or not."""
        loop, thread = asyncio.get_running_loop(), object()

        def called(*args: Any, **kwargs: Any) -> Any:
            self._threads.add(thread)
            try:
                return call(*args, **kwargs)
            finally:
                self._threads.discard(thread)
                with contextlib.suppress(RuntimeError):  # the loop is closed
                    loop.call_soon_threadsafe(self._changed.set)

        return called

    @property
    def has_threads(self) -> bool:
        """Whether a plain callable is at work, perhaps in vain."""
        return bool(self._threads)

    async def threads_ended(self) -> None:
        """Return once no plain callable is at work."""
        while self._threads:
            self._changed.clear()
            await self._changed.wait()

    async def close(self) -> None:
        """Cancel what is parked; code that will not end is left behind after a while, since it can do no more harm."""
        self.is_over = True
        self.offers = {}
        begun = () if self._body is None else (self._body,)
        left = {each for each in (*begun, *self._tasks) if not each.done()} - {asyncio.current_task()}
        for each in left:
            each.cancel()
        if left:
            _, stubborn = await asyncio.wait(left, timeout=CLEANUP_S)
            if stubborn:
                _log.warning("function %s did not end when it was cancelled", self._function_id)
        for each in (*begun, *left):
            if each.done() and not each.cancelled():
                each.exception()  # seen: whatever cleaning up raised decides nothing
        self._history.close()
        if self._body is not None and self._body.done():
            self._body, self.began_in = None, Context()  # which refer to this pass

    # ---- steps

    def at_hand(self, path: Path) -> Outcome | None:
        """Return the outcome of a step if it is known and this is its turn; most of a replay needs nothing else."""
        return None if self.is_stopping else self._history.next(path)

    async def outcome_of(self, step: Step) -> Outcome:
        """Return what is on record of a step, running it here if nothing is; never, if this pass will not see it."""
        if self.is_stopping:
            await self.park()
        is_known = step.path in self._history
        outcome = self._history.ask(step.path)
        if not is_known and step.path not in self._running:
            if self._is_ours(step):
                self._begin(step)
            else:
                self._rest_for_good(step.path)
        return await self._kept(outcome)

    def _is_ours(self, step: Step) -> bool:
        """Whether a step without an outcome runs in this pass, and not in a delivery of its own or of another step."""
        if self.lease.path != BODY:
            self._target_met = self._target_met or step.path == self.lease.path
            return step.path[:1] == self.lease.path
        if len(step.path) > 1 or not (step.has_own_delivery or self._isolated) or isinstance(step, Sleep | Wait):
            return True
        known = self.unfinished.get(step.path)
        if known is not None and known.is_sent:
            self.awaits = True
        else:
            self._scheduled[step.path] = step.at_most_once
        if caller_here.get(None) is None:  # a plain function holds a thread, which is not kept
            self.offers[step.path] = step.offer()
        return False

    def scope(self) -> Scope:
        """Return what the caller runs in: the body, or a step."""
        scope = current.get(None)
        return scope if scope is not None and scope.owner is self else self._root

    @property
    def is_refusing(self) -> bool:
        """Whether so much was refused that whatever is asked now is left waiting."""
        return self._refusals > REFUSALS_MAX

    def register(self, key: str) -> Path:
        """Take a key for a step and return its path."""
        scope = self.scope()
        if self.is_over or scope.is_closed:
            self._refusals += 1
            raise PassOver(f"step {key!r} came too late: what it belongs to has ended")
        self._moves += 1
        checked_key(key)
        if len(scope.path) >= PATH_DEPTH_MAX:
            raise InvalidValue(f"steps are nested {PATH_DEPTH_MAX} deep at most, at {path_text(scope.path)!r}")
        if not scope.add(key):
            self._refusals += 1
            self._misuse = self._misuse or DuplicateStepKey(self._function_id, path_text((*scope.path, key)))
            raise self._misuse
        return (*scope.path, key)

    def _begin(self, step: Step) -> None:
        """Run a step in a task of its own, which nothing that happens to its await can cancel."""
        self._active += 1
        if step.at_most_once:
            self.deadline.once(step.path)
        if isinstance(step, Wait):
            self.meanwhile.are_others = True
        task = self._running[step.path] = asyncio.get_running_loop().create_task(step.run())
        self._tasks.add(task)

        def ended(_: object) -> None:
            self._tasks.discard(task)
            del self._running[step.path]
            error = None if task.cancelled() else task.exception()
            if task.cancelled() or error is not None:
                self._history.drop(step.path, error)
            elif task.result() is None:
                self._rest_for_good(step.path)
            if step.path == self.lease.path:
                self._changed.set()

        task.add_done_callback(ended)

    async def _kept(self, future: asyncio.Future[T]) -> T:
        """Await a future, in a task that is cancelled when the pass is over."""
        task = asyncio.current_task()
        if task is not None and task not in self._tasks:
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        return await future

    async def park(self) -> NoReturn:
        """Never return."""
        self._rest_for_good(object())
        await self._kept(asyncio.get_running_loop().create_future())
        raise AssertionError("parked for ever")

    def _rest_for_good(self, parked: object) -> None:
        """Note that an await will not return in this pass, unless the pass learns what it waits for after all."""
        self._parked.add(parked)
        self._moves += 1
        self._changed.set()

    @property
    def known(self) -> Collection[Path]:
        """The steps of which something is on record."""
        return {*self._history.paths, *self.unfinished}

    # ---- what steps and leases tell

    @property
    def is_stopping(self) -> bool:
        """Whether nothing new may start."""
        return self._is_lost or self._is_ended or self._fault is not None or self._concluded is not None

    @property
    def is_misused(self) -> bool:
        """Whether the function broke a rule that no retry can mend."""
        return self._misuse is not None

    def lose(self) -> None:
        """Start nothing more: the lease is somebody else's."""
        self._is_lost = True
        self._history.stop()
        self._changed.set()

    def conclude(self, wake: int) -> None:
        """Start nothing more: what this pass was for is on record."""
        self._concluded = Concluded(wake)
        self._history.stop()
        self._changed.set()

    def fault(self, error: BaseException) -> None:
        """Start nothing more: the store failed."""
        self._fault = self._fault or error
        self._history.stop()
        self._changed.set()

    def remember(self, path: Path, outcome: Outcome, seq: int) -> None:
        """Take the outcome of a step, now on record at a place in the history."""
        self.deadline.allow()
        self.meanwhile.add(self, Recorded(path, outcome, seq))

    def nothing_came(self, path: Path) -> None:
        """What a wait waits for is not there yet."""
        self.meanwhile.expect_no_more(self, path)

    def see(self, recorded: Recorded) -> None:
        """Add what comes next to the history, whoever recorded it."""
        path = recorded.path
        for known in (self._scheduled, self.postponed, self.offers):
            known.pop(path, None)
        self._parked.discard(path)
        self._history.add(recorded, has_turn=len(path) == 1 or path[:1] in self._running)

    def rests(self) -> None:
        """Something that moved by itself has come to rest."""
        self._active -= 1
        self._moves += 1
        if not self._active and (self._parked or self.is_stopping):
            self._changed.set()  # else the body is about to move, or ends, which is told as well

    def goes_on(self) -> None:
        """Something that had come to rest moves by itself again."""
        self._active += 1
        self._moves += 1

    def moves(self) -> None:
        """Something moved."""
        self._moves += 1
