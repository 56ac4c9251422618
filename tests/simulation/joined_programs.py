"""Programs of several runs: they wait for events, start each other, limit, cancel and follow each other."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from idioteque import Context, Limit, StepFailed, Worker
from idioteque.function import RunFailure, run_id
from tests.simulation.basic_programs import broken, refused
from tests.simulation.program import (
    EVENT_ID,
    Failing,
    Order,
    Paid,
    Refunded,
    Stop,
    effect,
    here,
    program,
    publish_one,
    times,
)

if TYPE_CHECKING:
    from tests.simulation.client import Client
    from tests.simulation.world import World


async def order_then_paid(client: Client) -> None:
    await client.publish(Order(), EVENT_ID)
    await client.until(lambda run: run is not None, EVENT_ID, "f")
    await client.sleep(30)
    await client.publish(Paid(id="other"), "evt-other")
    await client.publish(Paid(), "evt-paid")


@program(order_then_paid)
def waiting(worker: Worker) -> None:
    @worker.function("f", on="order")
    async def f(event: Order, ctx: Context) -> list[Any]:
        first = await ctx.execute("a", effect)
        paid = await ctx.wait_for_event("paid", Paid, where={"id": event.id})
        assert paid is not None
        return [first, paid.amount, await ctx.execute("b", effect)]


async def both_at_once(client: Client) -> None:
    await client.publish(Order(), EVENT_ID)
    await client.publish(Paid(), "evt-paid", delay_s=0.001)


@program(both_at_once, races=True)
def waiting_meanwhile(worker: Worker) -> None:
    @worker.function("f", on="order")
    async def f(event: Order, ctx: Context) -> str:
        paid, other = await asyncio.gather(ctx.wait_for_event("paid", Paid, timeout="1h"), ctx.execute("a", effect))
        return f"{'in time' if paid else 'too late'} {other}"


@program()
def waiting_in_vain(worker: Worker) -> None:
    @worker.function("f", on="order")
    async def f(event: Order, ctx: Context) -> str:
        paid = await ctx.wait_for_event("paid", Paid, timeout="2h")
        return "paid" if paid else await ctx.execute("remind", effect)


@program(order_then_paid)
def waiting_for_any(worker: Worker) -> None:
    @worker.function("f", on="order")
    async def f(event: Order, ctx: Context) -> str:
        first = await ctx.wait_any("any", Refunded, Paid, where={"id": event.id}, timeout="3d")
        return f"{type(first).__name__} {await ctx.execute('a', effect)}"


async def order_then_two_paid(client: Client) -> None:
    await client.publish(Order(), EVENT_ID)
    await client.until(lambda run: run is not None, EVENT_ID, "f")
    await client.publish(Paid(amount=1), "evt-paid-1")
    await client.sleep(60)
    await client.publish(Paid(amount=2), "evt-paid-2")


@program(order_then_two_paid, races=True)
def waiting_twice(worker: Worker) -> None:
    @worker.function("f", on="order")
    async def f(event: Order, ctx: Context) -> list[int]:
        first = await ctx.wait_for_event("first", Paid)
        second = await ctx.wait_for_event("second", Paid)
        assert first is not None
        assert second is not None
        assert first.amount != second.amount, "one event was taken twice"
        return sorted([first.amount, second.amount])


@program(order_then_paid)
def waiting_in_a_step_of_its_own(worker: Worker) -> None:
    async def outer(ctx: Context) -> int:
        paid = await ctx.wait_for_event("paid", Paid, where={"id": "1"})
        return 0 if paid is None else paid.amount

    @worker.function("f", on="order")
    async def f(event: Order, ctx: Context) -> list[Any]:
        return list(await asyncio.gather(ctx.execute("o", outer, ctx, isolate=True), ctx.execute("a", effect)))


@program()
def invoking(worker: Worker) -> None:
    @worker.function("child", on=lambda event: False)
    async def child(event: Paid, ctx: Context) -> str:
        return await ctx.execute("c", effect)

    @worker.function("f", on="order")
    async def f(event: Order, ctx: Context) -> list[str]:
        return [await ctx.invoke("i", child, Paid()), await ctx.execute("a", effect)]


@program()
def invoking_side_by_side(worker: Worker) -> None:
    @worker.function("child", on=lambda event: False)
    async def child(event: Paid, ctx: Context) -> str:
        if event.amount == 2:
            await ctx.sleep("pause", "10m")
        return await ctx.execute("c", effect)

    @worker.function("f", on="order")
    async def f(event: Order, ctx: Context) -> list[str]:
        calls = [ctx.invoke(f"i-{n}", child, Paid(amount=n)) for n in (1, 2)]
        return list(await asyncio.gather(*calls, ctx.execute("a", effect)))


@program()
def invoking_what_fails(worker: Worker) -> None:
    @worker.function("child", on=lambda event: False)
    async def child(event: Paid, ctx: Context) -> str:
        return await ctx.execute("bad", Failing(99, refused))

    @worker.function("f", on="order")
    async def f(event: Order, ctx: Context) -> str:
        try:
            return str(await ctx.invoke("i", child, Paid()))
        except StepFailed as error:
            return f"{error.type} {await ctx.execute('a', effect)}"


@program()
def publishing(worker: Worker) -> None:
    @worker.function("f", on="order")
    async def f(event: Order, ctx: Context) -> str:
        await ctx.publish("tell", Paid(id=event.id))
        return await ctx.execute("a", effect)

    @worker.function("g", on="paid")
    async def g(event: Paid, ctx: Context) -> str:
        return await ctx.execute("b", effect)


@program()
def asking_and_answering(worker: Worker) -> None:
    @worker.function("f", on="order")
    async def f(event: Order, ctx: Context) -> int:
        await ctx.publish("ask", Refunded(id="question"))
        answer = await ctx.wait_for_event("answer", Paid, where={"id": "answer"})
        return 0 if answer is None else answer.amount

    @worker.function("g", on="refunded")
    async def g(event: Refunded, ctx: Context) -> str:
        await ctx.execute("think", effect)
        await ctx.publish("tell", Paid(id="answer", amount=42))
        return "told"


@program()
def fan_out(worker: Worker) -> None:
    for name in ("f", "g", "h"):

        @worker.function(name, on="order")
        async def one(event: Order, ctx: Context) -> list[str]:
            return [await ctx.execute("a", effect), await ctx.execute("b", effect)]


@program()
def failure_handled(worker: Worker) -> None:
    async def sorry(failure: RunFailure, ctx: Context) -> list[str]:
        return [failure.error, await ctx.execute("sorry", effect)]

    @worker.function("f", on="order", on_failure=sorry)
    async def f(event: Order, ctx: Context) -> str:
        return await ctx.execute("bad", Failing(99, refused))


async def order_then_stop(client: Client) -> None:
    await client.publish(Order(), EVENT_ID)
    await client.until(lambda run: run is not None and bool(run.steps), EVENT_ID, "f")
    await client.publish(Stop(id="other"), "evt-stop-other")
    await client.sleep(60)
    await client.publish(Stop(), "evt-stop")


@program(order_then_stop)
def cancelled_by_event(worker: Worker) -> None:
    @worker.function("f", on="order", cancel_on=[(Stop, {"id": "id"})])
    async def f(event: Order, ctx: Context) -> str:
        await ctx.execute("a", effect)
        await ctx.sleep("long", "20d")
        return await ctx.execute("never", effect)


async def order_then_cancel(client: Client) -> None:
    await client.publish(Order(), EVENT_ID)
    await client.until(lambda run: run is not None and bool(run.steps), EVENT_ID, "f")
    client.cancel(run_id(EVENT_ID, "f"))


@program(order_then_cancel)
def cancelled_by_hand(worker: Worker) -> None:
    @worker.function("f", on="order")
    async def f(event: Order, ctx: Context) -> str:
        await ctx.execute("a", effect)
        await ctx.sleep("long", "20d")
        return await ctx.execute("never", effect)


@program(races=True)
def timeout(worker: Worker) -> None:
    @worker.function("f", on="order", timeout="1d")
    async def f(event: Order, ctx: Context) -> str:
        await ctx.execute("a", effect)
        await ctx.sleep("long", "3d")
        return await ctx.execute("never", effect)


@program(races=True)
def timeout_in_time(worker: Worker) -> None:
    @worker.function("f", on="order", timeout="5d")
    async def f(event: Order, ctx: Context) -> str:
        return await ctx.execute("a", effect)


async def three_orders(client: Client) -> None:
    for n in (1, 2, 3):
        await client.publish(Order(id="same", count=n), f"evt-{n}")
        await client.sleep(2)


def runs_of(world: World, function_id: str) -> list[str]:
    return [record.event_id for record in world.witness.records if record.function_id == function_id]


def one_run_at_least(world: World) -> str | None:
    return None if runs_of(world, "f") else "no run was started"


def exactly_one_run(world: World) -> str | None:
    """A run that an operator cancelled is the one if it had the name; another event is not to start a second one then.

    What else is cancelled is none: the record of a message that was given up, which ended when that came again.
    """
    witness = world.witness
    holders = {run for runs in witness.holders.values() for run in runs}
    ended_by_hand = {run for run in holders if witness.operator_cancelled(run)}
    records = [record for record in witness.records if record.status != "cancelled" or record.run_id in ended_by_hand]
    runs = [record.event_id for record in records]
    return None if len(runs) == 1 else f"runs of {runs}"


def the_last_has_run(world: World) -> str | None:
    accepted_ms = world.witness.accepted_ms
    last = max(accepted_ms, key=lambda event_id: (accepted_ms[event_id], event_id))
    return None if last in runs_of(world, "f") else f"runs of {runs_of(world, 'f')}, but not of {last}, the last one"


@program(three_orders, races=True, check=the_last_has_run)
def debounced(worker: Worker) -> None:
    @worker.function("f", on="order", debounce="1m")
    async def f(event: Order, ctx: Context) -> str:
        return await ctx.execute("a", effect)


@program(three_orders, races=True, check=one_run_at_least)
def singleton(worker: Worker) -> None:
    @worker.function("f", on="order", singleton="id")
    async def f(event: Order, ctx: Context) -> str:
        await ctx.sleep("pause", "10s")
        return await ctx.execute("a", effect)


@program(three_orders, races=True, check=exactly_one_run)
def idempotent(worker: Worker) -> None:
    @worker.function("f", on="order", idempotency="id")
    async def f(event: Order, ctx: Context) -> str:
        return await ctx.execute("a", effect)


@program(three_orders)
def limited(worker: Worker) -> None:
    @worker.function("f", on="order", concurrency=Limit(2))
    async def f(event: Order, ctx: Context) -> str:
        first = await ctx.execute("a", effect)
        return first + await ctx.execute("b", effect)


async def order_and_retry(client: Client) -> None:
    await publish_one(client)
    await client.ended(EVENT_ID, "f")
    client.world.is_repaired = True
    await client.retry(EVENT_ID, "f")


@program(order_and_retry)
def retried_run(worker: Worker) -> None:
    async def needs_repair() -> str:
        number = times()
        if not here().is_repaired:
            raise refused()
        return f"repaired#{number}"

    @worker.function("f", on="order")
    async def f(event: Order, ctx: Context) -> list[str]:
        first, second = await asyncio.gather(ctx.execute("a", effect), ctx.execute("b", effect, isolate=True))
        return [first, second, await ctx.execute("repair", needs_repair), await ctx.execute("c", effect)]


@program(order_and_retry, races=True)
def retried_run_with_handler(worker: Worker) -> None:
    async def sorry(failure: RunFailure, ctx: Context) -> str:
        return await ctx.execute("sorry", effect)

    @worker.function("f", on="order", on_failure=sorry)
    async def f(event: Order, ctx: Context) -> str:
        await ctx.sleep("pause", "5m")
        if not here().is_repaired:
            raise broken()
        return await ctx.execute("a", effect)
