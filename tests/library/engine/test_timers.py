"""Sleeping: nothing runs meanwhile, and the time counts from the first time."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from idioteque import Context, Retry
from tests.library.engine.rig import STORES, Order, Rig

DAY_S = 86_400


@pytest.fixture(params=STORES)
def rig(request: pytest.FixtureRequest) -> Rig:
    return Rig(request.param)


@pytest.mark.parametrize(("duration", "seconds"), [("3d", 3 * DAY_S), (90, 90), (timedelta(hours=2), 7200), (0.4, 0.4)])
async def test_a_run_goes_on_after_its_sleep(rig: Rig, duration: Any, seconds: float) -> None:
    woke: list[float] = []

    @rig.worker.function("f", on="order")
    async def f(event: Order, ctx: Context) -> str:
        await ctx.execute("before", rig.effect, "before")
        await ctx.sleep("cool-down", duration)
        woke.append(rig.clock.monotonic_s())
        return await ctx.execute("after", rig.effect, "after")

    began_s = rig.clock.monotonic_s()
    run = await rig.run()

    assert run.result == "after"
    assert rig.effects == {"before": 1, "after": 1}
    assert woke[0] - began_s == pytest.approx(seconds, abs=1.01)
    assert woke[0] - began_s >= seconds
    assert [step.key for step in run.steps] == [("before",), ("cool-down",), ("after",)]


async def test_nothing_runs_and_nothing_is_held_during_a_sleep(rig: Rig) -> None:
    @rig.worker.function("f", on="order")
    async def f(event: Order, ctx: Context) -> None:
        await ctx.sleep("long", "1h")

    rig.mount()
    published = await rig.worker.publish(Order())
    await rig.clock.advance(60)

    run = await rig.worker.runs.get(published.run_id("f"))
    assert run is not None
    assert run.status == "waiting"
    waiting = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
    assert len(waiting) == 1, "the message in the dispatcher, and nothing else"
    await rig.finish()


async def test_a_sleep_that_is_interrupted_does_not_start_over(rig: Rig) -> None:
    @rig.worker.function("f", on="order", retry=Retry(initial_delay_s=1800, jitter=0))
    async def f(event: Order, ctx: Context) -> None:
        if ctx.attempt == 1:
            await asyncio.gather(ctx.sleep("hour", "1h"), fail())
        await ctx.sleep("hour", "1h")

    async def fail() -> None:
        await asyncio.sleep(0)
        raise OSError("half way")

    began_s = rig.clock.monotonic_s()
    assert (await rig.run()).status == "completed"
    assert 3600 <= rig.clock.monotonic_s() - began_s < 3610


async def test_sleep_until_a_time_and_at_once_for_one_that_is_past(rig: Rig) -> None:
    target = datetime.fromtimestamp(rig.clock.now_ms() / 1000 + 500, UTC)

    @rig.worker.function("f", on="order")
    async def f(event: Order, ctx: Context) -> None:
        await ctx.sleep_until("past", datetime(2020, 1, 1, tzinfo=UTC))
        await ctx.sleep_until("target", target)

    began_s = rig.clock.monotonic_s()
    assert (await rig.run()).status == "completed"
    assert 500 <= rig.clock.monotonic_s() - began_s < 502


async def test_a_time_without_a_zone_is_refused(rig: Rig) -> None:
    @rig.worker.function("f", on="order", retry=Retry(max_attempts=1))
    async def f(event: Order, ctx: Context) -> None:
        await ctx.sleep_until("naive", datetime(2030, 1, 1))  # noqa: DTZ001 - the point

    assert "time zone" in ((await rig.run()).error or "")


async def test_a_sleep_of_a_year_is_a_chain_of_messages(rig: Rig) -> None:
    @rig.worker.function("f", on="order")
    async def f(event: Order, ctx: Context) -> str:
        await ctx.sleep("year", "365d")
        return await ctx.execute("after", rig.effect, "after")

    began_s = rig.clock.monotonic_s()
    assert (await rig.run()).result == "after"
    assert 365 * DAY_S <= rig.clock.monotonic_s() - began_s < 366 * DAY_S
    assert max(message.delay_s for message in rig.dispatcher.sent) <= 7 * DAY_S
    assert rig.effects == {"after": 1}


async def test_sleeps_in_parallel_with_steps_take_as_long_as_the_longest(rig: Rig) -> None:
    @rig.worker.function("f", on="order")
    async def f(event: Order, ctx: Context) -> list[Any]:
        async def branch(name: str, duration: str) -> str:
            await ctx.sleep(f"sleep-{name}", duration)
            return await ctx.execute(name, rig.effect, name)

        return list(await asyncio.gather(branch("a", "1h"), branch("b", "2h"), ctx.execute("c", rig.effect, "c")))

    began_s = rig.clock.monotonic_s()
    assert (await rig.run()).result == ["a", "b", "c"]
    assert 7200 <= rig.clock.monotonic_s() - began_s < 7203
    assert rig.effects == {"a": 1, "b": 1, "c": 1}


async def test_a_sleep_inside_a_step_sets_the_whole_run_aside(rig: Rig) -> None:
    async def outer(ctx: Context) -> str:
        await ctx.execute("first", rig.effect, "first")
        await ctx.sleep("pause", "1h")
        return await ctx.execute("second", rig.effect, "second")

    @rig.worker.function("f", on="order")
    async def f(event: Order, ctx: Context) -> str:
        return await ctx.execute("outer", outer, ctx)

    assert (await rig.run()).result == "second"
    assert rig.effects == {"first": 1, "second": 1}


async def test_a_key_of_a_sleep_is_a_step_key(rig: Rig) -> None:
    @rig.worker.function("f", on="order")
    async def f(event: Order, ctx: Context) -> None:
        await ctx.sleep("same", 1)
        await ctx.execute("same", rig.effect, "same")

    assert "DuplicateStepKey" in ((await rig.run()).error or "")
