"""Rehearsals without pytest: programs with every kind of step end alike at every boundary."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Literal

import pytest

from idioteque import Context, NonRetryableError, RunFailure, StepFailed, StepInterrupted, Worker
from idioteque.testing import harness
from idioteque.testing.chaos import Comparison, Ending, Rehearsal, RunEnd, Stage, stage
from tests.testing.shop import ONCE, Order, Paid, charge, make_worker, ship

Mode = Literal["inline", "isolated"]
Program = Callable[[Worker, Mode], Awaitable[None]]


async def parallel(worker: Worker, mode: Mode) -> None:
    @worker.function("pay", on=Order)
    async def pay(event: Order, ctx: Context) -> list[Any]:
        receipt, parcel = await asyncio.gather(
            ctx.execute("charge", charge, event.id), ctx.execute("ship", ship, event.id)
        )
        await ctx.sleep("cool-down", "3d")
        return [receipt.number, parcel]

    async with harness(worker, mode=mode) as h:
        published = await h.publish(Order())
        assert (await h.run(published)).status == "waiting"
        await h.advance("3d")
        assert (await h.run(published)).result == ["r-1", "parcel-1"]


async def nested_and_waiting(worker: Worker, mode: Mode) -> None:
    @worker.function("pay", on=Order)
    async def pay(event: Order, ctx: Context) -> str:
        async def outer() -> str:
            await ctx.execute("inner", ship, event.id)
            return (await ctx.execute("inner-charge", charge, event.id)).number

        number = await ctx.execute("outer", outer)
        paid = await ctx.wait_for_event("paid", Paid, where={"order_id": event.id}, timeout="1d")
        late = await ctx.wait_for_event("late", Paid, where={"order_id": "never"}, timeout="1d")
        return f"{number} {paid and paid.order_id} {late}"

    async with harness(worker, mode=mode) as h:
        published = await h.publish(Order())
        await h.publish(Paid(order_id="1"))
        await h.finish()
        assert (await h.run(published)).result == "r-1 1 None"


async def invoking_and_publishing(worker: Worker, mode: Mode) -> None:
    @worker.function("paid", on=Paid)
    async def paid(event: Paid, ctx: Context) -> str:
        return await ctx.execute("ship", ship, event.order_id)

    @worker.function("pay", on=Order)
    async def pay(event: Order, ctx: Context) -> str:
        await ctx.publish("tell", Paid(order_id=f"{event.id}-told"))
        return str(await ctx.invoke("ask", paid, Paid(order_id=event.id)))

    async with harness(worker, mode=mode) as h:
        published = await h.publish(Order())
        assert (await h.run(published, "pay")).result == "parcel-1"
        assert sorted(str(run.result) for run in h.runs) == ["parcel-1", "parcel-1", "parcel-1-told"]


async def failing(worker: Worker, mode: Mode) -> None:
    async def refused() -> None:
        raise NonRetryableError("refused")

    async def clean_up(failure: RunFailure, ctx: Context) -> str:
        return await ctx.execute("undo", ship, failure.event.id)

    @worker.function("pay", on=Order, retry=ONCE, on_failure=clean_up)
    async def pay(event: Order, ctx: Context) -> None:
        try:
            await ctx.execute("first", refused)
        except StepFailed:
            await ctx.execute("second", refused)

    async with harness(worker, mode=mode) as h:
        await h.publish(Order())
        assert [(run.function_id, run.status) for run in h.runs] == [("pay", "failed"), ("pay.on-failure", "completed")]


async def at_most_once(worker: Worker, mode: Mode) -> None:
    @worker.function("pay", on=Order)
    async def pay(event: Order, ctx: Context) -> str:
        try:
            return (await ctx.execute("charge", charge, event.id, at_most_once=True)).number
        except StepInterrupted:
            return "interrupted"

    async with harness(worker, mode=mode) as h:
        assert (await h.run(await h.publish(Order()))).result == "r-1"
        assert [step.ran for step in h.steps] == [1]


async def controlled(worker: Worker, mode: Mode) -> None:
    @worker.function("pay", on=Order, singleton="id", timeout="2d", cancel_on=[(Paid, {"order_id": "id"})])
    async def pay(event: Order, ctx: Context) -> None:
        await ctx.execute("ship", ship, event.id)
        await ctx.sleep("for-ever", "300d")

    async with harness(worker, mode=mode) as h:
        for order_id in ("1", "1", "2"):
            await h.publish(Order(id=order_id))
        await h.publish(Paid(order_id="1"))
        await h.finish()
        assert sorted((run.event["id"], run.status) for run in h.runs) == [("1", "cancelled"), ("2", "failed")]


async def rehearsed(program: Program, worker: Worker, mode: Mode, rehearsal: Rehearsal) -> Rehearsal:
    token = stage.set(Stage(rehearsal))
    try:
        await program(worker, mode)
    finally:
        stage.reset(token)
    return rehearsal


@pytest.mark.parametrize("mode", ["inline", "isolated"])
@pytest.mark.parametrize(
    "program", [parallel, nested_and_waiting, invoking_and_publishing, failing, at_most_once, controlled]
)
async def test_a_program_ends_alike_at_every_boundary(program: Program, mode: Mode, tmp_path: Path) -> None:
    first = await rehearsed(program, make_worker(tmp_path), mode, Rehearsal())
    control = await rehearsed(program, make_worker(tmp_path), mode, Rehearsal())
    comparison = Comparison(first.endings, control.endings)
    assert comparison.is_exact
    assert len(first.boundaries) > 8
    reached = 0
    for boundary in first.boundaries:
        faulty = await rehearsed(program, make_worker(tmp_path), mode, Rehearsal(boundary))
        reached += faulty.fault_text is not None
        assert comparison.difference(faulty.endings) is None, boundary
    assert reached > 0.6 * len(first.boundaries), "how many deliveries look again depends a little on chance"


async def test_a_thread_of_a_process_that_is_lost_is_waited_for(tmp_path: Path) -> None:
    gate = threading.Event()
    at_work: list[int] = []

    async def program(worker: Worker, mode: Mode) -> None:
        gate.clear()

        def blocking() -> None:
            at_work.append(1)
            assert len(at_work) == 1
            assert gate.wait(10)
            at_work.pop()

        @worker.function("pay", on=Order)
        async def pay(event: Order, ctx: Context) -> None:
            await asyncio.gather(ctx.execute("block", blocking), ctx.execute("charge", charge, event.id))

        async with harness(worker) as h:
            asyncio.get_running_loop().call_later(0.02, gate.set)
            assert (await h.run(await h.publish(Order()))).status == "completed"

    first = await rehearsed(program, make_worker(tmp_path), "inline", Rehearsal())
    [boundary] = [one for one in first.boundaries if "before commit of step 'charge'" in one.text]
    faulty = await rehearsed(program, make_worker(tmp_path), "inline", Rehearsal(boundary))
    assert faulty.fault_text is not None


async def test_a_thread_that_publishes_in_a_process_that_is_lost_goes_no_further(tmp_path: Path) -> None:
    went_on: list[str] = []

    async def program(worker: Worker, mode: Mode) -> None:
        def tell(order_id: str) -> None:
            worker.publish_sync(Paid(order_id=order_id), deduplication_id=f"paid-{order_id}")
            went_on.append(order_id)

        @worker.function("pay", on=Order)
        async def pay(event: Order, ctx: Context) -> None:
            await ctx.execute("tell", tell, event.id)

        async with harness(worker) as h:
            assert (await h.run(await h.publish(Order()))).status == "completed"
            assert len(h.published) == 2

    first = await rehearsed(program, make_worker(tmp_path), "inline", Rehearsal())
    for when in ("before", "after"):
        [boundary] = [one for one in first.boundaries if f"lost {when} dispatch of event 'paid'" in one.text]
        went_on.clear()
        await rehearsed(program, make_worker(tmp_path), "inline", Rehearsal(boundary))
        assert went_on == ["1"]


def end(result: str = "1", *steps: str) -> Ending:
    return Ending((RunEnd("pay", "completed", "{}", result, steps),), ())


def test_what_differs_without_a_fault_is_not_compared() -> None:
    drawn = Comparison([end("1", "a")], [end("2", "b")])
    assert drawn.difference([end("3", "c")]) is None
    difference = drawn.difference([end("3", "c", "d")])
    assert difference is not None
    assert "without: run of pay: completed, 1 steps" in difference
    assert Comparison([end("1")], [end("1")]).difference([end("2")]) is not None


def test_an_outcome_that_was_recorded_twice_is_told() -> None:
    same = Ending((), (), ("charge",))
    difference = Comparison([Ending((), ())], [Ending((), ())]).difference([same])
    assert difference == "an outcome was recorded more than once: charge"


def test_an_event_that_was_published_twice_is_told() -> None:
    once, twice = Ending((), ("paid",)), Ending((), ("paid", "paid"))
    assert "published paid" in (Comparison([once], [once]).difference([twice]) or "")
