"""Steps in deliveries of their own: `mode="isolated"`, and `isolate=True` for one."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from idioteque import Context, Retry, RetryAfter, StepFailed, StepInterrupted
from idioteque.dispatcher import EventEnvelope, RunEnvelope, decode
from idioteque.engine import Delivery
from tests.library.engine.rig import STORES, Order, Rig
from tests.library.engine.test_runs import PROGRAMS, Program, flaky

ONCE = Retry(max_attempts=1)


@pytest.fixture(params=STORES)
def rig(request: pytest.FixtureRequest) -> Rig:
    return Rig(request.param, "isolated")


def run_messages(rig: Rig) -> list[RunEnvelope]:
    decoded = [decode(message.body, "m") for message in rig.dispatcher.sent]
    return [envelope for envelope in decoded if isinstance(envelope, RunEnvelope)]


async def without_faults(program: Program, store: str) -> tuple[Any, int, dict[str, int]]:
    rig = Rig(store, "isolated")
    rig.worker.create_function("f", "order", program(rig))  # type: ignore[arg-type]
    run = await rig.run()
    assert run.status == "completed"
    return run.result, rig.faults.calls, dict(rig.effects)


@pytest.mark.parametrize("store", STORES)
@pytest.mark.parametrize("program", PROGRAMS, ids=lambda program: program.__name__)
@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
async def test_a_fault_at_any_one_call_changes_no_result_and_repeats_one_effect_at_most(
    program: Program, store: str, after: bool
) -> None:
    expected, calls, effects = await without_faults(program, store)
    for call in range(1, calls + 1):
        rig = Rig(store, "isolated")
        rig.faults.fail_at, rig.faults.after = {call}, after
        rig.worker.create_function("f", "order", program(rig))  # type: ignore[arg-type]

        run = await rig.run()

        where = f"call {call} ({rig.faults.names[call - 1] if call <= rig.faults.calls else 'none'})"
        assert (run.status, run.result) == ("completed", expected), where
        assert set(rig.store.wins.values()) == {1}, where
        repeated = sum(count - effects.get(name, 0) for name, count in rig.effects.items())
        assert repeated <= (2 if program is flaky else 1), where
        assert rig.dispatcher.dead_letters == [], where


@pytest.mark.parametrize("store", STORES)
@pytest.mark.parametrize("program", PROGRAMS, ids=lambda program: program.__name__)
async def test_faults_at_any_two_calls_change_no_result(program: Program, store: str) -> None:
    expected, calls, _ = await without_faults(program, store)
    for first in range(1, calls + 1, 2):
        for second in range(first + 1, calls + 4, 3):
            rig = Rig(store, "isolated")
            rig.faults.fail_at, rig.faults.after = {first, second}, bool(second % 2)
            rig.worker.create_function("f", "order", program(rig))  # type: ignore[arg-type]

            run = await rig.run()

            assert (run.status, run.result) == ("completed", expected), (first, second)
            assert set(rig.store.wins.values()) == {1}, (first, second)


@pytest.mark.parametrize("count", [1, 2, 10])
async def test_sequential_steps_cost_one_message_each_and_two_more_at_most(rig: Rig, count: int) -> None:
    @rig.worker.function("f", on="order")
    async def f(event: Order, ctx: Context) -> list[str]:
        return [await ctx.execute(f"s{n}", rig.effect, f"s{n}") for n in range(count)]

    run = await rig.run()

    assert run.result == [f"s{n}" for n in range(count)]
    assert len(rig.dispatcher.sent) <= count + 2


async def test_every_step_runs_in_a_delivery_of_its_own_at_the_same_time_as_its_siblings(rig: Rig) -> None:
    inside = 0
    most = 0
    full = asyncio.Event()

    async def together(n: int) -> int:
        nonlocal inside, most
        inside += 1
        most = max(most, inside)
        if inside == 5:
            full.set()
        await full.wait()
        inside -= 1
        return n

    @rig.worker.function("f", on="order")
    async def f(event: Order, ctx: Context) -> list[int]:
        return list(await asyncio.gather(*(ctx.execute(f"s{n}", together, n) for n in range(5))))

    run = await rig.run()

    assert run.result == [0, 1, 2, 3, 4]
    assert most == 5
    assert {message.path for message in run_messages(rig)} == {(), *((f"s{n}",) for n in range(5))}


async def test_hundreds_of_parallel_steps(rig: Rig) -> None:
    @rig.worker.function("f", on="order")
    async def f(event: Order, ctx: Context) -> int:
        return len(await asyncio.gather(*(ctx.execute(f"s{n}", rig.effect, f"s{n}") for n in range(200))))

    run = await rig.run()

    assert run.result == 200
    assert set(rig.effects.values()) == {1}
    of_steps = [message for message in run_messages(rig) if message.path]
    assert len(of_steps) == 200, "none is sent twice"
    assert len(rig.dispatcher.sent) - len(of_steps) < 200, "wakes are shared"


async def test_a_step_whose_function_ends_without_it_runs_all_the_same_and_is_acknowledged(rig: Rig) -> None:
    gate = asyncio.Event()

    async def failing_once() -> str:
        await rig.effect("b")
        if rig.effects["b"] == 1:
            raise RetryAfter(5)
        if rig.effects["b"] == 2:
            raise RetryAfter(1)  # so short that it is waited for in place, while the function ends
        gate.set()
        return "b"

    @rig.worker.function("f", on="order")
    async def f(event: Order, ctx: Context) -> str:
        first = asyncio.create_task(ctx.execute("a", rig.effect, "a"))
        second = asyncio.create_task(ctx.execute("b", failing_once, retry=Retry(max_attempts=3)))
        await asyncio.wait((first, second), return_when=asyncio.FIRST_COMPLETED)
        if rig.clock.now_ms() - began_ms < 5000:
            await gate.wait()
        return await first

    rig.mount()
    began_ms = rig.clock.now_ms()
    run = await rig.run()

    assert (run.status, run.result) == ("completed", "a")
    assert rig.effects == {"a": 1, "b": 3}
    assert rig.dispatcher.dead_letters == []
    assert rig.clock.now_ms() == began_ms + 6000, "a delivery was refused, and came again later"


async def test_one_step_alone_can_be_isolated(rig: Rig) -> None:
    rig = Rig("memory")

    @rig.worker.function("f", on="order")
    async def f(event: Order, ctx: Context) -> list[str]:
        first = await ctx.execute("a", rig.effect, "a")
        both = await asyncio.gather(ctx.execute("i", rig.effect, "i", isolate=True), ctx.execute("b", rig.effect, "b"))
        return [first, *both, await ctx.execute("c", rig.effect, "c")]

    run = await rig.run()

    assert run.result == ["a", "i", "b", "c"]
    assert set(rig.effects.values()) == {1}
    assert [message.path for message in run_messages(rig)].count(("i",)) <= 1


async def test_the_steps_of_an_isolated_step_run_with_it(rig: Rig) -> None:
    async def outer(ctx: Context) -> list[str]:
        first = await ctx.execute("x", rig.effect, "x")
        await ctx.sleep("nap", "1h")
        return [first, await ctx.execute("y", rig.effect, "y")]

    @rig.worker.function("f", on="order")
    async def f(event: Order, ctx: Context) -> list[Any]:
        return list(await asyncio.gather(ctx.execute("outer", outer, ctx), ctx.execute("z", rig.effect, "z")))

    run = await rig.run()

    assert run.result == [["x", "y"], "z"]
    assert set(rig.effects.values()) == {1}
    assert {message.path for message in run_messages(rig)} == {(), ("outer",), ("z",)}


async def test_a_failing_isolated_step_is_tried_again_and_fails_at_its_await(rig: Rig) -> None:
    async def bad() -> None:
        rig.effects["bad"] += 1
        raise ValueError("no")

    @rig.worker.function("f", on="order")
    async def f(event: Order, ctx: Context) -> str:
        try:
            await ctx.execute("bad", bad, retry=Retry(max_attempts=3, initial_delay_s=60, jitter=0))
        except StepFailed as error:
            return await ctx.execute("compensate", rig.effect, f"after {error.type}")
        return "paid"

    run = await rig.run()

    assert run.result == "after ValueError"
    assert rig.effects["bad"] == 3


async def test_an_isolated_step_that_may_start_once_is_interrupted_by_a_crash(rig: Rig) -> None:
    @rig.worker.function("f", on="order")
    async def f(event: Order, ctx: Context) -> str:
        try:
            return await ctx.execute("once", rig.effect, "once", at_most_once=True)
        except StepInterrupted:
            return "asked"

    rig.faults.fail_on = {("commit", 1)}

    run = await rig.run()

    assert run.result == "asked"
    assert rig.effects == {"once": 1}


async def test_an_isolated_step_that_may_start_once_is_not_interrupted_before_it_started(rig: Rig) -> None:
    @rig.worker.function("f", on="order")
    async def f(event: Order, ctx: Context) -> str:
        return await ctx.execute("once", rig.effect, "once", at_most_once=True)

    rig.faults.fail_on, rig.faults.after = {("claim", 2)}, True  # the step's claim took effect, its reply was lost

    run = await rig.run()

    assert (run.status, run.result) == ("completed", "once")
    assert rig.effects == {"once": 1}


async def test_lost_answers_to_claims_are_no_strikes(rig: Rig) -> None:
    @rig.worker.function("f", on="order")
    async def f(event: Order, ctx: Context) -> str:
        return await ctx.execute("innocent", rig.effect, "innocent")

    rig.faults.fail_on, rig.faults.after = {("claim", n) for n in range(2, 12)}, True

    run = await rig.run()

    assert (run.status, run.result) == ("completed", "innocent")
    assert rig.effects == {"innocent": 1}


async def test_an_isolated_step_that_kills_its_process_ends_by_itself(rig: Rig) -> None:
    entered = asyncio.Event()

    async def poison() -> None:
        rig.effects["poison"] += 1
        entered.set()
        await asyncio.Event().wait()

    @rig.worker.function("f", on="order")
    async def f(event: Order, ctx: Context) -> str:
        try:
            await ctx.execute("poison", poison)
        except StepFailed as error:
            return error.type
        return "survived"

    engine = rig.mount().engine
    event = EventEnvelope("evt-1", Order().model_dump_json().encode())
    for retried in range(10):
        entered.clear()
        delivery = asyncio.create_task(engine.deliver(event, Delivery("msg-1", retried)))
        died = asyncio.create_task(entered.wait())
        await asyncio.wait([delivery, died], return_when=asyncio.FIRST_COMPLETED)
        died.cancel()
        if delivery.done():
            break
        rig.faults.fail_on = {("release", rig.faults.names.count("release") + 1)}
        delivery.cancel()
        await asyncio.gather(delivery, return_exceptions=True)
        await rig.clock.advance(20)
    await rig.finish()

    run = await rig.worker.runs.get(f.run_id("evt-1"))
    assert run is not None
    assert run.result == "CrashLoop"
    assert rig.effects["poison"] <= 4


async def test_a_step_that_disappeared_in_a_deploy_is_loud_and_the_run_goes_on_after_a_fix(rig: Rig) -> None:
    has_step = True
    seen = asyncio.Event()

    async def slow(name: str) -> str:
        if name != "b":
            await seen.wait()  # else the function could end without `b`
        return str(await rig.effect(name))

    @rig.worker.function("f", on="order")
    async def f(event: Order, ctx: Context) -> list[str]:
        names = ["a", "b", "c"] if has_step else ["a", "c"]
        return list(await asyncio.gather(*(ctx.execute(name, slow, name) for name in names)))

    engine = rig.mount().engine
    event = EventEnvelope("evt-1", Order().model_dump_json().encode())
    await engine.deliver(event, Delivery("msg-1"))
    has_step = False
    deployed = rig.dispatcher.mount(rig.worker, mode="isolated").engine  # another process, which has no body of before
    message = next(envelope for envelope in run_messages(rig) if envelope.path == ("b",))
    answer = await deployed.deliver(message, Delivery("msg-b"))
    why = await rig.worker.runs.why(f.run_id("evt-1"))

    assert answer.status == 503
    assert "'b'" in answer.text
    assert why is not None
    assert why.cause == "missing_step"

    has_step = True
    seen.set()
    await rig.finish()
    run = await rig.worker.runs.get(f.run_id("evt-1"))
    assert run is not None
    assert run.result == ["a", "b", "c"]


async def test_a_run_begun_in_one_mode_goes_on_in_the_other(rig: Rig) -> None:
    @rig.worker.function("f", on="order")
    async def f(event: Order, ctx: Context) -> list[str]:
        first = await ctx.execute("a", rig.effect, "a")
        await ctx.sleep("nap", "1h")
        return [first, *await asyncio.gather(*(ctx.execute(name, rig.effect, name) for name in ("b", "c")))]

    rig.mount()
    published = await rig.worker.publish(Order())
    await rig.clock.advance(60)
    rig.dispatcher.mount(rig.worker, mode="inline")
    await rig.finish()

    assert await rig.worker.runs.result(published.run_id("f")) == ["a", "b", "c"]
    assert set(rig.effects.values()) == {1}


async def test_a_wait_inside_an_isolated_step_wakes_that_step(rig: Rig) -> None:
    async def outer(ctx: Context) -> str:
        event = await ctx.wait_for_event("second", Order, where={"id": "2"})
        return event.id if event else "none"

    @rig.worker.function("f", on=lambda event: event.id == "1")
    async def f(event: Order, ctx: Context) -> list[str]:
        return list(await asyncio.gather(ctx.execute("outer", outer, ctx), ctx.execute("z", rig.effect, "z")))

    rig.mount()
    published = await rig.worker.publish(Order())
    await rig.clock.advance(60)
    await rig.worker.publish(Order(id="2"))
    await rig.finish()

    assert await rig.worker.runs.result(published.run_id("f")) == ["2", "z"]
