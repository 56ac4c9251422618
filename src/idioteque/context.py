"""What a running function is given: its identity, and the operations that make its work durable."""

from __future__ import annotations

import logging
import math
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any, ParamSpec, Protocol, TypeVar, overload

from idioteque.clock import Clock
from idioteque.durations import Duration, seconds
from idioteque.errors import InvalidValue
from idioteque.function import Published
from idioteque.retry import Retry

P = ParamSpec("P")
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class StepOptions:
    """How a step is run: `retry` None takes the default policy, `timeout` bounds each attempt."""

    retry: Retry | None = None
    timeout: Duration | None = None
    at_most_once: bool = False


class Steps(Protocol):
    """The engine's side of a context."""

    async def execute(
        self, key: str, call: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], options: StepOptions
    ) -> Any: ...

    async def sleep(self, key: str, due_at_ms: int) -> None: ...

    async def publish(self, key: str, event: object) -> Published: ...

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
        log: logging.LoggerAdapter[Any],
    ) -> None:
        self._steps = steps
        self._clock = clock
        self.event_id = event_id
        """The event that started this run."""
        self.run_id = run_id
        self.function_id = function_id
        self.attempt = attempt
        """1 for the function's first attempt, one more after each failure that is tried again."""
        self.log = log
        """A logger that names the run in every line."""

    @overload
    async def execute(
        self,
        key: str,
        call: Callable[..., Awaitable[T]],
        *args: Any,
        retry: Retry | None = None,
        timeout: Duration | None = None,
        at_most_once: bool = False,
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
        **kwargs: Any,
    ) -> Any:
        """Run a step, or return what it returned when it ran before.

        `call` is an async or a plain callable (the latter runs in a thread); it gets `args` and `kwargs`, and may
        itself call `execute`, whose keys then lie inside this one. The result is stored as JSON and comes back as the
        callable's annotated return type. `key` must be unique within its scope and stay the same from run to run.
        Each attempt may take `timeout`; after a failure it is tried again as `retry` says. With `at_most_once` the
        callable starts at most once, and an end that was not recorded raises `StepInterrupted`.

        Raise `StepFailed` once no attempt is left, `DuplicateStepKey` for a key used twice. An argument of the
        callable that is named like an option here goes through `functools.partial`.
        """
        return await self._steps.execute(key, call, args, kwargs, StepOptions(retry, timeout, at_most_once))

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

    @property
    def idempotency_key(self) -> str:
        """A text that is the same in every attempt of the current step, and different for every other step."""
        return self._steps.idempotency_key

    @property
    def fencing_token(self) -> int:
        """A number that grows with every delivery that takes up the run: a resource can refuse the older one."""
        return self._steps.fencing_token
