"""What a function may ask for: each option has tests that fail when it does nothing."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import pytest
from pydantic import BaseModel, Field

from idioteque import ConfigurationError, Context, InvalidValue, Limit, NonRetryableError, Rate, Run, RunFailure
from idioteque.dispatcher import EventEnvelope, RunEnvelope, decode
from idioteque.engine import Delivery
from idioteque.engine.starts import Starts
from tests.library.engine.rig import STORES, Order, Rig


class Stop(BaseModel):
    type: Literal["stop"] = "stop"
    order: str


Event = Annotated[Order | Stop, Field(discriminator="type")]


@pytest.fixture(params=STORES)
def rig(request: pytest.FixtureRequest) -> Rig:
    rig = Rig(request.param)
    rig.worker.configure(events_schema=Event)
    return rig


def declare(rig: Rig, sleep: str = "1h", **options: Any) -> None:
    @rig.worker.function("f", on=Order, **options)
    async def f(event: Order, ctx: Context) -> int:
        await ctx.execute("began", rig.effect, f"began-{event.id}-{event.count}")
        await ctx.sleep("nap", sleep)
        return event.count

    rig.mount()


async def runs(rig: Rig) -> list[Run]:
    return (await rig.worker.runs.list(function="f", limit=100)).runs


# ---- idempotency and singleton


async def test_idempotency_makes_one_run_of_all_events_with_one_value(rig: Rig) -> None:
    declare(rig, sleep="1s", idempotency="id")
    for count in range(3):
        await rig.worker.publish(Order(id="a", count=count))
        await rig.finish()
    await rig.worker.publish(Order(id="b", count=9))
    await rig.finish()

    assert sorted(run.result for run in await runs(rig)) == [0, 9]


async def test_a_singleton_lets_one_run_of_a_value_be_at_work_and_another_follow(rig: Rig) -> None:
    declare(rig, singleton="id")
    await rig.worker.publish(Order(id="a", count=1))
    await rig.worker.publish(Order(id="b", count=2))
    await rig.clock.advance(60)
    await rig.worker.publish(Order(id="a", count=3))
    await rig.finish()
    assert sorted(run.result for run in await runs(rig)) == [1, 2]

    await rig.worker.publish(Order(id="a", count=4))
    await rig.finish()
    assert sorted(run.result for run in await runs(rig)) == [1, 2, 4]


async def test_a_key_may_be_a_function_of_the_event(rig: Rig) -> None:
    declare(rig, sleep="1s", idempotency=lambda event: event.count % 2)
    for count in range(6):
        await rig.worker.publish(Order(count=count))
    await rig.finish()

    assert sorted(run.result % 2 for run in await runs(rig)) == [0, 1]


@pytest.mark.parametrize("option", ["idempotency", "singleton"])
async def test_an_event_delivered_twice_is_not_its_own_obstacle(rig: Rig, option: str) -> None:
    declare(rig, sleep="1s", **{option: "id"})
    rig.faults.fail_on, rig.faults.after = {("claim", 1)}, True
    await rig.worker.publish(Order(id="a", count=5))
    await rig.finish()

    assert [run.result for run in await runs(rig)] == [5]


async def test_an_event_that_was_dismissed_begins_nothing_when_it_comes_again_after_its_acknowledgement(
    rig: Rig,
) -> None:
    declare(rig, singleton="id")
    engine = rig.mount().engine
    await rig.worker.publish(Order(id="a", count=1))
    await rig.clock.advance(60)
    late = EventEnvelope("late", Order(id="a", count=2).model_dump_json().encode())
    dismissed = await engine.deliver(late, Delivery("msg_1"))
    assert dismissed.status == 200
    assert "its singleton is held by run_" in dismissed.text
    await rig.finish()

    assert await engine.deliver(late, Delivery("msg_1")) == dismissed
    await rig.finish()
    assert [run.result for run in await runs(rig)] == [1]

    await rig.worker.publish(Order(id="a", count=3))
    await rig.finish()
    assert sorted(run.result for run in await runs(rig)) == [1, 3]


async def test_an_event_that_was_dismissed_by_one_name_holds_no_other(rig: Rig) -> None:
    declare(rig, singleton="id", idempotency="count")
    for count in (1, 2):  # the second is dismissed: its singleton is held, its idempotency was free
        await rig.worker.publish(Order(id="a", count=count))
    await rig.finish()
    await rig.worker.publish(Order(id="a", count=2))
    await rig.finish()

    assert sorted(run.result for run in await runs(rig)) == [1, 2]


async def test_a_run_that_ended_is_reported_though_another_has_its_name_meanwhile(rig: Rig) -> None:
    async def sorry(failure: RunFailure, ctx: Context) -> None:
        await ctx.execute("sorry", rig.effect, "sorry")

    @rig.worker.function("f", on=Order, singleton="id", on_failure=sorry)
    async def f(event: Order, ctx: Context) -> None:
        if event.count == 1:
            raise NonRetryableError("never")
        await ctx.sleep("nap", "1h")

    rig.mount()
    rig.faults.fail_on, rig.faults.after = {("commit", 1)}, True  # its message comes again after a second
    await rig.worker.publish(Order(count=1))
    await rig.clock.advance(0.5)
    await rig.worker.publish(Order(count=2))
    await rig.finish()

    assert sorted(run.status for run in await runs(rig)) == ["completed", "failed"]
    assert rig.effects == {"sorry": 1}


# ---- debounce


async def test_debounce_starts_once_with_the_last_event_after_a_quiet_time(rig: Rig) -> None:
    declare(rig, sleep="1s", debounce="10s")
    for count in range(5):
        await rig.worker.publish(Order(count=count))
        await rig.clock.advance(8)
    assert await runs(rig) == []
    await rig.finish()

    assert [run.result for run in await runs(rig)] == [4]
    assert rig.effects == {"began-1-4": 1}


async def test_debounce_begins_anew_after_the_quiet_time(rig: Rig) -> None:
    declare(rig, sleep="1s", debounce="10s")
    for count in (1, 2):
        await rig.worker.publish(Order(count=count))
        await rig.finish()

    assert sorted(run.result for run in await runs(rig)) == [1, 2]


async def test_a_late_copy_of_an_earlier_event_does_not_displace_the_last_one(rig: Rig) -> None:
    declare(rig, sleep="1s", debounce="10s")
    rig.faults.fail_on, rig.faults.after = {("send", 2)}, True  # the first event's delivery is repeated after a second
    await rig.worker.publish(Order(count=1))
    await rig.clock.advance(0.5)
    await rig.worker.publish(Order(count=2))
    await rig.finish()

    assert [run.result for run in await runs(rig)] == [2]


async def test_a_run_that_began_is_not_given_up_for_a_later_event(rig: Rig) -> None:
    declare(rig, sleep="1s", debounce="10s")
    rig.faults.fail_on, rig.faults.after = {("commit", 1)}, True  # its message comes again after a second
    await rig.worker.publish(Order(count=1))
    await rig.clock.advance(10.5)
    await rig.worker.publish(Order(count=2))
    await rig.finish()

    assert sorted((run.status, run.result) for run in await runs(rig)) == [("completed", 1), ("completed", 2)]


async def test_the_record_of_a_dead_letter_ends_when_a_later_event_came_meanwhile(rig: Rig) -> None:
    declare(rig, sleep="1s", debounce="10s")
    engine = rig.mount().engine
    first = EventEnvelope("first", Order(id="a").model_dump_json().encode())
    rig.faults.fail_on = {("latest", 1)}
    assert (await engine.deliver(first, Delivery("msg_1"))).status == 503
    await engine.given_up(first, "503")
    await rig.clock.advance(1)
    await rig.worker.publish(Order(id="b"))
    await rig.finish()
    assert (await engine.deliver(first, Delivery("msg_2"))).status == 200
    await rig.finish()

    assert {run.event["id"]: run.status for run in await runs(rig)} == {"a": "cancelled", "b": "completed"}


@pytest.mark.parametrize("kind", ["singleton", "idempotency"])
async def test_an_event_that_a_later_one_displaced_holds_no_name(rig: Rig, kind: str) -> None:
    declare(rig, sleep="1s", debounce="10s", **{kind: "id"})
    for name in ("a", "b"):
        await rig.worker.publish(Order(id=name, count=1))
        await rig.clock.advance(1)
    await rig.finish()
    await rig.worker.publish(Order(id="a", count=2))
    await rig.finish()

    assert {(run.event["id"], run.event["count"]) for run in await runs(rig)} == {("a", 2), ("b", 1)}


async def test_an_event_that_was_displaced_as_it_came_holds_no_name(rig: Rig) -> None:
    declare(rig, sleep="1s", debounce="10s", idempotency="id")
    rig.faults.fail_on = {("latest", 1)}  # the first event's message comes again after a second
    await rig.worker.publish(Order(id="a", count=1))
    await rig.clock.advance(0.5)
    await rig.worker.publish(Order(id="b", count=1))
    await rig.finish()
    await rig.worker.publish(Order(id="a", count=2))
    await rig.finish()

    assert {(run.event["id"], run.event["count"]) for run in await runs(rig)} == {("a", 2), ("b", 1)}


async def test_a_displaced_event_whose_delivery_stood_still_does_not_run_beside_another_of_its_name(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    declare(rig, sleep="1s", debounce="10s", idempotency="id")
    engine = rig.mount().engine
    for name in ("a", "b"):
        await rig.worker.publish(Order(id=name, count=1))
        await rig.clock.advance(1)
    held_back = next(message for message in rig.dispatcher.sent if message.delay_s)
    await rig.finish()
    await rig.worker.publish(Order(id="a", count=2))
    await rig.finish()

    async def looked_before(starts: Starts, envelope: RunEnvelope) -> bool:
        return False  # as it was when nothing had come after the first event

    monkeypatch.setattr(Starts, "is_superseded", looked_before)
    late = await engine.deliver(decode(held_back.body, "msg_1"), Delivery("msg_1"))
    await rig.finish()

    assert late.text == "the run is cancelled"
    ended = {(run.event["id"], run.event["count"]): run.status for run in await runs(rig)}
    assert ended == {("a", 1): "cancelled", ("b", 1): "completed", ("a", 2): "completed"}
    assert rig.effects == {"began-a-2": 1, "began-b-1": 1}


async def test_the_record_of_a_dead_letter_that_was_dismissed_holds_no_name(rig: Rig) -> None:
    declare(rig, sleep="1h", idempotency="count", singleton="id")
    engine = rig.mount().engine
    await rig.worker.publish(Order(id="a", count=1))
    await rig.clock.advance(1)
    late = EventEnvelope("late", Order(id="a", count=2).model_dump_json().encode())
    rig.faults.fail_on = {("occupy", 4)}
    assert (await engine.deliver(late, Delivery("msg_1"))).status == 503
    assert rig.faults.injected == 1
    await engine.given_up(late, "503")
    assert "its singleton is held by run_" in (await engine.deliver(late, Delivery("msg_2"))).text
    await rig.finish()
    await rig.worker.publish(Order(id="b", count=2))
    await rig.finish()

    ended = {(run.event["id"], run.event["count"]): run.status for run in await runs(rig)}
    assert ended == {("a", 1): "completed", ("a", 2): "cancelled", ("b", 2): "completed"}


# ---- timeout and cancel


async def test_a_run_that_takes_longer_than_its_timeout_fails(rig: Rig) -> None:
    declare(rig, sleep="2h", timeout="1h")
    began_s = rig.clock.monotonic_s()
    run = await rig.run()

    assert run.status == "failed"
    assert "TimeoutError" in (run.error or "")
    assert run.finished_at is not None
    assert run.finished_at.timestamp() - began_s < 3700


async def test_a_timeout_holds_for_a_run_that_is_created_later_than_its_reminder_was_sent(rig: Rig) -> None:
    declare(rig, sleep="2h", timeout="1h")
    rig.faults.fail_on = {("claim", 1)}
    began_s = rig.clock.monotonic_s()
    run = await rig.run()

    assert rig.faults.injected == 1
    assert run.status == "failed"
    assert run.finished_at is not None
    assert run.finished_at.timestamp() - began_s < 3700


async def test_a_timeout_of_a_month_holds(rig: Rig) -> None:
    declare(rig, sleep="60d", timeout="30d")
    began_s = rig.clock.monotonic_s()
    run = await rig.run()

    assert run.status == "failed"
    assert run.finished_at is not None
    assert 30 * 86_400 <= run.finished_at.timestamp() - began_s < 30.1 * 86_400
    assert max(message.delay_s for message in rig.dispatcher.sent) < 7 * 86_400


async def test_a_run_within_its_timeout_completes(rig: Rig) -> None:
    declare(rig, sleep="10m", timeout="1h")

    assert (await rig.run()).status == "completed"
    assert rig.dispatcher.dead_letters == []


async def test_an_event_cancels_the_runs_whose_fields_match(rig: Rig) -> None:
    declare(rig, cancel_on=[(Stop, {"order": "id"})])
    await rig.worker.publish(Order(id="a", count=1))
    await rig.worker.publish(Order(id="b", count=2))
    await rig.clock.advance(60)
    await rig.worker.publish(Stop(order="a"))
    await rig.finish()

    assert {run.event["id"]: run.status for run in await runs(rig)} == {"a": "cancelled", "b": "completed"}


async def test_an_event_cancels_a_run_that_was_created_and_did_not_watch_yet(rig: Rig) -> None:
    declare(rig, cancel_on=[(Stop, {"order": "id"})])
    rig.faults.fail_on = {("watch", 1)}
    await rig.worker.publish(Order(id="a", count=1))
    await rig.clock.settle()
    await rig.worker.publish(Stop(order="a"))
    await rig.finish()

    assert rig.faults.injected == 1
    assert [run.status for run in await runs(rig)] == ["cancelled"]


async def test_a_cancelled_run_that_is_retried_is_not_cancelled_by_the_same_event(rig: Rig) -> None:
    declare(rig, cancel_on=[(Stop, {"order": "id"})])
    await rig.worker.publish(Order(id="a", count=1))
    await rig.clock.settle()
    await rig.worker.publish(Stop(order="a"))
    await rig.clock.settle()
    [run] = await runs(rig)
    assert run.status == "cancelled"
    await rig.worker.runs.retry(run.id)
    await rig.finish()

    assert [run.status for run in await runs(rig)] == ["completed"]


async def test_a_run_that_has_ended_is_not_cancelled(rig: Rig) -> None:
    declare(rig, sleep="1s", cancel_on=[(Stop, {"order": "id"})])
    await rig.worker.publish(Order(id="a", count=1))
    await rig.finish()
    await rig.worker.publish(Stop(order="a"))
    await rig.finish()

    assert [run.status for run in await runs(rig)] == ["completed"]


# ---- limits


async def test_limits_travel_as_flow_control_with_every_message_of_the_run(rig: Rig) -> None:
    declare(rig, concurrency=Limit(2, key="id"), rate=Rate(10, per="1m", key="id"))
    await rig.worker.publish(Order(id="a b/ü", count=1))
    await rig.finish()

    of_runs = [dict(message.headers) for message in rig.dispatcher.sent if b'"kind":"run"' in message.body]
    assert len(of_runs) == 2, "the first message, and the one that ends the sleep"
    assert {headers["Upstash-Flow-Control-Value"] for headers in of_runs} == {"parallelism=2, rate=10, period=60s"}
    keys = {headers["Upstash-Flow-Control-Key"] for headers in of_runs}
    assert len(keys) == 1
    assert all(c.isascii() and (c.isalnum() or c in "._-") for c in keys.pop())
    assert [run.result for run in await runs(rig)] == [1]


async def test_limits_hold_for_what_is_sent_when_a_run_goes_on_again(rig: Rig) -> None:
    declare(rig, concurrency=Limit(1, key="id"), sleep="1h")
    published = await rig.worker.publish(Order())
    await rig.clock.advance(1)
    await rig.worker.runs.cancel(published.run_id("f"))
    await rig.worker.runs.retry(published.run_id("f"))
    await rig.finish()

    keys = {dict(each.headers).get("Upstash-Flow-Control-Key") for each in rig.dispatcher.sent if b"run" in each.body}
    assert len(keys) == 1
    assert None not in keys


async def test_different_keys_have_different_limits(rig: Rig) -> None:
    declare(rig, concurrency=Limit(1, key=lambda event: event.id))
    for name in ("a", "b", "a.b", "a b", "a_b"):
        await rig.worker.publish(Order(id=name))
    await rig.finish()

    of_runs = [dict(message.headers) for message in rig.dispatcher.sent if b'"kind":"run"' in message.body]
    assert len({headers["Upstash-Flow-Control-Key"] for headers in of_runs}) == 5


async def test_a_function_without_limits_sends_no_flow_control(rig: Rig) -> None:
    declare(rig, sleep="1h")
    await rig.worker.publish(Order())
    await rig.finish()

    assert all(not message.headers for message in rig.dispatcher.sent)


# ---- what is refused


@pytest.mark.parametrize(
    "make",
    [
        lambda: Limit(0),
        lambda: Rate(0),
        lambda: Rate(1, per="8d"),
        lambda: Rate(1, per=0.1),
    ],
)
def test_a_limit_that_means_nothing_is_refused(make: Any) -> None:
    with pytest.raises(InvalidValue):
        make()


async def test_two_keys_for_one_function_are_refused(rig: Rig) -> None:
    with pytest.raises(ConfigurationError, match="same key"):
        declare(rig, concurrency=Limit(1, key="id"), rate=Rate(1, key="count"))


@pytest.mark.parametrize(
    "options",
    [
        {"idempotency": "missing"},
        {"singleton": "missing"},
        {"concurrency": Limit(1, key="missing")},
        {"rate": Rate(1, key="missing")},
        {"cancel_on": [(Stop, {"order": "missing"})]},
        {"cancel_on": [(Stop, {"missing": "id"})]},
    ],
    ids=lambda options: next(iter(options)),
)
def test_a_field_that_no_event_has_is_refused_when_the_function_is_declared(rig: Rig, options: Any) -> None:
    with pytest.raises(ConfigurationError, match="'missing', which is no field of"):
        declare(rig, **options)


async def test_a_field_that_no_event_of_a_predicate_has_is_loud(rig: Rig) -> None:
    @rig.worker.function("f", on=lambda event: True, idempotency="missing")
    async def f(event: Order, ctx: Context) -> None:
        return None

    rig.mount()
    await rig.worker.publish(Order(), retries=0)
    await rig.finish()

    assert len(rig.dispatcher.dead_letters) == 1
