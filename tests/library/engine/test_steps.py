"""What steps promise: one outcome for each, whatever they return, raise, or are named."""

from __future__ import annotations

import asyncio
import contextvars
import functools
import itertools
import threading
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from pydantic import BaseModel

from idioteque import Context, NonRetryableError, Retry, RetryAfter, StepFailed, StepInterrupted
from idioteque.records import described
from tests.library.engine.rig import STORES, Order, Rig


class User(BaseModel):
    name: str
    since: datetime


QUICK = Retry(initial_delay_s=0.01, jitter=0)


@pytest.fixture(params=STORES)
def rig(request: pytest.FixtureRequest) -> Rig:
    return Rig(request.param)


async def test_keys_that_are_prefixes_of_one_another_are_steps_of_their_own_in_a_loop(rig: Rig) -> None:
    @rig.worker.function("f", on="order")
    async def f(event: Order, ctx: Context) -> list[str]:
        return [await ctx.execute(f"notify-friend-{n}", rig.effect, f"friend-{n}") for n in range(1, 13)]

    run = await rig.run()

    assert run.result == [f"friend-{n}" for n in range(1, 13)]
    assert set(rig.effects.values()) == {1}


async def test_keys_that_are_prefixes_of_one_another_are_steps_of_their_own_in_parallel(rig: Rig) -> None:
    @rig.worker.function("f", on="order")
    async def f(event: Order, ctx: Context) -> list[str]:
        steps = (ctx.execute(f"notify-friend-{n}", rig.effect, f"friend-{n}") for n in range(1, 13))
        return list(await asyncio.gather(*steps))

    run = await rig.run()

    assert run.result == [f"friend-{n}" for n in range(1, 13)]
    assert set(rig.effects.values()) == {1}


async def test_functions_whose_ids_are_prefixes_of_one_another_are_runs_of_their_own(rig: Rig) -> None:
    for id_ in ("send", "send-email", "constructor", "__proto__"):

        @rig.worker.function(id_, on="order")
        async def f(event: Order, ctx: Context, name: str = id_) -> str:
            return await ctx.execute("step", rig.effect, name)

    for id_ in ("send", "send-email", "constructor", "__proto__"):
        assert (await rig.run(id_)).result == id_
    assert set(rig.effects.values()) == {1}


@pytest.mark.parametrize("separator", ["/", ":", "%2F", ".", "\x00", "ü→🙂"])
async def test_a_key_with_a_separator_is_not_a_nested_step(rig: Rig, separator: str) -> None:
    async def outer(ctx: Context) -> str:
        return await ctx.execute("b", rig.effect, "nested")

    @rig.worker.function("f", on="order")
    async def f(event: Order, ctx: Context) -> list[str]:
        return [await ctx.execute(f"a{separator}b", rig.effect, "flat"), await ctx.execute("a", outer, ctx)]

    assert (await rig.run()).result == ["flat", "nested"]


@pytest.mark.parametrize("value", [0, "", False, None, [], {}, 0.0, "<empty_execution_result>"])
async def test_a_falsy_result_is_a_result(rig: Rig, value: Any) -> None:
    async def step() -> Any:
        rig.effects["step"] += 1
        return value

    @rig.worker.function("f", on="order")
    async def f(event: Order, ctx: Context) -> Any:
        result = await ctx.execute("step", step)
        await ctx.execute("again", rig.effect, "again")
        return [result]

    rig.faults.fail_on, rig.faults.after = (
        {("commit", 2)},
        True,
    )  # the reply to the second step's commit is lost: one replay

    run = await rig.run()

    assert run.result == [value]
    assert rig.effects == {"step": 1, "again": 1}


async def test_a_step_that_fails_once_is_tried_again_and_its_result_stands(rig: Rig) -> None:
    async def flaky() -> str:
        rig.effects["flaky"] += 1
        if rig.effects["flaky"] == 1:
            raise ConnectionError("not yet")
        return "there"

    @rig.worker.function("f", on="order")
    async def f(event: Order, ctx: Context) -> list[str]:
        return [
            await ctx.execute("before", rig.effect, "before"),
            await ctx.execute("flaky", flaky),
            await ctx.execute("after", rig.effect, "after"),
        ]

    run = await rig.run()

    assert run.result == ["before", "there", "after"]
    assert rig.effects == {"before": 1, "flaky": 2, "after": 1}


async def test_a_long_back_off_is_left_to_a_message_and_costs_no_other_step_a_repeat(rig: Rig) -> None:
    started: list[float] = []

    async def flaky() -> str:
        started.append(rig.clock.monotonic_s())
        if len(started) < 3:
            raise ConnectionError("not yet")
        return "there"

    @rig.worker.function("f", on="order")
    async def f(event: Order, ctx: Context) -> list[str]:
        policy = Retry(initial_delay_s=60, factor=10, jitter=0)
        return list(
            await asyncio.gather(ctx.execute("flaky", flaky, retry=policy), ctx.execute("other", rig.effect, "other"))
        )

    run = await rig.run()

    assert run.result == ["there", "other"]
    assert rig.effects["other"] == 1
    assert [round(later - earlier) for earlier, later in itertools.pairwise(started)] == [60, 600]


async def test_a_step_out_of_attempts_raises_step_failed_with_what_happened(rig: Rig) -> None:
    async def bad() -> None:
        rig.effects["bad"] += 1
        raise ValueError("no such card")

    caught: list[StepFailed] = []

    @rig.worker.function("f", on="order")
    async def f(event: Order, ctx: Context) -> str:
        try:
            await ctx.execute("pay", bad, retry=Retry(max_attempts=3, initial_delay_s=0.01))
        except StepFailed as error:
            caught.append(error)
        return await ctx.execute("compensate", rig.effect, "compensated")

    run = await rig.run()

    assert run.status == "completed"
    assert rig.effects == {"bad": 3, "compensated": 1}
    assert (caught[0].key, caught[0].type, caught[0].message) == ("pay", "ValueError", "no such card")
    assert "no such card" in caught[0].traceback


async def test_a_recorded_traceback_shows_the_code_of_who_wrote_the_function(rig: Rig) -> None:
    def cause() -> None:
        raise KeyError("card")

    async def bad() -> None:
        try:
            cause()
        except KeyError as error:
            raise ExceptionGroup("cards", [ValueError("no such card")]) from error

    @rig.worker.function("f", on="order")
    async def f(event: Order, ctx: Context) -> None:
        await ctx.execute("pay", bad, retry=Retry(max_attempts=1))

    run = await rig.store.get((await rig.run()).id)
    assert run is not None
    assert run.outcome is not None
    body, step = (described(outcome.payload)["traceback"] for outcome in (run.outcome, run.steps[0].outcome) if outcome)
    assert [line.split(", in ")[1] for line in body.splitlines() if ", in " in line] == ["f"]
    assert [line.split(", in ")[1] for line in step.splitlines() if ", in " in line] == ["bad", "cause", "bad"]


async def test_a_traceback_shows_our_own_code_where_it_may_be_at_fault(rig: Rig) -> None:
    @rig.worker.function("f", on="order", retry=Retry(max_attempts=1))
    async def f(event: Order, ctx: Context) -> None:
        await ctx.sleep_until("nap", "tomorrow")  # type: ignore[arg-type]

    run = await rig.store.get((await rig.run()).id)
    assert run is not None
    assert run.outcome is not None
    trace = described(run.outcome.payload)["traceback"]
    lines = [line for line in trace.splitlines() if ", in " in line]
    assert lines[0].endswith(", in f")
    assert "idioteque" in lines[-1]


class CannotSayWhy(Exception):
    @property
    def __cause__(self) -> BaseException:  # type: ignore[override]
        raise RuntimeError("there is no cause")


@pytest.mark.parametrize(
    "error",
    [
        CannotSayWhy("no such card"),
        SyntaxError("no such card", ("template", "one", "two", "a line", "three", "four")),
    ],
    ids=["a cause that raises", "a place that is no number"],
)
async def test_an_exception_that_no_traceback_can_be_made_of_is_an_outcome(rig: Rig, error: Exception) -> None:
    async def bad() -> None:
        raise error

    @rig.worker.function("f", on="order")
    async def f(event: Order, ctx: Context) -> None:
        await ctx.execute("pay", bad, retry=Retry(max_attempts=1))

    run = await rig.store.get((await rig.run()).id)
    assert run is not None
    assert run.status == "failed"
    assert run.steps[0].outcome is not None
    told = described(run.steps[0].outcome.payload)
    assert told["type"] == type(error).__name__
    assert told["message"].startswith("no such card")
    assert told["traceback"].startswith("Traceback (most recent call last):\n")
    assert ", in bad\n" in told["traceback"]


async def test_a_caught_failure_followed_by_a_step_survives_every_replay(rig: Rig) -> None:
    async def bad() -> None:
        rig.effects["bad"] += 1
        raise ValueError("no")

    @rig.worker.function("f", on="order")
    async def f(event: Order, ctx: Context) -> str:
        try:
            await ctx.execute("pay", bad, retry=Retry(max_attempts=1))
        except StepFailed:
            return await ctx.execute("compensate", rig.effect, "compensated")
        return "paid"

    rig.faults.fail_on = {("commit", 2)}  # the process dies between the effect of the compensation and its commit

    run = await rig.run()

    assert run.result == "compensated"
    assert rig.effects == {"bad": 1, "compensated": 2}


async def test_an_uncaught_step_failure_ends_the_run_at_once(rig: Rig) -> None:
    async def bad() -> None:
        rig.effects["bad"] += 1
        raise ValueError("no")

    @rig.worker.function("f", on="order")
    async def f(event: Order, ctx: Context) -> None:
        await ctx.execute("pay", bad, retry=Retry(max_attempts=2, initial_delay_s=0.01))

    run = await rig.run()

    assert run.status == "failed"
    assert run.error == "StepFailed: step 'pay' failed: ValueError: no"
    assert rig.effects["bad"] == 2
    assert rig.dispatcher.dead_letters == []


@pytest.mark.parametrize(
    ("error", "attempts"), [(NonRetryableError("never"), 1), (KeyError("other kind"), 1), (OSError("kind"), 4)]
)
async def test_only_what_the_policy_names_is_tried_again(rig: Rig, error: Exception, attempts: int) -> None:
    async def bad() -> None:
        rig.effects["bad"] += 1
        raise error

    @rig.worker.function("f", on="order")
    async def f(event: Order, ctx: Context) -> None:
        await ctx.execute("bad", bad, retry=Retry(initial_delay_s=0.01, retry_on=(OSError,)))

    assert (await rig.run()).status == "failed"
    assert rig.effects["bad"] == attempts


async def test_retry_after_sets_the_pause(rig: Rig) -> None:
    started: list[float] = []

    async def limited() -> None:
        started.append(rig.clock.monotonic_s())
        if len(started) == 1:
            raise RetryAfter(300)

    @rig.worker.function("f", on="order")
    async def f(event: Order, ctx: Context) -> None:
        await ctx.execute("limited", limited)

    assert (await rig.run()).status == "completed"
    assert round(started[1] - started[0]) == 300


async def test_results_come_back_as_the_annotated_type_on_first_run_and_replay(rig: Rig) -> None:
    moment = datetime(2026, 1, 2, 3, 4, tzinfo=UTC)
    seen: list[list[Any]] = []

    async def user() -> User:
        return User(name="Ada", since=moment)

    async def pairs() -> dict[int, tuple[str, timedelta]]:
        return {1: ("a", timedelta(hours=2))}

    @rig.worker.function("f", on="order")
    async def f(event: Order, ctx: Context) -> None:
        seen.append([await ctx.execute("user", user), await ctx.execute("pairs", pairs)])
        await ctx.execute("last", rig.effect, "last")

    rig.faults.fail_on = {("commit", 3)}

    await rig.run()

    expected = [User(name="Ada", since=moment), {1: ("a", timedelta(hours=2))}]
    assert seen == [expected, expected]


async def test_a_result_without_a_json_form_fails_the_step_naming_type_and_key(rig: Rig) -> None:
    async def handle() -> Any:
        rig.effects["opened"] += 1
        return object()

    @rig.worker.function("f", on="order")
    async def f(event: Order, ctx: Context) -> None:
        await ctx.execute("open-handle", handle)

    run = await rig.run()

    assert run.status == "failed"
    assert "open-handle" in (run.error or "")
    assert "object" in (run.error or "")
    assert rig.effects["opened"] == 1


@pytest.mark.parametrize("value", [float("nan"), float("inf"), {"deep": [1, float("-inf")]}])
async def test_a_number_that_json_cannot_hold_fails_the_step(rig: Rig, value: Any) -> None:
    async def number() -> Any:
        return value

    @rig.worker.function("f", on="order")
    async def f(event: Order, ctx: Context) -> None:
        await ctx.execute("number", number)

    run = await rig.run()

    assert run.status == "failed"
    assert "NaN" in (run.error or "")


async def test_a_key_used_twice_fails_the_run_without_a_retry_naming_function_and_key(rig: Rig) -> None:
    @rig.worker.function("f", on="order", retry=Retry(max_attempts=5))
    async def f(event: Order, ctx: Context) -> None:
        await ctx.execute("same", rig.effect, "first")
        await ctx.execute("same", rig.effect, "second")

    run = await rig.run()

    assert run.status == "failed"
    assert "DuplicateStepKey" in (run.error or "")
    assert "'f'" in (run.error or "")
    assert "'same'" in (run.error or "")
    assert rig.effects == {"first": 1}


async def test_one_key_may_be_used_in_two_scopes(rig: Rig) -> None:
    async def outer(ctx: Context, name: str) -> str:
        return await ctx.execute("same", rig.effect, name)

    @rig.worker.function("f", on="order")
    async def f(event: Order, ctx: Context) -> list[str]:
        return list(
            await asyncio.gather(
                ctx.execute("a", outer, ctx, "in-a"), ctx.execute("b", outer, ctx, "in-b"), outer(ctx, "in-f")
            )
        )

    assert (await rig.run()).result == ["in-a", "in-b", "in-f"]


@pytest.mark.parametrize("key", ["", "x" * 513, "\ud800", 7])
async def test_a_key_that_is_no_text_is_refused(rig: Rig, key: Any) -> None:
    @rig.worker.function("f", on="order", retry=Retry(max_attempts=1))
    async def f(event: Order, ctx: Context) -> None:
        await ctx.execute(key, rig.effect, "step")

    run = await rig.run()

    assert run.status == "failed"
    assert "step key" in (run.error or "")
    assert rig.effects == {}


async def test_nested_steps_are_recorded_one_by_one(rig: Rig) -> None:
    async def outer(ctx: Context) -> list[str]:
        first = await ctx.execute("one", rig.effect, "one")
        rest = await asyncio.gather(*(ctx.execute(f"p{n}", rig.effect, f"p{n}") for n in range(3)))
        return [first, *rest]

    @rig.worker.function("f", on="order")
    async def f(event: Order, ctx: Context) -> list[str]:
        result = await ctx.execute("outer", outer, ctx)
        return [*result, await ctx.execute("tail", rig.effect, "tail")]

    rig.faults.fail_on = {("commit", 4)}  # dies somewhere inside the container

    run = await rig.run()

    assert run.result == ["one", "p0", "p1", "p2", "tail"]
    assert [step.key for step in run.steps][-2:] == [("outer",), ("tail",)]
    assert sum(rig.effects.values()) <= 5 + 3


async def test_a_container_that_fails_is_tried_again_without_repeating_its_steps(rig: Rig) -> None:
    async def outer(ctx: Context) -> str:
        await ctx.execute("inner", rig.effect, "inner")
        rig.effects["outer"] += 1
        if rig.effects["outer"] == 1:
            raise OSError("after the inner step")
        return "done"

    @rig.worker.function("f", on="order")
    async def f(event: Order, ctx: Context) -> str:
        return await ctx.execute("outer", outer, ctx, retry=QUICK)

    run = await rig.run()

    assert run.result == "done"
    assert rig.effects == {"inner": 1, "outer": 2}


async def test_a_recorded_failure_inside_a_container_is_not_tried_again_by_the_container(rig: Rig) -> None:
    async def bad() -> None:
        rig.effects["bad"] += 1
        raise ValueError("no")

    async def outer(ctx: Context) -> None:
        rig.effects["outer"] += 1
        await ctx.execute("bad", bad, retry=Retry(max_attempts=2, initial_delay_s=0.01))

    @rig.worker.function("f", on="order")
    async def f(event: Order, ctx: Context) -> None:
        await ctx.execute("outer", outer, ctx)

    run = await rig.run()

    assert run.status == "failed"
    assert rig.effects == {"bad": 2, "outer": 1}


async def test_a_step_has_its_own_key_for_the_outside_world_in_every_attempt(rig: Rig) -> None:
    keys: list[str] = []

    async def charge(ctx: Context) -> None:
        keys.append(ctx.idempotency_key)
        if len(keys) == 1:
            raise OSError("lost reply")

    @rig.worker.function("f", on="order")
    async def f(event: Order, ctx: Context) -> None:
        await ctx.execute("charge", charge, ctx, retry=QUICK)
        await ctx.execute("charge-2", charge, ctx)

    await rig.run()

    assert len(keys) == 3
    assert keys[0] == keys[1] != keys[2]


async def test_an_at_most_once_step_that_raises_is_not_tried_again(rig: Rig) -> None:
    async def once() -> None:
        rig.effects["once"] += 1
        raise OSError("who knows")

    @rig.worker.function("f", on="order")
    async def f(event: Order, ctx: Context) -> None:
        await ctx.execute("once", once, at_most_once=True)

    assert (await rig.run()).status == "failed"
    assert rig.effects["once"] == 1


async def test_an_at_most_once_step_whose_end_was_not_recorded_raises_step_interrupted(rig: Rig) -> None:
    caught: list[StepFailed] = []

    @rig.worker.function("f", on="order")
    async def f(event: Order, ctx: Context) -> str:
        try:
            return await ctx.execute("once", rig.effect, "once", at_most_once=True)
        except StepInterrupted as error:
            caught.append(error)
            return await ctx.execute("ask", rig.effect, "asked")

    rig.faults.fail_on = {("commit", 1)}

    run = await rig.run()

    assert run.result == "asked"
    assert rig.effects == {"once": 1, "asked": 1}
    assert len(caught) == 1


async def test_a_timeout_is_a_failed_attempt(rig: Rig) -> None:
    async def hang() -> None:
        rig.effects["hang"] += 1
        await asyncio.Event().wait()

    @rig.worker.function("f", on="order")
    async def f(event: Order, ctx: Context) -> None:
        await ctx.execute("hang", hang, timeout=0.01, retry=Retry(max_attempts=1))

    rig.mount()
    published = await rig.worker.publish(Order())
    await rig.dispatcher.drain()
    run = await rig.worker.runs.get(published.run_id("f"))

    assert run is not None
    assert run.status == "failed"
    assert "TimeoutError" in (run.error or "")
    assert rig.effects["hang"] == 1


async def test_plain_callables_run_in_threads_and_see_the_context_variables() -> None:
    rig = Rig()
    tenant: contextvars.ContextVar[str] = contextvars.ContextVar("tenant")

    def blocking(ctx: Context, suffix: str) -> tuple[str, bool, str]:
        return tenant.get() + suffix, threading.current_thread() is threading.main_thread(), ctx.idempotency_key

    @rig.worker.function("f", on="order")
    async def f(event: Order, ctx: Context) -> list[Any]:
        tenant.set("acme")
        inside = await ctx.execute("blocking", functools.partial(blocking, ctx), suffix="!")
        awaited = await ctx.execute("lambda", lambda: rig.effect("lambda"))
        return [*inside[:2], awaited, inside[2] != ctx.idempotency_key]

    rig.mount()
    published = await rig.worker.publish(Order())
    await rig.dispatcher.drain()

    assert await rig.worker.runs.result(published.run_id("f")) == ["acme!", False, "lambda", True]
