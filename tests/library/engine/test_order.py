"""What comes first decides, in the pass in which it happens and in every replay of it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Annotated, Any, Literal

import pytest
from pydantic import BaseModel, Field

from idioteque import Context
from idioteque.function import run_id
from tests.library.engine.rig import STORES, Order, Rig

RUN = run_id("order-1", "f")
TURNS_MAX = 10_000


class Paid(BaseModel):
    type: Literal["paid"] = "paid"


class Child(BaseModel):
    type: Literal["child"] = "child"


Event = Annotated[Order | Paid | Child, Field(discriminator="type")]


@pytest.fixture(params=STORES)
def rig(request: pytest.FixtureRequest) -> Rig:
    rig = Rig(request.param)
    rig.worker.configure(events_schema=Event)
    return rig


async def until_recorded(rig: Rig, *path: str) -> None:
    """Return once a step has its outcome, whichever delivery brings it."""
    for _ in range(TURNS_MAX):
        run = await rig.store.get(RUN)
        if run is not None and any(step.path == path and step.outcome is not None for step in run.steps):
            return
        await asyncio.sleep(0)
    raise AssertionError(f"{path} was never recorded")


async def first_of(**awaitables: Awaitable[Any]) -> str:
    """Return the names of those that end first."""
    tasks = {asyncio.ensure_future(each): name for name, each in awaitables.items()}
    done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    return " and ".join(sorted(tasks[task] for task in done))


def declare(rig: Rig, other: Callable[[Context], Awaitable[Any]], key: str = "other") -> list[str]:
    """Declare a function that goes on with what comes first, and is replayed: something else, or a step that sees to it
    that the other is on record before it ends itself. Return what each pass saw first."""
    seen: list[str] = []

    @rig.worker.function("f", on=Order)
    async def f(event: Order, ctx: Context) -> str:
        async def beside() -> str:
            if key == "paid":
                await rig.worker.publish(Paid())
            await until_recorded(rig, key)
            return "step"

        first = await first_of(other=other(ctx), step=ctx.execute("step", beside))
        seen.append(first)
        await ctx.execute(f"after {first}", rig.effect, first)
        await ctx.sleep("a while", "1h")
        return first

    return seen


async def wait(ctx: Context) -> Any:
    return await ctx.wait_for_event("paid", Paid)


async def test_an_event_that_is_recorded_before_a_step_in_place_is_seen_before_it(rig: Rig) -> None:
    seen = declare(rig, wait, "paid")
    run = await rig.run()
    assert (run.result, set(seen), rig.effects) == ("other", {"other"}, {"other": 1})
    assert len(seen) > 1


async def test_a_run_that_ends_before_a_step_in_place_is_seen_before_it(rig: Rig) -> None:
    @rig.worker.function("child", on=Child)
    async def child(event: Child, ctx: Context) -> str:
        return "child"

    seen = declare(rig, lambda ctx: ctx.invoke("child", child, Child()), "child")
    run = await rig.run()
    assert (run.result, set(seen), rig.effects) == ("other", {"other"}, {"other": 1})
    assert len(seen) > 1


async def test_a_step_of_another_delivery_that_is_recorded_before_one_in_place_is_seen_before_it(rig: Rig) -> None:
    passes = 0

    @rig.worker.function("f", on=Order)
    async def f(event: Order, ctx: Context) -> str:
        nonlocal passes
        passes += 1

        async def beside() -> str:
            await until_recorded(rig, "apart")
            return "step"

        async def step() -> Any:
            await ctx.sleep("until the other was sent", "1s")
            return await ctx.execute("step", beside)

        first = await first_of(other=ctx.execute("apart", rig.effect, "apart", isolate=True), step=step())
        await ctx.execute(f"after {first}", rig.effect, first)
        await ctx.sleep("a while", "1h")
        return first

    run = await rig.run()
    assert (run.result, rig.effects) == ("other", {"apart": 1, "other": 1})
    assert passes > 1


async def test_an_event_and_a_step_race_in_the_same_way_inside_a_step_of_its_own_delivery(rig: Rig) -> None:
    seen: list[str] = []

    @rig.worker.function("f", on=Order)
    async def f(event: Order, ctx: Context) -> str:
        async def beside() -> str:
            await rig.worker.publish(Paid())
            await until_recorded(rig, "box", "paid")
            return "step"

        async def box() -> str:
            first = await first_of(other=wait(ctx), step=ctx.execute("step", beside))
            seen.append(first)
            await ctx.execute(f"after {first}", rig.effect, first)
            await ctx.sleep("a while", "1h")
            return first

        return await ctx.execute("box", box, isolate=True)

    run = await rig.run()
    assert (run.result, set(seen), rig.effects) == ("other", {"other"}, {"other": 1})
    assert len(seen) > 1


async def test_steps_go_on_beside_a_long_one_when_something_else_was_recorded(rig: Rig) -> None:
    """What was recorded is learned at once, and not when the pass has come to rest: the long step may wait for it."""
    is_over = asyncio.Event()

    @rig.worker.function("f", on=Order)
    async def f(event: Order, ctx: Context) -> list[Any]:
        async def pay() -> str:
            await rig.worker.publish(Paid())
            await until_recorded(rig, "paid")
            return "published"

        async def end() -> str:
            is_over.set()
            return "ended"

        async def steps() -> list[Any]:
            return [await ctx.execute("pay", pay), await ctx.execute("end", end)]

        async def long() -> bool:
            return await is_over.wait()

        paid, ended, waited = await asyncio.gather(wait(ctx), steps(), ctx.execute("long", long))
        return [paid is not None, ended, waited]

    assert (await rig.run()).result == [True, ["published", "ended"], True]
    assert len(rig.store.told) == 2, "once more by the same delivery, to learn of the event"


async def test_commits_that_are_answered_in_another_order_are_seen_in_theirs(rig: Rig) -> None:
    through = rig.faults.through
    is_second = asyncio.Event()

    async def turned_round(name: str, call: Callable[[], Any]) -> Any:
        answer = await through(name, call)
        if name == "commit" and rig.faults.names.count("commit") == 1:
            await is_second.wait()
        elif name == "commit":
            is_second.set()
        return answer

    rig.faults.through = turned_round  # type: ignore[method-assign]
    seen: list[str] = []

    @rig.worker.function("f", on=Order)
    async def f(event: Order, ctx: Context) -> str:
        first = await first_of(**{name: ctx.execute(name, rig.effect, name) for name in ("one", "two")})
        seen.append(first)
        await ctx.sleep("a while", "1h")
        return first

    run = await rig.run()
    assert (run.result, set(seen)) == ("one", {"one"})
    assert len(seen) > 1


async def test_nothing_more_is_read_while_nobody_else_records_anything(rig: Rig) -> None:
    @rig.worker.function("f", on=Order)
    async def f(event: Order, ctx: Context) -> list[Any]:
        async def chain(name: str) -> list[Any]:
            return [await ctx.execute(f"{name}{n}", rig.effect, n) for n in range(3)]

        async def box() -> Any:
            return await asyncio.gather(chain("x"), chain("y"))

        async def boxed(name: str) -> Any:
            return await ctx.execute(name, box)

        return await asyncio.gather(chain("a"), chain("b"), boxed("c"))

    run = await rig.run()
    assert (run.status, rig.faults.names.count("claim")) == ("completed", 1)


@pytest.mark.parametrize("after", [False, True])
async def test_a_fault_while_it_is_learned_what_was_recorded_costs_a_redelivery(rig: Rig, after: bool) -> None:
    rig.faults.after = after
    seen = declare(rig, wait, "paid")
    learning = 3  # the claims of the order's run, of the message that the event woke it by, and once more
    rig.faults.fail_on = {("claim", learning)}
    run = await rig.run()
    assert (run.result, set(seen), rig.effects) == ("other", {"other"}, {"other": 1})
    assert rig.faults.injected == 1
