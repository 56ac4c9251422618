"""Outcomes that a test gives to the runs of an event: those steps are on record, and are not run."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from idioteque import Context, NonRetryableError, RunFailure, StepFailed, StepInterrupted, Tick, Worker
from idioteque.testing import HarnessError, harness
from tests.testing.shop import ONCE, Effects, Order, Paid, Receipt, make_worker


@pytest.fixture
def worker(tmp_path: Path) -> Worker:
    return make_worker(tmp_path)


def forbidden(*_: object) -> Any:
    raise AssertionError("this step was on record")


async def pay(order_id: str) -> Receipt:
    return Receipt(number=str(forbidden(order_id)), amount=0)


@pytest.mark.parametrize("mode", ["inline", "isolated"])
async def test_what_is_given_is_not_run_and_the_rest_is(worker: Worker, mode: Any) -> None:
    effects = Effects()

    def ship(number: str) -> str:
        effects.note("ship")
        return f"parcel for {number}"

    @worker.function("fulfil", on=Order)
    async def fulfil(event: Order, ctx: Context) -> str:
        async def both() -> list[str]:
            return list(await asyncio.gather(ctx.execute("a", forbidden), ctx.execute("b", forbidden)))

        receipt = await ctx.execute("charge", pay, event.id)
        assert isinstance(receipt, Receipt)
        await ctx.execute("outer", both)
        return await ctx.execute("ship", ship, receipt.number)

    given = {"outer/b": "b", "outer/a": "a", "charge": {"number": "r-1", "amount": 3}}
    async with harness(worker, [fulfil], mode=mode) as h:
        run = await h.run(await h.publish(Order(), given=given))
    assert (run.status, run.result) == ("completed", "parcel for r-1")
    assert effects.counts == {"ship": 1}
    assert {step.key: step.ran for step in h.steps} == {
        "charge": 0,
        "outer/a": 0,
        "outer/b": 0,
        "outer": 1,
        "ship": 1,
    }


async def test_a_model_may_be_given_as_itself(worker: Worker) -> None:
    @worker.function("pay", on=Order)
    async def fulfil(event: Order, ctx: Context) -> int:
        return (await ctx.execute("charge", pay, event.id)).amount

    async with harness(worker) as h:
        run = await h.run(await h.publish(Order(), given={"charge": Receipt(number="r", amount=7)}))
    assert (run.status, run.result) == ("completed", 7)


async def test_failures_are_given_as_exceptions_and_raised_as_on_record(worker: Worker) -> None:
    raised: list[StepFailed] = []

    @worker.function("pay", on=Order, retry=ONCE)
    async def fulfil(event: Order, ctx: Context) -> None:
        for key in ("own", "recorded", "interrupted"):
            try:
                await ctx.execute(key, forbidden)
            except StepFailed as error:
                raised.append(error)

    given = {
        "own": NonRetryableError("no funds"),
        "recorded": StepFailed("recorded", "Declined", "no card"),
        "interrupted": StepInterrupted("interrupted", "StepInterrupted", "who knows"),
    }
    async with harness(worker) as h:
        assert (await h.run(await h.publish(Order(), given=given))).status == "completed"
    assert [(type(error), error.key, error.type, error.message) for error in raised] == [
        (StepFailed, "own", "NonRetryableError", "no funds"),
        (StepFailed, "recorded", "Declined", "no card"),
        (StepInterrupted, "interrupted", "StepInterrupted", "who knows"),
    ]


async def test_sleeps_waits_events_and_invoked_runs_are_given_too(worker: Worker) -> None:
    @worker.function("child", on=Paid)
    async def child(event: Paid, ctx: Context) -> str:
        return str(forbidden())

    @worker.function("parent", on=Order)
    async def parent(event: Order, ctx: Context) -> list[Any]:
        await ctx.sleep("nap", "3d")
        paid = await ctx.wait_for_event("paid", Paid)
        late = await ctx.wait_for_event("late", Paid, timeout="1h")
        sent = await ctx.publish("tell", Paid())
        return [paid, late, await ctx.invoke("child", child, Paid()), sent.event_id]

    given = {
        "nap": None,
        "paid": {"type": "paid", "order_id": "4"},
        "late": None,
        "tell": {"event_id": "evt_1", "message_id": "msg_1"},
        "child": "done",
    }
    async with harness(worker, [parent]) as h:
        run = await h.run(await h.publish(Order(), given=given))
        assert len(h.published) == 1
    assert run.result == [{"type": "paid", "order_id": "4"}, None, "done", "evt_1"]


async def test_the_handler_of_a_failure_is_given_them_and_ticks_and_other_events_are_not(worker: Worker) -> None:
    effects = Effects()

    async def sorry(failure: RunFailure, ctx: Context) -> None:
        await ctx.execute("mail", effects.note, "mail")

    @worker.function("pay", on=Order, retry=ONCE, on_failure=sorry)
    async def fulfil(event: Order, ctx: Context) -> None:
        await ctx.execute("charge", effects.note, "charge")
        raise ValueError("after that")

    async with harness(worker) as h:
        await h.publish(Order(), given={"charge": None, "mail": None})
        assert [run.status for run in h.runs] == ["failed", "completed"]
        assert effects.counts == {}
        await h.publish(Order())
    assert effects.counts == {"charge": 1, "mail": 1}


async def test_a_tick_is_given_outcomes(worker: Worker) -> None:
    @worker.function("nightly", on=None, cron="0 3 * * *")
    async def nightly(tick: Tick, ctx: Context) -> int:
        counted: int = await ctx.execute("count", forbidden)
        return counted

    async with harness(worker) as h:
        run = await h.run(await h.tick(nightly, given={"count": 3}))
    assert (run.status, run.result) == ("completed", 3)


@pytest.mark.parametrize("given", [{"": 1}, {"a//b": 1}, {"fine": 1, "a": ...}, {"a": float("nan")}])
async def test_what_can_be_no_outcome_is_refused_before_anything_is_sent(worker: Worker, given: dict[str, Any]) -> None:
    @worker.function("pay", on=Order)
    async def fulfil(event: Order, ctx: Context) -> None: ...

    async with harness(worker) as h:
        with pytest.raises(HarnessError, match=r"given\['(a|a//b|)'\]: "):
            await h.publish(Order(), given=given)
        assert h.published == []
