"""Calling anything from anywhere: plain callables in threads, async ones where they are."""

from __future__ import annotations

import asyncio
import contextvars
import functools
import threading
from collections.abc import Callable
from typing import Any

import pytest

from idioteque.bridge import call_anywhere, is_async

name: contextvars.ContextVar[str] = contextvars.ContextVar("name")


async def coroutine(value: str = "", *, more: str = "") -> str:
    return f"{threading.current_thread().name}:{value}{more}"


def plain(value: str = "", *, more: str = "") -> str:
    return f"{threading.current_thread().name}:{value}{more}"


class Both:
    async def __call__(self, value: str) -> str:
        return await coroutine(value)

    async def method(self, value: str) -> str:
        return await coroutine(value)

    def thread(self, value: str) -> str:
        return plain(value)


@pytest.mark.parametrize(
    "call",
    [
        coroutine,
        functools.partial(coroutine, more="+"),
        functools.partial(functools.partial(coroutine), more="+"),
        Both(),
        Both().method,
        functools.partial(Both().method),
    ],
)
async def test_what_is_async_runs_where_it_is_awaited(call: Callable[..., Any]) -> None:
    assert is_async(call)
    assert (await call_anywhere(call, ("x",), {})).startswith("MainThread:x")


@pytest.mark.parametrize("call", [plain, functools.partial(plain, more="+"), Both().thread])
async def test_what_is_plain_runs_in_a_thread(call: Callable[..., Any]) -> None:
    assert not is_async(call)
    assert (await call_anywhere(call, ("x",), {})).startswith("idioteque-step")


async def test_arguments_and_results_and_errors_pass_through() -> None:
    assert await call_anywhere(plain, ("a",), {"more": "b"}) != await call_anywhere(coroutine, ("a",), {"more": "b"})
    assert await call_anywhere(dict, (), {"a": 1}) == {"a": 1}
    with pytest.raises(ZeroDivisionError):
        await call_anywhere(lambda: 1 / 0, (), {})
    with pytest.raises(SystemExit):
        await call_anywhere(lambda: (_ for _ in ()).throw(SystemExit(1)), (), {})


async def test_a_plain_callable_that_gives_something_to_await_is_awaited() -> None:
    assert (await call_anywhere(lambda: coroutine("x"), (), {})) == "MainThread:x"


async def test_a_thread_sees_the_context_and_does_not_change_it() -> None:
    name.set("outer")

    def look() -> str:
        seen = name.get()
        name.set("inner")
        return seen

    assert await call_anywhere(look, (), {}) == "outer"
    assert name.get() == "outer"


async def test_threads_run_beside_one_another() -> None:
    met = threading.Barrier(8, timeout=10)
    await asyncio.gather(*(call_anywhere(met.wait, (), {}) for _ in range(8)))
    assert not met.broken


async def test_a_thread_that_nobody_waits_for_any_more_disturbs_nobody() -> None:
    leave = threading.Event()

    def stubborn() -> None:
        leave.wait(10)
        raise ValueError("too late")

    waiting = asyncio.create_task(call_anywhere(stubborn, (), {}))
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    leave.set()
    assert (await call_anywhere(plain, (), {})).startswith("idioteque-step")
