"""A run that goes on from a step of another one: what it takes over, what runs again, and what stays as it was."""

from __future__ import annotations

import asyncio
from typing import Literal

import pytest

from idioteque import Context, NonRetryableError, Retry, RunUnknown
from idioteque.errors import InvalidValue
from tests.library.engine.rig import STORES, Died, Order, Rig

ONCE = Retry(max_attempts=1)


@pytest.fixture(params=[(store, mode) for store in STORES for mode in ("inline", "isolated")], ids="-".join)
def rig(request: pytest.FixtureRequest) -> Rig:
    store, mode = request.param
    wanted: Literal["inline", "isolated"] = mode
    return Rig(store, wanted)


def three_steps(rig: Rig) -> None:
    @rig.worker.function("f", on="order", retry=ONCE)
    async def f(event: object, ctx: Context) -> str:
        async def both() -> str:
            await ctx.execute("inner", rig.effect, "inner")
            return await ctx.execute("last", rig.effect, "last")

        await ctx.execute("first", rig.effect, "first")
        await ctx.execute("outer", both)
        if rig.effects["end"]:
            await ctx.execute("after", rig.effect, "after")
        return await ctx.execute("end", rig.effect, "end")


async def resumed(rig: Rig, run_id: str, step: str | tuple[str, ...]) -> tuple[str, list[str]]:
    """Resume a run and let it end; return its id and what ran, in alphabetical order."""
    before = rig.effects.copy()
    again = await rig.worker.runs.resume(run_id, step)
    await rig.finish()
    return again, sorted((rig.effects - before).elements())


@pytest.mark.parametrize(
    ("step", "ran"),
    [
        ("first", ["after", "end", "first", "inner", "last"]),
        ("outer", ["after", "end", "inner", "last"]),
        ("outer/inner", ["after", "end", "inner", "last"]),
        (("outer", "last"), ["after", "end", "last"]),
        ("end", ["after", "end"]),
    ],
)
async def test_what_had_ended_before_the_step_is_taken_over_and_the_rest_runs_again(
    rig: Rig, step: str | tuple[str, ...], ran: list[str]
) -> None:
    three_steps(rig)
    run = await rig.run()
    again, done = await resumed(rig, run.id, step)
    assert done == ran
    new = await rig.worker.runs.get(again)
    assert new is not None
    assert (new.status, new.result, new.event) == ("completed", "end", run.event)
    assert again != run.id
    assert await rig.worker.runs.get(run.id) == run, "the run itself stays as it was"
    assert await rig.worker.runs.result(again) == "end"


async def test_a_run_that_failed_goes_on_from_its_failed_step_with_what_it_caught(rig: Rig) -> None:
    @rig.worker.function("f", on="order", retry=ONCE)
    async def f(event: object, ctx: Context) -> str:
        async def refuse(what: str) -> None:
            rig.effects[what] += 1
            if what == "caught" or rig.effects[what] < 2:
                raise NonRetryableError(what)

        caught = await asyncio.gather(ctx.execute("caught", refuse, "caught"), return_exceptions=True)
        await ctx.execute("broken", refuse, "broken")
        return type(caught[0]).__name__

    run = await rig.run()
    assert run.status == "failed"
    again, done = await resumed(rig, run.id, "broken")
    assert done == ["broken"]
    assert await rig.worker.runs.result(again) == "StepFailed", "a failure that the function caught is history too"
    again, done = await resumed(rig, run.id, "caught")
    assert done == ["broken", "caught"]


async def test_only_a_run_that_has_ended_and_a_step_that_it_has_are_resumed(rig: Rig) -> None:
    @rig.worker.function("f", on="order")
    async def f(event: object, ctx: Context) -> None:
        await ctx.execute("first", rig.effect, "first")
        await ctx.wait_for_event("answer", Order, timeout="1d")

    rig.mount()
    published = await rig.worker.publish({"type": "order"})
    await rig.clock.settle()
    run_id = published.run_id("f")
    with pytest.raises(InvalidValue, match="goes on by itself"):
        await rig.worker.runs.resume(run_id, "first")
    await rig.worker.runs.cancel(run_id)
    for step in ("second", "", "firs", ("first", "inner")):
        with pytest.raises(InvalidValue, match="has no step"):
            await rig.worker.runs.resume(run_id, step)
    with pytest.raises(RunUnknown):
        await rig.worker.runs.resume("run_unknown", "first")
    await rig.finish()


async def test_a_run_whose_message_was_refused_does_not_stay_behind(rig: Rig) -> None:
    three_steps(rig)
    run = await rig.run()
    rig.faults.fail_on = {("send", rig.faults.names.count("send") + 1)}
    with pytest.raises(Died):
        await rig.worker.runs.resume(run.id, "end")
    page = await rig.worker.runs.list()
    assert sorted(one.status for one in page.runs) == ["cancelled", "completed"]
    assert (await rig.worker.runs.count())["waiting"] == 0


async def test_a_run_tells_its_failed_attempts_and_the_deliveries_it_took(rig: Rig) -> None:
    @rig.worker.function("f", on="order")
    async def f(event: object, ctx: Context) -> str:
        async def third_time() -> str:
            rig.effects["tried"] += 1
            await rig.clock.sleep(0.25)
            if rig.effects["tried"] < 3:
                raise ValueError(f"no {rig.effects['tried']}")
            return "done"

        return await ctx.execute("third", third_time, retry=Retry(max_attempts=4, initial_delay_s=5, jitter=0))

    run = await rig.run()
    assert run.status == "completed"
    told = [(one.key, one.attempt, one.took_s, one.error) for one in run.failed_attempts]
    assert told == [(("third",), 1, 0.25, "ValueError: no 1"), (("third",), 2, 0.25, "ValueError: no 2")]
    assert (run.failed_attempts[1].at - run.failed_attempts[0].at).total_seconds() >= 5
    assert run.messages >= 3
