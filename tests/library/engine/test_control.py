"""Operating runs: failure handlers, cancelling, going on after a failure, publishing from inside, why a run waits."""

from __future__ import annotations

import asyncio
import base64
import json
from typing import Any

import pytest

from idioteque import Context, HttpRequest, InvalidValue, Retry, RunCancelled, RunFailed, RunFailure, RunUnknown
from tests.library.engine.rig import STORES, Order, Rig

ONCE = Retry(max_attempts=1)


@pytest.fixture(params=STORES)
def rig(request: pytest.FixtureRequest) -> Rig:
    return Rig(request.param)


async def published_and_settled(rig: Rig, **options: Any) -> str:
    rig.mount()
    published = await rig.worker.publish(Order(), **options)
    await rig.clock.advance(5)
    return published.run_id("f")


# ---- failure handlers


async def test_a_failure_handler_is_a_durable_run_that_knows_what_failed(rig: Rig) -> None:
    seen: list[RunFailure] = []

    async def undo(failure: RunFailure, ctx: Context) -> str:
        seen.append(failure)
        return await ctx.execute("undo", rig.effect, "undone")

    @rig.worker.function("f", on="order", retry=ONCE, on_failure=undo)
    async def f(event: Order, ctx: Context) -> None:
        raise ValueError("no stock")

    run = await rig.run()
    handler = (await rig.worker.runs.list(function="f.on-failure")).runs[0]

    assert run.status == "failed"
    assert (handler.status, handler.result) == ("completed", "undone")
    assert (seen[0].event, seen[0].event_id, seen[0].run_id) == (Order(), run.event_id, run.id)
    assert (seen[0].function_id, seen[0].error) == ("f", "ValueError: no stock")


@pytest.mark.parametrize("after", [False, True])
async def test_a_failure_handler_runs_once_whatever_call_fails(rig: Rig, after: bool) -> None:
    kind = "memory" if type(rig.store._store).__name__ == "MemoryStore" else "sqlite"
    for call in range(1, 12):
        one = Rig(kind)
        one.faults.fail_at, one.faults.after = {call}, after

        async def undo(failure: RunFailure, ctx: Context, one: Rig = one) -> str:
            return await ctx.execute("undo", one.effect, "undone")

        @one.worker.function("f", on="order", retry=ONCE, on_failure=undo)
        async def f(event: Order, ctx: Context) -> None:
            raise ValueError("no stock")

        assert (await one.run()).status == "failed"
        handlers = (await one.worker.runs.list(function="f.on-failure")).runs
        assert [handler.status for handler in handlers] == ["completed"], call


async def test_a_run_that_completes_calls_no_failure_handler(rig: Rig) -> None:
    async def undo(failure: RunFailure, ctx: Context) -> None:
        rig.effects["undone"] += 1

    @rig.worker.function("f", on="order", on_failure=undo)
    async def f(event: Order, ctx: Context) -> str:
        return "fine"

    assert (await rig.run()).result == "fine"
    assert rig.effects == {}


# ---- cancel


async def test_a_cancelled_run_starts_no_further_step(rig: Rig) -> None:
    @rig.worker.function("f", on="order")
    async def f(event: Order, ctx: Context) -> None:
        await ctx.execute("a", rig.effect, "a")
        await ctx.sleep("pause", "1h")
        await ctx.execute("b", rig.effect, "b")

    run_id = await published_and_settled(rig)
    assert await rig.worker.runs.cancel(run_id) == "cancelled"
    await rig.finish()

    assert rig.effects == {"a": 1}
    with pytest.raises(RunCancelled):
        await rig.worker.runs.result(run_id)


async def test_a_run_cancelled_while_a_step_is_in_progress_ends_with_it(rig: Rig) -> None:
    entered, leave = asyncio.Event(), asyncio.Event()

    async def slow() -> None:
        entered.set()
        await leave.wait()
        rig.effects["slow"] += 1

    @rig.worker.function("f", on="order")
    async def f(event: Order, ctx: Context) -> None:
        await ctx.execute("slow", slow)
        await ctx.execute("next", rig.effect, "next")

    rig.mount()
    published = await rig.worker.publish(Order())
    await entered.wait()
    await rig.worker.runs.cancel(published.run_id("f"))
    leave.set()
    await rig.finish()

    run = await rig.worker.runs.get(published.run_id("f"))
    assert run is not None
    assert run.status == "cancelled"
    assert rig.effects == {"slow": 1}
    assert rig.dispatcher.dead_letters == []


async def test_cancelling_a_run_that_has_ended_changes_nothing(rig: Rig) -> None:
    @rig.worker.function("f", on="order")
    async def f(event: Order, ctx: Context) -> str:
        return "done"

    run = await rig.run()

    assert await rig.worker.runs.cancel(run.id) == "completed"
    assert await rig.worker.runs.result(run.id) == "done"


@pytest.mark.parametrize("operation", ["cancel", "retry", "why"])
async def test_an_unknown_run_is_an_error(rig: Rig, operation: str) -> None:
    with pytest.raises(RunUnknown):
        await getattr(rig.worker.runs, operation)("run_none")
    with pytest.raises(InvalidValue):
        await getattr(rig.worker.runs, operation)("../run")


# ---- going on


async def test_a_failed_run_goes_on_from_where_it_stopped(rig: Rig) -> None:
    mended = False

    async def bad() -> str:
        rig.effects["bad"] += 1
        if not mended:
            raise ValueError("not yet deployed")
        return "fine"

    @rig.worker.function("f", on="order", retry=ONCE)
    async def f(event: Order, ctx: Context) -> list[str]:
        return [
            await ctx.execute("a", rig.effect, "a"),
            await ctx.execute("bad", bad, retry=Retry(max_attempts=2, initial_delay_s=60)),
        ]

    run = await rig.run()
    assert run.status == "failed"
    with pytest.raises(RunFailed, match="not yet deployed"):
        await rig.worker.runs.result(run.id)

    await rig.worker.runs.retry(run.id)
    await rig.finish()
    assert rig.effects == {"a": 1, "bad": 4}, "the step has its full number of attempts again"

    mended = True
    await rig.worker.runs.retry(run.id)
    await rig.finish()
    assert await rig.worker.runs.result(run.id) == ["a", "fine"]
    assert rig.effects == {"a": 1, "bad": 5}


async def test_a_failure_handler_runs_for_each_time_a_run_fails(rig: Rig) -> None:
    async def undo(failure: RunFailure, ctx: Context) -> None:
        await ctx.execute("undo", rig.effect, "undo")

    @rig.worker.function("f", on="order", retry=ONCE, on_failure=undo)
    async def f(event: Order, ctx: Context) -> None:
        raise ValueError("no")

    run = await rig.run()
    assert rig.effects == {"undo": 1}
    await rig.worker.runs.retry(run.id)
    await rig.finish()
    assert (await rig.worker.runs.list(function="f")).runs[0].status == "failed"
    assert rig.effects == {"undo": 2}


async def test_a_cancelled_run_can_go_on(rig: Rig) -> None:
    @rig.worker.function("f", on="order")
    async def f(event: Order, ctx: Context) -> str:
        await ctx.sleep("pause", "1h")
        return await ctx.execute("a", rig.effect, "a")

    run_id = await published_and_settled(rig)
    await rig.worker.runs.cancel(run_id)
    await rig.finish()
    await rig.worker.runs.retry(run_id)
    await rig.finish()

    assert await rig.worker.runs.result(run_id) == "a"


async def test_a_completed_run_cannot_be_retried(rig: Rig) -> None:
    @rig.worker.function("f", on="order")
    async def f(event: Order, ctx: Context) -> str:
        return "done"

    run = await rig.run()
    with pytest.raises(InvalidValue, match="completed"):
        await rig.worker.runs.retry(run.id)


async def test_a_run_whose_message_was_deleted_goes_on_when_it_is_retried(rig: Rig) -> None:
    @rig.worker.function("f", on="order")
    async def f(event: Order, ctx: Context) -> str:
        await ctx.sleep("pause", "1h")
        return "awake"

    run_id = await published_and_settled(rig)
    await rig.dispatcher.close()
    await rig.clock.advance(7200)
    assert (await rig.worker.runs.list()).runs[0].status == "waiting"

    await rig.worker.runs.retry(run_id)
    await rig.finish()
    assert await rig.worker.runs.result(run_id) == "awake"


# ---- publishing from inside


async def test_an_event_published_by_a_run_is_one_event_however_often_the_step_runs(rig: Rig) -> None:
    @rig.worker.function("f", on=lambda event: event.id == "1")
    async def f(event: Order, ctx: Context) -> str:
        published = await ctx.publish("announce", Order(id="2"))
        await ctx.execute("after", rig.effect, "after")
        return published.event_id

    @rig.worker.function("g", on=lambda event: event.id == "2")
    async def g(event: Order, ctx: Context) -> None:
        await ctx.execute("step", rig.effect, "g")

    rig.faults.fail_on = {("commit", 1)}  # the event was sent, its step's outcome was not recorded

    run = await rig.run()

    assert rig.effects == {"after": 1, "g": 1}
    child = (await rig.worker.runs.list(function="g")).runs[0]
    assert run.result == child.event_id


async def test_an_event_published_by_a_run_must_fit_the_schema(rig: Rig) -> None:
    @rig.worker.function("f", on="order", retry=ONCE)
    async def f(event: Order, ctx: Context) -> None:
        await ctx.publish("announce", {"type": "unknown"})

    assert "EventRejected" in ((await rig.run()).error or "")


# ---- why


async def test_why_a_run_waits_is_told_from_a_closed_list(rig: Rig) -> None:
    gate = asyncio.Event()
    entered = asyncio.Event()

    async def flaky() -> None:
        raise OSError("card declined")

    async def slow() -> None:
        entered.set()
        await gate.wait()

    @rig.worker.function("f", on="order", retry=Retry(initial_delay_s=600, jitter=0))
    async def f(event: Order, ctx: Context) -> None:
        await ctx.sleep("nap", "1h")
        await ctx.execute("pay", flaky, retry=Retry(max_attempts=2, initial_delay_s=300, jitter=0))

    run_id = await published_and_settled(rig)
    why = await rig.worker.runs.why(run_id)
    assert why is not None
    assert (why.cause, "nap" in why.text) == ("sleeping", True)
    assert why.until is not None
    assert why.until.timestamp() - rig.clock.now_ms() / 1000 == pytest.approx(3595, abs=2)

    await rig.clock.advance(3605)
    why = await rig.worker.runs.why(run_id)
    assert why is not None
    assert why.cause == "retrying"
    assert "pay" in why.text
    assert "card declined" in why.text

    await rig.finish()
    assert await rig.worker.runs.why(run_id) is None

    @rig.worker.function("g", on="order")
    async def g(event: Order, ctx: Context) -> None:
        await ctx.execute("slow", slow)

    mount = rig.dispatcher.mount(rig.worker, functions=[g])
    assert mount is not None
    published = await rig.worker.publish(Order())
    await entered.wait()
    why = await rig.worker.runs.why(published.run_id("g"))
    assert why is not None
    assert why.cause == "running"
    gate.set()
    await rig.finish()


async def test_a_message_that_was_given_up_decides_nothing_and_a_redrive_resumes_the_run(rig: Rig) -> None:
    @rig.worker.function("f", on="order")
    async def f(event: Order, ctx: Context) -> str:
        await ctx.execute("a", rig.effect, "a")
        return await ctx.execute("b", rig.effect, "b")

    mount = rig.mount()
    rig.faults.fail_on = {("commit", 2)}
    published = await rig.worker.publish(Order(), retries=0)
    await rig.finish()
    letter = rig.dispatcher.dead_letters[0]
    callback = {
        "status": 503,
        "body": base64.b64encode(b'{"error": "the delivery could not be finished: Died"}').decode(),
        "retried": 0,
        "maxRetries": 0,
        "dlqId": "dlq_1",
        "sourceMessageId": letter.message_id,
        "sourceBody": base64.b64encode(letter.body).decode(),
    }
    headers = [("Idioteque-Callback", "failure"), ("Upstash-Message-Id", "msg_callback")]
    answer = await mount.handle(HttpRequest("POST", "/", headers, json.dumps(callback).encode()))

    run_id = published.run_id("f")
    why = await rig.worker.runs.why(run_id)
    assert answer.status == 200
    assert why is not None
    assert why.cause == "dead_letter"
    assert "503" in why.text
    assert "dlq_1" in why.text

    redrive = [("Upstash-Message-Id", "msg_redriven")]
    assert (await mount.handle(HttpRequest("POST", "/", redrive, letter.body))).status == 200
    assert await rig.worker.runs.result(run_id) == "b"
    assert rig.effects == {"a": 1, "b": 2}


async def test_a_step_whose_message_was_given_up_is_named_whatever_the_body_does_meanwhile(rig: Rig) -> None:
    @rig.worker.function("f", on="order")
    async def f(event: Order, ctx: Context) -> list[Any]:
        calls = [ctx.execute(key, rig.effect, key, isolate=True) for key in ("lost", "late")]
        return await asyncio.gather(*calls, ctx.sleep("nap", "1h"))

    mount = rig.mount()
    rig.faults.fail_on = {("claim", 2)}  # that of the first step's message
    published = await rig.worker.publish(Order(), retries=0)
    await rig.clock.advance(5)
    why = await rig.worker.runs.why(published.run_id("f"))
    assert rig.effects == {"late": 1}, "and the body was claimed once more for it"
    assert why is not None
    assert why.cause == "dead_letter", why

    [letter] = rig.dispatcher.dead_letters
    await mount.handle(HttpRequest("POST", "/", [("Upstash-Message-Id", "msg_redriven")], letter.body))
    why = await rig.worker.runs.why(published.run_id("f"))
    assert why is not None
    assert why.cause == "sleeping", why
    await rig.finish()
    assert await rig.worker.runs.result(published.run_id("f")) == ["lost", "late", None]


async def test_a_bare_event_with_a_long_message_id_that_is_given_up_is_the_same_run(rig: Rig) -> None:
    @rig.worker.function("f", on="order")
    async def f(event: Order, ctx: Context) -> None:
        await ctx.execute("a", rig.effect, "a")

    mount, message_id, body = rig.mount(), "m" * 300, Order().model_dump_json().encode()
    rig.faults.fail_on = {("commit", 1)}
    refused = await mount.handle(HttpRequest("POST", "/", [("Upstash-Message-Id", message_id)], body))
    source = base64.b64encode(body).decode()
    callback = json.dumps({"status": 503, "sourceMessageId": message_id, "sourceBody": source}).encode()
    await mount.handle(HttpRequest("POST", "/", [("Idioteque-Callback", "failure")], callback))

    [run] = (await rig.worker.runs.list()).runs
    why = await rig.worker.runs.why(run.id)
    assert refused.status == 503
    assert why is not None
    assert why.cause == "dead_letter"


async def test_a_run_that_never_began_is_known_once_its_message_was_given_up(rig: Rig) -> None:
    @rig.worker.function("f", on="order")
    async def f(event: Order, ctx: Context) -> str:
        return "done"

    mount = rig.mount()
    rig.faults.fail_on = {("claim", 1)}
    published = await rig.worker.publish(Order(), retries=0)
    await rig.finish()
    source = base64.b64encode(rig.dispatcher.dead_letters[0].body).decode()
    callback = json.dumps({"status": 0, "sourceMessageId": "msg_1", "sourceBody": source}).encode()
    await mount.handle(HttpRequest("POST", "/", [("Idioteque-Callback", "failure")], callback))

    run_id = published.run_id("f")
    why = await rig.worker.runs.why(run_id)
    assert why is not None
    assert (why.cause, "no answer" in why.text) == ("dead_letter", True)
    await rig.worker.runs.retry(run_id)
    await rig.finish()
    assert await rig.worker.runs.result(run_id) == "done"


@pytest.mark.parametrize("body", [b"", b"[]", b"{}", b'{"sourceMessageId": "m", "sourceBody": "%%"}'])
async def test_a_failure_callback_that_is_none_is_refused_for_good(rig: Rig, body: bytes) -> None:
    @rig.worker.function("f", on="order")
    async def f(event: Order, ctx: Context) -> None:
        return None

    answer = await rig.mount().handle(HttpRequest("POST", "/", [("Idioteque-Callback", "failure")], body))

    assert answer.status in (200, 489)
    assert (await rig.worker.runs.list()).runs == []
