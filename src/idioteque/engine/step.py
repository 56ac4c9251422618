"""One step in one pass: its attempts, one after the other, to an outcome that is on record."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Callable
from typing import Any, Protocol

from idioteque.bridge import call_anywhere, is_async
from idioteque.callers import host_here
from idioteque.clock import Clock
from idioteque.context import StepOptions
from idioteque.durations import seconds
from idioteque.engine.deadline import Deadline
from idioteque.engine.endings import Postponed
from idioteque.engine.failures import CRASH_LOOP, INTERRUPTED, UNSERIALIZABLE, NoJsonForm, failure
from idioteque.engine.kept import Offer
from idioteque.engine.lines import Lines, beside
from idioteque.engine.meanwhile import Meanwhile
from idioteque.engine.reporting import StepReport
from idioteque.errors import PassOver, first_line
from idioteque.paths import Path, path_text
from idioteque.retry import Retry
from idioteque.store import Done, Exhausted, Gone, Lease, Lost, Outcome, Stale, Store, Unfinished, Won
from idioteque.values import Codec, NotSerializable, codec_of

BACKOFF_IN_PLACE_MAX_S = 1.5
TURN_S = 30.0
"""How long a step keeps the others waiting when they run one at a time: it may itself be waiting for one of them."""
DEFAULT_RETRY = Retry()
MISSING = object()


class Pass(Protocol):
    """What a step needs of the pass that it runs in."""

    lease: Lease
    store: Store
    clock: Clock
    report: StepReport
    deadline: Deadline
    meanwhile: Meanwhile
    lines: Lines | None
    turn: asyncio.Lock | None
    """Held by the one step that may run, when they run one at a time and each start is recorded first."""
    unfinished: dict[Path, Unfinished]
    postponed: dict[Path, Postponed]
    awaits: bool
    """Whether something else than a due time will wake the run."""

    @property
    def is_stopping(self) -> bool: ...
    @property
    def is_over(self) -> bool: ...
    @property
    def is_misused(self) -> bool: ...

    def in_thread(self, call: Callable[..., Any]) -> Callable[..., Any]: ...
    def lose(self) -> None: ...
    def conclude(self, wake: int) -> None: ...
    def fault(self, error: BaseException) -> None: ...
    def remember(self, path: Path, outcome: Outcome, seq: int) -> None: ...
    def nothing_came(self, path: Path) -> None: ...
    def rests(self) -> None: ...
    def moves(self) -> None: ...
    def goes_on(self) -> None: ...


class Scope:
    """Where keys must be unique: the body, or a step, which thereby turns out to be a container."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.keys: set[str] = set()
        self.is_closed = False
        """Whether the step has ended; a task that it left behind may still ask for steps, in vain."""

    def add(self, key: str) -> bool:
        """Take a key; return whether it was free."""
        is_free = key not in self.keys
        self.keys.add(key)
        return is_free


class Step(Scope):
    """A step that has no outcome yet."""

    def __init__(
        self,
        owner: Pass,
        path: Path,
        call: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        options: StepOptions,
    ) -> None:
        super().__init__(path)
        self.owner = owner
        self._call = call
        self._args = args
        self._kwargs = kwargs
        self._options = options
        self._timeout_s = None if options.timeout is None else seconds(options.timeout, "timeout")
        self._retry = options.retry or DEFAULT_RETRY
        self._attempts = 0
        self._began_s = 0.0
        self._due_at_ms = 0
        self._is_container = False
        self._has_turn = False
        self._patience: asyncio.Task[None] | None = None
        self.has_own_delivery = options.isolate
        """Whether it asks for a delivery of its own."""
        self._decoded: object = MISSING
        self._own: Outcome | None = None

    @property
    def at_most_once(self) -> bool:
        """Whether its callable may start at most once."""
        return self._options.at_most_once

    @property
    def attempt(self) -> int:
        """Which attempt of the step this is, counted from 1."""
        return self._attempts + 1

    def decoded(self, outcome: Outcome) -> object:
        """Return a result as replays will see it, if the outcome is the one that was recorded here, or `MISSING`."""
        return self._decoded if outcome is self._own else MISSING

    def offer(self) -> Offer:
        """Return what another delivery needs to run it."""
        return Offer(self._call, self._args, self._kwargs, self._options, contextvars.copy_context())

    async def run(self) -> Outcome | None:
        """Run to the outcome; None when this pass will not see one. Never raises anything of the step's."""
        try:
            return await self._to_its_end()
        except (PassOver, asyncio.CancelledError):
            if not self.owner.is_over:
                raise
            return None
        except BaseException as error:  # the store, or something as fatal: never shown to the function
            self.owner.fault(error)
            return None
        finally:
            self.is_closed = True
            self._yield_turn()
            if self._is_container:
                self.owner.moves()
            else:
                self.owner.rests()

    def add(self, key: str) -> bool:
        """Take a key. A step that runs steps counts no longer as moving by itself: its steps do."""
        if not self._is_container:
            self._is_container = True
            self._yield_turn()
            self.owner.rests()
        return super().add(key)

    async def _to_its_end(self) -> Outcome | None:
        owner = self.owner
        known = owner.unfinished.get(self.path)
        if known is not None:
            self._attempts, self._due_at_ms = known.attempts, known.due_at_ms
        while not owner.is_stopping:
            await self._take_turn()
            if not await self._is_due() or owner.deadline.leaves(self.path):
                return None
            if self._options.at_most_once or (owner.turn is not None and self.path != owner.lease.path):
                begun = await self._begin()
                if not isinstance(begun, Begun):
                    return begun
            elif owner.is_stopping:
                return None
            self._began_s = owner.clock.monotonic_s()
            outcome = await self._attempt()
            if owner.is_over:
                return None
            if outcome is not None:
                return await self._commit(Outcome(outcome.ok, outcome.payload, self._took_ms()))
        return None

    async def _is_due(self) -> bool:
        """Wait for a back-off in place if it is short; a longer one is for another delivery."""
        wait_ms = self._due_at_ms - self.owner.clock.now_ms()
        if wait_ms <= 0:
            return True
        if wait_ms > BACKOFF_IN_PLACE_MAX_S * 1000:
            self.owner.postponed[self.path] = Postponed(self.path, self._attempts, self._due_at_ms)
            return False
        await self.owner.clock.sleep(wait_ms / 1000)
        return not self.owner.is_stopping

    async def _begin(self) -> Begun | Outcome | None:
        """Record the start; anything but `Begun` is the end of it."""
        at_most_once = self._options.at_most_once
        answer = await self.owner.store.begin(self.owner.lease, self.path, at_most_once=at_most_once)
        if isinstance(answer, Gone):
            self.owner.lose()
            return None
        if isinstance(answer, Done):
            return await self._commit(answer.outcome)  # adopts it
        if isinstance(answer, Exhausted):
            return await self._commit(INTERRUPTED if at_most_once else CRASH_LOOP)
        return Begun()

    async def _attempt(self) -> Outcome | None:
        """Call the callable once; None when it failed and will be tried again."""
        try:
            codec = codec_of(self._call)
        except NotSerializable as error:
            return failure(NoJsonForm(f"{error}; it was not run"), kind=UNSERIALIZABLE)
        self.keys.clear()
        try:
            with self.owner.report.calling(self.path, self._attempts + 1):
                value = await self._called()
        except (Exception, SystemExit) as error:
            return await self._failed(error)
        except asyncio.CancelledError as error:
            task = asyncio.current_task()
            if self.owner.is_over or (task is not None and task.cancelling()):
                raise
            return await self._failed(error)
        except (KeyboardInterrupt, GeneratorExit, PassOver):
            raise
        except BaseException as error:  # of a library, to pass by `except Exception`: the step's failure all the same
            if self.owner.is_over:
                raise
            return await self._failed(error)
        self.goes_on()
        return self._encoded(codec, value)

    async def _called(self) -> Any:
        token, host = current.set(self), host_here.set(self)
        call = self._call
        try:
            if is_async(call):
                if self._timeout_s is None:
                    return await call(*self._args, **self._kwargs)
            else:
                call = self.owner.in_thread(call)
            if self._timeout_s is None:
                return await call_anywhere(call, self._args, self._kwargs)
            deadline = asyncio.timeout(self._timeout_s)
            try:
                async with deadline:
                    return await call_anywhere(call, self._args, self._kwargs)
            except TimeoutError as error:
                if deadline.expired() and not error.args:
                    raise TimeoutError(f"no result within {self._timeout_s:g} s, its timeout") from None
                raise
        finally:
            current.reset(token)
            host_here.reset(host)

    async def _failed(self, error: BaseException) -> Outcome | None:
        self.goes_on()
        owner = self.owner
        pause_s = None if self._options.at_most_once else self._retry.after(error, self._attempts + 1)
        if pause_s is None or owner.is_misused:
            return failure(error)
        due_at_ms = owner.clock.now_ms() + round(pause_s * 1000)
        said, took_ms = first_line(error), self._took_ms()
        failing = owner.store.fail(owner.lease, self.path, self._attempts + 1, due_at_ms, said, took_ms)
        answer = await beside(owner.lines, failing)
        if isinstance(answer, Gone):
            owner.lose()
            return None
        if isinstance(answer, Done):
            return await self._commit(answer.outcome)
        owner.deadline.allow()
        self._attempts, self._due_at_ms = answer.attempts, due_at_ms
        owner.unfinished[self.path] = Unfinished(answer.attempts, due_at_ms)
        return None

    def _took_ms(self) -> int:
        return round((self.owner.clock.monotonic_s() - self._began_s) * 1000)

    def _encoded(self, codec: Codec, value: object) -> Outcome:
        """Encode a result and read it back, so that the first run sees exactly what replays will see."""
        try:
            payload = codec.encode(value)
            self._decoded = codec.decode(payload)
        except NotSerializable as error:
            return failure(NoJsonForm(f"step {path_text(self.path)!r} returned {error}"), kind=UNSERIALIZABLE)
        return Outcome(True, payload)

    async def _commit(self, outcome: Outcome) -> Outcome | None:
        """Record the outcome, or adopt the one that is on record."""
        owner = self.owner
        owner.meanwhile.expect(self.path)
        answer = await beside(owner.lines, owner.store.commit(owner.lease, self.path, outcome))
        if isinstance(answer, Won):
            owner.report.recorded(outcome.ok)
            self._own = outcome
        if self.path == owner.lease.path and not isinstance(answer, Stale):
            owner.conclude(answer.wake)
            return None
        if isinstance(answer, Stale) or not answer.held:
            owner.lose()
            return None
        if isinstance(answer, Lost):
            if answer.outcome is None:
                owner.lose()
                return None
            outcome = answer.outcome
        owner.remember(self.path, outcome, answer.seq)
        return outcome

    def rests(self) -> None:
        """Its thread waits for a step of its own; taking that one's key said so already."""

    def goes_on(self) -> None:
        """What follows moves by itself, also in a container: a commit, or a thread whose step has been answered."""
        if self._is_container:
            self._is_container = False
            self.owner.goes_on()

    def in_thread(self, call: Callable[..., Any]) -> Callable[..., Any]:
        """Return a plain callable that the pass knows to be at work until its thread ends."""
        return self.owner.in_thread(call)

    async def _take_turn(self) -> None:
        if self.owner.turn is not None and not self._has_turn:
            await self.owner.turn.acquire()
            self._has_turn = True
            self._patience = asyncio.ensure_future(self._lose_patience())

    async def _lose_patience(self) -> None:
        await self.owner.clock.sleep(TURN_S)
        self._patience = None
        self._yield_turn()

    def _yield_turn(self) -> None:
        if self._patience is not None:
            self._patience.cancel()
            self._patience = None
        if self.owner.turn is not None and self._has_turn:
            self._has_turn = False
            self.owner.turn.release()


current: contextvars.ContextVar[Step | None] = contextvars.ContextVar("idioteque-step")
"""Set around a step's callable, and copied into the tasks and threads that it starts; None in the body."""


class Begun:
    """The start of a step is on record."""
