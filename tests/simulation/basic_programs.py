"""Programs of steps: in a row, side by side, inside each other, failing, and with deliveries of their own."""

from __future__ import annotations

import asyncio
from collections import deque
from datetime import UTC, datetime
from typing import Any

from idioteque import Context, NonRetryableError, Retry, RetryAfter, StepFailed, Worker
from tests.simulation.program import Failing, Order, effect, effect_once, here, plain_effect, program, times

ONCE = Retry(max_attempts=1)
QUICK = Retry(max_attempts=3, initial_delay_s=0.5, jitter=0)
SLOW = Retry(max_attempts=3, initial_delay_s=90)
NOON = datetime(2023, 11, 15, 12, tzinfo=UTC)


def refused() -> Exception:
    return NonRetryableError("no")


def broken() -> Exception:
    return OSError("not yet")


@program(small=True)
def single(worker: Worker) -> None:
    @worker.function("f", on="order")
    async def f(event: Order, ctx: Context) -> str:
        return await ctx.execute("a", effect)


@program()
def nothing(worker: Worker) -> None:
    @worker.function("f", on="order")
    async def f(event: Order, ctx: Context) -> int:
        return event.count


@program(small=True)
def sequence(worker: Worker) -> None:
    @worker.function("f", on="order")
    async def f(event: Order, ctx: Context) -> list[str]:
        return [await ctx.execute(key, effect) for key in ("a", "b", "c")]


@program(small=True)
def parallel(worker: Worker) -> None:
    @worker.function("f", on="order")
    async def f(event: Order, ctx: Context) -> list[str]:
        first = await asyncio.gather(*(ctx.execute(key, effect) for key in ("a", "b", "c")))
        return [*first, await ctx.execute("d", effect)]


@program()
def chains(worker: Worker) -> None:
    @worker.function("f", on="order")
    async def f(event: Order, ctx: Context) -> list[Any]:
        async def chain(name: str) -> list[str]:
            return [await ctx.execute(f"{name}{n}", effect) for n in (1, 2, 3)]

        return list(await asyncio.gather(chain("a"), chain("b")))


@program(small=True)
def nested(worker: Worker) -> None:
    async def outer(ctx: Context) -> list[str]:
        return list(await asyncio.gather(*(ctx.execute(key, effect) for key in ("a", "b"))))

    @worker.function("f", on="order")
    async def f(event: Order, ctx: Context) -> list[Any]:
        return [await ctx.execute("outer", outer, ctx), await ctx.execute("c", effect)]


@program()
def nested_deep(worker: Worker) -> None:
    async def level(ctx: Context, depth: int) -> str:
        if not depth:
            return await ctx.execute("leaf", effect)
        return await ctx.execute(f"level-{depth}", level, ctx, depth - 1)

    @worker.function("f", on="order")
    async def f(event: Order, ctx: Context) -> list[str]:
        return [await ctx.execute("top", level, ctx, 3), await ctx.execute("end", effect)]


@program()
def nested_failing(worker: Worker) -> None:
    async def outer(ctx: Context) -> list[str]:
        results = [await ctx.execute("a", effect)]
        results.append(await ctx.execute("b", Failing(1, broken), retry=QUICK))
        return results

    @worker.function("f", on="order")
    async def f(event: Order, ctx: Context) -> list[str]:
        return await ctx.execute("outer", outer, ctx)


@program()
def container_that_fails(worker: Worker) -> None:
    async def outer(ctx: Context) -> str:
        inner = await ctx.execute("inner", effect)
        if times() == 1:
            raise broken()
        return inner

    @worker.function("f", on="order")
    async def f(event: Order, ctx: Context) -> str:
        return await ctx.execute("outer", outer, ctx, retry=QUICK)


@program()
def loop(worker: Worker) -> None:
    @worker.function("f", on="order")
    async def f(event: Order, ctx: Context) -> int:
        total = 0
        while total < 6:
            total += len(await ctx.execute(f"round-{total}", effect)) - len(f"round-{total}")
        return total


@program(small=True)
def caught(worker: Worker) -> None:
    @worker.function("f", on="order")
    async def f(event: Order, ctx: Context) -> str:
        try:
            await ctx.execute("bad", Failing(99, refused))
        except StepFailed as error:
            return f"{error.type} {await ctx.execute('compensate', effect)}"
        return "paid"


@program()
def try_finally(worker: Worker) -> None:
    @worker.function("f", on="order")
    async def f(event: Order, ctx: Context) -> str:
        try:
            return await ctx.execute("flaky", Failing(1, broken), retry=SLOW)
        finally:
            await ctx.execute("clean up", effect)


@program()
def uncaught(worker: Worker) -> None:
    @worker.function("f", on="order")
    async def f(event: Order, ctx: Context) -> str:
        await ctx.execute("a", effect)
        return await ctx.execute("bad", Failing(99, refused))


@program()
def gather_fails(worker: Worker) -> None:
    @worker.function("f", on="order")
    async def f(event: Order, ctx: Context) -> list[Any]:
        results = await asyncio.gather(
            ctx.execute("a", effect),
            ctx.execute("bad", Failing(99, refused)),
            ctx.execute("b", effect),
            return_exceptions=True,
        )
        return [result.type if isinstance(result, StepFailed) else result for result in results]


@program(races=True)
def first_completed(worker: Worker) -> None:
    @worker.function("f", on="order")
    async def f(event: Order, ctx: Context) -> str:
        tasks = [asyncio.create_task(ctx.execute(key, effect), name=key) for key in ("a", "b", "c")]
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        first = min(task.get_name() for task in done)
        await ctx.execute(f"{first}-was-first", effect)
        await asyncio.wait(tasks)
        return await ctx.execute("end", effect)


@program(small=True)
def task_group(worker: Worker) -> None:
    @worker.function("f", on="order")
    async def f(event: Order, ctx: Context) -> list[str]:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(ctx.execute(key, effect)) for key in ("a", "b")]
        return [*(task.result() for task in tasks), await ctx.execute("c", effect)]


@program()
def task_group_fails(worker: Worker) -> None:
    @worker.function("f", on="order")
    async def f(event: Order, ctx: Context) -> str:
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(ctx.execute("good", effect))
                group.create_task(ctx.execute("bad", Failing(99, refused)))
        except* StepFailed:
            pass
        return await ctx.execute("after", effect)


@program()
def as_completed(worker: Worker) -> None:
    @worker.function("f", on="order")
    async def f(event: Order, ctx: Context) -> list[str]:
        # Of coroutines, `as_completed` begins any first: another one in each pass. Here the world says which.
        keys = deque("abc")
        keys.rotate(here().plan.choose(3))
        calls = [asyncio.ensure_future(ctx.execute(key, effect)) for key in keys]
        return sorted([await done for done in asyncio.as_completed(calls)])


@program(small=True)
def retried_in_place(worker: Worker) -> None:
    @worker.function("f", on="order")
    async def f(event: Order, ctx: Context) -> list[str]:
        return [await ctx.execute("flaky", Failing(1, broken), retry=QUICK), await ctx.execute("b", effect)]


@program(small=True)
def retried_by_message(worker: Worker) -> None:
    @worker.function("f", on="order")
    async def f(event: Order, ctx: Context) -> list[str]:
        return [await ctx.execute("flaky", Failing(1, broken), retry=SLOW), await ctx.execute("b", effect)]


@program()
def retried_side_by_side(worker: Worker) -> None:
    @worker.function("f", on="order")
    async def f(event: Order, ctx: Context) -> list[str]:
        return list(
            await asyncio.gather(
                ctx.execute("in place", Failing(1, broken), retry=QUICK),
                ctx.execute("by message", Failing(2, broken), retry=SLOW),
                ctx.execute("a", effect),
            )
        )


@program()
def retry_after(worker: Worker) -> None:
    @worker.function("f", on="order")
    async def f(event: Order, ctx: Context) -> list[str]:
        later = Failing(1, lambda: RetryAfter(300))
        return list(await asyncio.gather(ctx.execute("later", later), ctx.execute("a", effect)))


@program()
def out_of_attempts(worker: Worker) -> None:
    @worker.function("f", on="order")
    async def f(event: Order, ctx: Context) -> str:
        try:
            return await ctx.execute("bad", Failing(99, broken), retry=QUICK)
        except StepFailed:
            return await ctx.execute("after", effect)


@program(small=True)
def body_retried(worker: Worker) -> None:
    @worker.function("f", on="order")
    async def f(event: Order, ctx: Context) -> list[str]:
        results = [await ctx.execute("a", effect)]
        if ctx.attempt == 1:
            raise broken()
        return [*results, await ctx.execute("b", effect)]


@program()
def body_out_of_attempts(worker: Worker) -> None:
    @worker.function("f", on="order", retry=Retry(max_attempts=2, initial_delay_s=10))
    async def f(event: Order, ctx: Context) -> None:
        await ctx.execute("a", effect)
        raise broken()


@program()
def at_most_once(worker: Worker) -> None:
    @worker.function("f", on="order")
    async def f(event: Order, ctx: Context) -> list[str]:
        results = [await ctx.execute("a", effect)]
        try:
            results.append(await ctx.execute("once", effect_once, at_most_once=True))
        except StepFailed as error:
            results.append(error.type)
        return [*results, await ctx.execute("b", effect)]


@program()
def at_most_once_side_by_side(worker: Worker) -> None:
    @worker.function("f", on="order")
    async def f(event: Order, ctx: Context) -> list[str]:
        results = await asyncio.gather(
            *(ctx.execute(key, effect_once, at_most_once=True) for key in ("one", "two")),
            ctx.execute("a", effect),
            return_exceptions=True,
        )
        return [str(result) for result in results]


@program()
def plain(worker: Worker) -> None:
    @worker.function("f", on="order")
    async def f(event: Order, ctx: Context) -> list[str]:
        return list(await asyncio.gather(*(ctx.execute(key, plain_effect) for key in ("a", "b"))))


@program(small=True)
def isolate_one(worker: Worker) -> None:
    @worker.function("f", on="order")
    async def f(event: Order, ctx: Context) -> list[str]:
        first = await ctx.execute("own", effect, isolate=True)
        return [first, await ctx.execute("here", effect)]


@program()
def isolate_some(worker: Worker) -> None:
    @worker.function("f", on="order")
    async def f(event: Order, ctx: Context) -> list[str]:
        calls = [ctx.execute(key, effect, isolate=True) for key in ("x", "y")]
        return list(await asyncio.gather(*calls, ctx.execute("here", effect)))


@program()
def isolate_failing(worker: Worker) -> None:
    @worker.function("f", on="order")
    async def f(event: Order, ctx: Context) -> list[str]:
        return list(
            await asyncio.gather(
                ctx.execute("slow", Failing(1, broken), retry=SLOW, isolate=True),
                ctx.execute("quick", Failing(1, broken), retry=QUICK, isolate=True),
                ctx.sleep("pause", "5m"),
            )
        )[:2]


@program()
def isolate_nested(worker: Worker) -> None:
    async def outer(ctx: Context) -> list[str]:
        await ctx.sleep("pause", "10m")
        return [await ctx.execute("a", effect), await ctx.execute("b", Failing(1, broken), retry=SLOW)]

    @worker.function("f", on="order")
    async def f(event: Order, ctx: Context) -> list[Any]:
        return list(await asyncio.gather(ctx.execute("o", outer, ctx, isolate=True), ctx.execute("c", effect)))


@program()
def isolate_once(worker: Worker) -> None:
    @worker.function("f", on="order")
    async def f(event: Order, ctx: Context) -> list[str]:
        results = await asyncio.gather(
            ctx.execute("once", effect_once, isolate=True, at_most_once=True),
            ctx.execute("a", effect, isolate=True),
            return_exceptions=True,
        )
        return [str(result) for result in results]


@program()
def sleeping(worker: Worker) -> None:
    @worker.function("f", on="order")
    async def f(event: Order, ctx: Context) -> list[str]:
        async def branch() -> str:
            await ctx.sleep("long", "1h")
            return await ctx.execute("b", effect)

        first = await ctx.execute("a", effect)
        return [first, *await asyncio.gather(branch(), ctx.execute("c", effect))]


@program()
def sleeping_until(worker: Worker) -> None:
    @worker.function("f", on="order")
    async def f(event: Order, ctx: Context) -> str:
        await ctx.sleep_until("noon", NOON)
        await ctx.sleep("a moment", 0.5)
        return await ctx.execute("a", effect)


@program()
def several_sleeps(worker: Worker) -> None:
    @worker.function("f", on="order")
    async def f(event: Order, ctx: Context) -> list[str]:
        async def branch(n: int) -> str:
            await ctx.sleep(f"pause-{n}", 30 * n)
            return await ctx.execute(f"a-{n}", effect)

        return list(await asyncio.gather(*(branch(n) for n in (1, 2, 3))))


@program()
def many(worker: Worker) -> None:
    @worker.function("f", on="order")
    async def f(event: Order, ctx: Context) -> int:
        return len(await asyncio.gather(*(ctx.execute(f"s{n}", effect) for n in range(12))))


@program(deadline_s=0)
def out_of_time(worker: Worker) -> None:
    async def outer(ctx: Context) -> list[str]:
        return [await ctx.execute(key, effect) for key in ("x", "y")]

    async def once(ctx: Context) -> list[str]:
        times(once=True)
        return [await ctx.execute(key, effect) for key in ("x", "y")]

    @worker.function("f", on="order")
    async def f(event: Order, ctx: Context) -> list[Any]:
        results: list[Any] = list(await asyncio.gather(*(ctx.execute(key, effect) for key in ("a", "b"))))
        results.append(await ctx.execute("outer", outer, ctx))
        try:
            results.append(await ctx.execute("once", once, ctx, at_most_once=True))
        except StepFailed as error:
            results.append(error.type)
        return [*results, await ctx.execute("flaky", Failing(1, broken), retry=QUICK)]


@program(deadline_s=0)
def out_of_time_elsewhere(worker: Worker) -> None:
    async def outer(ctx: Context) -> list[str]:
        return [await ctx.execute(key, effect) for key in ("x", "y")]

    @worker.function("f", on="order")
    async def f(event: Order, ctx: Context) -> list[Any]:
        async def chain(name: str) -> list[str]:
            return [await ctx.execute(f"{name}{n}", effect) for n in (1, 2)]

        own = ctx.execute("own", outer, ctx, isolate=True)
        late = ctx.execute("late", Failing(1, broken), retry=SLOW)
        return list(await asyncio.gather(own, late, chain("a"), chain("b")))
