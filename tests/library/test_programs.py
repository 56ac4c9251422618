"""Asyncio programs that try to get a pass stuck: whatever a function does, its delivery ends, and so does its run."""

from __future__ import annotations

import asyncio
import gc
import weakref
from typing import Any, Literal

import pytest
from pydantic import BaseModel

from idioteque import Context, InlineDispatcher, Retry, RetryAfter, RunFailed, Worker
from idioteque.dispatcher import EventEnvelope, RunEnvelope
from idioteque.engine import Delivery
from idioteque.function import run_id
from idioteque.store import Claim, Lease, NewRun, Outcome
from tests.library.engine.rig import STORES, Order, Rig

HANGS_AFTER_S = 10.0
EVENT = EventEnvelope("evt-1", Order().model_dump_json().encode())


@pytest.fixture(params=STORES)
def rig(request: pytest.FixtureRequest) -> Rig:
    return Rig(request.param)


async def deliver(rig: Rig, message_id: str = "msg-1") -> str:
    """Deliver the event, which must not take for ever, and return the status of its run."""
    delivery = rig.mount().engine.deliver(EVENT, Delivery(message_id))
    answer = await asyncio.wait_for(delivery, HANGS_AFTER_S)
    assert answer.ok, answer
    run = await rig.worker.runs.get(run_id("evt-1", "f"))
    assert run is not None
    return run.status


async def remember(rig: Rig, run: str, *keys: str) -> None:
    """Create a run whose history has these steps, as an older deployment left it."""
    new = NewRun("evt-1", "f", EVENT.event)
    await rig.store.claim(Claim(run, "old", "msg-0", 0, 1000, new))
    for key in keys:
        await rig.store.commit(Lease(run, 1), (key,), Outcome(True, f'"{key}"'.encode()))
    await rig.store.release(Lease(run, 1), "suspended")


class Later:
    """A step that asks to be tried again after so many seconds, once."""

    def __init__(self, rig: Rig, name: str, seconds: float) -> None:
        self._rig = rig
        self._name = name
        self._seconds = seconds

    async def __call__(self) -> str:
        self._rig.effects[self._name] += 1
        if self._rig.effects[self._name] == 1:
            raise RetryAfter(self._seconds)
        return self._name


async def test_steps_that_a_deploy_removed_keep_no_one_waiting(rig: Rig) -> None:
    @rig.worker.function("f", on="order")
    async def f(event: Order, ctx: Context) -> list[Any]:
        return await asyncio.gather(*(ctx.execute(key, rig.effect, key) for key in ("b", "d", "f")))

    await remember(rig, f.run_id("evt-1"), "a", "b", "c", "d", "e", "f", "g")
    assert await deliver(rig) == "completed"
    assert rig.effects == {}


@pytest.mark.parametrize("turns", range(0, 42, 3))
async def test_known_steps_asked_for_late_do_not_keep_a_run_from_being_suspended(rig: Rig, turns: int) -> None:
    @rig.worker.function("f", on="order")
    async def f(event: Order, ctx: Context) -> list[Any]:
        async def branch() -> Any:
            for _ in range(turns):
                await asyncio.sleep(0)
            return await ctx.execute("known", rig.effect, "known")

        return await asyncio.gather(
            ctx.execute("soon", Later(rig, "soon", 10)), ctx.execute("late", Later(rig, "late", 100)), branch()
        )

    assert await deliver(rig) == "waiting"
    await rig.clock.advance(10)
    await rig.clock.settle()
    run = await rig.worker.runs.get(f.run_id("evt-1"))
    assert run is not None
    assert run.status == "waiting"
    await rig.clock.advance(90)
    assert await deliver(rig, "msg-2") == "completed"


async def test_a_task_that_a_step_left_behind_gets_no_steps_and_stops_nothing(rig: Rig) -> None:
    left: list[asyncio.Task[Any]] = []
    asked = asyncio.Event()

    @rig.worker.function("f", on="order")
    async def f(event: Order, ctx: Context) -> str:
        async def later() -> None:
            await asked.wait()
            await ctx.execute("inner", rig.effect, "inner")

        async def step() -> str:
            left.append(asyncio.create_task(later()))
            return "left"

        await ctx.execute("a", step)
        asked.set()
        await asyncio.wait(left)
        await ctx.execute("b", rig.effect, "b")
        return "end"

    assert await deliver(rig) == "completed"
    assert rig.effects == {"b": 1}
    [task] = left
    assert "came too late" in str(task.exception())


@pytest.mark.parametrize("steps", [10, 40])
async def test_steps_that_are_due_at_different_times_need_one_message_each(rig: Rig, steps: int) -> None:
    @rig.worker.function("f", on="order")
    async def f(event: Order, ctx: Context) -> int:
        laters = [Later(rig, f"step-{n}", 10 * (n + 1)) for n in range(steps)]
        await asyncio.gather(*(ctx.execute(f"step-{n}", later) for n, later in enumerate(laters)))
        return steps

    run = await rig.run()
    assert run.result == steps
    assert set(rig.effects.values()) == {2}
    assert len(rig.dispatcher.sent) <= steps + 1


async def test_a_plain_step_that_raises_stop_iteration_fails_like_any_other(rig: Rig) -> None:
    def first_of_none() -> str:
        rig.effects["asked"] += 1
        return next(iter([]))

    @rig.worker.function("f", on="order", retry=Retry(max_attempts=1))
    async def f(event: Order, ctx: Context) -> str:
        return await ctx.execute("first", first_of_none, retry=Retry(max_attempts=1))

    assert await deliver(rig) == "failed"
    run = await rig.worker.runs.get(f.run_id("evt-1"))
    assert run is not None
    assert run.error == "StepFailed: step 'first' failed: RuntimeError: a plain callable raised StopIteration"


# ---- what steps raise


class Abort(BaseException):
    """What a library raises to get past `except Exception`."""


class Speechless(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no words")


async def aborts() -> None:
    raise Abort("stop")


async def aborts_in_a_group() -> None:
    async with asyncio.TaskGroup() as group:
        group.create_task(aborts())


def exits_in_a_thread() -> None:
    raise SystemExit(3)


async def awaits_what_was_cancelled() -> None:
    task = asyncio.create_task(asyncio.sleep(0))
    task.cancel()
    await task


async def names_a_file_of_undecodable_name() -> None:
    raise ValueError("no file caf\udce9\x00")


async def cannot_say() -> None:
    raise Speechless


async def later_than_ever() -> None:
    raise RetryAfter(float("inf"))


@pytest.mark.parametrize(
    ("call", "error"),
    [
        (aborts, "Abort: stop"),
        (aborts_in_a_group, "BaseExceptionGroup: unhandled errors in a TaskGroup (1 sub-exception)"),
        (exits_in_a_thread, "SystemExit: 3"),
        (awaits_what_was_cancelled, "CancelledError"),
        (names_a_file_of_undecodable_name, "ValueError: no file caf\\udce9\\x00"),
        (cannot_say, "Speechless: (an error that cannot say what it is)"),
    ],
)
async def test_whatever_a_step_raises_is_its_failure(rig: Rig, call: Any, error: str) -> None:
    @rig.worker.function("f", on="order")
    async def f(event: Order, ctx: Context) -> None:
        await ctx.execute("step", call, retry=Retry(max_attempts=2, initial_delay_s=0, jitter=0))

    assert await deliver(rig) == "failed"
    run = await rig.worker.runs.get(f.run_id("evt-1"))
    assert run is not None
    assert run.error == f"StepFailed: step 'step' failed: {error}"


async def test_a_step_that_asks_for_a_time_that_never_comes_is_due_within_bounds(rig: Rig) -> None:
    @rig.worker.function("f", on="order")
    async def f(event: Order, ctx: Context) -> None:
        await ctx.execute("step", later_than_ever)

    assert await deliver(rig) == "waiting"
    [message] = rig.dispatcher.sent
    assert 0 < message.delay_s < 400 * 86_400


@pytest.mark.parametrize("given", [5, None, "name", {}])
async def test_a_step_that_cannot_be_called_fails_at_once_saying_how_to_write_it(rig: Rig, given: Any) -> None:
    @rig.worker.function("f", on="order")
    async def f(event: Order, ctx: Context) -> None:
        await ctx.execute("step", given)

    assert await deliver(rig) == "failed"
    run = await rig.worker.runs.get(f.run_id("evt-1"))
    assert run is not None
    assert "write ctx.execute(key, function, *arguments)" in str(run.error)


# ---- what deploys change


class Elsewhere(BaseModel):
    type: Literal["elsewhere"] = "elsewhere"


async def test_a_stored_event_that_does_not_fit_any_more_waits_for_the_next_deployment(rig: Rig) -> None:
    @rig.worker.function("f", on="order")
    async def f(event: Order, ctx: Context) -> str:
        return event.id

    await remember(rig, f.run_id("evt-1"))
    run = RunEnvelope("evt-1", "f", 2**50)
    rig.worker.configure(events_schema=Elsewhere)
    answer = await rig.dispatcher.mount(rig.worker).engine.deliver(run, Delivery("msg-1"))
    assert (answer.status, answer.is_final) == (503, False)
    rig.worker.configure(events_schema=Order)
    answer = await rig.dispatcher.mount(rig.worker).engine.deliver(run, Delivery("msg-2"))
    assert answer.text == "completed", "the lease was handed back"


async def test_a_result_that_nobody_could_read_fails_the_run(rig: Rig) -> None:
    @rig.worker.function("f", on="order")
    async def f(event: Order, ctx: Context) -> Order:
        return Order.model_construct(count="many")  # type: ignore[arg-type]

    assert await deliver(rig) == "failed"
    with pytest.raises(RunFailed, match="ResultNotSerializable"):
        await rig.worker.runs.result(f.run_id("evt-1"))


# ---- the event that started it


async def test_a_run_does_not_wait_for_the_event_that_started_it(rig: Rig) -> None:
    @rig.worker.function("f", on="order")
    async def f(event: Order, ctx: Context) -> str:
        following = await ctx.wait_for_event("next", Order, where={"id": event.id}, timeout="1h")
        return "nothing came" if following is None else "took its own"

    assert (await rig.run()).result == "nothing came"


async def test_a_redelivered_event_does_not_cancel_the_run_that_it_started(rig: Rig) -> None:
    @rig.worker.function("f", on="order", cancel_on=[(Order, {"id": "id"})])
    async def f(event: Order, ctx: Context) -> str:
        await ctx.sleep("a while", "1h")
        return "slept"

    assert await deliver(rig) == "waiting"
    assert await deliver(rig) == "waiting", "its answer was lost"
    await rig.worker.publish(Order())
    await rig.clock.settle()
    assert await deliver(rig, "msg-2") == "cancelled"


# ---- what is left behind


def test_an_event_loop_that_has_ended_is_let_go() -> None:
    dispatcher = InlineDispatcher()
    worker = Worker(events_schema=Order, store="memory:", dispatcher=dispatcher)
    loops: list[weakref.ref[asyncio.AbstractEventLoop]] = []

    @worker.function("f", on="order")
    async def f(event: Order, ctx: Context) -> str:
        return await ctx.execute("step", str, event.id)

    mount = dispatcher.mount(worker)

    async def once(n: int) -> None:
        loops.append(weakref.ref(asyncio.get_running_loop()))
        envelope = EventEnvelope(f"evt-{n}", EVENT.event)
        assert (await mount.engine.deliver(envelope, Delivery(f"msg-{n}"))).ok

    for n in range(5):
        asyncio.run(once(n))
    gc.collect()
    assert [loop() for loop in loops] == [None] * 5
