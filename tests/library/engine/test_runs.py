"""What runs promise: one for each event and function, real asyncio inside, and nothing lost or doubled by a fault."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from idioteque import Context, NonRetryableError, Retry, StepFailed
from idioteque.dispatcher import EventEnvelope, RunEnvelope, decode
from idioteque.engine import Delivery
from idioteque.engine.step import TURN_S
from tests.library.engine.rig import STORES, Order, Rig

ONCE = Retry(max_attempts=1)
QUICK = Retry(max_attempts=2, initial_delay_s=0.01, jitter=0)


@pytest.fixture(params=STORES)
def rig(request: pytest.FixtureRequest) -> Rig:
    return Rig(request.param)


def event_of(order: Order, event_id: str = "evt-1") -> EventEnvelope:
    return EventEnvelope(event_id, order.model_dump_json().encode())


# ---- one run per event and function


async def test_an_event_delivered_twice_starts_nothing_twice(rig: Rig) -> None:
    @rig.worker.function("f", on="order")
    async def f(event: Order, ctx: Context) -> str:
        return await ctx.execute("pay", rig.effect, "paid")

    mount = rig.mount()
    first = await mount.engine.deliver(event_of(Order()), Delivery("msg-1"))
    again = await mount.engine.deliver(event_of(Order()), Delivery("msg-1", retried=1))
    other_message = await mount.engine.deliver(event_of(Order()), Delivery("msg-2"))

    assert [first.status, again.status, other_message.status] == [200, 200, 200]
    assert rig.effects == {"paid": 1}


async def test_the_first_event_stored_is_the_event_for_good(rig: Rig) -> None:
    @rig.worker.function("f", on="order")
    async def f(event: Order, ctx: Context) -> str:
        await ctx.execute("look", rig.effect, "look")
        return event.id

    mount = rig.mount()
    await mount.engine.deliver(event_of(Order(id="true")), Delivery("msg-1"))
    await mount.engine.deliver(event_of(Order(id="forged")), Delivery("msg-2"))

    run = await rig.worker.runs.get(f.run_id("evt-1"))
    assert run is not None
    assert run.result == "true"
    assert run.event["id"] == "true"


async def test_two_deliveries_of_one_run_at_once_run_each_step_once(rig: Rig) -> None:
    entered, leave = asyncio.Event(), asyncio.Event()

    async def slow() -> str:
        rig.effects["slow"] += 1
        entered.set()
        await leave.wait()
        return "slow"

    @rig.worker.function("f", on="order")
    async def f(event: Order, ctx: Context) -> str:
        return await ctx.execute("slow", slow)

    mount = rig.mount()
    first = asyncio.create_task(mount.engine.deliver(event_of(Order()), Delivery("msg-1")))
    await entered.wait()
    second = await mount.engine.deliver(event_of(Order()), Delivery("msg-2"))
    assert second.ok
    assert "another delivery" in second.text
    assert rig.dispatcher.pending == 1  # somebody looks again, should the first one have died

    leave.set()
    assert (await first).ok
    await rig.finish()
    assert rig.effects == {"slow": 1}


async def test_a_run_left_by_a_killed_process_is_taken_over_within_seconds(rig: Rig) -> None:
    """Its message comes again before the dead process's last sign of life is old; its successor takes over."""
    entered = asyncio.Event()

    async def slow() -> str:
        rig.effects["slow"] += 1
        entered.set()
        if rig.effects["slow"] == 1:
            await asyncio.Event().wait()
        return "slow"

    @rig.worker.function("f", on="order")
    async def f(event: Order, ctx: Context) -> str:
        return await ctx.execute("slow", slow)

    engine = rig.mount().engine
    killed = asyncio.create_task(engine.deliver(event_of(Order()), Delivery("msg-1")))
    await entered.wait()
    rig.faults.fail_at = {rig.faults.calls + 1}  # a killed process hands no lease back
    killed.cancel()
    await asyncio.gather(killed, return_exceptions=True)
    began_s = rig.clock.monotonic_s()

    assert (await engine.deliver(event_of(Order()), Delivery("msg-1", retried=1))).ok
    await rig.finish()

    run = await rig.worker.runs.get(f.run_id("evt-1"))
    assert run is not None
    assert run.result == "slow"
    assert rig.clock.monotonic_s() - began_s < 5


async def test_the_functions_of_one_event_are_independent_runs(rig: Rig) -> None:
    async def bad() -> None:
        rig.effects["bad"] += 1
        raise NonRetryableError("no")

    @rig.worker.function("waits", on="order")
    async def waits(event: Order, ctx: Context) -> str:
        return await ctx.execute("a", rig.effect, "waits")

    @rig.worker.function("breaks", on="order")
    async def breaks(event: Order, ctx: Context) -> None:
        await ctx.execute("a", bad)

    @rig.worker.function("other", on=lambda event: event.count > 100)
    async def other(event: Order, ctx: Context) -> None:
        await ctx.execute("a", rig.effect, "other")

    assert (await rig.run("waits")).status == "completed"
    assert (await rig.run("breaks")).status == "failed"
    assert rig.effects == {"waits": 1, "bad": 1}


async def test_an_event_that_nobody_wants_is_acknowledged_saying_so(rig: Rig) -> None:
    @rig.worker.function("f", on=lambda event: False)
    async def f(event: Order, ctx: Context) -> None:
        rig.effects["ran"] += 1

    answer = await rig.mount().engine.deliver(event_of(Order()), Delivery("msg-1"))

    assert answer.status == 200
    assert "started nothing" in answer.text
    assert rig.effects == {}


async def test_an_unknown_function_is_loud(rig: Rig, caplog: pytest.LogCaptureFixture) -> None:
    @rig.worker.function("f", on="order")
    async def f(event: Order, ctx: Context) -> None:
        return None

    far = rig.clock.now_ms() + 10_000
    answer = await rig.mount().engine.deliver(RunEnvelope("evt-1", "renamed", far), Delivery("msg-1"))

    assert answer.status == 503
    assert "'renamed'" in answer.text
    assert any(record.levelno >= logging.ERROR for record in caplog.records)


async def test_a_retry_that_arrives_before_its_time_is_not_lost(rig: Rig) -> None:
    """The transport's clock may be ahead of the store's."""

    async def flaky() -> str:
        rig.effects["flaky"] += 1
        if rig.effects["flaky"] == 1:
            raise OSError("not yet")
        return "there"

    @rig.worker.function("f", on="order")
    async def f(event: Order, ctx: Context) -> str:
        if ctx.attempt == 1:
            raise OSError("the body, too")
        return await ctx.execute("flaky", flaky, retry=Retry(initial_delay_s=100))

    engine = rig.mount().engine
    await engine.deliver(event_of(Order()), Delivery("msg-1"))
    for early in range(5):
        newest = rig.dispatcher.sent[-1]
        accepted = rig.dispatcher.pending
        message = decode(newest.body, "msg")
        assert (await engine.deliver(message, Delivery(f"early-{early}"))).ok
        assert rig.dispatcher.pending == accepted + 1, "the early retry left nobody to come again"
    await rig.finish()

    run = await rig.worker.runs.get(f.run_id("evt-1"))
    assert run is not None
    assert run.result == "there"


async def test_an_unknown_run_is_loud_until_its_time_is_over(rig: Rig) -> None:
    @rig.worker.function("f", on="order")
    async def f(event: Order, ctx: Context) -> None:
        return None

    engine = rig.mount().engine
    early = await engine.deliver(RunEnvelope("evt-1", "f", rig.clock.now_ms() + 1000), Delivery("msg-1"))
    late = await engine.deliver(RunEnvelope("evt-1", "f", rig.clock.now_ms() - 1000), Delivery("msg-2"))

    assert (early.status, late.status) == (503, 200)
    assert "RunUnknown" in early.text


async def test_retries_zero_means_zero_and_is_inherited_by_later_messages(rig: Rig) -> None:
    attempts: list[int] = []

    @rig.worker.function("f", on="order", retry=Retry(max_attempts=2, initial_delay_s=60))
    async def f(event: Order, ctx: Context) -> None:
        attempts.append(ctx.attempt)
        if ctx.attempt == 1:
            raise OSError("once")

    rig.mount()
    await rig.worker.publish(Order(), retries=0)
    await rig.finish()

    assert attempts == [1, 2]
    assert [message.retries for message in rig.dispatcher.sent] == [0, 0]


async def test_retries_zero_gives_a_message_up_after_one_attempt(rig: Rig) -> None:
    @rig.worker.function("f", on="order")
    async def f(event: Order, ctx: Context) -> None:
        return None

    rig.mount()
    rig.faults.fail_on = {("claim", 1)}
    await rig.worker.publish(Order(), retries=0)
    await rig.finish()

    assert [letter.attempts for letter in rig.dispatcher.dead_letters] == [1]


# ---- failures of the function itself


async def test_a_function_that_raises_is_tried_again_and_keeps_its_steps(rig: Rig) -> None:
    @rig.worker.function("f", on="order", retry=Retry(max_attempts=3, initial_delay_s=30))
    async def f(event: Order, ctx: Context) -> int:
        await ctx.execute("step", rig.effect, "step")
        if ctx.attempt < 3:
            raise OSError("the body's own trouble")
        return ctx.attempt

    run = await rig.run()

    assert (run.status, run.result, run.attempts) == ("completed", 3, 2)
    assert rig.effects == {"step": 1}


async def test_a_function_out_of_attempts_fails_its_run(rig: Rig) -> None:
    @rig.worker.function("f", on="order", retry=QUICK)
    async def f(event: Order, ctx: Context) -> None:
        rig.effects["body"] += 1
        raise OSError("always")

    run = await rig.run()

    assert (run.status, run.error) == ("failed", "OSError: always")
    assert rig.effects["body"] == 2
    assert rig.dispatcher.dead_letters == []


async def test_a_function_that_exits_the_process_only_fails(rig: Rig) -> None:
    @rig.worker.function("f", on="order", retry=ONCE)
    async def f(event: Order, ctx: Context) -> None:
        raise SystemExit(3)

    assert "sys.exit(3)" in ((await rig.run()).error or "")


# ---- real asyncio


async def slow_failure(rig: Rig) -> None:
    rig.effects["bad"] += 1
    raise ValueError("no")


async def test_except_exception_around_a_step_never_sees_the_engine(rig: Rig) -> None:
    seen: list[BaseException] = []

    @rig.worker.function("f", on="order")
    async def f(event: Order, ctx: Context) -> str:
        try:
            return await ctx.execute("later", flaky)
        except Exception as error:
            seen.append(error)
            return "refunded"

    async def flaky() -> str:
        rig.effects["flaky"] += 1
        if rig.effects["flaky"] == 1:
            raise OSError("not yet")
        return "paid"

    rig.faults.fail_on = {("fail", 1)}  # recording the failure fails as well

    run = await rig.run()

    assert run.result == "paid"
    assert seen == []


async def test_gather_with_exceptions_as_values_sees_only_recorded_failures(rig: Rig) -> None:
    answers: list[list[Any]] = []

    async def flaky() -> str:
        rig.effects["flaky"] += 1
        if rig.effects["flaky"] == 1:
            raise OSError("not yet")
        return "there"

    @rig.worker.function("f", on="order")
    async def f(event: Order, ctx: Context) -> None:
        answers.append(
            await asyncio.gather(
                ctx.execute("good", rig.effect, "good"),
                ctx.execute("bad", slow_failure, rig, retry=ONCE),
                ctx.execute("flaky", flaky, retry=Retry(initial_delay_s=100)),
                return_exceptions=True,
            )
        )

    assert (await rig.run()).status == "completed"
    assert len(answers) == 1
    assert answers[0][0::2] == ["good", "there"]
    assert isinstance(answers[0][1], StepFailed)
    assert rig.effects == {"good": 1, "bad": 1, "flaky": 2}


async def test_a_task_group_that_fails_lets_started_steps_end(rig: Rig) -> None:
    caught: list[int] = []

    @rig.worker.function("f", on="order")
    async def f(event: Order, ctx: Context) -> str:
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(ctx.execute("good", rig.effect, "good"))
                group.create_task(ctx.execute("bad", slow_failure, rig, retry=ONCE))
                group.create_task(ctx.execute("good-2", rig.effect, "good-2"))
        except* StepFailed as errors:
            caught.append(len(errors.exceptions))
        return await ctx.execute("after", rig.effect, "after")

    run = await rig.run()

    assert run.result == "after"
    assert caught == [1]
    assert rig.effects == {"good": 1, "bad": 1, "good-2": 1, "after": 1}
    assert {step.key for step in run.steps} == {("good",), ("bad",), ("good-2",), ("after",)}


async def test_a_task_group_around_a_step_that_waits_is_cancelled_and_resumed(rig: Rig) -> None:
    async def flaky() -> str:
        rig.effects["flaky"] += 1
        if rig.effects["flaky"] == 1:
            raise OSError("not yet")
        return "there"

    @rig.worker.function("f", on="order")
    async def f(event: Order, ctx: Context) -> list[str]:
        async with asyncio.TaskGroup() as group:
            tasks = [
                group.create_task(ctx.execute("flaky", flaky, retry=Retry(initial_delay_s=100))),
                group.create_task(ctx.execute("good", rig.effect, "good")),
            ]
        return [task.result() for task in tasks]

    run = await rig.run()

    assert run.result == ["there", "good"]
    assert rig.effects == {"flaky": 2, "good": 1}


async def test_the_first_of_several_ends_the_same_on_a_replay(rig: Rig) -> None:
    firsts: list[str] = []
    gates = {"slow": asyncio.Event(), "quick": asyncio.Event()}

    async def wait_for(name: str) -> str:
        await gates[name].wait()
        rig.effects[name] += 1
        return name

    async def chosen() -> None:
        rig.effects["chosen"] += 1
        gates["slow"].set()

    gates["quick"].set()

    @rig.worker.function("f", on="order")
    async def f(event: Order, ctx: Context) -> str:
        tasks = [asyncio.create_task(ctx.execute(name, wait_for, name)) for name in ("slow", "quick")]
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        first = next(iter(done)).result()
        firsts.append(first)
        await ctx.execute(f"{first}-was-first", chosen)
        await asyncio.wait(tasks)
        await ctx.execute("end", rig.effect, "end")
        return first

    rig.faults.fail_on = {("commit", 4)}

    run = await rig.run()

    assert run.result == "quick"
    assert firsts[0] == "quick"
    assert set(firsts) == {"quick"}
    assert len(firsts) == 2


async def test_of_two_failures_the_one_that_came_first_is_raised_on_every_replay(rig: Rig) -> None:
    raised: list[str] = []

    async def fail(name: str, pauses: int) -> None:
        for _ in range(pauses):
            await asyncio.sleep(0)
        raise ValueError(name)

    @rig.worker.function("f", on="order")
    async def f(event: Order, ctx: Context) -> str:
        try:
            await asyncio.gather(
                ctx.execute("late", fail, "late", 40, retry=ONCE), ctx.execute("early", fail, "early", 0, retry=ONCE)
            )
        except StepFailed as error:
            raised.append(error.message)
        return await ctx.execute("after", rig.effect, "after")

    rig.faults.fail_on = {("commit", 3)}

    assert (await rig.run()).result == "after"
    assert raised == ["early", "early"]


async def test_cleanup_runs_when_a_function_is_set_aside_and_may_not_execute(rig: Rig) -> None:
    log: list[str] = []

    async def flaky() -> str:
        rig.effects["flaky"] += 1
        if rig.effects["flaky"] == 1:
            raise OSError("not yet")
        return "there"

    @rig.worker.function("f", on="order")
    async def f(event: Order, ctx: Context) -> str:
        try:
            return await ctx.execute("flaky", flaky, retry=Retry(initial_delay_s=100))
        finally:
            log.append("finally")
            await ctx.execute("cleanup", rig.effect, "cleanup")
            log.append("cleaned")

    run = await rig.run()

    assert run.result == "there"
    assert log == ["finally", "finally", "cleaned"]
    assert rig.effects == {"flaky": 2, "cleanup": 1}


async def test_a_thousand_parallel_steps_in_one_run(rig: Rig) -> None:
    @rig.worker.function("f", on="order")
    async def f(event: Order, ctx: Context) -> int:
        return len(await asyncio.gather(*(ctx.execute(f"s{n}", rig.effect, f"s{n}") for n in range(1000))))

    assert (await rig.run()).result == 1000
    assert set(rig.effects.values()) == {1}


async def test_no_task_is_left_behind_by_a_run_of_any_ending(rig: Rig) -> None:
    async def flaky() -> None:
        raise OSError("never")

    @rig.worker.function("f", on="order")
    async def f(event: Order, ctx: Context) -> None:
        orphan = asyncio.create_task(ctx.execute("orphan", flaky, retry=Retry(initial_delay_s=50)))
        await asyncio.gather(
            ctx.execute("a", flaky, retry=Retry(max_attempts=2, initial_delay_s=50)), orphan, return_exceptions=True
        )

    await rig.run()
    await rig.clock.advance(1)

    assert [task for task in asyncio.all_tasks() if task is not asyncio.current_task()] == []


# ---- faults, one at every call


Program = Callable[[Rig], Callable[[Order, Context], Awaitable[Any]]]


def sequence(rig: Rig) -> Callable[[Order, Context], Awaitable[Any]]:
    async def f(event: Order, ctx: Context) -> list[str]:
        return [await ctx.execute(name, rig.effect, name) for name in ("a", "b", "c")]

    return f


def parallel(rig: Rig) -> Callable[[Order, Context], Awaitable[Any]]:
    async def f(event: Order, ctx: Context) -> list[str]:
        first = await asyncio.gather(*(ctx.execute(name, rig.effect, name) for name in ("a", "b", "c")))
        return [*first, await ctx.execute("d", rig.effect, "d")]

    return f


def chains(rig: Rig) -> Callable[[Order, Context], Awaitable[Any]]:
    async def f(event: Order, ctx: Context) -> list[list[str]]:
        async def chain(name: str) -> list[str]:
            return [await ctx.execute(f"{name}{n}", rig.effect, f"{name}{n}") for n in (1, 2)]

        return list(await asyncio.gather(chain("a"), chain("b")))

    return f


def nested(rig: Rig) -> Callable[[Order, Context], Awaitable[Any]]:
    async def outer(ctx: Context) -> list[str]:
        return list(await asyncio.gather(*(ctx.execute(name, rig.effect, name) for name in ("a", "b"))))

    async def f(event: Order, ctx: Context) -> list[Any]:
        return [await ctx.execute("outer", outer, ctx), await ctx.execute("c", rig.effect, "c")]

    return f


def caught(rig: Rig) -> Callable[[Order, Context], Awaitable[Any]]:
    async def bad() -> None:
        await rig.effect("bad")
        raise ValueError("no")

    async def f(event: Order, ctx: Context) -> str:
        try:
            await ctx.execute("bad", bad, retry=ONCE)
        except StepFailed as error:
            return await ctx.execute("compensate", rig.effect, f"after {error.type}")
        return "paid"

    return f


def flaky(rig: Rig) -> Callable[[Order, Context], Awaitable[Any]]:
    async def flaky(name: str) -> str:
        await rig.effect(name)
        if rig.effects[name] % 2:
            raise OSError("not yet")
        return name

    async def f(event: Order, ctx: Context) -> list[str]:
        return list(
            await asyncio.gather(
                ctx.execute("in-place", flaky, "in-place", retry=Retry(max_attempts=9, initial_delay_s=0.5)),
                ctx.execute("by-message", flaky, "by-message", retry=Retry(max_attempts=9, initial_delay_s=90)),
                ctx.execute("a", rig.effect, "a"),
            )
        )

    return f


def body_retry(rig: Rig) -> Callable[[Order, Context], Awaitable[Any]]:
    async def f(event: Order, ctx: Context) -> list[str]:
        results = [await ctx.execute("a", rig.effect, "a")]
        if ctx.attempt == 1:
            raise OSError("once")
        return [*results, await ctx.execute("b", rig.effect, "b")]

    return f


def sleepy(rig: Rig) -> Callable[[Order, Context], Awaitable[Any]]:
    async def f(event: Order, ctx: Context) -> list[str]:
        async def branch() -> str:
            await ctx.sleep("long", "1h")
            return await ctx.execute("b", rig.effect, "b")

        first = await ctx.execute("a", rig.effect, "a")
        return [first, *await asyncio.gather(branch(), ctx.execute("c", rig.effect, "c"))]

    return f


PROGRAMS: list[Program] = [sequence, parallel, chains, nested, caught, flaky, body_retry, sleepy]


async def outcome_without_faults(program: Program, store: str) -> tuple[Any, int, dict[str, int]]:
    rig = Rig(store)
    rig.worker.create_function("f", "order", program(rig))  # type: ignore[arg-type]
    run = await rig.run()
    assert run.status == "completed"
    return run.result, rig.faults.calls, dict(rig.effects)


@pytest.mark.parametrize("store", STORES)
@pytest.mark.parametrize("program", PROGRAMS, ids=lambda program: program.__name__)
@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
async def test_a_fault_at_any_one_call_changes_no_result_and_repeats_at_most_what_was_in_flight(
    program: Program, store: str, after: bool
) -> None:
    expected, calls, effects = await outcome_without_faults(program, store)
    for call in range(1, calls + 1):
        rig = Rig(store)
        rig.faults.fail_at, rig.faults.after = {call}, after
        rig.worker.create_function("f", "order", program(rig))  # type: ignore[arg-type]

        run = await rig.run()

        where = f"call {call} ({rig.faults.names[call - 1]})"
        assert (run.status, run.result) == ("completed", expected), where
        assert set(rig.store.wins.values()) == {1}, where
        repeated = {name: count - effects[name] for name, count in rig.effects.items() if count != effects[name]}
        # `flaky` steps fail at every odd attempt, so one repeat can bring a second one
        assert sum(repeated.values()) <= (2 if program is flaky else 1) * 3, where
        assert rig.dispatcher.dead_letters == [], where


@pytest.mark.parametrize("store", STORES)
@pytest.mark.parametrize("program", PROGRAMS, ids=lambda program: program.__name__)
async def test_faults_at_any_two_calls_change_no_result(program: Program, store: str) -> None:
    expected, calls, _ = await outcome_without_faults(program, store)
    for first in range(1, calls + 1):
        for second in range(first + 1, calls + 4):
            rig = Rig(store)
            rig.faults.fail_at, rig.faults.after = {first, second}, bool(second % 2)
            rig.worker.create_function("f", "order", program(rig))  # type: ignore[arg-type]

            run = await rig.run()

            assert (run.status, run.result) == ("completed", expected), (first, second)
            assert set(rig.store.wins.values()) == {1}, (first, second)


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
async def test_a_claim_beside_an_arrival_that_fails_is_handed_back(rig: Rig, after: bool) -> None:
    """An event enters the mailbox and its run is claimed at once; the redelivery meets no lease of the former."""

    @rig.worker.function("f", on="order")
    async def f(event: Order, ctx: Context) -> str:
        return await ctx.execute("a", rig.effect, "a")

    rig.faults.fail_on, rig.faults.after = {("arrive", 1)}, after
    run = await rig.run()
    assert (run.status, rig.effects) == ("completed", {"a": 1})
    assert [each.strikes for each in rig.store.told] == [1, 1]
    assert len(rig.dispatcher.sent) == 1, "no message has to look again later"


# ---- a step that kills its process


async def test_a_step_that_kills_its_process_fails_at_its_own_await_after_three_strikes(rig: Rig) -> None:
    """The death is played by dropping the delivery in the middle of the step, as a kill does."""
    deadly = asyncio.Event()

    async def poison() -> str:
        rig.effects["poison"] += 1
        deadly.set()
        await asyncio.Event().wait()
        return "never"

    @rig.worker.function("f", on="order")
    async def f(event: Order, ctx: Context) -> list[str]:
        results = list(await asyncio.gather(*(ctx.execute(name, rig.effect, name) for name in ("a", "b"))))
        try:
            results.append(await ctx.execute("poison", poison))
        except StepFailed as error:
            results.append(error.type)
        return [*results, await ctx.execute("after", rig.effect, "after")]

    engine = rig.mount().engine
    for retried in range(10):
        deadly.clear()
        delivery = asyncio.create_task(engine.deliver(event_of(Order()), Delivery("msg-1", retried)))
        died = asyncio.create_task(deadly.wait())
        await asyncio.wait([delivery, died], return_when=asyncio.FIRST_COMPLETED)
        died.cancel()
        if delivery.done():
            break
        rig.faults.fail_at = {rig.faults.calls + 1}  # a killed process hands no lease back
        delivery.cancel()
        await asyncio.gather(delivery, return_exceptions=True)
        await rig.clock.advance(20)

    run = await rig.worker.runs.get(f.run_id("evt-1"))
    assert run is not None
    assert run.result == ["a", "b", "CrashLoop", "after"]
    assert rig.effects == {"a": 1, "b": 1, "poison": 4, "after": 1}


async def test_steps_that_wait_for_each_other_end_also_when_steps_run_one_at_a_time(rig: Rig) -> None:
    entered, told = asyncio.Event(), asyncio.Event()

    async def hear() -> str:
        rig.effects["hear"] += 1
        entered.set()
        await told.wait()
        return "heard"

    async def tell() -> str:
        rig.effects["tell"] += 1
        if rig.effects["tell"] == 1:
            await asyncio.Event().wait()
        told.set()
        return "told"

    @rig.worker.function("f", on="order")
    async def f(event: Order, ctx: Context) -> list[str]:
        return list(await asyncio.gather(ctx.execute("hear", hear), ctx.execute("tell", tell)))

    engine = rig.mount().engine
    dying = asyncio.create_task(engine.deliver(event_of(Order()), Delivery("msg-1", 0)))
    await entered.wait()
    rig.faults.fail_on = {("release", 1)}  # a killed process hands no lease back
    dying.cancel()
    await asyncio.gather(dying, return_exceptions=True)
    await rig.clock.advance(20)

    again = asyncio.create_task(engine.deliver(event_of(Order()), Delivery("msg-1", 1)))
    await rig.clock.advance(TURN_S - 1)
    assert rig.effects == {"hear": 2, "tell": 1}, "they run one at a time"
    await rig.clock.advance(2)
    async with asyncio.timeout(30):
        assert (await again).ok

    run = await rig.worker.runs.get(f.run_id("evt-1"))
    assert run is not None
    assert (run.status, run.result) == ("completed", ["heard", "told"])
    assert rig.effects == {"hear": 2, "tell": 2}
