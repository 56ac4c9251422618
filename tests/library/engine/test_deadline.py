"""Deliveries that end in time: what a deadline leaves over is done by another message."""

from __future__ import annotations

import asyncio
import itertools
from collections import Counter
from typing import Any

import pytest

from idioteque import Context, InvalidValue, Retry
from idioteque.dispatcher import RunEnvelope, decode
from tests.library.engine.rig import STORES, Order, Rig

ATTEMPTS = Retry(max_attempts=3, initial_delay_s=1, jitter=0)


@pytest.fixture(params=STORES)
def rig(request: pytest.FixtureRequest) -> Rig:
    return Rig(request.param, deadline="50s")


async def work(rig: Rig, name: str, seconds: float = 30) -> str:
    rig.effects[name] += 1
    await rig.clock.sleep(seconds)
    return name


def went_on(rig: Rig) -> int:
    """Return how many messages had a run go on."""
    return sum(isinstance(decode(each.body, "msg"), RunEnvelope) for each in rig.dispatcher.sent)


async def test_a_delivery_starts_nothing_after_its_deadline(rig: Rig) -> None:
    passes: list[float] = []

    @rig.worker.function("f", on="order")
    async def f(event: Order, ctx: Context) -> list[str]:
        passes.append(rig.clock.monotonic_s())
        return [await ctx.execute(f"s{n}", work, rig, f"s{n}") for n in range(5)]

    run = await rig.run()

    assert run.result == ["s0", "s1", "s2", "s3", "s4"]
    assert rig.effects == {f"s{n}": 1 for n in range(5)}
    assert [later - earlier for earlier, later in itertools.pairwise(passes)] == [60, 60]
    assert went_on(rig) == 2


async def test_without_a_deadline_one_delivery_does_it_all() -> None:
    rig = Rig()

    @rig.worker.function("f", on="order")
    async def f(event: Order, ctx: Context) -> list[str]:
        return [await ctx.execute(f"s{n}", work, rig, f"s{n}") for n in range(5)]

    assert (await rig.run()).status == "completed"
    assert went_on(rig) == 0


async def test_steps_that_run_at_the_deadline_come_to_their_end(rig: Rig) -> None:
    @rig.worker.function("f", on="order")
    async def f(event: Order, ctx: Context) -> list[Any]:
        async def chain(name: str, seconds: float) -> str:
            await ctx.execute(f"{name}-1", work, rig, f"{name}-1", seconds)
            return await ctx.execute(f"{name}-2", work, rig, f"{name}-2", seconds)

        return list(await asyncio.gather(chain("short", 55), chain("long", 90)))

    run = await rig.run()

    assert run.result == ["short-2", "long-2"]
    assert set(rig.effects.values()) == {1}, "no step was cut off"
    assert went_on(rig) == 1


async def test_a_step_longer_than_the_deadline_is_run_all_the_same(rig: Rig) -> None:
    @rig.worker.function("f", on="order")
    async def f(event: Order, ctx: Context) -> list[str]:
        await rig.clock.sleep(60)  # a replay that takes longer than there is time
        return [await ctx.execute(f"s{n}", work, rig, f"s{n}", 100) for n in range(3)]

    run = await rig.run()

    assert run.result == ["s0", "s1", "s2"]
    assert set(rig.effects.values()) == {1}
    assert went_on(rig) == 2, "each delivery recorded one result"


async def test_what_is_inside_a_step_is_left_over_as_well(rig: Rig) -> None:
    async def outer(ctx: Context) -> list[str]:
        rig.effects["outer"] += 1
        return [await ctx.execute(f"s{n}", work, rig, f"s{n}") for n in range(4)]

    @rig.worker.function("f", on="order")
    async def f(event: Order, ctx: Context) -> list[str]:
        return await ctx.execute("outer", outer, ctx)

    assert (await rig.run()).result == ["s0", "s1", "s2", "s3"]
    assert rig.effects == {"outer": 2, **{f"s{n}": 1 for n in range(4)}}


async def test_nothing_inside_a_step_that_may_start_once_is_left_over(rig: Rig) -> None:
    async def inner(ctx: Context) -> list[str]:
        return [await ctx.execute(f"s{n}", work, rig, f"s{n}") for n in range(4)]

    async def once(ctx: Context) -> list[str]:
        rig.effects["once"] += 1
        return await ctx.execute("inner", inner, ctx)

    @rig.worker.function("f", on="order")
    async def f(event: Order, ctx: Context) -> list[Any]:
        done = await ctx.execute("once", once, ctx, at_most_once=True)
        return [*done, await ctx.execute("after", work, rig, "after")]

    assert (await rig.run()).result == ["s0", "s1", "s2", "s3", "after"]
    assert rig.effects["once"] == 1
    assert went_on(rig) == 1, "what comes after it is"


async def test_a_step_is_not_tried_again_after_the_deadline(rig: Rig) -> None:
    async def flaky() -> str:
        rig.effects["flaky"] += 1
        await rig.clock.sleep(40)
        if rig.effects["flaky"] < 3:
            raise OSError("not yet")
        return "at last"

    @rig.worker.function("f", on="order")
    async def f(event: Order, ctx: Context) -> str:
        return await ctx.execute("flaky", flaky, retry=ATTEMPTS)

    run = await rig.run()

    assert (run.result, rig.effects["flaky"]) == ("at last", 3)
    assert went_on(rig) == 1, "after the second attempt, at 81 s"


async def test_a_step_with_a_delivery_of_its_own_has_a_deadline_too(rig: Rig) -> None:
    async def outer(ctx: Context) -> list[str]:
        return [await ctx.execute(f"s{n}", work, rig, f"s{n}") for n in range(4)]

    @rig.worker.function("f", on="order")
    async def f(event: Order, ctx: Context) -> list[Any]:
        own = ctx.execute("own", outer, ctx, isolate=True)
        return list(await asyncio.gather(own, ctx.execute("here", work, rig, "here")))

    assert (await rig.run()).result == [["s0", "s1", "s2", "s3"], "here"]
    assert set(rig.effects.values()) == {1}


async def test_a_sleep_and_a_deadline_in_one_pass(rig: Rig) -> None:
    @rig.worker.function("f", on="order")
    async def f(event: Order, ctx: Context) -> list[Any]:
        async def nap() -> str:
            await ctx.sleep("nap", "1h")
            return await ctx.execute("rested", work, rig, "rested")

        async def chain() -> list[str]:
            return [await ctx.execute(f"s{n}", work, rig, f"s{n}") for n in range(3)]

        return list(await asyncio.gather(nap(), chain()))

    began_s = rig.clock.monotonic_s()
    assert (await rig.run()).result == ["rested", ["s0", "s1", "s2"]]
    assert rig.clock.monotonic_s() - began_s == pytest.approx(3630, abs=2)
    assert set(rig.effects.values()) == {1}


async def test_a_lost_reply_or_a_refusal_at_any_call_loses_nothing() -> None:
    async def once(fails_at: int, *, after: bool) -> tuple[Counter[str], int]:
        rig = Rig(deadline=0)
        rig.faults.fail_at, rig.faults.after = {fails_at}, after

        @rig.worker.function("f", on="order")
        async def f(event: Order, ctx: Context) -> list[str]:
            return [await ctx.execute(f"s{n}", work, rig, f"s{n}", 1) for n in range(3)]

        run = await rig.run()
        assert run.result == ["s0", "s1", "s2"], (fails_at, after)
        return rig.effects, rig.faults.calls

    _, calls = await once(0, after=False)
    assert calls > 10
    for fails_at in range(1, calls + 1):
        for after in (False, True):
            effects, _ = await once(fails_at, after=after)
            assert sum(effects.values()) <= 4, (fails_at, after)


def test_a_deadline_that_is_no_duration_is_refused() -> None:
    rig = Rig(deadline="soon")
    rig.worker.create_function("f", "order", lambda event, ctx: None)
    with pytest.raises(InvalidValue, match="deadline 'soon' is not a duration"):
        rig.mount()
