"""The system's clock, the manual one, and the scripted transport: what tests of everything else stand on."""

from __future__ import annotations

import asyncio
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from idioteque.clock import SystemClock
from idioteque.errors import ConnectFailed
from idioteque.testing import ManualClock, ScriptedTransport
from idioteque.transport import HttpRequest, HttpResponse


async def test_the_system_clock_is_that_of_the_host() -> None:
    clock = SystemClock()
    assert abs(clock.now_ms() - time.time() * 1000) < 1000
    begun = clock.monotonic_s()
    await clock.sleep(0.02)
    assert 0.019 < clock.monotonic_s() - begun < 1
    for seconds in (0, -1):
        await asyncio.wait_for(clock.sleep(seconds), 1)


async def test_time_stands_still_until_it_is_moved() -> None:
    clock = ManualClock(start_ms=1000)
    assert (clock.now_ms(), clock.monotonic_s()) == (1000, 1.0)
    await clock.advance(2.5)
    assert (clock.now_ms(), clock.monotonic_s()) == (3500, 3.5)


async def test_sleepers_wake_in_order_each_at_its_moment() -> None:
    clock, woken = ManualClock(start_ms=0), list[tuple[str, int]]()

    async def sleeper(name: str, seconds: float) -> None:
        await clock.sleep(seconds)
        woken.append((name, clock.now_ms()))

    tasks = [asyncio.create_task(sleeper(name, s)) for name, s in (("c", 3), ("a", 1), ("b", 2), ("a2", 1), ("z", 9))]
    await clock.advance(3)
    assert woken == [("a", 1000), ("a2", 1000), ("b", 2000), ("c", 3000)]
    assert clock.next_deadline_s == 6
    await clock.advance(6)
    await asyncio.gather(*tasks)
    assert clock.next_deadline_s is None


async def test_what_a_sleeper_starts_sees_the_time_at_which_it_was_due() -> None:
    clock, ticks = ManualClock(start_ms=0), list[int]()

    async def ticker() -> None:
        while True:
            await clock.sleep(10)
            ticks.append(clock.now_ms())

    task = asyncio.create_task(ticker())
    await clock.advance(35)
    assert ticks == [10_000, 20_000, 30_000]
    task.cancel()
    await clock.settle()
    assert clock.next_deadline_s is None
    await clock.advance(100)
    assert len(ticks) == 3


async def test_a_sleep_of_nothing_lets_others_run() -> None:
    clock, ran = ManualClock(), list[str]()
    other = asyncio.create_task(note(ran))
    await clock.sleep(0)
    assert ran == ["ran"]
    await other


async def note(ran: list[str]) -> None:
    ran.append("ran")


@given(start_ms=st.integers(0, 2_000_000_000_000), seconds=st.floats(1e-6, 1e7), steps=st.integers(1, 20))
def test_a_sleeper_wakes_when_its_time_has_passed_in_however_many_steps(
    start_ms: int, seconds: float, steps: int
) -> None:
    async def run() -> None:
        clock = ManualClock(start_ms)
        task = asyncio.create_task(clock.sleep(round(seconds, 6) * steps))
        for _ in range(steps):
            assert not task.done()
            await clock.advance(round(seconds, 6))
        assert task.done()

    asyncio.run(run())


REQUEST = HttpRequest("POST", "https://shop.test/hook")


async def test_a_script_is_answered_in_order_and_its_last_line_for_ever() -> None:
    transport = ScriptedTransport([503, HttpResponse(200, (), b"ok"), ConnectFailed("no")])
    assert (await transport.send(REQUEST)).status == 503
    assert (await transport.send(REQUEST)).body == b"ok"
    for _ in range(3):
        with pytest.raises(ConnectFailed):
            await transport.send(REQUEST)
    assert transport.requests == [REQUEST] * 5


async def test_a_script_may_be_a_function_plain_or_not() -> None:
    async def later(request: HttpRequest) -> int:
        await asyncio.sleep(0)
        return 202

    assert (await ScriptedTransport(lambda request: 201).send(REQUEST)).status == 201
    assert (await ScriptedTransport(later).send(REQUEST)).status == 202


async def test_a_script_is_probed_as_it_says() -> None:
    transport = ScriptedTransport()
    assert await transport.probe("https://shop.test") is False
    transport.accepts_connections = True
    assert await transport.probe("https://shop.test") is True
    await transport.close()
