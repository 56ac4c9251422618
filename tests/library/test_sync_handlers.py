"""Durable functions written as plain `def`: the same promises, in threads that are let go when a run waits."""

from __future__ import annotations

import contextvars
import sys
import threading
from pathlib import Path
from typing import Literal

import pytest

from idioteque import (
    ConfigurationError,
    Context,
    Retry,
    RunFailure,
    StepFailed,
    SyncContext,
    Worker,
)
from idioteque.testing import harness
from idioteque.testing.chaos import Comparison, Rehearsal
from tests.library.test_sync_threads import function_threads_ended
from tests.testing.shop import FLAKY, Effects, Order, Paid, charge, make_worker, ship
from tests.testing.test_chaos import rehearsed

tenant: contextvars.ContextVar[str] = contextvars.ContextVar("tenant", default="nobody")
Mode = Literal["inline", "isolated"]


@pytest.fixture
def worker(tmp_path: Path) -> Worker:
    return make_worker(tmp_path)


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
        await function_threads_ended()
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


async def test_a_function_that_exits_fails_its_run_and_not_the_process(worker: Worker) -> None:
    @worker.function("pay", on=Order, retry=Retry(max_attempts=1))
    def pay(event: Order, ctx: SyncContext) -> None:
        sys.exit(3)

    async with harness(worker) as h:
        run = await h.run(await h.publish(Order()))
        assert (run.status, run.error) == ("failed", "RuntimeError: the function called sys.exit(3)")


async def test_a_plain_function_that_returns_a_coroutine_is_told_to_await_it(worker: Worker) -> None:
    async def later() -> str:
        return "later"

    worker.create_function("pay", Order, lambda event, ctx: later(), retry=FLAKY)

    async with harness(worker) as h:
        run = await h.run(await h.publish(Order()))
        assert run.status == "failed"
        assert "async def" in (run.error or "")


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
