"""A worker: the events it knows, its functions, the store its runs are kept in, and what carries its messages."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Mapping, Sequence
from datetime import datetime
from inspect import isasyncgenfunction, isgeneratorfunction
from typing import Any, Generic, Protocol, TypedDict, TypeVar, Unpack, overload

from pydantic import BaseModel

from idioteque.bridge import run_sync
from idioteque.clock import Clock, SystemClock
from idioteque.context import Context
from idioteque.controls import CancelOn, Key, Limit, Rate
from idioteque.controls import controls as check
from idioteque.cron import parse_cron
from idioteque.dispatcher import Dispatcher, EventEnvelope, Outgoing
from idioteque.durations import Duration, seconds
from idioteque.engine import Engine
from idioteque.errors import ConfigurationError, InvalidValue
from idioteque.events import EventsSchema, On, Trigger
from idioteque.function import NO_EVENT, Function, Handler, Published
from idioteque.ids import derived_id, is_id, new_id
from idioteque.metrics import SILENT, Metrics
from idioteque.mount import Mount, Verifier
from idioteque.retry import Retry
from idioteque.runs import Runs
from idioteque.store import Store
from idioteque.stores import open_store
from idioteque.sync import SyncContext, awaitable
from idioteque.ticks import Tick
from idioteque.tracing import span
from idioteque.values import NotSerializable, codec_of

RETENTION = "30d"
FUNCTION_ID_LENGTH_MAX = 100  # what is derived from it must be an id as well

E_ = TypeVar("E_")
R = TypeVar("R")
FailureHandler = Handler | Callable[[Any, SyncContext], Any]


class Options(TypedDict, total=False):
    """What a function may ask for, see `Worker.function`."""

    timeout: Duration | None
    concurrency: Limit | None
    rate: Rate | None
    debounce: Duration | None
    singleton: Key | None
    idempotency: Key | None
    cancel_on: CancelOn


class DurableFunction(Function, Generic[E_, R]):
    """What the decorator leaves in place of a function: mount it, or call its handler in a unit test."""

    async def __call__(self, event: E_, ctx: Context) -> R:
        """Run the handler as it was written, with whatever context is given."""
        result: R = await self.handler(event, ctx)
        return result


class Declaration(Protocol):
    """What `Worker.function` returns: the decorator of an async or a plain handler."""

    @overload
    def __call__(self, handler: Callable[[E_, Context], Coroutine[Any, Any, R]], /) -> DurableFunction[E_, R]: ...
    @overload
    def __call__(self, handler: Callable[[E_, SyncContext], R], /) -> DurableFunction[E_, R]: ...


class Worker:
    """Declares functions, publishes events, and looks at runs.

    `events_schema` is a pydantic model or a union of them, told apart by their `type`. `store` is a `Store` or a URL:
    `memory:`, `sqlite:///runs.db`. Nothing is opened or sent before it is needed. A run that has ended is kept for
    `retention`, then deleted, by a delivery that comes later; None keeps them all. `metrics` is told what happens to
    runs and steps, see `idioteque.metrics`.
    """

    def __init__(
        self,
        *,
        events_schema: object,
        store: Store | str,
        dispatcher: Dispatcher,
        clock: Clock | None = None,
        retention: Duration | None = RETENTION,
        metrics: Metrics = SILENT,
    ) -> None:
        self.clock = clock or SystemClock()
        self.retention_s = None if retention is None else seconds(retention, "retention")
        """How long a run is kept after its end; None keeps it for ever. Unfinished runs are always kept."""
        self.schema = EventsSchema(events_schema)
        self._events_schema = events_schema
        self.store = open_store(store, self.clock) if isinstance(store, str) else store
        self.dispatcher = dispatcher
        self.metrics = metrics
        self._functions: dict[str, Function] = {}

    # ---- functions

    def function(
        self,
        id: str,  # noqa: A002 - the surface's name
        *,
        on: On | None = None,
        cron: str | None = None,
        retry: Retry | None = None,
        on_failure: FailureHandler | None = None,
        **controls: Unpack[Options],
    ) -> Declaration:
        """Declare the decorated `async def handler(event, ctx)` as a durable function.

        A plain `def handler(event, ctx)` gets a `SyncContext` and runs in a thread of its own.

        `id` names it for good: runs are stored under it. `on` is a type name, an event class, a list of either, or a
        predicate of the event. In its place, `cron="CRON_TZ=Europe/Paris 0 4 * * *"` starts it by a schedule, which
        `QStashDispatcher.sync_schedules` makes; its handler is given a `Tick`.

        `retry` governs the function's own exceptions; an uncaught `StepFailed` ends the run.

        `timeout` ends a run that has not ended by itself. `concurrency=Limit(n, key=)` and `rate=Rate(n, per=, key=)`
        bound its deliveries. `debounce` starts it only when no further event has come for so long, with the last one.
        `singleton="field"`: while a run for a value is at work, another event starts none. `idempotency="field"`: one
        run for each value, as long as that run is kept. `cancel_on=[(EventClass, {"their_field": "our_field"})]` names
        what cancels it.
        `on_failure`, a `handler(failure, ctx)` of either kind, is run when the run has failed, as a run of its own.
        """

        def declare(handler: Callable[[E_, Any], Any]) -> DurableFunction[E_, Any]:
            return self.create_function(id, on, handler, cron=cron, retry=retry, on_failure=on_failure, **controls)

        return declare

    @overload
    def create_function(
        self,
        id: str,
        on: On | None,
        handler: Callable[[E_, Context], Coroutine[Any, Any, R]],
        *,
        cron: str | None = None,
        retry: Retry | None = None,
        on_failure: FailureHandler | None = None,
        **controls: Unpack[Options],
    ) -> DurableFunction[E_, R]: ...

    @overload
    def create_function(
        self,
        id: str,
        on: On | None,
        handler: Callable[[E_, SyncContext], R],
        *,
        cron: str | None = None,
        retry: Retry | None = None,
        on_failure: FailureHandler | None = None,
        **controls: Unpack[Options],
    ) -> DurableFunction[E_, R]: ...

    def create_function(
        self,
        id: str,  # noqa: A002 - the surface's name
        on: On | None,
        handler: Callable[[E_, Any], Any],
        *,
        cron: str | None = None,
        retry: Retry | None = None,
        on_failure: FailureHandler | None = None,
        **controls: Unpack[Options],
    ) -> DurableFunction[E_, Any]:
        """Declare a function without a decorator; see `function`."""
        if id in self._functions:
            raise ConfigurationError(f"there is a function {id!r} already; every function needs an id of its own")
        for each in (handler, on_failure):
            if each is not None and (not callable(each) or isgeneratorfunction(each) or isasyncgenfunction(each)):
                raise ConfigurationError(f"function {id!r} must be a `def` or an `async def` that does not yield")
        if len(id) > FUNCTION_ID_LENGTH_MAX:
            raise ConfigurationError(f"function id {id!r} is longer than {FUNCTION_ID_LENGTH_MAX} characters")
        trigger, classes = self._trigger(id, on, cron)
        try:
            codec = codec_of(handler)
        except NotSerializable as error:
            raise ConfigurationError(f"function {id!r}: {error}") from error
        checked = check(**controls)
        checked.check_fields(id, classes)
        if cron is not None and checked.debounce_s is not None:
            raise ConfigurationError(f"function {id!r}: debounce= is for events; a schedule's times are apart already")
        function: DurableFunction[E_, Any] = DurableFunction(
            *(id, trigger, awaitable(handler), retry or Retry(), codec),
            *(None if on_failure is None else awaitable(on_failure), checked, cron),
        )
        self._functions[id] = function
        return function

    def _trigger(self, function_id: str, on: On | None, cron: str | None) -> tuple[Trigger, Sequence[type[BaseModel]]]:
        """Return what starts a function, and the classes of what it is given."""
        if (on is None) == (cron is None):
            raise ConfigurationError(f"function {function_id!r} needs either on= or cron=, and not both")
        if on is None:
            try:
                parse_cron(cron or "")
            except InvalidValue as error:
                raise ConfigurationError(f"function {function_id!r}: {error}") from error
            return NO_EVENT, (Tick,)
        trigger = Trigger(on)
        trigger.check_against(self.schema, function_id)
        return trigger, trigger.classes(self.schema)

    @property
    def functions(self) -> Sequence[Function]:
        """The functions that were declared, in that order."""
        return tuple(self._functions.values())

    # ---- events

    async def publish(
        self,
        event: object,
        *,
        retries: int | None = None,
        delay: Duration | None = None,
        not_before: datetime | None = None,
        deduplication_id: str | None = None,
    ) -> Published:
        """Hand an event to the dispatcher; when this returns, it is stored and will start its functions.

        `event` is an event of the schema or the plain data of one. `retries` is how often a delivery is tried again,
        for this event and everything its functions send; None takes the dispatcher's. It starts after `delay`, or at
        `not_before`, which needs a time zone. Whatever has the same `deduplication_id` is the same event: published
        again, it starts nothing.

        Raise `EventRejected` when it does not fit the schema, `DispatchError` when it was not accepted.
        """
        event_id, message = self._message(event, retries, self._delay_s(delay, not_before), deduplication_id)
        with span("idioteque publish", "producer", {"idioteque.event_id": event_id}):
            return Published(event_id, (await self.dispatcher.send([message]))[0])

    async def publish_many(self, events: Sequence[object], *, retries: int | None = None) -> list[Published]:
        """Hand over several events in one request; nothing is sent when one of them does not fit the schema.

        Raise `BatchDispatchError` when some were refused: it has the indexes of these and the ids of the others.
        """
        prepared = [self._message(event, retries, 0.0, None) for event in events]
        if not prepared:
            return []
        with span("idioteque publish", "producer", {"idioteque.events": len(prepared)}):
            message_ids = await self.dispatcher.send([message for _, message in prepared])
        return [Published(event_id, id_) for (event_id, _), id_ in zip(prepared, message_ids, strict=True)]

    def publish_sync(
        self,
        event: object,
        *,
        retries: int | None = None,
        delay: Duration | None = None,
        not_before: datetime | None = None,
        deduplication_id: str | None = None,
    ) -> Published:
        """Publish from code that is not async; the same options and errors as `publish`."""
        return run_sync(
            self.publish(event, retries=retries, delay=delay, not_before=not_before, deduplication_id=deduplication_id)
        )

    def _message(
        self, event: object, retries: int | None, delay_s: float, deduplication_id: str | None
    ) -> tuple[str, Outgoing]:
        if retries is not None and not _is_count(retries):
            raise InvalidValue(f"retries must be a whole number of zero or more, not {retries!r}")
        body = self.schema.encode(event)
        event_id = self._event_id(deduplication_id)
        envelope = EventEnvelope(event_id, body, retries)
        return event_id, Outgoing(envelope.encode(), derived_id("dd", "event", event_id), delay_s, retries)

    def _event_id(self, deduplication_id: str | None) -> str:
        if deduplication_id is None:
            return new_id("evt", self.clock.now_ms())
        if not deduplication_id:
            raise InvalidValue("deduplication_id is empty: all events that have none would be one")
        return deduplication_id if is_id(deduplication_id) else derived_id("evt", deduplication_id)

    def _delay_s(self, delay: Duration | None, not_before: datetime | None) -> float:
        if not_before is not None:
            if delay is not None:
                raise InvalidValue("delay and not_before are two answers to one question; give one of them")
            if not_before.tzinfo is None:
                raise InvalidValue(f"not_before {not_before!r} needs a time zone")
            return max(0.0, not_before.timestamp() - self.clock.now_ms() / 1000)
        return 0.0 if delay is None else seconds(delay, "delay")

    # ---- runs and options

    @property
    def runs(self) -> Runs:
        """The runs in this worker's store."""
        return Runs(self.store, self.dispatcher, self._functions, self.schema, self.clock, self.metrics)

    @property
    def options(self) -> Mapping[str, Any]:
        """What the worker was made with and was configured to since."""
        return {
            "events_schema": self._events_schema,
            "store": self.store,
            "dispatcher": self.dispatcher,
            "clock": self.clock,
            "metrics": self.metrics,
        }

    def configure(
        self,
        *,
        events_schema: object = None,
        store: Store | str | None = None,
        dispatcher: Dispatcher | None = None,
        clock: Clock | None = None,
        metrics: Metrics | None = None,
    ) -> None:
        """Change options, before anything is mounted: what was mounted keeps what it was mounted with."""
        if clock is not None:
            self.clock = clock
        if events_schema is not None:
            self.schema, self._events_schema = EventsSchema(events_schema), events_schema
        if store is not None:
            self.store = open_store(store, self.clock) if isinstance(store, str) else store
        if dispatcher is not None:
            self.dispatcher = dispatcher
        if metrics is not None:
            self.metrics = metrics

    async def close(self) -> None:
        """Let go of the store and the connections."""
        await self.dispatcher.close()
        await self.store.close()


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def build_mount(
    worker: Worker,
    dispatcher: Dispatcher,
    functions: Sequence[Function] | None,
    verifier: Verifier | None,
    clock: Clock,
    mode: str = "inline",
    deadline: Duration | None = None,
) -> Mount:
    """Put an engine for some of a worker's functions (None: all that are declared by now) behind an endpoint."""
    if mode not in ("inline", "isolated"):
        raise ConfigurationError(f"mode must be 'inline' or 'isolated', not {mode!r}")
    chosen = worker.functions if functions is None else tuple(functions)
    if not chosen:
        raise ConfigurationError("nothing to mount: declare the functions first, or name them with functions=[…]")
    engine = Engine(
        chosen,
        schema=worker.schema,
        store=worker.store,
        dispatcher=dispatcher,
        clock=clock,
        isolated=mode == "isolated",
        retention_s=worker.retention_s,
        metrics=worker.metrics,
    )
    deadline_s = None if deadline is None else seconds(deadline, "deadline")
    return Mount(engine, verifier, clock=clock, metrics=worker.metrics, deadline_s=deadline_s)
