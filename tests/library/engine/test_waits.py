"""Waiting for events and for other runs: nobody misses what has come, whichever comes first."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any, Literal

import pytest
from pydantic import BaseModel, Field

from idioteque import Context, Retry, RetryAfter, RunFailed, StepFailed
from idioteque.transport import HttpRequest
from tests.library.engine.rig import STORES, Order, Rig

ONCE = Retry(max_attempts=1)


class Paid(BaseModel):
    type: Literal["paid"] = "paid"
    order_id: str
    cents: int = 0


class Refused(BaseModel):
    type: Literal["refused"] = "refused"
    order_id: str


Event = Annotated[Order | Paid | Refused, Field(discriminator="type")]


@pytest.fixture(params=STORES)
def rig(request: pytest.FixtureRequest) -> Rig:
    rig = Rig(request.param)
    rig.worker.configure(events_schema=Event)
    return rig


async def start(rig: Rig, order: Order | None = None, function_id: str = "f") -> str:
    rig.mount()
    published = await rig.worker.publish(order or Order())
    await rig.clock.advance(5)
    return published.run_id(function_id)


async def result(rig: Rig, run_id: str) -> Any:
    await rig.finish()
    run = await rig.worker.runs.get(run_id)
    assert run is not None
    assert run.status == "completed", run
    return run.result


def declare_waiter(rig: Rig, **options: Any) -> None:
    @rig.worker.function("f", on=Order)
    async def f(event: Order, ctx: Context) -> list[Any]:
        paid = await ctx.wait_for_event("paid", Paid, where={"order_id": event.id}, **options)
        await ctx.execute("after", rig.effect, "after")
        return [paid is not None, paid.cents if paid else None]


async def test_an_event_wakes_the_run_that_waits_for_it(rig: Rig) -> None:
    declare_waiter(rig)
    run_id = await start(rig)
    why = await rig.worker.runs.why(run_id)
    assert why is not None
    assert why.cause == "waiting_for_event"
    assert "paid" in why.text

    await rig.worker.publish(Paid(order_id="1", cents=100))

    assert await result(rig, run_id) == [True, 100]
    assert rig.effects == {"after": 1}


async def test_an_event_that_came_before_the_wait_is_not_lost(rig: Rig) -> None:
    gate = asyncio.Event()

    async def slow() -> None:
        await gate.wait()

    @rig.worker.function("f", on=Order)
    async def f(event: Order, ctx: Context) -> int | None:
        await ctx.execute("slow", slow)
        paid = await ctx.wait_for_event("paid", Paid, where={"order_id": event.id})
        return paid.cents if paid else None

    rig.mount()
    published = await rig.worker.publish(Order())
    await rig.clock.settle()
    await rig.worker.publish(Paid(order_id="1", cents=7))
    await rig.clock.settle()
    gate.set()

    assert await result(rig, published.run_id("f")) == 7


async def test_a_step_may_publish_the_event_that_its_own_run_waits_for(rig: Rig) -> None:
    """Its dispatcher may deliver the event in a task that the step began: that delivery is none of the step's."""

    @rig.worker.function("f", on=Order)
    async def f(event: Order, ctx: Context) -> list[Any]:
        async def pay() -> str:
            await rig.worker.publish(Paid(order_id="1"))
            if rig.effects["pay"]:
                return "paid"
            rig.effects["pay"] += 1
            raise RetryAfter(60)

        return await asyncio.gather(ctx.wait_for_event("paid", Paid), ctx.execute("pay", pay))

    paid, published = await result(rig, await start(rig))
    assert (paid["order_id"], published) == ("1", "paid")


async def test_an_event_from_before_the_run_began_does_not_count(rig: Rig) -> None:
    declare_waiter(rig, timeout="1h")
    rig.mount()
    await rig.worker.publish(Paid(order_id="1", cents=1))
    await rig.clock.advance(10)
    run_id = await start(rig)

    assert await result(rig, run_id) == [False, None]


async def test_a_wait_ends_with_none_after_its_timeout(rig: Rig) -> None:
    declare_waiter(rig, timeout="1h")
    began_s = rig.clock.monotonic_s()
    run_id = await start(rig)

    assert await result(rig, run_id) == [False, None]
    assert 3600 <= rig.clock.monotonic_s() - began_s < 3620


async def test_an_event_just_before_the_timeout_wins(rig: Rig) -> None:
    declare_waiter(rig, timeout="1h")
    run_id = await start(rig)
    await rig.clock.advance(3590)
    await rig.worker.publish(Paid(order_id="1", cents=5))

    assert await result(rig, run_id) == [True, 5]


@pytest.mark.parametrize("where", [{"order_id": "2"}, {"order_id": 1}])
async def test_an_event_whose_fields_differ_is_somebody_elses(rig: Rig, where: dict[str, Any]) -> None:
    @rig.worker.function("f", on=Order)
    async def f(event: Order, ctx: Context) -> bool:
        return await ctx.wait_for_event("paid", Paid, where=where, timeout="1h") is None

    run_id = await start(rig)
    await rig.worker.publish(Paid(order_id="1"))

    assert await result(rig, run_id) is True


async def test_an_event_wakes_every_run_that_waits_and_each_takes_it_once(rig: Rig) -> None:
    @rig.worker.function("f", on=Order)
    async def f(event: Order, ctx: Context) -> list[int | None]:
        first = await ctx.wait_for_event("first", Paid)
        second = await ctx.wait_for_event("second", Paid, timeout="1h")
        return [first.cents if first else None, second.cents if second else None]

    one, two = await start(rig), await start(rig, Order(id="2"))
    await rig.worker.publish(Paid(order_id="x", cents=1))

    assert await result(rig, one) == [1, None]
    assert await result(rig, two) == [1, None]


async def test_two_waits_in_parallel_take_two_events(rig: Rig) -> None:
    @rig.worker.function("f", on=Order)
    async def f(event: Order, ctx: Context) -> list[int]:
        both = await asyncio.gather(ctx.wait_for_event("a", Paid), ctx.wait_for_event("b", Paid))
        return sorted(paid.cents for paid in both if paid)

    run_id = await start(rig)
    await rig.worker.publish(Paid(order_id="1", cents=1))
    await rig.clock.advance(5)
    await rig.worker.publish(Paid(order_id="1", cents=2))

    assert await result(rig, run_id) == [1, 2]


async def test_the_first_event_of_several_classes_ends_the_wait(rig: Rig) -> None:
    @rig.worker.function("f", on=Order)
    async def f(event: Order, ctx: Context) -> str:
        outcome = await ctx.wait_any("outcome", Paid, Refused, where={"order_id": event.id})
        return type(outcome).__name__

    run_id = await start(rig)
    await rig.worker.publish(Refused(order_id="1"))

    assert await result(rig, run_id) == "Refused"


async def test_an_event_delivered_twice_is_taken_once(rig: Rig) -> None:
    declare_waiter(rig)
    run_id = await start(rig)
    await rig.worker.publish(Paid(order_id="1", cents=100), deduplication_id="payment")
    await rig.finish()
    await rig.clock.advance(3600)
    letter = rig.dispatcher.sent[-1]
    assert letter is not None

    assert await result(rig, run_id) == [True, 100]
    assert rig.effects == {"after": 1}


async def test_an_event_that_a_stray_copy_of_a_message_took_and_broke_off_is_not_lost(rig: Rig) -> None:
    declare_waiter(rig)
    run_id = await start(rig)
    begun = rig.dispatcher.sent[0]
    rig.faults.fail_on = {("take", 1), ("commit", 1)}
    await rig.worker.publish(Paid(order_id="1", cents=100))
    await rig.clock.settle()  # it is in the mailbox, and its message will come again
    assert rig.faults.injected == 1
    headers = [("Upstash-Message-Id", "msg_stray")]
    answer = await rig.mount().handle(HttpRequest("POST", "/", headers, begun.body))
    assert (answer.status, rig.faults.injected, rig.effects) == (503, 2, {"after": 1}), "nobody sends it once more"

    assert await result(rig, run_id) == [True, 100]
    assert rig.effects == {"after": 2}


@pytest.mark.parametrize("after", [False, True])
async def test_a_fault_at_any_call_loses_no_event(rig: Rig, after: bool) -> None:
    kind = "memory" if type(rig.store._store).__name__ == "MemoryStore" else "sqlite"
    for call in range(1, 25):
        one = Rig(kind)
        one.worker.configure(events_schema=Event)
        declare_waiter(one)
        one.faults.fail_at, one.faults.after = {call}, after
        one.mount()
        run_id = ""
        while not run_id:
            try:
                published = await one.worker.publish(Order(), deduplication_id="order")
                run_id = published.run_id("f")
            except Exception:  # the call that fails
                continue
        await one.clock.advance(200)
        for _ in range(2):
            try:
                await one.worker.publish(Paid(order_id="1", cents=3), deduplication_id="paid")
            except Exception:  # the call that fails
                continue
        assert await result(one, run_id) == [True, 3], (call, one.faults.names[call - 1 : call])
        assert one.dispatcher.dead_letters == []


# ---- other runs


async def test_an_invoked_run_gives_its_result_to_the_step(rig: Rig) -> None:
    @rig.worker.function("child", on=lambda event: False)
    async def child(event: Paid, ctx: Context) -> dict[int, str]:
        await ctx.sleep("nap", "1h")
        return {event.cents: await ctx.execute("work", rig.effect, "done")}

    @rig.worker.function("f", on=Order)
    async def f(event: Order, ctx: Context) -> str:
        answer = await ctx.invoke("child", child, Paid(order_id=event.id, cents=4))
        assert answer == {4: "done"}
        return str(answer)

    assert await result(rig, await start(rig)) == "{4: 'done'}"
    assert rig.effects == {"done": 1}


async def test_an_invoked_run_that_fails_fails_the_step(rig: Rig) -> None:
    @rig.worker.function("child", on=lambda event: False, retry=ONCE)
    async def child(event: Paid, ctx: Context) -> None:
        raise ValueError("too expensive")

    @rig.worker.function("f", on=Order)
    async def f(event: Order, ctx: Context) -> str:
        try:
            await ctx.invoke("child", child, Paid(order_id=event.id))
        except StepFailed as error:
            return f"{error.type}: {error.message}"
        return "paid"

    assert await result(rig, await start(rig)) == "ValueError: too expensive"


async def test_an_invoked_run_that_is_cancelled_fails_the_step(rig: Rig) -> None:
    @rig.worker.function("child", on=lambda event: False)
    async def child(event: Paid, ctx: Context) -> None:
        await ctx.sleep("nap", "1d")

    @rig.worker.function("f", on=Order, retry=ONCE)
    async def f(event: Order, ctx: Context) -> None:
        await ctx.invoke("child", child, Paid(order_id=event.id))

    run_id = await start(rig)
    child_run = (await rig.worker.runs.list(function="child")).runs[0]
    await rig.worker.runs.cancel(child_run.id)
    await rig.finish()

    with pytest.raises(RunFailed, match="RunCancelled"):
        await rig.worker.runs.result(run_id)


async def test_a_run_that_is_opened_again_is_told_of_an_invoked_run_that_ended_meanwhile(rig: Rig) -> None:
    @rig.worker.function("child", on=lambda event: False)
    async def child(event: Paid, ctx: Context) -> str:
        await ctx.sleep("nap", "1m")
        return "done"

    @rig.worker.function("f", on=Order)
    async def f(event: Order, ctx: Context) -> str:
        return await ctx.invoke("child", child, Paid(order_id=event.id))

    run_id = await start(rig)
    await rig.worker.runs.cancel(run_id)
    await rig.finish()
    assert (await rig.worker.runs.list(function="child")).runs[0].status == "completed"
    await rig.worker.runs.retry(run_id)

    assert await result(rig, run_id) == "done"


async def test_invoked_runs_go_in_parallel(rig: Rig) -> None:
    @rig.worker.function("child", on=lambda event: False)
    async def child(event: Paid, ctx: Context) -> int:
        await ctx.sleep("nap", "1h")
        return event.cents

    @rig.worker.function("f", on=Order)
    async def f(event: Order, ctx: Context) -> list[int]:
        calls = (ctx.invoke(f"child-{n}", child, Paid(order_id=event.id, cents=n)) for n in range(5))
        return list(await asyncio.gather(*calls))

    began_s = rig.clock.monotonic_s()
    assert await result(rig, await start(rig)) == [0, 1, 2, 3, 4]
    assert rig.clock.monotonic_s() - began_s < 3660


@pytest.mark.parametrize("after", [False, True])
async def test_a_fault_at_any_call_loses_no_invoked_run(rig: Rig, after: bool) -> None:
    kind = "memory" if type(rig.store._store).__name__ == "MemoryStore" else "sqlite"
    for call in range(2, 26):
        one = Rig(kind)
        one.worker.configure(events_schema=Event)

        @one.worker.function("child", on=lambda event: False)
        async def child(event: Paid, ctx: Context, one: Rig = one) -> int:
            await ctx.execute("work", one.effect, "work")
            return event.cents

        @one.worker.function("f", on=Order)
        async def f(event: Order, ctx: Context, one: Rig = one, child: Any = child) -> int:
            answer: int = await ctx.invoke("child", child, Paid(order_id=event.id, cents=4))
            await ctx.execute("after", one.effect, "after")
            return answer

        one.faults.fail_at, one.faults.after = {call}, after
        run = await one.run()
        assert run.result == 4, call
        assert one.dispatcher.dead_letters == []
