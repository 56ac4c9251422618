"""Durable functions written as plain `def`: the same promises, in threads that are let go when a run waits."""

from __future__ import annotations

import asyncio
import contextvars
import logging
import threading
from pathlib import Path
from typing import Literal

import pytest

from idioteque import (
    ConfigurationError,
    Context,
    PassOver,
    Retry,
    RunFailure,
    StepFailed,
    SyncContext,
    Worker,
)
from idioteque.dispatcher import EventEnvelope
from idioteque.engine import Delivery
from idioteque.testing import harness
from idioteque.testing.chaos import Comparison, Rehearsal
from idioteque.threads import Threads, count_from
from tests.library.engine.rig import Order as RigOrder
from tests.library.engine.rig import Rig
from tests.testing.shop import FLAKY, Effects, Order, Paid, charge, make_worker, ship
from tests.testing.test_chaos import rehearsed

DEADLINE_S = 30
tenant: contextvars.ContextVar[str] = contextvars.ContextVar("tenant", default="nobody")
Mode = Literal["inline", "isolated"]


@pytest.fixture
def worker(tmp_path: Path) -> Worker:
    return make_worker(tmp_path)


def function_threads() -> list[str]:
    return [each.name for each in threading.enumerate() if each.name == "idioteque-function"]


@pytest.mark.parametrize("mode", ["inline", "isolated"])
async def test_a_plain_function_runs_its_steps_in_turn_and_returns(worker: Worker, mode: Mode) -> None:
    seen: list[str] = []

    @worker.function("pay", on=Order)
    def pay(event: Order, ctx: SyncContext) -> str:
        seen.append(threading.current_thread().name)
        receipt = ctx.execute("charge", charge, event.id)
        parcel = ctx.execute("ship", ship, event.id)
        return f"{receipt.number} {parcel}"

    async with harness(worker, mode=mode) as h:
        run = await h.run(await h.publish(Order()))
        assert (run.status, run.result) == ("completed", "r-1 parcel-1")
    assert set(seen) == {"idioteque-function"}


async def test_what_a_plain_function_raises_is_tried_again_and_then_fails_the_run(worker: Worker) -> None:
    attempts: list[int] = []
    told: list[str] = []

    def sorry(failure: RunFailure, ctx: SyncContext) -> None:
        told.append(ctx.execute("tell", ship, failure.event.id))

    @worker.function("pay", on=Order, retry=FLAKY, on_failure=sorry)
    def pay(event: Order, ctx: SyncContext) -> None:
        attempts.append(ctx.attempt)
        raise OSError("away")

    async with harness(worker) as h:
        published = await h.publish(Order())
        await h.finish()
        run = await h.run(published, "pay")
        assert (run.status, run.error) == ("failed", "OSError: away")
    assert attempts == [1, 2, 3]
    assert told == ["parcel-1"]


async def test_a_failed_step_raises_at_its_call_and_may_be_caught(worker: Worker) -> None:
    effects = Effects()

    def refuse() -> None:
        effects.note("refuse")
        raise OSError("no")

    @worker.function("pay", on=Order)
    def pay(event: Order, ctx: SyncContext) -> str:
        try:
            ctx.execute("refuse", refuse, retry=Retry(max_attempts=2, initial_delay_s=60.0))
        except StepFailed as error:
            return error.message
        return "done"

    async with harness(worker) as h:
        published = await h.publish(Order())
        await h.finish()
        assert (await h.run(published)).result == "no"
    assert effects.counts == {"refuse": 2}


@pytest.mark.parametrize("mode", ["inline", "isolated"])
async def test_a_wait_lets_the_thread_go_and_a_replay_sees_the_recorded_values(worker: Worker, mode: Mode) -> None:
    effects, ended, swallowed = Effects(), [], []

    def draw() -> int:
        effects.note("draw")
        return effects.counts["draw"]

    @worker.function("pay", on=Order)
    def pay(event: Order, ctx: SyncContext) -> str:
        drawn = ctx.execute("draw", draw)
        try:
            ctx.sleep("cool-down", "3d")
            paid = ctx.wait_for_event("paid", Paid, where={"order_id": event.id}, timeout="1d")
        except Exception as error:
            swallowed.append(error)
            raise
        finally:
            ended.append(drawn)
        return f"{drawn} {paid and paid.order_id}"

    async with harness(worker, mode=mode) as h:
        published = await h.publish(Order())
        assert (await h.run(published)).status == "waiting"
        assert function_threads() == []
        await h.advance("3d")
        assert (await h.run(published)).status == "waiting"
        await h.publish(Paid(order_id="1"))
        await h.finish()
        assert (await h.run(published)).result == "1 1"
    assert effects.counts == {"draw": 1}
    assert set(ended) == {1}
    assert len(ended) >= 3
    assert swallowed == []


@pytest.mark.parametrize("mode", ["inline", "isolated"])
async def test_plain_steps_run_steps_of_their_own_and_may_wait(worker: Worker, mode: Mode) -> None:
    effects = Effects()

    def leaf(name: str) -> str:
        effects.note(name)
        return name

    @worker.function("pay", on=Order)
    def pay(event: Order, ctx: SyncContext) -> str:
        def inner() -> str:
            return ctx.execute("leaf", leaf, "b") + ctx.execute("other", leaf, "c")

        def outer() -> str:
            first = ctx.execute("leaf", leaf, "a")
            ctx.sleep("nap", "1h")
            return first + ctx.execute("inner", inner)

        return ctx.execute("outer", outer)

    async with harness(worker, mode=mode) as h:
        published = await h.publish(Order())
        await h.finish()
        run = await h.run(published)
        assert run.result == "abc"
        assert {("outer", "nap"), ("outer", "inner", "leaf")} <= {step.key for step in run.steps}
    assert effects.counts == {"a": 1, "b": 1, "c": 1}


async def test_context_variables_are_seen_in_function_and_steps(worker: Worker) -> None:
    @worker.function("pay", on=Order)
    def pay(event: Order, ctx: SyncContext) -> list[str]:
        tenant.set("acme")

        async def on_the_loop() -> str:
            return tenant.get()

        def nested() -> str:
            tenant.set(tenant.get() + "+")
            return ctx.execute("inside", tenant.get)

        return [ctx.execute("plain", tenant.get), ctx.execute("async", on_the_loop), ctx.execute("nested", nested)]

    async with harness(worker) as h:
        assert (await h.run(await h.publish(Order()))).result == ["acme", "acme", "acme+"]
    assert tenant.get() == "nobody"


async def test_publish_invoke_and_identity_are_those_of_a_context(worker: Worker) -> None:
    @worker.function("paid", on=Paid)
    def paid(event: Paid, ctx: SyncContext) -> str:
        return ctx.execute("ship", ship, event.order_id)

    @worker.function("pay", on=Order)
    def pay(event: Order, ctx: SyncContext) -> str:
        ctx.publish("tell", Paid(order_id="told"))
        key = ctx.execute("key", lambda: ctx.idempotency_key)
        assert key.startswith("key_")
        assert ctx.fencing_token > 0
        assert ctx.run_id.startswith("run_")
        return str(ctx.invoke("ask", paid, Paid(order_id=event.id)))

    async with harness(worker) as h:
        published = await h.publish(Order())
        await h.finish()
        assert (await h.run(published, "pay")).result == "parcel-1"


async def test_two_hundred_runs_that_wait_leave_no_thread_behind() -> None:
    rig = Rig()

    @rig.worker.function("f", on="order")
    def f(event: RigOrder, ctx: SyncContext) -> str:
        ctx.execute("first", rig.effect, "first")
        ctx.sleep("nap", "1h")
        return event.id

    engine = rig.mount().engine
    answers = await asyncio.gather(
        *(
            engine.deliver(
                EventEnvelope(f"evt-{n}", RigOrder(id=str(n)).model_dump_json().encode()), Delivery(f"m-{n}")
            )
            for n in range(200)
        )
    )
    assert {answer.text for answer in answers} == {"the run waits"}
    assert rig.effects == {"first": 200}
    async with asyncio.timeout(DEADLINE_S):
        while function_threads():
            await asyncio.sleep(0)
    await rig.dispatcher.close()


async def test_more_nested_steps_than_threads_do_not_wait_for_one_another() -> None:
    rig, met = Rig(), threading.Barrier(100)

    @rig.worker.function("f", on="order")
    def f(event: RigOrder, ctx: SyncContext) -> str:
        def inner() -> str:
            return event.id

        def outer() -> str:
            ctx.execute("first", inner)
            met.wait(DEADLINE_S)  # all of them hold a thread by now, more than there are for steps
            return ctx.execute("inner", inner)

        return ctx.execute("outer", outer)

    engine = rig.mount().engine
    async with asyncio.timeout(2 * DEADLINE_S):
        answers = await asyncio.gather(
            *(
                engine.deliver(EventEnvelope(f"evt-{n}", RigOrder(id=str(n)).model_dump_json().encode()), Delivery("m"))
                for n in range(100)
            )
        )
    assert {answer.text for answer in answers} == {"completed"}


async def test_a_cancelled_delivery_lets_its_thread_go_and_hands_the_run_back() -> None:
    rig, entered, ended = Rig(), asyncio.Event(), threading.Event()
    caught: list[BaseException] = []

    async def for_ever() -> None:
        rig.effects["step"] += 1
        if rig.effects["step"] == 1:
            entered.set()
            await asyncio.get_running_loop().create_future()

    @rig.worker.function("f", on="order")
    def f(event: RigOrder, ctx: SyncContext) -> str:
        try:
            ctx.execute("step", for_ever)
        except PassOver as error:
            caught.append(error)
            with pytest.raises(PassOver):
                ctx.execute("too-late", for_ever)
            raise
        finally:
            ended.set()
        return "done"

    engine = rig.mount().engine
    event = EventEnvelope("evt-1", RigOrder().model_dump_json().encode())
    delivery = asyncio.create_task(engine.deliver(event, Delivery("msg-1")))
    async with asyncio.timeout(DEADLINE_S):
        await entered.wait()
    delivery.cancel()
    await asyncio.gather(delivery, return_exceptions=True)
    assert delivery.cancelled()
    assert ended.is_set()
    assert len(caught) == 1
    assert (await engine.deliver(event, Delivery("msg-1", 1))).text == "completed"
    assert rig.effects == {"step": 2}
    await rig.dispatcher.close()


async def test_a_delivery_that_lost_its_lease_waits_for_its_thread_before_it_answers() -> None:
    rig, entered, leave = Rig(), threading.Event(), threading.Event()
    went_on: list[str] = []

    @rig.worker.function("f", on="order")
    def f(event: RigOrder, ctx: SyncContext) -> str:
        entered.set()
        assert leave.wait(DEADLINE_S)
        went_on.append("here")
        ctx.execute("step", rig.effect, "step")
        return "done"

    engine = rig.mount().engine
    event = EventEnvelope("evt-1", RigOrder().model_dump_json().encode())
    delivery = asyncio.create_task(engine.deliver(event, Delivery("msg-1")))
    await asyncio.to_thread(entered.wait, DEADLINE_S)
    await rig.worker.runs.cancel(next(iter((await rig.worker.runs.list()).runs)).id)
    await rig.clock.advance(2)  # a sign of life is refused
    assert not delivery.done()
    leave.set()
    async with asyncio.timeout(DEADLINE_S):
        assert (await delivery).text == "the run is cancelled"
    assert went_on == ["here"]
    assert rig.effects == {}
    await rig.dispatcher.close()


async def test_an_attempt_that_timed_out_asks_for_nothing_any_more(worker: Worker) -> None:
    effects, leave, refused = Effects(), threading.Event(), threading.Event()

    def step(name: str) -> str:
        effects.note(name)
        return name

    @worker.function("pay", on=Order)
    def pay(event: Order, ctx: SyncContext) -> str:
        def outer() -> str:
            effects.note("outer")
            ctx.execute("first", step, "first")
            if effects.counts["outer"] == 1:
                assert leave.wait(DEADLINE_S)
                try:
                    ctx.execute("second", step, "second")
                finally:
                    refused.set()
            else:
                leave.set()
                assert refused.wait(DEADLINE_S)
            return ctx.execute("second", step, "second")

        return ctx.execute("outer", outer, timeout=2, retry=Retry(initial_delay_s=0.0))

    async with harness(worker) as h:
        published = await h.publish(Order())
        await h.finish()
        assert (await h.run(published)).result == "second"
    assert (effects.counts["first"], effects.counts["second"]) == (1, 1)
    assert effects.counts["outer"] >= 2


@pytest.mark.parametrize("mode", ["inline", "isolated"])
async def test_a_plain_program_ends_alike_at_every_fault(tmp_path: Path, mode: Mode) -> None:
    async def program(worker: Worker, mode: Mode) -> None:
        @worker.function("pay", on=Order)
        def pay(event: Order, ctx: SyncContext) -> str:
            def outer() -> str:
                return ctx.execute("inner", ship, event.id)

            number = ctx.execute("charge", charge, event.id).number
            parcel = ctx.execute("outer", outer)
            ctx.sleep("cool-down", "1h")
            return f"{number} {parcel}"

        async with harness(worker, mode=mode) as h:
            published = await h.publish(Order())
            await h.finish()
            assert (await h.run(published)).result == "r-1 parcel-1"

    first = await rehearsed(program, make_worker(tmp_path), mode, Rehearsal())
    assert len(first.boundaries) > 10
    for boundary in first.boundaries:
        faulty = await rehearsed(program, make_worker(tmp_path), mode, Rehearsal(boundary))
        assert faulty.fault_text is not None
        assert Comparison(first.endings, first.endings).difference(faulty.endings) is None, boundary.text


async def test_a_sync_context_on_the_event_loop_fails_its_step_and_says_why(worker: Worker) -> None:
    @worker.function("pay", on=Order)
    def pay(event: Order, ctx: SyncContext) -> None:
        async def outer() -> None:
            ctx.execute("inner", ship, "1")

        ctx.execute("outer", outer)

    async with harness(worker) as h:
        run = await h.run(await h.publish(Order()))
        assert run.status == "failed"
        assert "on the event loop" in (run.error or "")


async def test_a_function_that_yields_is_refused_when_it_is_declared(worker: Worker) -> None:
    def stream(event: Order, ctx: SyncContext) -> object:
        yield event

    with pytest.raises(ConfigurationError, match="does not yield"):
        worker.create_function("pay", Order, stream)


async def test_a_call_waits_while_all_threads_are_at_work_and_the_log_says_so(caplog: pytest.LogCaptureFixture) -> None:
    def start(work: object) -> None:
        threading.Thread(target=work, daemon=True).start()  # type: ignore[arg-type]

    threads, first, leave, second = Threads(start, 1, "tests"), threading.Event(), threading.Event(), threading.Event()

    def hold() -> None:
        first.set()
        leave.wait(DEADLINE_S)
        threads.step_aside()
        assert second.wait(DEADLINE_S)

    with caplog.at_level(logging.WARNING, "idioteque"):
        threads.submit(hold)
        assert await asyncio.to_thread(first.wait, DEADLINE_S)
        threads.submit(second.set)
        assert not second.is_set()
        leave.set()
        assert await asyncio.to_thread(second.wait, DEADLINE_S)
    assert "all 1 threads for tests are at work" in caplog.text


def test_a_number_of_threads_that_means_nothing_is_refused() -> None:
    assert count_from({}, "IDIOTEQUE_STEP_THREADS", 64) == 64
    assert count_from({"IDIOTEQUE_STEP_THREADS": " 8 "}, "IDIOTEQUE_STEP_THREADS", 64) == 8
    for wrong in ("0", "-1", "many", "10001"):
        with pytest.raises(ConfigurationError, match="IDIOTEQUE_STEP_THREADS"):
            count_from({"IDIOTEQUE_STEP_THREADS": wrong}, "IDIOTEQUE_STEP_THREADS", 64)


async def test_plain_and_async_functions_stand_side_by_side(worker: Worker) -> None:
    @worker.function("sync", on=Order)
    def plain(event: Order, ctx: SyncContext) -> str:
        return ctx.execute("ship", ship, event.id)

    @worker.function("async", on=Order)
    async def other(event: Order, ctx: Context) -> str:
        return await ctx.execute("ship", ship, event.id)

    async with harness(worker) as h:
        await h.publish(Order())
        assert [run.result for run in h.runs] == ["parcel-1", "parcel-1"]
