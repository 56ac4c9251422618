"""Schedules: made, shown, overwritten, paused, and fired once for each tick, whatever restarts come between."""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from idioteque.cron import Cron, parse_cron
from idioteque.database import Transaction, open_database
from idioteque.errors import DatabaseFull
from idioteque.server.config import ServerConfig
from idioteque.testing import ManualClock
from idioteque.transport import HttpRequest
from tests.server.house import SHOP, House, Reply, open_house

T = TypeVar("T")

NOON_MS = int(datetime(2026, 3, 1, 12, tzinfo=UTC).timestamp()) * 1000
CHANGE_MS = int(datetime(2026, 3, 29, 1, tzinfo=UTC).timestamp()) * 1000  # Berlin's clocks are set
MINUTE_MS = 60_000


async def create(
    house: House, destination: str = SHOP, cron: str = "*/5 * * * *", body: bytes = b"", **more: str
) -> str:
    reply = await try_to_create(house, destination, cron, body, **more)
    assert reply.status == 200, reply.text
    assert list(reply.json) == ["scheduleId"]
    await house.clock.settle()
    return reply.json["scheduleId"]


async def try_to_create(
    house: House, destination: str = SHOP, cron: str = "*/5 * * * *", body: bytes = b"", **more: str
) -> Reply:
    headers = {"Upstash-Cron": cron, **{f"Upstash-{name.replace('_', '-')}": value for name, value in more.items()}}
    return await house.call("POST", f"/v2/schedules/{destination}", headers=headers, body=body)


async def show(house: House, schedule_id: str) -> Any:
    reply = await house.call("GET", f"/v2/schedules/{schedule_id}")
    assert reply.status == 200, reply.text
    return reply.json


async def switch(house: House, schedule_id: str, verb: str, method: str = "PATCH") -> None:
    assert (await house.call(method, f"/v2/schedules/{schedule_id}/{verb}")).status == 200
    await house.clock.settle()


def sent_minutes(house: House) -> list[float]:
    return [(time_ms - NOON_MS) / MINUTE_MS for time_ms in house.wire.times_ms]


@pytest.fixture
async def noon() -> Any:
    """A server whose clock begins at noon."""
    async with open_house(clock=ManualClock(NOON_MS)) as house:
        yield house


async def test_a_schedule_publishes_at_every_tick(noon: House) -> None:
    schedule_id = await create(noon, body=b'{"a":1}', forward_x_test="1", method="PUT")
    assert schedule_id.startswith("scd_")
    await noon.clock.advance(16 * 60)
    assert sent_minutes(noon) == [5, 10, 15]
    assert {(r.method, r.url, r.body, r.header("X-Test")) for r in noon.wire.requests} == {
        ("PUT", SHOP, b'{"a":1}', "1")
    }
    assert {r.header("Upstash-Schedule-Id") for r in noon.wire.requests} == {schedule_id}
    assert {r.header("Upstash-Caller-Ip") for r in noon.wire.requests} == {"192.0.2.7"}
    assert not [name for r in noon.wire.requests for name, _ in r.headers if "cron" in name.lower()]
    assert len({r.header("Upstash-Message-Id") for r in noon.wire.requests}) == 3
    entries = await noon.events(f"?scheduleId={schedule_id}&state=DELIVERED")
    assert {entry["scheduleId"] for entry in entries} == {schedule_id}
    assert len(entries) == 3


async def test_a_schedule_is_shown_as_it_was_made(noon: House) -> None:
    reply = await noon.call(
        "POST",
        "/v2/schedules/https://www.initial.com",
        headers={
            "Upstash-Cron": " */10 * * * * ",
            "Upstash-Method": "GET",
            "Upstash-Forward-Test-Header": "test-value",
            "Upstash-Forward-Bypass-Tunnel-Reminder": "client-test",
            "Content-Type": "application/json",
            "Upstash-Retries": "5",
            "Upstash-Retry-Delay": "1000 * retried",
            "Upstash-Delay": "10s",
            "Upstash-Timeout": "1m",
            "Upstash-Callback": "https://example.com/cb",
            "Upstash-Callback-Retries": "1",
            "Upstash-Failure-Callback": "https://example.com/failed",
            "Upstash-Label": "one,two",
            "Upstash-Telemetry-Sdk": "upstash-qstash-js@2.12.0",
        },
        body=b'{"hello":"world"}',
    )
    shown = await show(noon, reply.json["scheduleId"])
    assert shown == {
        "scheduleId": reply.json["scheduleId"],
        "cron": "*/10 * * * *",
        "createdAt": NOON_MS,
        "destination": "https://www.initial.com",
        "method": "GET",
        "retries": 5,
        "isPaused": False,
        "header": {
            "Bypass-Tunnel-Reminder": ["client-test"],
            "Content-Type": ["application/json"],
            "Test-Header": ["test-value"],
        },
        "body": '{"hello":"world"}',
        "callback": "https://example.com/cb",
        "callbackHeader": {"Upstash-Retries": ["1"]},
        "failureCallback": "https://example.com/failed",
        "failureCallbackHeader": {},
        "label": "one",
        "labels": ["one", "two"],
        "retryDelayExpression": "1000 * retried",
        "delay": 10,
        "timeout": 60,
        "callerIP": "192.0.2.7",
        "callerIp": "192.0.2.7",
        "nextScheduleTime": NOON_MS + 10 * MINUTE_MS,
    }
    assert (await noon.call("GET", "/v2/schedules")).json == [shown]


async def test_nothing_that_was_not_given_is_shown(noon: House) -> None:
    shown = await show(noon, await create(noon, body=b"\xff\xfe"))
    assert set(shown) == {
        *("scheduleId", "cron", "createdAt", "destination", "method", "retries", "isPaused", "header", "bodyBase64"),
        *("callerIP", "callerIp", "nextScheduleTime"),
    }
    assert (shown["method"], shown["retries"], shown["header"]) == ("POST", 3, {})


async def test_redacted_fields_are_hidden_and_delivered(noon: House) -> None:
    schedule_id = await create(noon, body=b"secret", forward_x_key="secret", redact_fields="body, header[X-Key]")
    shown = await show(noon, schedule_id)
    assert shown["body"].startswith("REDACTED:")
    assert shown["header"]["X-Key"][0].startswith("REDACTED:")
    await noon.clock.advance(5 * 60)
    assert [(r.body, r.header("X-Key")) for r in noon.wire.requests] == [(b"secret", "secret")]


async def test_an_own_id_is_kept_and_overwrites_all_but_the_past(noon: House) -> None:
    assert await create(noon, body=b"old", schedule_id="my-id.1", label="a", retries="1") == "my-id.1"
    await noon.clock.advance(6 * 60)
    await create(noon, "https://new.test/", cron="0 * * * *", schedule_id="my-id.1")
    shown = await show(noon, "my-id.1")
    assert (shown["destination"], shown["cron"], shown["retries"]) == ("https://new.test/", "0 * * * *", 3)
    assert (shown["createdAt"], shown["lastScheduleTime"]) == (NOON_MS, NOON_MS + 5 * MINUTE_MS)
    assert shown["nextScheduleTime"] == NOON_MS + 60 * MINUTE_MS
    assert not {"body", "label", "labels"} & set(shown)
    assert len((await noon.call("GET", "/v2/schedules")).json) == 1
    await noon.clock.advance(60 * 60)
    assert [r.url for r in noon.wire.requests] == [SHOP, "https://new.test/"]


@pytest.mark.parametrize("method", ["PATCH", "POST", "PUT"])
async def test_a_paused_schedule_fires_nothing_and_makes_up_for_nothing(noon: House, method: str) -> None:
    schedule_id = await create(noon)
    await switch(noon, schedule_id, "pause", method)
    shown = await show(noon, schedule_id)
    assert (shown["isPaused"], "nextScheduleTime" in shown) == (True, False)
    await noon.clock.advance(12 * 60)
    await create(noon, schedule_id=schedule_id)
    assert (await show(noon, schedule_id))["isPaused"] is True
    await noon.clock.advance(60)
    await switch(noon, schedule_id, "resume", method)
    await switch(noon, schedule_id, "resume", method)
    await noon.clock.advance(5 * 60)
    assert sent_minutes(noon) == [15]
    assert "error" not in await show(noon, schedule_id)


async def test_a_deleted_schedule_is_gone_and_what_it_made_goes_on(noon: House) -> None:
    schedule_id = await create(noon, delay="1h")
    await noon.clock.advance(6 * 60)
    assert (await noon.call("DELETE", f"/v2/schedules/{schedule_id}")).status == 200
    await noon.clock.advance(2 * 3600)
    assert sent_minutes(noon) == [65]
    assert (await noon.call("GET", f"/v2/schedules/{schedule_id}")).status == 404
    assert (await noon.call("DELETE", f"/v2/schedules/{schedule_id}")).status == 200
    for verb in ("pause", "resume"):
        reply = await noon.call("PATCH", f"/v2/schedules/{schedule_id}/{verb}")
        assert (reply.status, "not found" in reply.json["error"]) == (404, True)


@pytest.mark.parametrize(
    ("target", "destination"),
    [
        ("https://x.test/pause", "https://x.test/pause"),
        ("https://x.test/a//b%2Fc?x=1&upstash-retries=7", "https://x.test/a//b%2Fc?x=1"),
        ("https://x.test/a%0Ab/resume", "https://x.test/a%0Ab/resume"),
        ("https:/x.test/pause", "https://x.test/pause"),
        ("https://x.test", "https://x.test"),
    ],
)
async def test_the_destination_is_the_raw_rest_of_the_target(noon: House, target: str, destination: str) -> None:
    assert (await show(noon, await create(noon, target)))["destination"] == destination


async def test_configuration_may_stand_in_the_query(noon: House) -> None:
    reply = await noon.call("POST", f"/v2/schedules/{SHOP}?upstash-cron=0%205%20*%20*%20*&upstash-retries=7&a=1")
    shown = await show(noon, reply.json["scheduleId"])
    assert (shown["cron"], shown["retries"], shown["destination"]) == ("0 5 * * *", 7, f"{SHOP}?a=1")


async def test_a_publish_with_a_cron_makes_a_schedule(noon: House) -> None:
    reply = await noon.call("POST", f"/v2/publish/{SHOP}", headers={"Upstash-Cron": "* * * * *"})
    assert (await show(noon, reply.json["scheduleId"]))["destination"] == SHOP
    item = {"destination": SHOP, "headers": {"Upstash-Cron": "* * * * *"}}
    assert "error" in (await noon.call("POST", "/v2/batch", document=[item])).json[0]


@pytest.mark.parametrize(
    ("destination", "headers", "status", "text"),
    [
        (SHOP, {"Upstash-Cron": ""}, 400, "invalid Upstash-Cron: a schedule needs one"),
        (SHOP, {"Upstash-Cron": "* * * *"}, 400, "must have five fields"),
        (SHOP, {"Upstash-Cron": "* * * * * *"}, 400, "must have five fields"),
        (SHOP, {"Upstash-Cron": "0 0 31 2 *"}, 400, "Bad day-of-month"),
        (SHOP, {"Upstash-Cron": "0 0 */29 2 MON#5"}, 400, "has no date within the next 8 years"),
        (SHOP, {"Upstash-Cron": "CRON_TZ=../../etc/passwd * * * * *"}, 400, "time zone '../../etc/passwd' is not"),
        (SHOP, {"Upstash-Schedule-Id": "a/b"}, 400, "invalid Upstash-Schedule-Id 'a/b'"),
        (SHOP, {"Upstash-Schedule-Id": ""}, 400, "invalid Upstash-Schedule-Id ''"),
        (SHOP, {"Upstash-Not-Before": "1"}, 400, "use Upstash-Delay"),
        (SHOP, {"Upstash-Queue-Name": "a b"}, 400, "invalid Upstash-Queue-Name 'a b'"),
        (SHOP, {"Upstash-Retries": "many"}, 400, "invalid Upstash-Retries 'many'"),
        (SHOP, {"Upstash-Delay": "99999d"}, 412, "quota maxDelay exceeded"),
        (SHOP, {"Upstash-Callback": "http://127.0.0.1/"}, 400, "invalid callback url"),
        ("http://127.0.0.1/", {}, 400, "loopback address: 127.0.0.1"),
        ("nobody", {}, 400, "endpoint has invalid scheme"),
        ("", {}, 400, "endpoint has invalid scheme"),
        ("my-group/pause/x", {}, 400, "endpoint has invalid scheme"),
    ],
)
async def test_a_bad_schedule_is_refused_and_not_stored(
    noon: House, destination: str, headers: dict[str, str], status: int, text: str
) -> None:
    reply = await noon.call("POST", f"/v2/schedules/{destination}", headers={"Upstash-Cron": "* * * * *", **headers})
    assert reply.status == status
    assert text in reply.json["error"]
    assert (await noon.call("GET", "/v2/schedules")).json == []


async def test_a_schedule_needs_a_cron(noon: House) -> None:
    reply = await noon.call("POST", f"/v2/schedules/{SHOP}")
    assert (reply.status, "a schedule needs one" in reply.json["error"]) == (400, True)


async def test_schedules_have_a_quota_that_an_overwrite_does_not_count_for() -> None:
    async with open_house(config=ServerConfig(schedules_max=1)) as house:
        await create(house, schedule_id="one")
        reply = await try_to_create(house)
        assert (reply.status, reply.json["error"]) == (412, "quota maxSchedules exceeded, current limit: 1")
        await create(house, schedule_id="one")


async def test_a_schedule_for_a_group_fans_out_to_those_that_are_in_it_at_the_tick(noon: House) -> None:
    endpoints = {"endpoints": [{"url": "https://one.test/", "name": "one"}]}
    await noon.call("POST", "/v2/topics/g/endpoints", document=endpoints)
    schedule_id = await create(noon, "g")
    assert (await show(noon, schedule_id))["destination"] == "g"
    await noon.call("POST", "/v2/topics/g/endpoints", document={"endpoints": [{"url": "https://two.test/"}]})
    await noon.clock.advance(5 * 60)
    assert [(r.url, r.header("Upstash-Topic-Name"), r.header("Upstash-Schedule-Id")) for r in noon.wire.requests] == [
        ("https://one.test/", "g", schedule_id),
        ("https://two.test/", "g", schedule_id),
    ]
    assert len((await show(noon, schedule_id))["lastScheduleStates"]) == 2


async def test_a_tick_that_cannot_be_published_is_noted_and_the_next_one_comes(noon: House) -> None:
    await noon.call("POST", "/v2/topics/g/endpoints", document={"endpoints": [{"url": SHOP}]})
    schedule_id, other = await create(noon, "g"), await create(noon)
    await noon.call("DELETE", "/v2/topics/g")
    await noon.clock.advance(5 * 60)
    shown = await show(noon, schedule_id)
    assert "there is no URL group 'g'" in shown["error"]
    assert (shown["nextScheduleTime"], "lastScheduleTime" in shown) == (NOON_MS + 10 * MINUTE_MS, False)
    assert "error" not in await show(noon, other)
    await noon.call("POST", "/v2/topics/g/endpoints", document={"endpoints": [{"url": SHOP}]})
    await noon.clock.advance(5 * 60)
    assert "error" not in await show(noon, schedule_id)
    assert sent_minutes(noon) == [5, 10, 10]


async def test_the_last_messages_fates_are_told() -> None:
    answers = {"https://good.test/": 200, "https://bad.test/": 500, "https://slow.test/": 500}
    async with open_house(lambda request: answers[request.url], clock=ManualClock(NOON_MS)) as house:
        endpoints = [{"url": url} for url in answers]
        await house.call("POST", "/v2/topics/g/endpoints", document={"endpoints": endpoints[:2]})
        await house.call("POST", "/v2/topics/h/endpoints", document={"endpoints": endpoints[2:]})
        ended, going_on = await create(house, "g", retries="0"), await create(house, "h", retries="3")
        await house.clock.advance(5 * 60)
        assert sorted((await show(house, ended))["lastScheduleStates"].values()) == ["FAIL", "SUCCESS"]
        shown = await show(house, going_on)
        (message_id,) = shown["lastScheduleStates"]
        assert shown["lastScheduleStates"] == {message_id: "IN_PROGRESS"}
        assert shown["lastScheduleTime"] == NOON_MS + 5 * MINUTE_MS
        (letter,) = await house.dead_letters(f"?scheduleId={ended}")
        assert letter["scheduleId"] == ended


async def test_a_delay_puts_each_message_off(noon: House) -> None:
    await create(noon, delay="90s")
    await noon.clock.advance(7 * 60)
    assert sent_minutes(noon) == [6.5]


async def test_a_deduplication_id_holds_among_ticks(noon: House) -> None:
    await create(noon, deduplication_id="x")
    await noon.clock.advance(16 * 60)
    assert sent_minutes(noon) == [5, 15]


async def test_a_schedules_messages_go_through_its_queue_and_leave_its_settings_alone() -> None:
    async with open_house([500, 200], clock=ManualClock(NOON_MS)) as house:
        await house.call("POST", "/v2/queues", document={"queueName": "q", "parallelism": 3, "paused": False})
        schedule_id = await create(house, queue_name="q", retry_delay="400000")
        shown = await show(house, schedule_id)
        assert shown["queueName"] == "q"
        await house.clock.advance(5 * 60)
        (entry, *_) = await house.events(f"?scheduleId={schedule_id}")
        assert entry["queueName"] == "q"
        queue = (await house.call("GET", "/v2/queues/q")).json
        assert (queue["parallelism"], queue["lag"]) == (3, 1)


async def test_a_schedule_makes_its_queue_and_keeps_its_order() -> None:
    async with open_house([500, 200], clock=ManualClock(NOON_MS)) as house:
        await create(house, cron="* * * * *", queue_name="q", retry_delay="150000")
        await house.clock.advance(4 * 60)
        # The first tick's message is tried again after two and a half minutes; those behind it wait.
        assert sent_minutes(house) == [1, 3.5, 3.5, 3.5, 4]
        ids = [request.header("Upstash-Message-Id") for request in house.wire.requests]
        assert ids[0] == ids[1]
        assert len(set(ids)) == 4


async def test_a_schedules_messages_obey_its_flow_control_key(noon: House) -> None:
    schedule_id = await create(noon, flow_control_key="k", flow_control_value="rate=1, period=10m")
    shown = await show(noon, schedule_id)
    assert (shown["flowControlKey"], shown["rate"], shown["period"]) == ("k", 1, 600)
    await noon.clock.advance(16 * 60)
    assert sent_minutes(noon) == [5, 15]


async def test_a_group_is_enqueued_in_one_transaction(noon: House) -> None:
    endpoints = [{"url": "https://one.test/"}, {"url": "https://two.test/"}]
    await noon.call("POST", "/v2/topics/g/endpoints", document={"endpoints": endpoints})
    reply = await noon.call("POST", "/v2/enqueue/q/g")
    await noon.clock.settle()
    assert [each["url"] for each in reply.json] == [endpoint["url"] for endpoint in endpoints]
    assert [request.url for request in noon.wire.requests] == ["https://one.test/", "https://two.test/"]
    assert {entry["queueName"] for entry in await noon.events("?topicName=g")} == {"q"}


async def test_a_webhook_like_schedule_remembers_the_headers_of_its_making(noon: House) -> None:
    headers = {"Upstash-Cron": "*/5 * * * *", "Upstash-Header-Forward": "true", "X-Event": "push", "X-A": "1"}
    headers["Upstash-Forward-X-A"] = "2"
    await noon.call("POST", f"/v2/schedules/{SHOP}", headers=headers)
    await noon.clock.advance(5 * 60)
    (request,) = noon.wire.requests
    assert (request.header("X-Event"), request.header("X-A"), request.header("Authorization")) == ("push", "2", None)


async def test_callbacks_of_scheduled_messages_name_the_schedule(noon: House) -> None:
    schedule_id = await create(noon, callback="https://cb.test/")
    await noon.clock.advance(5 * 60)
    (callback,) = noon.wire.sent_to("https://cb.test/")
    assert json.loads(callback.body)["scheduleId"] == schedule_id
    assert callback.header("Upstash-Schedule-Id") is None


@pytest.mark.parametrize(("begin", "expected"), [("2026-03-28T23:00", [2.0]), ("2026-10-24T23:00", [1.5])])
async def test_zones_and_daylight_saving_reach_the_messages(begin: str, expected: list[float]) -> None:
    begin_ms = int(datetime.fromisoformat(begin).replace(tzinfo=UTC).timestamp()) * 1000
    async with open_house(clock=ManualClock(begin_ms)) as house:
        await create(house, cron="CRON_TZ=Europe/Berlin 30 2 * * *")
        await house.clock.advance(4 * 3600)
        assert [(time_ms - begin_ms) / 3_600_000 for time_ms in house.wire.times_ms] == expected


# Restarts


def path_url(directory: Path) -> str:
    return f"sqlite:///{directory / 'server.db'}"


async def test_a_restart_fires_the_latest_missed_tick_once_and_goes_on(tmp_path: Path) -> None:
    clock = ManualClock(NOON_MS)
    async with open_house(database=open_database(path_url(tmp_path), threads=False), clock=clock) as house:
        schedule_id = await create(house)
        await clock.advance(6 * 60)
    await clock.advance(3600)
    down_until = (clock.now_ms() - NOON_MS) / MINUTE_MS
    for _ in range(3):
        async with open_house(database=open_database(path_url(tmp_path), threads=False), clock=clock) as house:
            await clock.settle()
            shown = await show(house, schedule_id)
            assert shown["lastScheduleTime"] == NOON_MS + (down_until // 5) * 5 * MINUTE_MS
            assert shown["nextScheduleTime"] == shown["lastScheduleTime"] + 5 * MINUTE_MS
            assert len(await house.events("?state=CREATED")) == 2


@pytest.mark.parametrize(("late_s", "fires"), [(86_400 - 1, True), (86_400, True), (86_401, False)])
async def test_a_missed_tick_that_is_too_old_is_noted_as_missed(tmp_path: Path, late_s: int, fires: bool) -> None:
    clock = ManualClock(NOON_MS)
    async with open_house(database=open_database(path_url(tmp_path), threads=False), clock=clock) as house:
        schedule_id = await create(house, cron="0 13 1 * *")
    await clock.advance((NOON_MS + 3_600_000 - clock.now_ms()) / 1000 + late_s)
    async with open_house(database=open_database(path_url(tmp_path), threads=False), clock=clock) as house:
        await clock.settle()
        shown = await show(house, schedule_id)
        assert len(house.wire.requests) == int(fires)
        assert ("error" in shown) is not fires
        if not fires:
            assert shown["error"].startswith("the tick of 2026-03-01T13:00Z was missed")
        assert shown["nextScheduleTime"] == int(datetime(2026, 4, 1, 13, tzinfo=UTC).timestamp()) * 1000


async def test_a_clock_that_is_set_back_fires_no_tick_again(tmp_path: Path) -> None:
    async with open_house(
        database=open_database(path_url(tmp_path), threads=False), clock=ManualClock(NOON_MS)
    ) as house:
        schedule_id = await create(house, schedule_id="s")
        await house.clock.advance(5 * 60 + 1)
        assert len(house.wire.requests) == 1
    earlier = ManualClock(NOON_MS + MINUTE_MS)
    async with open_house(database=open_database(path_url(tmp_path), threads=False), clock=earlier) as house:
        await create(house, schedule_id=schedule_id)
        await switch(house, schedule_id, "pause")
        await switch(house, schedule_id, "resume")
        assert (await show(house, schedule_id))["nextScheduleTime"] == NOON_MS + 10 * MINUTE_MS
        await earlier.advance(10 * 60)
        assert sent_minutes(house) == [10]


async def test_a_tick_on_a_full_disk_is_fired_when_there_is_room(monkeypatch: pytest.MonkeyPatch) -> None:
    async with open_house(clock=ManualClock(NOON_MS)) as house:
        await create(house)
        write = house.server.database.write

        async def full(operation: Callable[[Transaction], T]) -> T:
            raise DatabaseFull("no room")

        monkeypatch.setattr(house.server.database, "write", full)
        await house.clock.advance(5 * 60 + 30)
        monkeypatch.setattr(house.server.database, "write", write)
        assert house.wire.requests == []
        await house.clock.advance(5)
        assert len(house.wire.requests) == 1
        await house.clock.advance(5 * 60)
        assert len(house.wire.requests) == 2


async def test_two_schedulers_on_one_database_fire_a_tick_once(noon: House) -> None:
    await create(noon)
    await noon.clock.advance(4 * 60 + 59)
    await asyncio.gather(noon.clock.advance(1), *(noon.server.scheduler.tick() for _ in range(5)))
    await asyncio.gather(*(noon.server.scheduler.tick() for _ in range(5)))
    await noon.clock.settle()
    assert sent_minutes(noon) == [5]


async def test_a_kill_after_the_commit_of_a_tick_sends_its_message_and_makes_no_other(tmp_path: Path) -> None:
    clock, before = ManualClock(NOON_MS), tmp_path / "before"
    before.mkdir()

    async def never(_: HttpRequest) -> int:
        shutil.copytree(before, tmp_path / "killed")
        await asyncio.Event().wait()
        return 200

    async with open_house(never, database=open_database(path_url(before), threads=False), clock=clock) as house:
        await create(house)
        await clock.advance(5 * 60)
        (request,) = house.wire.requests
    async with open_house(database=open_database(path_url(tmp_path / "killed"), threads=False), clock=clock) as house:
        await clock.advance(60)
        (again,) = house.wire.requests
        assert again.header("Upstash-Message-Id") == request.header("Upstash-Message-Id")
        assert len(await house.events("?state=CREATED")) == 1


@settings(max_examples=20, deadline=None)
@given(
    text=st.sampled_from(["* * * * *", "*/7 * * * *", "CRON_TZ=Europe/Berlin 30 2 * * *", "0 * * * *"]),
    lives_s=st.lists(st.tuples(st.integers(0, 1500), st.integers(0, 9000)), min_size=2, max_size=5),
)
async def test_no_tick_has_two_messages_however_often_the_server_is_killed(
    tmp_path_factory: pytest.TempPathFactory, text: str, lives_s: list[tuple[int, int]]
) -> None:
    """Each life of the server ends at a kill, and the next one begins with what was on the disk."""
    directory, clock, cron = tmp_path_factory.mktemp("first"), ManualClock(CHANGE_MS - 3_600_000), parse_cron(text)
    for number, (up_s, down_s) in enumerate(lives_s):
        async with open_house(database=open_database(path_url(directory), threads=False), clock=clock) as house:
            if number == 0:
                await create(house, cron=text, schedule_id="s")
            await clock.advance(up_s)
            directory = shutil.copytree(directory, tmp_path_factory.mktemp("killed"), dirs_exist_ok=True)
            entries = await house.events("?scheduleId=s&state=CREATED&count=1000")
            fired = [tick_before(cron, entry["time"]) for entry in entries]
        assert len(fired) == len(set(fired))
        await clock.advance(down_s)


def tick_before(cron: Cron, time_ms: int) -> int:
    """The latest tick up to a time."""
    first_ms = cron.next_ms(time_ms - 3 * 86_400_000)
    assert first_ms is not None
    return cron.latest_ms(first_ms, time_ms)
