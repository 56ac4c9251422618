"""Functions that a schedule starts: each tick is one run, however often its message comes."""

from __future__ import annotations

from typing import Any

import pytest

from idioteque import ConfigurationError, Context, RunFailure, StepFailed, Tick
from idioteque.dispatcher import TickEnvelope, tick_body
from idioteque.engine import Delivery
from idioteque.transport import HttpRequest
from tests.library.engine.rig import STORES, Order, Rig

NIGHTLY = "CRON_TZ=Europe/Paris 0 4 * * *"


@pytest.fixture(params=STORES)
def rig(request: pytest.FixtureRequest) -> Rig:
    return Rig(request.param)


def declare(rig: Rig, **options: Any) -> list[Tick]:
    given: list[Tick] = []

    @rig.worker.function("nightly", cron=NIGHTLY, **options)
    async def nightly(tick: Tick, ctx: Context) -> str:
        given.append(tick)
        await ctx.execute("report", rig.effect, "report")
        return tick.message_id

    rig.mount()
    return given


async def deliver(rig: Rig, message_id: str, function_id: str = "nightly", retried: int = 0) -> int:
    headers = [("Upstash-Message-Id", message_id), ("Upstash-Retried", str(retried))]
    response = await rig.mount().handle(HttpRequest("POST", "/", headers, tick_body(function_id)))
    await rig.finish()
    return response.status


async def test_a_tick_starts_one_run_and_its_repetition_none(rig: Rig) -> None:
    given = declare(rig)
    assert await deliver(rig, "msg_1") == 200
    await rig.clock.advance(60)
    assert await deliver(rig, "msg_1", retried=1) == 200
    assert await deliver(rig, "msg_2") == 200

    runs = (await rig.worker.runs.list()).runs
    assert sorted(run.result for run in runs) == ["msg_1", "msg_2"]
    assert rig.effects["report"] == 2
    assert {(tick.function_id, tick.message_id) for tick in given} == {("nightly", "msg_1"), ("nightly", "msg_2")}


async def test_a_replay_is_given_the_tick_as_it_first_came(rig: Rig) -> None:
    received = []

    @rig.worker.function("nightly", cron=NIGHTLY)
    async def nightly(tick: Tick, ctx: Context) -> None:
        received.append(tick.received_at)
        await ctx.sleep("nap", "2h")

    before_ms = rig.clock.now_ms()
    assert await deliver(rig, "msg_1") == 200
    assert len(received) == 2
    assert received[0] == received[1]
    assert received[0].timestamp() * 1000 == before_ms


async def test_nobody_else_hears_of_a_tick(rig: Rig) -> None:
    declare(rig)

    @rig.worker.function("any-event", on=lambda _: True)
    async def any_event(event: Any, ctx: Context) -> None: ...

    await deliver(rig, "msg_1")
    assert [run.function_id for run in (await rig.worker.runs.list()).runs] == ["nightly"]


@pytest.mark.parametrize("function_id", ["gone", "on-events"])
async def test_a_tick_of_no_such_function_comes_again(rig: Rig, function_id: str) -> None:
    declare(rig)

    @rig.worker.function("on-events", on=Order)
    async def on_events(event: Order, ctx: Context) -> None: ...

    assert await deliver(rig, "msg_1", function_id) == 503
    assert (await rig.worker.runs.list()).runs == []


async def test_a_singleton_lets_no_tick_overtake_a_run_at_work(rig: Rig) -> None:
    @rig.worker.function("nightly", cron=NIGHTLY, singleton="function_id")
    async def nightly(tick: Tick, ctx: Context) -> str:
        await ctx.sleep("nap", "1d")
        return tick.message_id

    mount = rig.mount()
    for message_id in ("msg_1", "msg_2"):
        request = HttpRequest("POST", "/", [("Upstash-Message-Id", message_id)], tick_body("nightly"))
        assert (await mount.handle(request)).status == 200
    await rig.finish()
    assert [run.result for run in (await rig.worker.runs.list()).runs] == ["msg_1"]


async def test_a_failure_handler_is_given_the_tick(rig: Rig) -> None:
    failures: list[RunFailure] = []

    async def handle(failure: RunFailure, ctx: Context) -> None:
        failures.append(failure)

    @rig.worker.function("nightly", cron=NIGHTLY, on_failure=handle)
    async def nightly(tick: Tick, ctx: Context) -> None:
        raise StepFailed("report", "ValueError: no ink")

    await deliver(rig, "msg_1")
    [failure] = failures
    assert isinstance(failure.event, Tick)
    assert failure.event.message_id == "msg_1"


async def test_a_tick_that_was_given_up_is_a_run_that_says_so(rig: Rig) -> None:
    declare(rig)
    envelope = TickEnvelope("nightly", "msg_1")
    await rig.mount().engine.given_up(envelope, "503: no answer; dead letter dlq_1")
    [run] = (await rig.worker.runs.list()).runs
    why = await rig.worker.runs.why(run.id)
    assert why is not None
    assert why.cause == "dead_letter"

    assert (await rig.mount().engine.deliver(envelope, Delivery("msg_1", 0))).status == 200
    assert (await rig.worker.runs.result(run.id)) == "msg_1"


async def test_nothing_but_its_schedule_starts_it(rig: Rig) -> None:
    nightly = None

    @rig.worker.function("f", on=Order)
    async def f(event: Order, ctx: Context) -> None:
        assert nightly is not None
        await ctx.invoke("now", nightly, event)

    @rig.worker.function("nightly", cron=NIGHTLY)
    async def declared(tick: Tick, ctx: Context) -> None: ...

    nightly = declared
    run = await rig.run()
    assert run.status == "failed"
    assert "cron=" in str(run.error)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({}, "either on= or cron="),
        ({"on": Order, "cron": NIGHTLY}, "either on= or cron="),
        ({"cron": "every day"}, "five fields"),
        ({"cron": "CRON_TZ=Mars/Olympus 0 4 * * *"}, "time zone"),
        ({"cron": NIGHTLY, "debounce": "1m"}, "debounce="),
        ({"cron": NIGHTLY, "singleton": "order_id"}, "no field of Tick"),
    ],
)
def test_a_declaration_that_cannot_work_is_refused(options: dict[str, Any], text: str) -> None:
    rig = Rig()
    with pytest.raises(ConfigurationError, match=text):

        @rig.worker.function("nightly", **options)
        async def nightly(tick: Tick, ctx: Context) -> None: ...


async def test_it_runs_in_deliveries_of_its_steps_as_well() -> None:
    rig = Rig(mode="isolated")
    declare(rig)
    assert await deliver(rig, "msg_1") == 200
    assert [run.result for run in (await rig.worker.runs.list()).runs] == ["msg_1"]
