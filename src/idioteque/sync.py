"""Durable functions written as plain `def`: each runs in a thread of its own and waits there for what it asks for."""

from __future__ import annotations

import asyncio
import functools
import inspect
import logging
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from datetime import datetime
from typing import Any, ParamSpec, TypeVar, overload

from pydantic import BaseModel

from idioteque.bridge import in_thread, is_async
from idioteque.callers import Caller, caller_here, host_here
from idioteque.context import Context
from idioteque.durations import Duration
from idioteque.errors import NonRetryableError
from idioteque.function import Function, Handler, Published
from idioteque.retry import Retry
from idioteque.threads import handler_threads

E = TypeVar("E", bound=BaseModel)
P = ParamSpec("P")
T = TypeVar("T")


class SyncContext:
    """A run, seen from inside a plain function: a `Context` whose operations are called and not awaited.

    A call waits in its thread until it is answered. When nothing can move in this delivery any more, it raises
    `PassOver` instead, which is no `Exception`: let it pass, so that `finally` blocks run and the thread is let go. The
    function runs again from its start later, and each call gives what it gave before.
    """

    def __init__(self, context: Context, caller: Caller) -> None:
        self._context = context
        self._caller = caller
        self.event_id = context.event_id
        """The event that started this run."""
        self.run_id = context.run_id
        self.function_id = context.function_id
        self.attempt = context.attempt
        """1 for the function's first attempt, one more after each failure that is tried again."""
        self.log: logging.LoggerAdapter[Any] = context.log
        """A logger that names the run in every line."""

    @overload
    def execute(
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
    def execute(
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

    def execute(self, key: str, call: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Run a step, or return what it returned when it ran before; see `Context.execute`.

        A plain callable may itself use this context; an async one, which runs on the event loop, may not.
        """
        return self._ask(self._context.execute, key, call, *args, **kwargs)

    def sleep(self, key: str, duration: Duration) -> None:
        """Go on after a while; see `Context.sleep`. The thread does not wait so long: it is let go."""
        self._ask(self._context.sleep, key, duration)

    def sleep_until(self, key: str, when: datetime) -> None:
        """Go on at a time, which needs a time zone; at once if it is past."""
        self._ask(self._context.sleep_until, key, when)

    def publish(self, key: str, event: object) -> Published:
        """Publish an event as a step; see `Context.publish`."""
        return self._ask(self._context.publish, key, event)

    def wait_for_event(
        self,
        key: str,
        event_class: type[E],
        *,
        where: Mapping[str, object] | None = None,
        timeout: Duration | None = None,
    ) -> E | None:
        """Wait for an event; return it, or None after the timeout. See `Context.wait_for_event`."""
        return self._ask(self._context.wait_for_event, key, event_class, where=where, timeout=timeout)

    def wait_any(
        self,
        key: str,
        *event_classes: type[BaseModel],
        where: Mapping[str, object] | None = None,
        timeout: Duration | None = None,
    ) -> BaseModel | None:
        """Wait for the first event of any of several classes; see `wait_for_event`."""
        return self._ask(self._context.wait_any, key, *event_classes, where=where, timeout=timeout)

    def invoke(self, key: str, function: Function, event: object) -> Any:
        """Run another function on an event and return its result; see `Context.invoke`."""
        return self._ask(self._context.invoke, key, function, event)

    @property
    def idempotency_key(self) -> str:
        """A text that is the same in every attempt of the current step, and different for every other step."""
        return self._context.idempotency_key

    @property
    def fencing_token(self) -> int:
        """A number that grows with every delivery that takes up the run: a resource can refuse the older one."""
        return self._context.fencing_token

    def _ask(self, operation: Callable[P, Coroutine[Any, Any, T]], *args: P.args, **kwargs: P.kwargs) -> T:
        caller = caller_here.get() or self._caller  # a thread that the function started itself has no context variables
        return caller.ask(functools.partial(operation, *args, **kwargs))


def awaitable(handler: Callable[[Any, Any], Any]) -> Handler:
    """Return a handler as one to await: an async one as it is, a plain one with a thread and a `SyncContext`."""
    if is_async(handler):
        return handler

    @functools.wraps(handler, updated=())
    async def in_its_thread(event: Any, context: Context) -> Any:
        caller = Caller(host_here.get())
        caller_here.set(caller)
        result = await _called(caller, functools.partial(handler, event, SyncContext(context, caller)))
        if inspect.iscoroutine(result):
            result.close()
            raise NonRetryableError("a plain function returned a coroutine; write `async def` and await it there")
        return result

    return in_its_thread


async def _called(caller: Caller, call: Callable[[], T]) -> T:
    """Run a plain function in a thread of its own; when this is cancelled, return once the thread has ended."""
    host = host_here.get()
    if host is None:
        return await _to_its_end(caller, call)
    host.goes_on()
    try:
        return await _to_its_end(caller, host.in_thread(call))
    finally:
        if not caller.is_resting:
            host.rests()


async def _to_its_end(caller: Caller, call: Callable[[], T]) -> T:
    has_begun = False

    def begun() -> T:
        nonlocal has_begun
        has_begun = True
        return call()

    running = in_thread(handler_threads(), begun)
    try:
        return await asyncio.shield(running)
    except asyncio.CancelledError:
        caller.close()
        if not has_begun:
            running.cancel()
        await asyncio.wait({running})  # a thread cannot be cancelled: it is let go at its next call
        if not running.cancelled():
            running.exception()  # seen: it decides nothing any more
        raise
    finally:
        caller.close()
