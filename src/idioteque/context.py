"""What a running function is given: its identity, and the operations that make its work durable."""

from __future__ import annotations

import functools
import json
import logging
import math
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol, TypeVar, cast, overload

from pydantic import BaseModel
from pydantic_core import to_jsonable_python

from idioteque.clock import Clock
from idioteque.durations import Duration, seconds
from idioteque.errors import InvalidValue, NonRetryableError
from idioteque.events import names_of, type_of
from idioteque.function import Function, Published
from idioteque.retry import Retry
from idioteque.store import NEVER_MS

E = TypeVar("E", bound=BaseModel)
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class StepOptions:
    """How a step is run: `retry` None takes the default policy, `timeout` bounds each attempt."""

    retry: Retry | None = None
    timeout: Duration | None = None
    at_most_once: bool = False
    isolate: bool = False


USUAL = StepOptions()


class Steps(Protocol):
    """The engine's side of a context."""

    async def execute(
        self, key: str, call: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], options: StepOptions
    ) -> Any: ...

    async def sleep(self, key: str, due_at_ms: int) -> None: ...

    async def publish(self, key: str, event: object) -> Published: ...

    async def wait(
        self, key: str, types: Sequence[str], where: Mapping[str, object], until_ms: int
    ) -> bytes | None: ...

    async def invoke(self, key: str, function_id: str, event: object) -> bytes: ...

    @property
    def idempotency_key(self) -> str: ...

    @property
    def fencing_token(self) -> int: ...


class Context:
    """A run, seen from inside the function.

    Code between steps may run any number of times, so it must be deterministic: whatever reads the clock, draws
    chance or touches the world belongs into `execute`.
    """

    def __init__(
        self,
        steps: Steps,
        clock: Clock,
        *,
        event_id: str,
        run_id: str,
        function_id: str,
        attempt: int,
        log: Callable[[], logging.LoggerAdapter[Any]],
    ) -> None:
        self._steps = steps
        self._clock = clock
        self.event_id = event_id
        """The event that started this run."""
        self.run_id = run_id
        self.function_id = function_id
        self.attempt = attempt
        """1 for the function's first attempt, one more after each failure that is tried again."""
        self._make_log = log

    @functools.cached_property
    def log(self) -> logging.LoggerAdapter[Any]:
        """A logger that names the run in every line; the latest lines are kept with the run."""
        return self._make_log()

    @overload
    async def execute(
        self,
        key: str,
        call: Callable[..., Awaitable[T]],
        *args: Any,
        retry: Retry | None = None,
        timeout: Duration | None = None,
        at_most_once: bool = False,
        isolate: bool = False,
        **kwargs: Any,
    ) -> T: ...

    @overload
    async def execute(
        self,
        key: str,
        call: Callable[..., T],
        *args: Any,
        retry: Retry | None = None,
        timeout: Duration | None = None,
        at_most_once: bool = False,
        isolate: bool = False,
        **kwargs: Any,
    ) -> T: ...

    async def execute(
        self,
        key: str,
        call: Callable[..., Any],
        *args: Any,
        retry: Retry | None = None,
        timeout: Duration | None = None,
        at_most_once: bool = False,
        isolate: bool = False,
        **kwargs: Any,
    ) -> Any:
        """Run a step, or return what it returned when it ran before.

        `call` is an async or a plain callable (the latter runs in a thread); it gets `args` and `kwargs`, and may
        itself call `execute`, whose keys then lie inside this one. The result is stored as JSON and comes back as the
        callable's annotated return type. `key` must be unique within its scope and stay the same from run to run.
        Each attempt may take `timeout`; after a failure it is tried again as `retry` says. With `at_most_once` the
        callable starts at most once, and an end that was not recorded raises `StepInterrupted`. With `isolate` it gets
        a delivery of its own, with that one's whole time; the steps that it runs itself run there as well.

        Raise `StepFailed` once no attempt is left, `DuplicateStepKey` for a key used twice. An argument of the
        callable that is named like an option here goes through `functools.partial`.
        """
        if not callable(call):
            raise NonRetryableError(f"step {key!r} was given {call!r}; write ctx.execute(key, function, *arguments)")
        options = USUAL
        if retry is not None or timeout is not None or at_most_once or isolate:
            options = StepOptions(retry, timeout, at_most_once, isolate)
        return await self._steps.execute(key, call, args, kwargs, options)

    async def sleep(self, key: str, duration: Duration) -> None:
        """Go on after a while: seconds as a number, a `timedelta`, or text like `"90s"`, `"1h30m"`, `"3d"`.

        Nothing runs meanwhile, and no process has to live so long: a delayed message wakes the run. The time counts
        from when the function first comes here.
        """
        await self._steps.sleep(key, self._clock.now_ms() + math.ceil(seconds(duration) * 1000))

    async def sleep_until(self, key: str, when: datetime) -> None:
        """Go on at a time, which needs a time zone; at once if it is past."""
        if when.tzinfo is None:
            raise InvalidValue(f"when {when!r} needs a time zone")
        await self._steps.sleep(key, math.ceil(when.timestamp() * 1000))

    async def publish(self, key: str, event: object) -> Published:
        """Publish an event as a step: it is one event, however often the step has to run.

        Raise `EventRejected` when it does not fit the schema.
        """
        return await self._steps.publish(key, event)

    async def wait_for_event(
        self,
        key: str,
        event_class: type[E],
        *,
        where: Mapping[str, object] | None = None,
        timeout: Duration | None = None,
    ) -> E | None:
        """Wait for an event of a class whose fields equal those of `where`; return it, or None after the timeout.

        An event counts if it was accepted after this run began, at most a day ago, even before this call. It wakes
        every run that waits for it, and one run takes it once. Nothing runs meanwhile.
        """
        return cast(E | None, await self.wait_any(key, event_class, where=where, timeout=timeout))

    async def wait_any(
        self,
        key: str,
        *event_classes: type[BaseModel],
        where: Mapping[str, object] | None = None,
        timeout: Duration | None = None,
    ) -> BaseModel | None:
        """Wait for the first event of any of several classes; see `wait_for_event`."""
        by_name = {name: event_class for event_class in event_classes for name in names_of(event_class)}
        until_ms = NEVER_MS if timeout is None else self._clock.now_ms() + math.ceil(seconds(timeout, "timeout") * 1000)
        event = await self._steps.wait(key, list(by_name), _condition(where or {}, event_classes), until_ms)
        if event is None or event == b"null":
            return None
        return by_name[str(type_of(json.loads(event)))].model_validate_json(event, by_alias=True, by_name=True)

    async def invoke(self, key: str, function: Function, event: object) -> Any:
        """Run another function on an event, as a run of its own, and return its result.

        Raise `StepFailed` when that run fails or is cancelled, `EventRejected` when the event does not fit the schema,
        `InvalidValue` for a function that a schedule starts.
        """
        if function.cron is not None:
            raise InvalidValue(f"function {function.id!r} has cron=: its schedule starts it, and nothing else can")
        return function.codec.decode(await self._steps.invoke(key, function.id, event))

    @property
    def idempotency_key(self) -> str:
        """A text that is the same in every attempt of the current step, and different for every other step."""
        return self._steps.idempotency_key

    @property
    def fencing_token(self) -> int:
        """A number that grows with every delivery that takes up the run: a resource can refuse the older one."""
        return self._steps.fencing_token


def _condition(where: Mapping[str, object], event_classes: Sequence[type[BaseModel]]) -> dict[str, object]:
    """Return a condition in JSON's values; raise `InvalidValue` for a field that no event of a class can have."""
    for event_class in event_classes:
        unknown = sorted(where.keys() - event_class.model_fields.keys())
        if unknown and event_class.model_config.get("extra") != "allow":
            raise InvalidValue(f"where= names {unknown[0]!r}, which is no field of {event_class.__name__}")
    return {name: to_jsonable_python(value) for name, value in where.items()}
