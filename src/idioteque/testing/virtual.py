"""The harness: a user's worker in virtual time, with its runs in memory and its messages in this process."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, Literal, Self, TypeVar, cast

from pydantic import BaseModel

from idioteque.context import Context
from idioteque.dispatcher import Outgoing, TickEnvelope, tick_body
from idioteque.durations import Duration, seconds
from idioteque.engine.leases import RENEW_EVERY_S
from idioteque.engine.step import current
from idioteque.errors import InvalidValue
from idioteque.function import Function, Handler, Published
from idioteque.ids import derived_id, nonce
from idioteque.paths import Path, path_text
from idioteque.runs import Run
from idioteque.store import StepRecord, Store
from idioteque.stores import MemoryStore
from idioteque.testing.chaos import Ending, Rehearsal, RunEnd, current_rehearsal
from idioteque.testing.given import history_of
from idioteque.testing.movement import HarnessClock, HarnessError, Movement
from idioteque.testing.post import HarnessDispatcher, PublishedEvent, WatchedStore
from idioteque.values import NotSerializable, codec_of
from idioteque.worker import Worker

START_MS = 1_700_000_000_000
FINISH_S_MAX = 400 * 86_400.0
REFUSALS_SHOWN_MAX = 3
DRAWN_ID = re.compile(r"\b(evt|run|msg)_[0-9a-f]{32}\b")

Mode = Literal["inline", "isolated"]
Stub = Callable[..., Any]
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class RecordedStep:
    """A step as it is on record: `key` is its path as text, `ran` how often its callable (or its stub) was called.

    `status` is completed, failed, or pending while it has no outcome.
    """

    run_id: str
    function_id: str
    key: str
    status: str
    result: Any
    error: str | None
    ran: int


def harness(
    worker: Worker,
    functions: Sequence[Function] | None = None,
    *,
    steps: Mapping[str, Stub] | None = None,
    start: datetime | None = None,
    mode: Mode = "inline",
) -> Harness:
    """Return a harness for some of a worker's functions (None: all of them), to be used with `async with`.

    Inside, whatever the worker's store and dispatcher are, runs are kept in memory, messages are delivered in this
    process, and time stands still unless the test moves it; afterwards the worker is as it was. `steps` replaces the
    callables of steps, by key or by path (`"outer/inner"`); a stub gets the same arguments. `start` is what time it is,
    `mode` as in `dispatcher.mount`.
    """
    if start is not None and start.tzinfo is None:
        raise InvalidValue(f"start {start!r} needs a time zone")
    start_ms = START_MS if start is None else round(start.timestamp() * 1000)
    return Harness(worker, functions, dict(steps or {}), start_ms, mode)


class Harness:
    """A worker under test; made by `harness`."""

    def __init__(
        self,
        worker: Worker,
        functions: Sequence[Function] | None,
        stubs: Mapping[str, Stub],
        start_ms: int,
        mode: Mode,
    ) -> None:
        self.worker = worker
        self._functions = functions
        self._stubs = stubs
        self._start_ms = start_ms
        self._mode: Mode = mode
        self._before: Mapping[str, Any] | None = None
        self._rehearsal: Rehearsal | None = None
        self._calls: Counter[tuple[str, Path]] = Counter()

    async def __aenter__(self) -> Self:
        if self._before is not None:
            raise HarnessError("this harness is in use already")
        self._rehearsal = current_rehearsal()
        self._movement = Movement(lambda: self._dispatcher.release_held())
        self.clock = HarnessClock(self._start_ms, self._movement)
        memory = MemoryStore(self.clock)
        self._watched = WatchedStore(memory, self._rehearsal)
        self._dispatcher = HarnessDispatcher(self.clock, self._movement, memory, self.worker.schema, self._rehearsal)
        options = self.worker.options
        self._before = {name: options[name] for name in ("store", "dispatcher", "clock")}
        self.worker.configure(store=cast(Store, self._watched), dispatcher=self._dispatcher, clock=self.clock)
        chosen = self.worker.functions if self._functions is None else self._functions
        self._runs = self.worker.runs
        watched = [self._under_watch(function) for function in chosen]
        self._dispatcher.mount(self.worker, functions=watched, mode=self._mode)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if error is None:
                await self.settle()
            if self._rehearsal is not None:
                self._rehearsal.endings.append(self._ending())
            await self._dispatcher.close()
            if error is None:
                await self.clock.advance(RENEW_EVERY_S)  # what renews leases sees that there are none, and ends
        finally:
            self.restore()

    def restore(self) -> None:
        """Give the worker back what it had before; done at the end of `async with`."""
        if self._before is not None:
            self.worker.configure(**self._before)
            self._before = None

    # ---- moving on

    async def publish(
        self,
        event: object,
        *,
        retries: int | None = None,
        delay: Duration | None = None,
        not_before: datetime | None = None,
        deduplication_id: str | None = None,
        given: Mapping[str, Any] | None = None,
    ) -> Published:
        """Publish an event as `Worker.publish` does, and let everything happen that needs no time to pass.

        The runs that it starts, those of `on_failure` too, begin with the outcomes that are `given`, by path and in the
        order of their ends: plain JSON values as results, exceptions as failures. Such a step is not run. That goes for
        every kind of step: a sleep or a timeout of a wait is None, an event that was waited for is its JSON.
        """
        history = history_of(given or {})
        published = await self.worker.publish(
            event, retries=retries, delay=delay, not_before=not_before, deduplication_id=deduplication_id
        )
        return await self._sent(published, history)

    async def tick(self, function: Function | str, *, given: Mapping[str, Any] | None = None) -> Published:
        """Let the schedule of a function with `cron=` be due now; schedules are never due by themselves here.

        Return what `run` takes. Everything happens that needs no time to pass. `given` is as in `publish`.
        """
        history = history_of(given or {})
        function_id = function.id if isinstance(function, Function) else function
        known = {each.id: each for each in self.worker.functions if each.cron is not None}
        if function_id not in known:
            raise HarnessError(f"there is no function {function_id!r} with cron=, but {', '.join(known) or 'none'}")
        sent = await self._dispatcher.send([Outgoing(tick_body(function_id), derived_id("dd", "tick", nonce()))])
        return await self._sent(Published(TickEnvelope(function_id, sent[0]).event_id, sent[0]), history)

    async def _sent(self, published: Published, history: Sequence[StepRecord]) -> Published:
        """Let come what was sent: nothing of it is delivered before the loop has turned, and sending does not wait."""
        if history:
            self._watched.histories[published.event_id] = history
        await self.settle()
        return published

    async def settle(self) -> None:
        """Let everything happen that needs no time to pass; steps in threads and real waits are waited for."""
        await self._movement.stillness()

    async def advance(self, duration: Duration) -> None:
        """Let time pass, with everything that falls due in it happening at its moment."""
        await self.clock.advance(seconds(duration))

    async def finish(self, limit: Duration = FINISH_S_MAX) -> None:
        """Let time pass until no message is under way; runs that wait for an event without a timeout stay waiting.

        Raise `HarnessError` when there are still messages after `limit` of virtual time.
        """
        end_ms = self.clock.now_ms() + math.ceil(seconds(limit, "limit") * 1000)
        await self.settle()
        while self._dispatcher.pending:
            wait_s = self.clock.next_deadline_s
            if wait_s is None:
                raise HarnessError(f"{self._dispatcher.pending} messages are under way, and nothing is due")
            if self.clock.now_ms() + wait_s * 1000 > end_ms:
                raise HarnessError(f"{self._dispatcher.pending} messages are under way after {limit} of virtual time")
            await self.clock.advance(wait_s)

    @property
    def now(self) -> datetime:
        """What time it is."""
        return datetime.fromtimestamp(self.clock.now_ms() / 1000, UTC)

    # ---- looking

    @property
    def runs(self) -> list[Run]:
        """All runs with their steps, in the order in which they began."""
        found = [_at_once(self._runs.get(run_id)) for run_id in self._watched.run_ids]
        return [run for run in found if run is not None]

    async def run(self, published: Published | str, function: Function | str | None = None) -> Run:
        """Return the run with this id, or the run of an event; name the function when an event started several.

        Raise `HarnessError` when there is no such run; its text says what the deliveries were answered instead.
        """
        await self.settle()
        if isinstance(published, str):
            found = [run for run in self.runs if run.id == published]
        else:
            wanted = function.id if isinstance(function, Function) else function
            of_event = [run for run in self.runs if run.event_id == published.event_id]
            found = [run for run in of_event if wanted in (None, run.function_id)]
        if len(found) > 1:
            ids = ", ".join(sorted(repr(run.function_id) for run in found))
            raise HarnessError(f"the event started {ids}: say which one you mean")
        if not found:
            raise HarnessError(self._nothing_found(published))
        return found[0]

    @property
    def steps(self) -> list[RecordedStep]:
        """All steps of all runs: those with an outcome in the order of their ends, then those without."""
        return [
            RecordedStep(
                *(run.id, run.function_id, path_text(step.key), step.status, step.result, step.error),
                ran=self._calls[run.id, step.key],
            )
            for run in self.runs
            for step in run.steps
        ]

    @property
    def published(self) -> list[PublishedEvent]:
        """The events that were published, by the test and from inside functions; repetitions are not among them."""
        return list(self._dispatcher.published)

    def _nothing_found(self, published: Published | str) -> str:
        if isinstance(published, str):
            what = f"there is no run {published!r}"
        else:
            what = f"event {published.event_id} started no such run"
        functions = ", ".join(sorted({run.function_id for run in self.runs})) or "none"
        said = "".join(f"; {refusal}" for refusal in self._dispatcher.refusals[-REFUSALS_SHOWN_MAX:])
        return f"{what}; runs there are of: {functions}{said}"

    # ---- what functions see

    def _under_watch(self, function: Function) -> Function:
        on_failure = None if function.on_failure is None else self._handler(function.id, function.on_failure)
        return replace(function, handler=self._handler(function.id, function.handler), on_failure=on_failure)

    def _handler(self, function_id: str, handler: Handler) -> Handler:
        async def watched(event: Any, context: Context) -> Any:
            with self._movement.activity(f"function {function_id!r}", context.run_id):
                return await handler(event, WatchedContext(context, self._movement, self._called))

        watched.__annotations__ = {"return": codec_of(handler).annotation}
        return watched

    def _called(self, context: Context, key: str, call: Callable[..., Any]) -> Callable[..., Any]:
        """Return a callable to run as a step: its stub or itself, counted, with the same declared result."""
        try:
            annotation = codec_of(call).annotation
        except NotSerializable:
            return call  # it will not be called: the engine says why

        async def called(*args: Any, **kwargs: Any) -> Any:
            step = current.get()
            assert step is not None, "it is called as a step"
            path = step.path
            self._calls[context.run_id, path] += 1
            stub = self._stubs.get(path_text(path), self._stubs.get(key))
            with self._movement.activity(f"step {path_text(path)!r} of {context.function_id!r}", context.run_id):
                return await self._movement.call(stub or call, args, kwargs)

        called.__annotations__ = {"return": annotation}
        return called

    def _ending(self) -> Ending:
        runs = [
            RunEnd(
                *(run.function_id, run.status, _without_ids(run.event), _without_ids(run.result)),
                tuple(sorted(f"{path_text(step.key)}: {step.status}" for step in run.steps if step.finished_at)),
            )
            for run in self.runs
        ]
        repeated = [path_text(path) or "the result" for (_, path), count in self._watched.recorded.items() if count > 1]
        return Ending(tuple(runs), tuple(_without_ids(each.event) for each in self.published), tuple(repeated))


class WatchedContext(Context):
    """A context whose callers count as resting while they wait for it."""

    def __init__(
        self,
        context: Context,
        movement: Movement,
        called: Callable[[Context, str, Callable[..., Any]], Callable[..., Any]],
    ) -> None:
        vars(self).update(vars(context))
        self._movement = movement
        self._called = called

    async def execute(self, key: str, call: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:  # pyright: ignore
        with self._movement.resting():
            return await super().execute(key, self._called(self, key, call), *args, **kwargs)

    async def sleep(self, key: str, duration: Duration) -> None:
        with self._movement.resting():
            await super().sleep(key, duration)

    async def sleep_until(self, key: str, when: datetime) -> None:
        with self._movement.resting():
            await super().sleep_until(key, when)

    async def publish(self, key: str, event: object) -> Published:
        with self._movement.resting():
            return await super().publish(key, event)

    async def wait_any(
        self,
        key: str,
        *event_classes: type[BaseModel],
        where: Mapping[str, object] | None = None,
        timeout: Duration | None = None,
    ) -> BaseModel | None:
        with self._movement.resting():
            return await super().wait_any(key, *event_classes, where=where, timeout=timeout)

    async def invoke(self, key: str, function: Function, event: object) -> Any:
        with self._movement.resting():
            return await super().invoke(key, function, event)


def _without_ids(value: object) -> str:
    """Return a value as text that is the same in every pass: ids are drawn anew, here as anywhere."""
    return DRAWN_ID.sub(r"\1_…", repr(value))


def _at_once(coroutine: Coroutine[Any, Any, T]) -> T:
    """Return what a coroutine returns that never waits for anything, as those of a store in memory."""
    try:
        coroutine.send(None)
    except StopIteration as done:
        return cast(T, done.value)
    coroutine.close()
    raise AssertionError("a store in memory never waits")
