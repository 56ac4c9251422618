"""Flaws 1 to 18: work that was lost, and runs that hung."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from idioteque import Context, DispatchError, HttpResponse, Limit, Retry
from idioteque.clock import SystemClock
from idioteque.dispatcher import RunEnvelope
from idioteque.engine import Delivery
from idioteque.errors import ExchangeTimeout, StepFailed
from idioteque.testing import ScriptedTransport
from idioteque.transport import HttpRequest, PooledTransport
from tests.library.engine.rig import Order, Rig
from tests.library.engine.test_runs import event_of
from tests.library.mounts.servers import uvicorn_running
from tests.library.mounts.shop import Shop, headers, order
from tests.library.test_qstash import dispatcher

ONCE = Retry(max_attempts=1)
FINISH_S = 30.0


@pytest.mark.parametrize("after", [False, True], ids=["refused", "reply lost"])
@pytest.mark.parametrize("call", [2, 3])
async def test_flaw_01_a_redelivered_parent_sends_its_children_again(rig: Rig, call: int, after: bool) -> None:
    @rig.worker.function("f", on="order")
    async def f(event: Order, ctx: Context) -> list[str]:
        return list(await asyncio.gather(*(ctx.execute(name, rig.effect, name) for name in "st")))

    rig.faults.fail_on, rig.faults.after = {("send", call)}, after
    run = await rig.run()

    assert (run.status, run.result) == ("completed", ["s", "t"])
    assert rig.faults.injected == 1
    assert rig.effects == {"s": 1, "t": 1}


async def test_flaw_02_a_parallel_step_is_acknowledged_only_after_its_end(rig: Rig) -> None:
    entered, leave = asyncio.Event(), asyncio.Event()

    async def slow() -> str:
        rig.effects["a"] += 1
        entered.set()
        await leave.wait()
        if rig.effects["a"] == 1:
            raise OSError("frozen")
        return "a"

    @rig.worker.function("f", on="order")
    async def f(event: Order, ctx: Context) -> list[str]:
        return list(await asyncio.gather(ctx.execute("a", slow), ctx.execute("b", rig.effect, "b")))

    rig.mount()
    published = await rig.worker.publish(Order())
    await entered.wait()
    await rig.clock.settle()
    assert rig.dispatcher.pending == 1, "the message of the step that runs is still ours"
    leave.set()
    await rig.finish()

    run = await rig.worker.runs.get(published.run_id("f"))
    assert run is not None
    assert (run.result, dict(rig.effects)) == (["a", "b"], {"a": 2, "b": 1})


async def test_flaw_03_a_function_that_waits_hides_no_failure_of_another(either: Rig) -> None:
    attempts: list[int] = []

    @either.worker.function("waits", on="order")
    async def waits(event: Order, ctx: Context) -> str:
        await ctx.sleep("hour", "1h")
        return "waited"

    @either.worker.function("breaks", on="order", retry=Retry(max_attempts=2, initial_delay_s=1))
    async def breaks(event: Order, ctx: Context) -> str:
        attempts.append(ctx.attempt)
        if len(attempts) == 1:
            raise OSError("once")
        return "mended"

    assert (await either.run("waits")).result == "waited"
    assert (await either.run("breaks")).result == "mended"
    assert attempts == [1, 2]


async def test_flaw_04_a_failure_is_an_outcome_that_can_be_caught_on_every_replay(either: Rig) -> None:
    async def refuse() -> None:
        either.effects["a"] += 1
        raise ValueError("no")

    @either.worker.function("f", on="order")
    async def f(event: Order, ctx: Context) -> str:
        try:
            await ctx.execute("a", refuse, retry=ONCE)
        except StepFailed as failure:
            await ctx.execute("compensate", either.effect, "compensate")
            await ctx.sleep("later", "1h")
            return failure.type
        return "never"

    run = await either.run()
    assert (run.status, run.result) == ("completed", "ValueError")
    assert either.effects == {"a": 1, "compensate": 1}


async def test_flaw_05_keys_that_begin_alike_are_steps_of_their_own(either: Rig) -> None:
    @either.worker.function("send", on="order")
    async def send(event: Order, ctx: Context) -> list[str]:
        return [await ctx.execute(f"friend-{n}", either.effect, f"friend-{n}") for n in range(1, 13)]

    @either.worker.function("send-email", on="order")
    async def send_email(event: Order, ctx: Context) -> str:
        return await ctx.execute("friend-1", either.effect, "email")

    assert (await either.run("send")).result == [f"friend-{n}" for n in range(1, 13)]
    assert (await either.run("send-email")).result == "email"
    assert set(either.effects.values()) == {1}
    assert len(either.effects) == 13


async def test_flaw_06_siblings_that_end_at_once_are_neither_repeated_nor_lost(rig: Rig) -> None:
    @rig.worker.function("f", on="order")
    async def f(event: Order, ctx: Context) -> str:
        for turn in range(3):
            await asyncio.gather(*(ctx.execute(f"{turn}-{n}", rig.effect, f"{turn}-{n}") for n in range(6)))
        return await ctx.execute("c", rig.effect, "c")

    run = await rig.run()
    assert run.result == "c"
    assert set(rig.effects.values()) == {1}
    assert len(rig.effects) == 19


async def test_flaw_07_what_follows_a_join_runs_once(rig: Rig) -> None:
    together = asyncio.Event()

    async def meet(name: str) -> str:
        rig.effects[name] += 1
        if rig.effects["a"] and rig.effects["b"]:
            together.set()
        await together.wait()
        return name

    @rig.worker.function("f", on="order")
    async def f(event: Order, ctx: Context) -> str:
        await asyncio.gather(ctx.execute("a", meet, "a"), ctx.execute("b", meet, "b"))
        return await ctx.execute("c", rig.effect, "c")

    run = await rig.run()
    assert run.result == "c"
    assert rig.effects == {"a": 1, "b": 1, "c": 1}
    assert (rig.store.wins[("c",)], rig.store.wins[()]) == (1, 1)


async def test_flaw_08_a_step_that_always_fails_ends_its_run_and_tells_the_handler(either: Rig) -> None:
    async def refuse() -> None:
        raise OSError("never")

    async def undo(failure: Any, ctx: Context) -> str:
        return await ctx.execute("undo", either.effect, failure.error)

    @either.worker.function("f", on="order", retry=ONCE, on_failure=undo)
    async def f(event: Order, ctx: Context) -> None:
        await ctx.execute("s", refuse, retry=Retry(max_attempts=3, initial_delay_s=1))

    run = await either.run()
    handler = (await either.worker.runs.list(function="f.on-failure")).runs[0]
    assert run.status == "failed"
    assert (handler.status, len(either.effects)) == ("completed", 1)
    assert "OSError" in next(iter(either.effects))
    assert either.dispatcher.pending == 0


async def test_flaw_09_the_status_of_a_delivery_is_that_of_its_work() -> None:
    shop = Shop()

    async def post(transport: PooledTransport, origin: str, body: bytes, given: dict[str, str]) -> HttpResponse:
        request = HttpRequest("POST", f"{origin}/", list(given.items()), body)
        return await transport.send(request, timeout_s=FINISH_S)

    class Away:
        def __getattr__(self, name: str) -> Any:
            async def fail(*args: object, **kwargs: object) -> None:
                raise OSError("the store is away")

            return fail

    transport = PooledTransport()
    try:
        with uvicorn_running(shop.mount) as origin:
            done = await post(transport, origin, order(), headers(order()))
            garbage = await post(transport, origin, b"no json", headers(b"no json"))
            kept, shop.mount.engine._store = shop.mount.engine._store, Away()  # type: ignore[assignment]
            failed = await post(transport, origin, order("2"), headers(order("2")))
            shop.mount.engine._store = kept
    finally:
        await transport.close()
    assert [done.status, garbage.status, failed.status] == [200, 489, 503]
    assert garbage.header("Upstash-NonRetryable-Error") == "true"
    assert shop.paid["1"] == 1


async def test_flaw_10_an_error_forgets_no_step(either: Rig) -> None:
    @either.worker.function("f", on="order", retry=Retry(max_attempts=3, initial_delay_s=1))
    async def f(event: Order, ctx: Context) -> str:
        await ctx.execute("pay", either.effect, "pay")
        if ctx.attempt < 3:
            raise OSError("not yet")
        return "done"

    run = await either.run()
    assert (run.result, dict(either.effects)) == ("done", {"pay": 1})
    assert len((await either.worker.runs.list()).runs) == 1


async def test_flaw_11_every_branch_is_sent_before_a_delivery_answers(rig: Rig) -> None:
    @rig.worker.function("f", on="order")
    async def f(event: Order, ctx: Context) -> list[str]:
        return list(await asyncio.gather(*(ctx.execute(name, rig.effect, name) for name in "abc")))

    engine = rig.mount().engine
    before = asyncio.all_tasks()
    rig.faults.fail_on = {("send", 1)}
    refused = await engine.deliver(event_of(Order()), Delivery("msg-1"))
    assert refused.status == 503, "a branch that was not sent is not swallowed"
    assert (await engine.deliver(event_of(Order(), "evt-2"), Delivery("msg-2"))).ok
    sent = [message.body for message in rig.dispatcher.sent]
    assert all(any(f'"path":["{name}"]'.encode() in body for body in sent) for name in "abc"), sent
    assert (await engine.deliver(event_of(Order()), Delivery("msg-1", retried=1))).ok
    await rig.finish()
    await rig.clock.advance(10)  # whoever renews leases finds none
    assert rig.effects == {"a": 2, "b": 2, "c": 2}, "once for each of the two runs"
    assert {task for task in asyncio.all_tasks() - before if not task.done()} == set()


@pytest.mark.parametrize("after", [False, True], ids=["refused", "reply lost"])
@pytest.mark.parametrize("call", [1, 2, 3])
async def test_flaw_12_a_fan_out_that_failed_half_way_starts_each_function_once(
    either: Rig, call: int, after: bool
) -> None:
    for name in ("a", "b"):

        @either.worker.function(name, on="order")
        async def f(event: Order, ctx: Context, name: str = name) -> str:
            return await ctx.execute("effect", either.effect, name)

    either.faults.fail_on, either.faults.after = {("send", call)}, after
    assert (await either.run("a")).result == "a"
    assert (await either.run("b")).result == "b"
    assert either.effects == {"a": 1, "b": 1}
    assert len((await either.worker.runs.list()).runs) == 2


async def test_flaw_13_a_run_outlives_every_retention_while_it_is_unfinished(either: Rig) -> None:
    @either.worker.function("f", on="order")
    async def f(event: Order, ctx: Context) -> str:
        first = await ctx.execute("first", either.effect, "first")
        await ctx.sleep("years", "800d")
        return first

    run = await either.run()
    assert (run.status, run.result) == ("completed", "first")
    assert either.effects == {"first": 1}


async def test_flaw_14_a_run_that_is_unknown_is_never_acknowledged_while_it_may_be_waited_for() -> None:
    shop = Shop()
    body = RunEnvelope("evt_lost", "pay", SystemClock().now_ms() + 3_600_000).encode()
    given = list(headers(body).items())
    answer = await shop.mount.handle(HttpRequest("POST", "/api/worker", given, body))
    assert answer.status == 503
    assert b"RunUnknown" in answer.body


@pytest.mark.parametrize("answer", [500, ExchangeTimeout("slow")], ids=["500", "no answer"])
async def test_flaw_15_a_message_counts_as_sent_only_when_it_was_accepted(answer: Any) -> None:
    wire = ScriptedTransport([answer])
    with pytest.raises(DispatchError):
        await dispatcher(wire).dispatch({}, deduplication_id="order-1")
    ids = {dict(request.headers)["Upstash-Deduplication-Id"] for request in wire.requests}
    assert (len(wire.requests) > 1, len(ids)) == (True, 1), "tried again under the same id"


async def test_flaw_16_runs_beside_one_another_in_a_process_keep_their_paths(either: Rig) -> None:
    arrived, all_here = 0, asyncio.Event()

    async def nested(ctx: Context, name: str) -> str:
        nonlocal arrived
        arrived += 1
        if arrived >= 2:
            all_here.set()
        await all_here.wait()
        return await ctx.execute("inner", either.effect, name)

    @either.worker.function("f", on="order")
    async def f(event: Order, ctx: Context) -> list[str]:
        return [await ctx.execute("a", nested, ctx, event.id), await ctx.execute("b", either.effect, event.id)]

    either.mount()
    published = [await either.worker.publish(Order(id=name)) for name in ("x", "y")]
    await either.finish()
    for each, name in zip(published, ("x", "y"), strict=True):
        run = await either.worker.runs.get(each.run_id("f"))
        assert run is not None
        assert run.result == [name, name]
        assert {step.key for step in run.steps} == {("a",), ("a", "inner"), ("b",)}


async def test_flaw_17_a_run_goes_on_whatever_its_filter_says_and_an_unknown_function_is_loud(either: Rig) -> None:
    wanted = True

    @either.worker.function("f", on=lambda event: wanted)
    async def f(event: Order, ctx: Context) -> str:
        await ctx.sleep("hour", "1h")
        return await ctx.execute("s", either.effect, "done")

    engine = either.mount().engine
    published = await either.worker.publish(Order())
    await either.clock.settle()
    wanted = False
    await either.finish()
    run = await either.worker.runs.get(published.run_id("f"))
    assert run is not None
    assert (run.status, run.result) == ("completed", "done")
    removed = RunEnvelope("evt-1", "removed", either.clock.now_ms() + 3_600_000, b'{"type":"order"}')
    assert (await engine.deliver(removed, Delivery("msg-9"))).status == 503


async def test_flaw_18_an_option_that_is_accepted_does_something(either: Rig) -> None:
    async def undo(failure: Any, ctx: Context) -> str:
        return await ctx.execute("undo", either.effect, "undo")

    @either.worker.function("f", on="order", retry=ONCE, on_failure=undo, concurrency=Limit(2, key="id"))
    async def f(event: Order, ctx: Context) -> None:
        raise ValueError("no")

    assert (await either.run()).status == "failed"
    assert either.effects == {"undo": 1}
    of_run = [dict(message.headers) for message in either.dispatcher.sent if b'"function_id":"f"' in message.body]
    assert {given["Upstash-Flow-Control-Value"] for given in of_run} == {"parallelism=2"}
