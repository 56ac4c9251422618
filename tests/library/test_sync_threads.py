"""The threads of plain functions and steps: how many there are, and how each of them is let go."""

from __future__ import annotations

import asyncio
import logging
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from idioteque import (
    ConfigurationError,
    PassOver,
    Retry,
    SyncContext,
    Worker,
    callers,
)
from idioteque.dispatcher import EventEnvelope
from idioteque.engine import Delivery, inline
from idioteque.testing import harness
from idioteque.threads import Threads, count_from
from tests.library.engine.rig import Order as RigOrder
from tests.library.engine.rig import Rig
from tests.testing.shop import Effects, Order, make_worker

DEADLINE_S = 30


@pytest.fixture
def worker(tmp_path: Path) -> Worker:
    return make_worker(tmp_path)


async def function_threads_ended() -> None:
    """Return once no thread of a plain function is left."""
    async with asyncio.timeout(DEADLINE_S):
        while any(each.name == "idioteque-function" for each in threading.enumerate()):
            await asyncio.sleep(0)


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
    await function_threads_ended()
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


async def test_a_thread_that_catches_every_refusal_is_left_behind_and_does_not_spin(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(inline, "CLEANUP_S", 0.01)
    monkeypatch.setattr(callers, "REFUSALS_MAX", 3)
    monkeypatch.setattr(callers, "REFUSAL_PAUSE_S", 0.01)
    rig, stop, refused = Rig(), threading.Event(), list[BaseException]()

    @rig.worker.function("f", on="order")
    def f(event: RigOrder, ctx: SyncContext) -> None:
        while not stop.is_set():
            try:
                ctx.sleep(f"nap-{len(refused)}", "1h")
            except BaseException as error:
                refused.append(error)

    engine = rig.mount().engine
    event = EventEnvelope("evt-1", RigOrder().model_dump_json().encode())
    async with asyncio.timeout(DEADLINE_S):
        assert (await engine.deliver(event, Delivery("msg-1"))).text == "the run waits"
        while len(refused) < 10:
            await asyncio.sleep(0)
        stop.set()
        await function_threads_ended()
    assert {type(error) for error in refused} == {PassOver}
    await rig.dispatcher.close()


async def test_threads_that_a_function_starts_itself_may_run_steps(worker: Worker) -> None:
    effects = Effects()

    def double(number: int) -> int:
        effects.note(str(number))
        return 2 * number

    @worker.function("pay", on=Order)
    def pay(event: Order, ctx: SyncContext) -> list[int]:
        def work(number: int) -> int:
            doubled = ctx.execute(f"double-{number}", double, number)
            ctx.sleep(f"nap-{number}", number * 60)
            return doubled

        with ThreadPoolExecutor(3) as pool:
            return list(pool.map(work, range(3)))

    async with harness(worker) as h:
        published = await h.publish(Order())
        await h.finish()
        assert (await h.run(published)).result == [0, 2, 4]
    assert effects.counts == {"0": 1, "1": 1, "2": 1}


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
