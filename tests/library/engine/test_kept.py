"""Steps that are run without running the body again to find them, and what must stay the same about that."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from contextvars import ContextVar
from typing import Any

import pytest

from idioteque import Context, SyncContext
from idioteque.dispatcher import EventEnvelope, Outgoing
from idioteque.engine import Delivery
from idioteque.engine.kept import KEPT_MAX, KEPT_S
from idioteque.testing import harness
from tests.library.engine.rig import STORES, Order, Rig

tenant: ContextVar[str] = ContextVar("tenant", default="nobody")


@pytest.fixture(params=STORES)
def rig(request: pytest.FixtureRequest) -> Rig:
    return Rig(request.param, "isolated")


@pytest.mark.parametrize("steps", [10, 60])
async def test_parallel_steps_do_not_run_the_body_again(rig: Rig, steps: int) -> None:
    bodies = 0

    @rig.worker.function("f", on="order")
    async def f(event: Order, ctx: Context) -> list[int]:
        nonlocal bodies
        bodies += 1
        return list(await asyncio.gather(*(ctx.execute(f"s{n}", rig.effect, f"s{n}", n) for n in range(steps))))

    run = await rig.run()
    assert run.result == list(range(steps))
    assert set(rig.effects.values()) == {1}
    assert bodies <= 4, "the first delivery, and wakes"


async def test_steps_in_a_row_run_the_body_once_for_each(rig: Rig) -> None:
    bodies = 0

    @rig.worker.function("f", on="order")
    async def f(event: Order, ctx: Context) -> int:
        nonlocal bodies
        bodies += 1
        return sum([await ctx.execute(f"s{n}", rig.effect, f"s{n}", n) for n in range(20)])

    run = await rig.run()
    assert run.result == sum(range(20))
    assert bodies == 21


async def test_a_step_runs_inside_the_blocks_of_its_body_and_with_its_variables(rig: Rig) -> None:
    is_open = False

    @asynccontextmanager
    async def client() -> AsyncIterator[str]:
        nonlocal is_open
        is_open = True
        try:
            yield "client"
        finally:
            is_open = False

    async def call(name: str) -> list[Any]:
        return [name, is_open, tenant.get()]

    @rig.worker.function("f", on="order")
    async def f(event: Order, ctx: Context) -> list[Any]:
        tenant.set("acme")
        async with client() as name:
            return list(await asyncio.gather(*(ctx.execute(f"s{n}", call, name) for n in range(3))))

    run = await rig.run()
    assert run.result == [["client", True, "acme"]] * 3
    await rig.clock.advance(KEPT_S + 2)
    assert not is_open
    assert tenant.get() == "nobody"


async def test_a_step_that_asks_its_bodys_context_is_answered_in_its_own_delivery(rig: Rig) -> None:
    keys: list[str] = []

    async def outer(ctx: Context, n: int) -> int:
        keys.append(ctx.idempotency_key)
        return await ctx.execute("inner", rig.effect, f"inner-{n}", n)

    @rig.worker.function("f", on="order")
    async def f(event: Order, ctx: Context) -> list[int]:
        return list(await asyncio.gather(*(ctx.execute(f"s{n}", outer, ctx, n) for n in range(3))))

    run = await rig.run()
    assert run.result == [0, 1, 2]
    assert len(set(keys)) == 3
    assert rig.effects == {f"inner-{n}": 1 for n in range(3)}


async def test_a_failure_is_tried_again_by_whoever_gets_its_message(rig: Rig) -> None:
    calls = 0

    async def flaky() -> str:
        nonlocal calls
        calls += 1
        if calls < 3:
            raise ValueError("not yet")
        return "done"

    @rig.worker.function("f", on="order")
    async def f(event: Order, ctx: Context) -> list[str]:
        return list(await asyncio.gather(ctx.execute("a", flaky), ctx.execute("b", rig.effect, "b")))

    run = await rig.run()
    assert (run.result, calls) == (["done", "b"], 3)


async def test_a_run_that_was_opened_again_is_run_anew(rig: Rig) -> None:
    fails = True

    async def step() -> str:
        if fails:
            raise ValueError("no")
        return "yes"

    @rig.worker.function("f", on="order")
    async def f(event: Order, ctx: Context) -> list[str]:
        return list(await asyncio.gather(ctx.execute("a", step), ctx.execute("b", rig.effect, "b")))

    run = await rig.run()
    assert run.status == "failed"
    fails = False
    await rig.worker.runs.retry(run.id)
    await rig.finish()
    assert await rig.worker.runs.result(run.id) == ["yes", "b"]


async def test_no_more_bodies_are_kept_than_the_limit_and_none_for_long(rig: Rig) -> None:
    suspended = 0

    @rig.worker.function("f", on="order")
    async def f(event: Order, ctx: Context) -> None:
        nonlocal suspended
        suspended += 1
        try:
            await asyncio.gather(ctx.execute("a", rig.effect), ctx.execute("b", rig.effect))
        finally:
            suspended -= 1

    async def swallow(messages: Sequence[Outgoing]) -> Sequence[str]:
        return ["msg"] * len(messages)

    engine = rig.mount().engine
    rig.dispatcher.send = swallow  # type: ignore[method-assign] # no step's message ever comes
    for n in range(KEPT_MAX + 20):
        event = EventEnvelope(f"evt-{n}", Order().model_dump_json().encode())
        assert (await engine.deliver(event, Delivery(f"msg-{n}"))).status == 200
    await rig.clock.settle()
    assert suspended == KEPT_MAX
    await rig.clock.advance(KEPT_S + 2)
    assert suspended == 0


async def test_the_thread_of_a_plain_function_is_not_kept() -> None:
    rig = Rig("memory", "isolated")
    bodies = 0

    @rig.worker.function("f", on="order")
    def f(event: Order, ctx: SyncContext) -> list[int]:
        nonlocal bodies
        bodies += 1
        return [ctx.execute(f"s{n}", rig.effect, f"s{n}", n) for n in range(3)]

    async with harness(rig.worker, mode="isolated") as h:  # which waits for threads before it lets time pass
        run = await h.run(await h.publish(Order()))
    assert run.result == [0, 1, 2]
    assert bodies > 4, "a step is found by running the body again"
