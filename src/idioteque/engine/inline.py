"""One pass over a function under its lease: known steps give their recorded outcome, the others run in place.

A step that cannot end in this pass *parks*: its await never returns, and once nothing else can move, the function is
cancelled. Nothing is ever raised into the function to stop it, since `gather`, `TaskGroup` and a bare `except` would
each make something else of it.
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, NoReturn

from idioteque.bridge import call_anywhere
from idioteque.clock import Clock
from idioteque.context import StepOptions
from idioteque.durations import seconds
from idioteque.engine.failures import CRASH_LOOP, INTERRUPTED, UNSERIALIZABLE, failure, raised
from idioteque.engine.history import History
from idioteque.errors import DuplicateStepKey, InvalidValue, first_line
from idioteque.ids import derived_id
from idioteque.retry import Retry
from idioteque.store import (
    BODY,
    PATH_DEPTH_MAX,
    Done,
    Exhausted,
    Gone,
    Lease,
    Lost,
    Outcome,
    Path,
    Stale,
    Started,
    Store,
    Unfinished,
    checked_key,
    path_text,
)
from idioteque.values import Codec, NotSerializable, codec_of

BACKOFF_IN_PLACE_MAX_S = 1.5
IDLE_TURNS = 20  # how many layers of `gather` and task groups a result may have to rise through
CLEANUP_S = 5.0

_log = logging.getLogger("idioteque")
_MISSING = object()


class PassOver(BaseException):
    """Raised by `execute` in code that still runs after its pass has ended, such as a `finally` block."""


@dataclass(frozen=True, slots=True)
class Postponed:
    """A step whose next attempt is due later than this delivery wants to wait."""

    path: Path
    attempts: int
    due_at_ms: int


@dataclass(frozen=True, slots=True)
class Returned:
    """The function came to its end."""

    value: object


@dataclass(frozen=True, slots=True)
class Raised:
    """The function raised."""

    error: BaseException


@dataclass(frozen=True, slots=True)
class Suspended:
    """Nothing more can move now; these steps are tried again later."""

    postponed: tuple[Postponed, ...]


@dataclass(frozen=True, slots=True)
class LeaseLost:
    """Somebody else holds the run, or it has ended."""


@dataclass(frozen=True, slots=True)
class Faulted:
    """The store failed; nothing is known but that the delivery must not be acknowledged."""

    error: BaseException


Ending = Returned | Raised | Suspended | LeaseLost | Faulted


class _Scope:
    """Where keys must be unique: the body, or one attempt of a step. It knows whether it has turned out a container."""

    __slots__ = ("has_turn", "is_container", "keys", "owner", "path")

    def __init__(self, owner: InlinePass, path: Path) -> None:
        self.owner = owner
        self.path = path
        self.keys: set[str] = set()
        self.is_container = False
        self.has_turn = False


_current: contextvars.ContextVar[_Scope] = contextvars.ContextVar("idioteque-step")


@dataclass(slots=True)
class _Stop:
    lost: bool = False
    ended: bool = False
    fault: BaseException | None = None

    def __bool__(self) -> bool:
        return self.lost or self.ended or self.fault is not None


@dataclass(slots=True)
class _Call:
    path: Path
    call: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    options: StepOptions
    attempts: int = 0
    due_at_ms: int = 0
    decoded: object = field(default=_MISSING)


class InlinePass:
    """Runs the body of one run under one lease. `careful` runs one step at a time and records each start first, so that
    a step that kills its process is found out.
    """

    def __init__(self, run_id: str, started: Started, store: Store, clock: Clock, *, careful: bool = False) -> None:
        self._lease = Lease(run_id, started.token)
        self._function_id = started.function_id
        self._store = store
        self._clock = clock
        self._history = History(started.outcomes)
        self._unfinished = dict(started.unfinished)
        self._turn = asyncio.Lock() if careful else None
        self._root = _Scope(self, BODY)
        self._stop = _Stop()
        self._over = False
        self._active = 0
        self._moves = 0
        self._parked = 0
        self._postponed: dict[Path, Postponed] = {}
        self._running: dict[Path, asyncio.Task[Outcome | None]] = {}
        self._changed = asyncio.Event()
        self._tasks: set[asyncio.Task[Any]] = set()
        self._misuse: DuplicateStepKey | None = None

    # ---- the pass

    async def run(self, body: Callable[[], Awaitable[object]]) -> Ending:
        """Run the body as far as it gets; no step is left running when this returns."""
        task = asyncio.ensure_future(_contained(body))
        task.add_done_callback(lambda _: self._changed.set())
        try:
            while not task.done():
                await self._changed.wait()
                self._changed.clear()
                if self._is_idle() and await self._stays_idle(task) and (self._stop or not self._history.skip()):
                    break
            self._stop.ended = True
            while self._active:
                self._changed.clear()
                await self._changed.wait()
            return self._ending(task)
        finally:
            await self._clean_up(task)

    def lose(self) -> None:
        """Start nothing more: the lease is somebody else's."""
        self._stop.lost = True
        self._changed.set()

    def _is_idle(self) -> bool:
        return not self._active and (self._parked > 0 or self._history.is_waited_for)

    async def _stays_idle(self, task: asyncio.Future[object]) -> bool:
        moves = self._moves
        for _ in range(IDLE_TURNS):
            await asyncio.sleep(0)
            if task.done() or self._moves != moves:
                return False
        return True

    def _ending(self, task: asyncio.Future[object]) -> Ending:
        if self._stop.fault is not None:
            return Faulted(self._stop.fault)
        if self._stop.lost:
            return LeaseLost()
        if not task.done():
            return Suspended(tuple(self._postponed.values()))
        if self._misuse is not None:
            return Raised(self._misuse)
        if task.cancelled():
            return Raised(asyncio.CancelledError("the function cancelled itself"))
        error = task.exception()
        return Returned(task.result()) if error is None else Raised(error)

    async def _clean_up(self, task: asyncio.Future[object]) -> None:
        """Cancel what is parked; code that will not end is left behind after a while, since it can do no more harm."""
        self._over = True
        left = {task, *self._tasks} - {asyncio.current_task()}
        left = {each for each in left if not each.done()}
        for each in left:
            each.cancel()
        if left:
            _, stubborn = await asyncio.wait(left, timeout=CLEANUP_S)
            if stubborn:
                _log.warning("function %s did not end when it was cancelled", self._function_id)
        for each in (task, *left):
            if each.done() and not each.cancelled():
                each.exception()  # seen: whatever cleaning up raised decides nothing

    # ---- what a context calls

    async def execute(
        self, key: str, call: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], options: StepOptions
    ) -> Any:
        if self._over:
            raise PassOver("this pass over the function has ended")
        path = self._register(key)
        self._moves += 1
        if path in self._history:
            turn = self._history.turn(path)
            if turn is not None:
                self._changed.set()
                await self._kept(turn)
            if self._stop:
                await self._park()
            return await self._opened(self._history.outcome(path), _Call(path, call, args, kwargs, options))
        if self._stop:
            await self._park()
        step = _Call(path, call, args, kwargs, options)
        outcome = await asyncio.shield(self._running.get(path) or self._begun(step))
        if outcome is None:
            await self._park()
            raise AssertionError("parked for ever")
        return await self._opened(outcome, step)

    @property
    def idempotency_key(self) -> str:
        scope = self._scope()
        return derived_id("key", self._lease.run_id, *scope.path)

    @property
    def fencing_token(self) -> int:
        return self._lease.token

    def _scope(self) -> _Scope:
        scope = _current.get(None)
        return scope if scope is not None and scope.owner is self else self._root

    def _register(self, key: str) -> Path:
        scope = self._scope()
        checked_key(key)
        if len(scope.path) >= PATH_DEPTH_MAX:
            raise InvalidValue(f"steps are nested {PATH_DEPTH_MAX} deep at most, at {path_text(scope.path)!r}")
        if key in scope.keys:
            self._misuse = self._misuse or DuplicateStepKey(self._function_id, path_text((*scope.path, key)))
            raise self._misuse
        scope.keys.add(key)
        if scope is not self._root and not scope.is_container:
            self._becomes_container(scope)
        return (*scope.path, key)

    def _becomes_container(self, scope: _Scope) -> None:
        """A step that runs steps counts no longer as moving by itself: its steps do."""
        scope.is_container = True
        if scope.has_turn and self._turn is not None:
            scope.has_turn = False
            self._turn.release()
        self._rests()

    async def _opened(self, outcome: Outcome, step: _Call) -> Any:
        """Return or raise what an outcome holds; one that cannot be read any more is a fault of ours."""
        if not outcome.ok:
            raise raised(path_text(step.path), outcome.payload)
        if step.decoded is not _MISSING:
            return step.decoded
        try:
            return codec_of(step.call).decode(outcome.payload)
        except NotSerializable as error:
            self._fault(NotSerializable(f"step {path_text(step.path)!r}: {error}"))
        await self._park()
        raise AssertionError("parked for ever")

    # ---- one step

    def _begun(self, step: _Call) -> asyncio.Task[Outcome | None]:
        """Run a step in a task of its own, which nothing that happens to its await can cancel."""
        if step.options.timeout is not None:
            seconds(step.options.timeout, "timeout")
        self._active += 1
        task = self._running[step.path] = asyncio.ensure_future(self._step(step))
        self._tasks.add(task)

        def ended(_: object) -> None:
            self._tasks.discard(task)
            del self._running[step.path]

        task.add_done_callback(ended)
        return task

    async def _step(self, step: _Call) -> Outcome | None:
        """Run a step to its outcome; None when this pass will not see one."""
        scope = _Scope(self, step.path)
        try:
            return await self._to_its_end(step, scope)
        except (PassOver, asyncio.CancelledError):
            if not self._over:
                raise
            return None
        except BaseException as error:  # the store, or something as fatal: never shown to the function
            self._fault(error)
            return None
        finally:
            if scope.has_turn and self._turn is not None:
                self._turn.release()
            if scope.is_container:
                self._moves += 1
            else:
                self._rests()

    async def _to_its_end(self, step: _Call, scope: _Scope) -> Outcome | None:
        known = self._unfinished.get(step.path)
        if known is not None:
            step.attempts, step.due_at_ms = known.attempts, known.due_at_ms
        while not self._stop:
            if self._turn is not None and not scope.has_turn:
                await self._turn.acquire()
                scope.has_turn = True
            if not await self._is_due(step):
                return None
            outcome = await self._started_on_record(step, scope)
            if isinstance(outcome, Outcome):
                return outcome
            if outcome is not None or self._stop:
                return None
            outcome = await self._attempt(step, scope)
            if self._over:
                return None
            if outcome is not None:
                return await self._commit(step, outcome)
        return None

    async def _is_due(self, step: _Call) -> bool:
        """Wait for a back-off in place if it is short; a longer one is for another delivery."""
        wait_ms = step.due_at_ms - self._clock.now_ms()
        if wait_ms <= 0:
            return True
        if wait_ms > BACKOFF_IN_PLACE_MAX_S * 1000:
            self._postponed[step.path] = Postponed(step.path, step.attempts, step.due_at_ms)
            return False
        await self._clock.sleep(wait_ms / 1000)
        return not self._stop

    async def _started_on_record(self, step: _Call, scope: _Scope) -> Outcome | Gone | None:
        """Record the start where that matters; return an outcome if the step is not to start, Gone if nothing is."""
        if not (step.options.at_most_once or self._turn is not None):
            return None
        begun = await self._store.begin(self._lease, step.path, at_most_once=step.options.at_most_once)
        if isinstance(begun, Gone):
            self.lose()
            return begun
        if isinstance(begun, Done):
            return begun.outcome
        if isinstance(begun, Exhausted):
            interrupted = step.options.at_most_once
            return await self._commit(step, INTERRUPTED if interrupted else CRASH_LOOP) or Gone()
        return None

    async def _attempt(self, step: _Call, scope: _Scope) -> Outcome | None:
        """Call the step's callable once; None when it failed and will be tried again."""
        try:
            codec = codec_of(step.call)
        except NotSerializable as error:
            return failure(ResultType(f"{error}; it was not run"), kind=UNSERIALIZABLE)
        scope.keys.clear()
        try:
            value = await self._called(step, scope)
        except (Exception, SystemExit) as error:
            return await self._failed(step, scope, error)
        except asyncio.CancelledError as error:
            task = asyncio.current_task()
            if self._over or (task is not None and task.cancelling()):
                raise
            return await self._failed(step, scope, error)
        self._moves_again(scope)
        return _encoded(step, codec, value)

    async def _called(self, step: _Call, scope: _Scope) -> Any:
        token = _current.set(scope)
        deadline = asyncio.timeout(None if step.options.timeout is None else seconds(step.options.timeout))
        try:
            if step.options.timeout is None:
                return await call_anywhere(step.call, step.args, step.kwargs)
            async with deadline:
                return await call_anywhere(step.call, step.args, step.kwargs)
        except TimeoutError as error:
            if step.options.timeout is not None and not error.args and deadline.expired():
                raise TimeoutError(f"no result within {step.options.timeout} (its timeout)") from None
            raise
        finally:
            _current.reset(token)

    async def _failed(self, step: _Call, scope: _Scope, error: BaseException) -> Outcome | None:
        self._moves_again(scope)
        policy = step.options.retry or DEFAULT_RETRY
        pause_s = None if step.options.at_most_once else policy.after(error, step.attempts + 1)
        if pause_s is None or self._misuse is not None:
            return failure(error)
        due_at_ms = self._clock.now_ms() + round(pause_s * 1000)
        answer = await self._store.fail(self._lease, step.path, step.attempts + 1, due_at_ms, first_line(error))
        if isinstance(answer, Gone):
            self.lose()
            return None
        if isinstance(answer, Done):
            return answer.outcome
        step.attempts, step.due_at_ms = answer.attempts, due_at_ms
        self._unfinished[step.path] = Unfinished(answer.attempts, due_at_ms)
        return None

    async def _commit(self, step: _Call, outcome: Outcome) -> Outcome | None:
        answer = await self._store.commit(self._lease, step.path, outcome)
        if isinstance(answer, Stale) or not answer.held:
            self.lose()
            return None
        if isinstance(answer, Lost):
            step.decoded = _MISSING
            if answer.outcome is None:
                self.lose()
                return None
            outcome = answer.outcome
        self._history.add(step.path, outcome)
        return outcome

    # ---- what moves

    async def _kept(self, turn: asyncio.Future[None]) -> None:
        task = asyncio.current_task()
        if task is not None and task not in self._tasks:
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        await turn

    async def _park(self) -> NoReturn:
        self._parked += 1
        self._moves += 1
        self._changed.set()
        await self._kept(asyncio.get_running_loop().create_future())
        raise AssertionError("parked for ever")

    def _fault(self, error: BaseException) -> None:
        self._stop.fault = self._stop.fault or error
        self._changed.set()

    def _rests(self) -> None:
        self._active -= 1
        self._moves += 1
        if not self._active:
            self._changed.set()

    def _moves_again(self, scope: _Scope) -> None:
        """The callable of a container has ended: what follows, its commit, moves by itself."""
        if scope.is_container:
            scope.is_container = False
            self._active += 1
            self._moves += 1


class ResultType(Exception):
    """Names why a step's declared result cannot be stored."""


DEFAULT_RETRY = Retry()


def _encoded(step: _Call, codec: Codec, value: object) -> Outcome:
    """Encode a result and read it back, so that the first run sees exactly what replays will see."""
    try:
        payload = codec.encode(value)
        step.decoded = codec.decode(payload)
    except NotSerializable as error:
        text = f"step {path_text(step.path)!r} returned {error}"
        return failure(ResultType(text), kind=UNSERIALIZABLE)
    return Outcome(True, payload)


async def _contained(body: Callable[[], Awaitable[object]]) -> object:
    try:
        return await body()
    except SystemExit as error:  # asyncio would end the whole process
        raise RuntimeError(f"the function called sys.exit({error.code!r})") from error
