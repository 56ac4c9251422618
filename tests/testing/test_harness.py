"""The harness: a user's worker in virtual time, whatever its store and dispatcher are."""

from __future__ import annotations

import asyncio
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from idioteque import (
    Context,
    EventRejected,
    InlineDispatcher,
    InvalidValue,
    NonRetryableError,
    RunFailure,
    StepFailed,
    Tick,
    Worker,
)
from idioteque.testing import HarnessError, harness
from tests.testing.shop import FLAKY, ONCE, Effects, Order, Paid, Receipt, charge, make_worker, ship


@pytest.fixture
def worker(tmp_path: Path) -> Worker:
    return make_worker(tmp_path)


# ---- running


async def test_a_published_event_runs_its_function_to_the_end(worker: Worker) -> None:
    @worker.function("pay", on=Order)
    async def pay(event: Order, ctx: Context) -> str:
        receipt = await ctx.execute("charge", charge, event.id)
        return receipt.number

    async with harness(worker, functions=[pay]) as h:
        published = await h.publish(Order(id="7"))
        run = await h.run(published)
    assert (run.status, run.result, run.event_id) == ("completed", "r-7", published.event_id)
    assert [(step.key, step.status, step.result) for step in run.steps] == [
        (("charge",), "completed", {"number": "r-7", "amount": 10})
    ]
    assert [each.id for each in h.runs] == [run.id] == [published.run_id("pay")]


async def test_without_functions_all_of_the_worker_are_mounted(worker: Worker) -> None:
    @worker.function("pay", on=Order)
    async def pay(event: Order, ctx: Context) -> str:
        return "paid"

    @worker.function("ship", on=[Order, Paid])
    async def send(event: Order | Paid, ctx: Context) -> str:
        return "sent"

    async with harness(worker) as h:
        published = await h.publish(Order())
        assert sorted(run.function_id for run in h.runs) == ["pay", "ship"]
        assert (await h.run(published, "ship")).result == "sent"
        assert (await h.run(published, pay)).result == "paid"
        assert (await h.run(published.run_id("pay"))).result == "paid"
        with pytest.raises(HarnessError, match="'pay', 'ship': say which one"):
            await h.run(published)


async def test_the_worker_is_as_it_was_afterwards(worker: Worker, tmp_path: Path) -> None:
    @worker.function("pay", on=Order)
    async def pay(event: Order, ctx: Context) -> str:
        return "paid"

    before = dict(worker.options)
    async with harness(worker) as h:
        await h.publish(Order())
        assert worker.options["store"] is not before["store"]
    assert dict(worker.options) == before
    with pytest.raises(RuntimeError, match="the test's own"):
        async with harness(worker):
            raise RuntimeError("the test's own")
    assert dict(worker.options) == before
    assert not (tmp_path / "runs.db").exists() or (await worker.runs.list()).runs == []


async def test_two_harnesses_share_nothing(worker: Worker) -> None:
    @worker.function("pay", on=Order)
    async def pay(event: Order, ctx: Context) -> str:
        return "paid"

    async with harness(worker) as first:
        await first.publish(Order())
    async with harness(worker) as second:
        assert second.runs == []
        await second.publish(Order(), deduplication_id="the-same")
        await second.publish(Order(), deduplication_id="the-same")
    assert len(second.runs) == len(second.published) == len(first.runs) == 1


async def test_an_event_that_does_not_fit_is_refused(worker: Worker) -> None:
    async with harness(worker, functions=[worker.create_function("pay", Order, nothing)]) as h:
        with pytest.raises(EventRejected):
            await h.publish({"type": "unknown"})


async def nothing(event: Any, ctx: Context) -> None:
    return None


# ---- time


async def test_three_days_pass_at_once(worker: Worker) -> None:
    seen: list[datetime] = []

    @worker.function("remind", on=Order)
    async def remind(event: Order, ctx: Context) -> str:
        await ctx.sleep("cool-down", "3d")
        return "reminded"

    async with harness(worker, start=datetime(2026, 1, 1, tzinfo=UTC)) as h:
        published = await h.publish(Order())
        assert (await h.run(published)).status == "waiting"
        await h.advance("2d")
        assert (await h.run(published)).status == "waiting"
        why = await worker.runs.why(published.run_id("remind"))
        assert why is not None
        assert (why.cause, why.until) == ("sleeping", datetime(2026, 1, 4, tzinfo=UTC))
        await h.advance(timedelta(days=1))
        run = await h.run(published)
        seen.append(h.now)
    assert (run.status, run.result, run.finished_at) == ("completed", "reminded", datetime(2026, 1, 4, tzinfo=UTC))
    assert seen == [datetime(2026, 1, 4, tzinfo=UTC)]


async def test_back_off_passes_in_virtual_time(worker: Worker) -> None:
    effects = Effects()

    async def flaky() -> str:
        effects.note("flaky")
        if effects.counts["flaky"] < 3:
            raise ConnectionError("not yet")
        return "done"

    @worker.function("pay", on=Order)
    async def pay(event: Order, ctx: Context) -> str:
        return await ctx.execute("call", flaky, retry=FLAKY)

    async with harness(worker) as h:
        published = await h.publish(Order())
        assert effects.counts["flaky"] == 1
        await h.advance("1m")
        assert effects.counts["flaky"] == 2
        await h.finish()
        assert (await h.run(published)).result == "done"
        assert [(step.key, step.ran) for step in h.steps] == [("call", 3)]


async def test_finish_leaves_a_run_waiting_whose_event_never_comes(worker: Worker) -> None:
    @worker.function("pay", on=Order)
    async def pay(event: Order, ctx: Context) -> str:
        paid = await ctx.wait_for_event("paid", Paid, where={"order_id": event.id})
        return "" if paid is None else paid.order_id

    async with harness(worker) as h:
        published = await h.publish(Order(id="7"))
        await h.finish()
        assert (await h.run(published)).status == "waiting"
        await h.publish(Paid(order_id="8"))
        assert (await h.run(published)).status == "waiting"
        await h.publish(Paid(order_id="7"))
        assert (await h.run(published)).result == "7"


async def test_finish_is_bounded(worker: Worker) -> None:
    @worker.function("again", on=Order)
    async def again(event: Order, ctx: Context) -> None:
        await ctx.sleep("a-day", "1d")
        await ctx.publish("again", Order(id=event.id))

    async with harness(worker) as h:
        await h.publish(Order())
        with pytest.raises(HarnessError, match="after 10d of virtual time"):
            await h.finish("10d")
        assert len(h.runs) == 11


async def test_a_delayed_event_comes_at_its_time(worker: Worker) -> None:
    async with harness(worker, functions=[worker.create_function("pay", Order, nothing)]) as h:
        published = await h.publish(Order(), delay="1h")
        with pytest.raises(HarnessError, match="started no such run"):
            await h.run(published)
        await h.advance("1h")
        assert (await h.run(published)).status == "completed"
        assert h.published[0].delay_s == 3600


async def test_a_start_without_a_time_zone_is_refused(worker: Worker) -> None:
    with pytest.raises(InvalidValue, match="needs a time zone"):
        harness(worker, start=datetime(2026, 1, 1))  # noqa: DTZ001 - that is the point


# ---- what really takes time


async def test_steps_in_threads_and_real_waits_are_waited_for(worker: Worker) -> None:
    gate = threading.Event()

    def blocking(name: str) -> str:
        assert gate.wait(10)
        return f"{name} in {threading.current_thread().name}"

    async def slow() -> str:
        await asyncio.sleep(0.02)
        return "slow"

    @worker.function("pay", on=Order)
    async def pay(event: Order, ctx: Context) -> list[str]:
        await asyncio.sleep(0.01)
        return await asyncio.gather(ctx.execute("a", blocking, "a"), ctx.execute("b", slow))

    async with harness(worker) as h:
        asyncio.get_running_loop().call_later(0.05, gate.set)
        run = await h.run(await h.publish(Order()))
    assert run.status == "completed"
    assert run.result[0].startswith("a in idioteque-step")
    assert run.result[1] == "slow"


async def test_a_thread_is_waited_for_while_another_step_backs_off(worker: Worker) -> None:
    gate = threading.Event()
    effects = Effects()

    def blocking() -> str:
        assert gate.wait(10)
        return "blocked"

    async def flaky() -> str:
        effects.note("flaky")
        if effects.counts["flaky"] == 1:
            raise ConnectionError("once")
        return "flaky"

    @worker.function("pay", on=Order)
    async def pay(event: Order, ctx: Context) -> list[str]:
        return await asyncio.gather(ctx.execute("a", blocking), ctx.execute("b", flaky))

    async with harness(worker) as h:
        asyncio.get_running_loop().call_later(0.05, gate.set)
        published = await h.publish(Order())
        assert [(step.key, step.status) for step in h.steps] == [("a", "completed"), ("b", "pending")]
        assert (await h.run(published)).status == "running"
        await h.finish()
        assert (await h.run(published)).result == ["blocked", "flaky"]


async def test_nested_steps_rest_while_they_wait_for_their_own(worker: Worker) -> None:
    @worker.function("pay", on=Order)
    async def pay(event: Order, ctx: Context) -> str:
        async def outer() -> str:
            await ctx.sleep("pause", "1h")
            return await ctx.execute("inner", ship, event.id)

        return await ctx.execute("outer", outer)

    async with harness(worker) as h:
        published = await h.publish(Order())
        await h.advance("1h")
        assert (await h.run(published)).result == "parcel-1"
        assert [step.key for step in h.steps] == ["outer/pause", "outer/inner", "outer"]


async def test_steps_may_have_deliveries_of_their_own(worker: Worker) -> None:
    @worker.function("pay", on=Order)
    async def pay(event: Order, ctx: Context) -> list[Any]:
        receipt = await ctx.execute("charge", charge, event.id)
        await ctx.sleep("cool-down", "1h")
        parcels = await asyncio.gather(*(ctx.execute(f"ship-{n}", ship, str(n)) for n in range(event.items)))
        return [receipt.number, *parcels]

    async with harness(worker, mode="isolated") as h:
        published = await h.publish(Order(items=3))
        await h.advance("1h")
        assert (await h.run(published)).result == ["r-1", "parcel-0", "parcel-1", "parcel-2"]
        assert all(step.ran == 1 for step in h.steps if step.key != "cool-down")


# ---- publishing from inside


async def test_whatever_functions_publish_stays_in_the_harness(worker: Worker) -> None:
    async def tell(order_id: str) -> str:
        return (await worker.publish(Paid(order_id=order_id), deduplication_id=f"paid-{order_id}")).event_id

    def tell_from_a_thread(order_id: str) -> str:
        return worker.publish_sync(Paid(order_id=f"{order_id}-sync")).event_id

    @worker.function("pay", on=Order)
    async def pay(event: Order, ctx: Context) -> None:
        await ctx.execute("tell", tell, event.id)
        await ctx.execute("tell-sync", tell_from_a_thread, event.id)
        await ctx.publish("tell-durably", Paid(order_id=f"{event.id}-durably"))

    @worker.function("paid", on=Paid)
    async def paid(event: Paid, ctx: Context) -> str:
        return event.order_id

    async with harness(worker) as h:
        published = await h.publish(Order(id="7"))
        run = await h.run(published, pay)
        assert run.status == "completed"
    results = sorted(run.result for run in h.runs if run.function_id == "paid")
    assert results == ["7", "7-durably", "7-sync"]
    assert [(each.event, each.run_id) for each in h.published] == [
        (Order(id="7"), None),
        (Paid(order_id="7"), run.id),
        (Paid(order_id="7-sync"), run.id),
        (Paid(order_id="7-durably"), run.id),
    ]


async def test_publishing_from_sync_code_of_the_test_does_not_hang(worker: Worker) -> None:
    async with harness(worker, functions=[worker.create_function("pay", Order, nothing)]) as h:
        published = worker.publish_sync(Order())
        assert (await h.run(published)).status == "completed"


async def test_functions_invoke_one_another_in_the_harness(worker: Worker) -> None:
    @worker.function("price", on=Paid)
    async def price(event: Paid, ctx: Context) -> Receipt:
        return await ctx.execute("charge", charge, event.order_id)

    @worker.function("pay", on=Order)
    async def pay(event: Order, ctx: Context) -> int:
        receipt: Receipt = await ctx.invoke("price", price, Paid(order_id=event.id))
        return receipt.amount

    async with harness(worker) as h:
        assert (await h.run(await h.publish(Order()))).result == 10


# ---- steps


async def test_stubs_replace_callables_by_key_or_by_path(worker: Worker) -> None:
    async def forbidden(*args: object) -> Receipt:
        raise AssertionError("the real one was called")

    @worker.function("pay", on=Order)
    async def pay(event: Order, ctx: Context) -> list[Any]:
        async def outer() -> str:
            return await ctx.execute("ship", ship, "inner")

        receipt = await ctx.execute("charge", forbidden, event.id)
        assert isinstance(receipt, Receipt)
        return [receipt.number, await ctx.execute("outer", outer), await ctx.execute("ship", ship, "top")]

    async def stub(order_id: str) -> Receipt:
        return Receipt(number=f"stub-{order_id}", amount=0)

    stubs = {"charge": stub, "outer/ship": lambda name: f"flown-{name}"}
    async with harness(worker, steps=stubs) as h:
        assert (await h.run(await h.publish(Order()))).result == ["stub-1", "flown-inner", "parcel-top"]


async def test_a_stub_that_fails_fails_its_step(worker: Worker) -> None:
    def declined(order_id: str) -> Receipt:
        raise NonRetryableError("declined")

    @worker.function("pay", on=Order)
    async def pay(event: Order, ctx: Context) -> str:
        try:
            await ctx.execute("charge", charge, event.id)
        except StepFailed as error:
            return error.type
        return "paid"

    async with harness(worker, steps={"charge": declined}) as h:
        assert (await h.run(await h.publish(Order()))).result == "NonRetryableError"
    [step] = h.steps
    assert (step.key, step.status, step.error, step.ran) == ("charge", "failed", "NonRetryableError: declined", 1)


async def test_a_stub_of_another_type_is_found_out(worker: Worker) -> None:
    @worker.function("pay", on=Order, retry=ONCE)
    async def pay(event: Order, ctx: Context) -> int:
        return (await ctx.execute("charge", charge, event.id, retry=ONCE)).amount

    async with harness(worker, steps={"charge": lambda _: {"number": 1}}) as h:
        run = await h.run(await h.publish(Order()))
    assert run.status == "failed"
    assert run.error is not None
    assert "Receipt" in run.error


async def test_a_failure_handler_runs_in_the_harness(worker: Worker) -> None:
    async def clean_up(failure: RunFailure, ctx: Context) -> str:
        return await ctx.execute("note", ship, failure.event.id)

    @worker.function("pay", on=Order, retry=ONCE, on_failure=clean_up)
    async def pay(event: Order, ctx: Context) -> str:
        raise NonRetryableError("no")

    async with harness(worker) as h:
        await h.publish(Order(id="7"))
    assert [(run.function_id, run.status, run.result) for run in h.runs] == [
        ("pay", "failed", None),
        ("pay.on-failure", "completed", "parcel-7"),
    ]


# ---- what goes wrong


async def test_a_run_that_never_was_is_explained_by_what_deliveries_were_answered(worker: Worker) -> None:
    @worker.function("pay", on=Order)
    async def pay(event: Order, ctx: Context) -> str:
        await ctx.publish("paid", Paid())
        return "paid"

    @worker.function("child", on=lambda _: False)
    async def child(event: Any, ctx: Context) -> str:
        return "child"

    @worker.function("parent", on=Paid)
    async def parent(event: Paid, ctx: Context) -> str:
        return str(await ctx.invoke("child", child, Order()))

    async with harness(worker, functions=[parent]) as h:
        await h.publish(Paid())
        await h.advance("1h")
        with pytest.raises(
            HarnessError, match="runs there are of: child, parent; a message of 'child' was answered 503"
        ):
            await h.run("run_unknown")


async def test_functions_that_start_each_other_for_ever_are_found_out(
    worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("idioteque.testing.post.DELIVERIES_MAX", 50)

    @worker.function("again", on=Order)
    async def again(event: Order, ctx: Context) -> None:
        await ctx.publish("again", Order())

    with pytest.raises(HarnessError, match="more than 50 deliveries"):
        async with harness(worker) as h:
            await h.publish(Order())


async def test_a_step_that_hangs_is_named(worker: Worker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("idioteque.testing.movement.REAL_TIME_MAX_S", 0.05)

    async def hangs() -> None:
        await asyncio.Event().wait()

    @worker.function("pay", on=Order)
    async def pay(event: Order, ctx: Context) -> None:
        await ctx.execute("hangs", hangs)

    with pytest.raises(HarnessError, match=r"step 'hangs' of 'pay' has been at work for 0\.05 s of real time"):
        async with harness(worker) as h:
            await h.publish(Order())


async def test_cancelling_and_retrying_work_as_ever(worker: Worker) -> None:
    outcomes = iter([False, True])

    async def work() -> str:
        if not next(outcomes):
            raise NonRetryableError("once")
        return "done"

    @worker.function("pay", on=Order)
    async def pay(event: Order, ctx: Context) -> str:
        return await ctx.execute("work", work)

    async with harness(worker) as h:
        published = await h.publish(Order())
        run = await h.run(published)
        assert run.status == "failed"
        await worker.runs.retry(run.id)
        assert (await h.run(published)).result == "done"
        assert await worker.runs.result(run.id) == "done"


async def test_a_schedule_is_due_when_the_test_says_so() -> None:
    worker = Worker(events_schema=dict[str, Any], store="memory:", dispatcher=InlineDispatcher())

    @worker.function("nightly", cron="0 4 * * *")
    async def nightly(tick: Tick, ctx: Context) -> str:
        await ctx.sleep("nap", "1h")
        return tick.message_id

    @worker.function("other", on="order")
    async def other(event: dict[str, Any], ctx: Context) -> None: ...

    async with harness(worker) as h:
        first, second = await h.tick(nightly), await h.tick("nightly")
        await h.advance("3d")
        for published in (first, second):
            run = await h.run(published)
            assert (run.status, run.result) == ("completed", published.message_id)
        assert len(h.runs) == 2
        with pytest.raises(HarnessError, match="with cron="):
            await h.tick(other)
