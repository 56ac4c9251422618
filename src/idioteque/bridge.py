"""The one place where sync meets async: plain callables go to threads, sync callers come to a background loop."""

from __future__ import annotations

import asyncio
import contextvars
import functools
import inspect
import os
import threading
import types
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from idioteque.callers import Caller, caller_here, host_here
from idioteque.threads import Threads, step_threads

T = TypeVar("T")


def is_async(call: Callable[..., object]) -> bool:
    """Whether calling it gives something to await: an async function, method, partial, or object with such a call."""
    while isinstance(call, functools.partial):
        call = call.func
    if type(call) is types.FunctionType and call.__code__.co_flags & inspect.CO_COROUTINE:
        return True
    return inspect.iscoroutinefunction(call) or inspect.iscoroutinefunction(getattr(call, "__call__", None))  # noqa: B004


async def call_anywhere(call: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Await an async callable here, run a plain one in a thread that sees the same context variables.

    What a plain callable returns is awaited when it can be: a lambda around an async call is one.
    """
    if is_async(call):
        return await call(*args, **kwargs)
    caller = Caller(host_here.get())
    token = caller_here.set(caller)
    try:
        result = await in_thread(step_threads(), functools.partial(call, *args, **kwargs))
        return await result if inspect.isawaitable(result) else result
    finally:
        caller.close()  # whatever its thread still asks for, nobody waits for it any more
        caller_here.reset(token)


def in_thread(threads: Threads, call: Callable[[], Any]) -> asyncio.Future[Any]:
    """Run a plain callable in one of these threads, with this context's variables; once cancelled it does not start."""
    context = contextvars.copy_context()
    return asyncio.get_running_loop().run_in_executor(threads, lambda: context.run(_called, call))


def _called(call: Callable[[], Any]) -> Any:
    try:
        return call()
    except StopIteration as error:  # no future can carry it, and whoever awaits it would wait for ever
        raise RuntimeError("a plain callable raised StopIteration") from error


def run_sync(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine to its end on this process's background loop and return its result.

    Raise `RuntimeError` when called from that loop itself, which would wait for itself.
    """
    loop = _background_loop(os.getpid())
    try:
        running = asyncio.get_running_loop()
    except RuntimeError:
        running = None
    if running is loop:
        coroutine.close()
        raise RuntimeError("a sync call was made on the background loop; await the async one there")
    return asyncio.run_coroutine_threadsafe(coroutine, loop).result()


async def run_in_background(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine on this process's background loop, for a caller whose own loop will not live long."""
    return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(coroutine, _background_loop(os.getpid())))


_starting = threading.Lock()


def _background_loop(process_id: int) -> asyncio.AbstractEventLoop:
    with _starting:
        return _started_loop(process_id)


@functools.lru_cache(maxsize=1)
def _started_loop(_process_id: int) -> asyncio.AbstractEventLoop:
    """Start the loop of this process; a forked child has another id and starts its own."""
    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, name="idioteque-background", daemon=True).start()
    return loop
