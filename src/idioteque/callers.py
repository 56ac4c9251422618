"""What a plain callable, in its thread, asks of the loop: it waits there for the answer, or is told that it is over."""

from __future__ import annotations

import asyncio
import concurrent.futures
import threading
from collections.abc import Awaitable, Callable, Coroutine
from contextvars import ContextVar
from typing import Any, Protocol, TypeVar

from idioteque.errors import NonRetryableError, PassOver
from idioteque.threads import step_threads

LOOP_CHECK_S = 1.0
"""How often a thread that waits looks whether its loop was closed meanwhile, and will never answer."""
REFUSALS_MAX = 100
REFUSAL_PAUSE_S = 1.0
"""What a thread that catches every refusal and asks again has to wait from then on, since nothing can end it."""

T = TypeVar("T")


class Host(Protocol):
    """What a plain callable runs under: it is told, on the loop, when the thread waits for it and when no longer."""

    def rests(self) -> None: ...
    def goes_on(self) -> None: ...
    def in_thread(self, call: Callable[..., Any]) -> Callable[..., Any]: ...


host_here: ContextVar[Host | None] = ContextVar("idioteque-host", default=None)


async def contained(body: Callable[[], Awaitable[object]], host: Host) -> object:
    """Run a function under a host; nothing that it raises ends the process."""
    host_here.set(host)
    try:
        return await body()
    except SystemExit as error:  # asyncio would end the whole process
        raise RuntimeError(f"the function called sys.exit({error.code!r})") from error


class Caller:
    """One plain callable in its thread, seen from the loop.

    It rests while anything that it asked for is not answered. Once `close`d, whatever it waits for and whatever it
    asks for later raises `PassOver` in its thread.
    """

    def __init__(self, host: Host | None) -> None:
        self.loop = asyncio.get_running_loop()
        self._host = host
        self._asking: set[asyncio.Task[Any]] = set()
        self._is_over = False
        self._refusals = 0

    @property
    def is_resting(self) -> bool:
        """Whether it waits for an answer."""
        return bool(self._asking)

    def ask(self, operation: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Run an operation on the loop and return its result; called in the thread, which waits."""
        if _running_loop() is self.loop:
            raise NonRetryableError("a SyncContext was used on the event loop; it is for plain functions and steps")
        if self._is_over:
            raise self._refusal()
        step_threads().step_aside()
        coroutine = self._answer(operation)
        try:
            answer = asyncio.run_coroutine_threadsafe(coroutine, self.loop)
        except RuntimeError:  # the loop is closed
            coroutine.close()
            raise self._refusal() from None
        while not answer.done():
            concurrent.futures.wait([answer], LOOP_CHECK_S)
            if self.loop.is_closed() and not answer.done():
                raise self._refusal()
        if answer.cancelled():
            raise self._refusal()
        return answer.result()

    async def _answer(self, operation: Callable[[], Coroutine[Any, Any, T]]) -> T:
        if self._is_over:
            raise self._refusal()
        task = asyncio.current_task()
        assert task is not None
        if not self._asking and self._host is not None:
            self._host.rests()
        self._asking.add(task)
        try:
            return await operation()
        finally:
            self._asking.discard(task)
            if not self._asking and not self._is_over and self._host is not None:
                self._host.goes_on()

    def close(self) -> None:
        """Answer nothing more."""
        self._is_over = True
        for task in list(self._asking):
            task.cancel()

    def _refusal(self) -> PassOver:
        self._refusals += 1
        if self._refusals > REFUSALS_MAX and _running_loop() is None:
            threading.Event().wait(REFUSAL_PAUSE_S)
        return PassOver("what this thread belongs to has ended")


caller_here: ContextVar[Caller | None] = ContextVar("idioteque-caller", default=None)
"""The caller in whose thread the code at hand runs, or at whose request."""


def _running_loop() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None
