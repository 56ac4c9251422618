"""Flow control: how many deliveries of a key are under way, and how many begin in a period."""

from __future__ import annotations

import random
import shutil
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from idioteque.database import open_database
from idioteque.errors import ConnectFailed
from idioteque.server.config import ServerConfig
from idioteque.testing import ManualClock
from idioteque.transport import HttpRequest
from tests.server.house import SHOP, House, Reply, open_house

FIELDS = {
    "flowControlKey", "waitListSize", "parallelismMax", "parallelismCount", "rateMax", "rateCount", "ratePeriod",
    "ratePeriodStart", "isPaused", "isPinnedParallelism", "isPinnedRate",
}  # fmt: skip


async def publish(house: House, value: str, key: str = "k", url: str = SHOP, **headers: str) -> str:
    return await house.publish(url, flow_control_key=key, flow_control_value=value, **headers)


async def publish_many(house: House, count: int, value: str, key: str = "k", url: str = SHOP) -> list[str]:
    headers = {"Upstash-Flow-Control-Key": key, "Upstash-Flow-Control-Value": value}
    items = [{"destination": f"{url}?{n}", "headers": headers} for n in range(count)]
    replies = (await house.call("POST", "/v2/batch", document=items)).json
    await house.clock.settle()
    return [each["messageId"] for each in replies]


async def shown(house: House, key: str = "k") -> dict[str, Any]:
    reply = await house.call("GET", f"/v2/flowControl/{key}")
    assert reply.status == 200, reply.text
    return reply.json


async def act(house: House, verb: str, key: str = "k") -> Reply:
    reply = await house.call("POST", f"/v2/flowControl/{key}/{verb}")
    await house.clock.settle()
    return reply


def taking(seconds: float, clock: ManualClock) -> Callable[[HttpRequest], Awaitable[int]]:
    async def answer(_: HttpRequest) -> int:
        await clock.sleep(seconds)
        return 200

    return answer


def sent(house: House) -> list[str | None]:
    return [request.header("Upstash-Message-Id") for request in house.wire.requests]


async def test_a_key_exists_as_soon_as_a_message_has_it(house: House) -> None:
    now_s = house.clock.now_ms() // 1000
    message_id = await publish(house, "parallelism=5, rate=10, period=1m")
    key = await shown(house)
    assert set(key) == FIELDS
    assert key == {
        "flowControlKey": "k",
        "waitListSize": 0,
        "parallelismMax": 5,
        "parallelismCount": 0,
        "rateMax": 10,
        "rateCount": 1,
        "ratePeriod": 60,
        "ratePeriodStart": now_s,
        "isPaused": False,
        "isPinnedParallelism": False,
        "isPinnedRate": False,
    }
    message = (await house.call("GET", f"/v2/messages/{message_id}")).json
    given = {name: message[name] for name in ("flowControlKey", "parallelism", "rate", "period")}
    assert given == {"flowControlKey": "k", "parallelism": 5, "rate": 10, "period": 60}
    for entry in await house.events("?flowControlKey=k"):
        assert (entry["flowControlKey"], entry["parallelism"], entry["rate"], entry["period"]) == ("k", 5, 10, 60)
    assert await house.events("?flowControlKey=other") == []


async def test_a_limit_that_is_not_set_is_left_out_and_the_period_is_one_second(house: House) -> None:
    message = (await house.call("GET", f"/v2/messages/{await publish(house, 'parallelism=5')}")).json
    assert (message["parallelism"], message["period"], "rate" in message) == (5, 1, False)
    key = await shown(house)
    assert (key["rateMax"], key["rateCount"], key["ratePeriod"]) == (0, 0, 1)


@pytest.mark.parametrize(
    ("value", "parallelism", "rate", "period_s"),
    [
        ("rate=3,parallelism=2", 2, 3, 1),
        (" period=1h30m ,rate = 3 ", 0, 3, 5400),
        ("parallelism=1, period=90", 1, 0, 90),
        ("rate=1,period=7d", 0, 1, 604_800),
    ],
)
async def test_the_value_has_parts_in_any_order(
    house: House, value: str, parallelism: int, rate: int, period_s: int
) -> None:
    await publish(house, value, delay="1h")
    key = await shown(house)
    assert (key["parallelismMax"], key["rateMax"], key["ratePeriod"]) == (parallelism, rate, period_s)


@pytest.mark.parametrize(
    ("key", "value", "text"),
    [
        ("k", None, "Upstash-Flow-Control-Key needs Upstash-Flow-Control-Value"),
        ("k", "", "Upstash-Flow-Control-Key needs Upstash-Flow-Control-Value"),
        (None, "rate=1", "Upstash-Flow-Control-Value needs Upstash-Flow-Control-Key"),
        ("", "rate=1", "Upstash-Flow-Control-Value needs Upstash-Flow-Control-Key"),
        ("a b", "rate=1", "invalid Upstash-Flow-Control-Key 'a b'"),
        ("k", "period=1m", "must have a parallelism, a rate or both"),
        ("k", "rate=0", "invalid rate '0'"),
        ("k", "rate=-1", "invalid rate '-1'"),
        ("k", "parallelism=many", "invalid parallelism 'many'"),
        ("k", "parallelism=1, parallelism=2", "must be like parallelism=5, rate=10, period=1m"),
        ("k", "speed=1", "must be like parallelism=5, rate=10, period=1m"),
        ("k", "5", "must be like parallelism=5, rate=10, period=1m"),
        ("k", "rate=1, period=8d", "invalid period '8d'"),
        ("k", "rate=1, period=0", "invalid period '0'"),
        ("k", "rate=1, period=soon", "invalid period 'soon'"),
    ],
)
async def test_bad_flow_control_is_refused_and_nothing_is_stored(
    house: House, key: str | None, value: str | None, text: str
) -> None:
    given = {"Upstash-Flow-Control-Key": key, "Upstash-Flow-Control-Value": value}
    headers = {name: each for name, each in given.items() if each is not None}
    reply = await house.call("POST", f"/v2/publish/{SHOP}", headers=headers)
    assert (reply.status, text in reply.json["error"]) == (400, True), reply.text
    assert await house.events() == []
    assert (await house.call("GET", "/v2/flowControl")).json == []


async def test_an_empty_value_without_a_key_means_nothing(house: House) -> None:
    headers = {"Upstash-Flow-Control-Value": "", "Upstash-Flow-Control-Key": ""}
    assert (await house.call("POST", f"/v2/publish/{SHOP}", headers=headers)).status == 200


async def test_no_more_than_the_parallelism_are_under_way_across_destinations() -> None:
    clock = ManualClock()
    async with open_house(taking(10, clock), clock=clock) as house:
        one = await publish_many(house, 3, "parallelism=2", url="https://one.test/")
        two = await publish_many(house, 3, "parallelism=2", url="https://two.test/")
        key = await shown(house)
        assert (key["parallelismCount"], key["waitListSize"]) == (2, 4)
        assert (await house.states(two[2])) == ["CREATED"]
        plain = await house.publish("https://one.test/plain")
        assert sent(house)[2:] == [plain]
        await clock.advance(35)
        assert sorted(filter(None, sent(house))) == sorted([*one, *two, plain])
        assert [len(house.wire.times_ms[:3]), *house.wire.gaps_s] == [3, 0, 0, 10, 0, 10, 0]
        assert (await shown(house))["parallelismCount"] == 0


async def test_no_more_than_the_rate_begin_in_a_period(house: House) -> None:
    ids = await publish_many(house, 10, "rate=4, period=1m")
    assert len(sent(house)) == 4
    assert ((await shown(house))["rateCount"], (await shown(house))["waitListSize"]) == (4, 6)
    await house.clock.advance(59)
    assert len(sent(house)) == 4
    await house.clock.advance(2)
    assert len(sent(house)) == 8
    await house.clock.advance(60)
    assert sorted(filter(None, sent(house))) == sorted(ids)
    assert (await shown(house))["rateCount"] == 2
    await house.clock.advance(61)
    assert (await shown(house))["rateCount"] == 0


async def test_both_limits_must_allow() -> None:
    clock = ManualClock()
    async with open_house(taking(20, clock), clock=clock) as house:
        await publish_many(house, 8, "parallelism=2, rate=3, period=1m")
        await clock.advance(200)
        begun_s = [(at_ms - house.wire.times_ms[0]) // 1000 for at_ms in house.wire.times_ms]
        assert begun_s == [0, 0, 20, 60, 60, 80, 120, 120]


async def test_retries_count_as_dispatches() -> None:
    async with open_house([500]) as house:
        await publish(house, "rate=1, period=1m", retry_delay="1000", retries="3")
        await house.clock.advance(200)
        assert house.wire.gaps_s == [60, 60, 60]


async def test_a_message_that_waits_for_its_retry_holds_no_slot() -> None:
    codes = iter([500])
    async with open_house(lambda _: next(codes, 200)) as house:
        first = await publish(house, "parallelism=1", retry_delay="60000")
        second = await publish(house, "parallelism=1")
        assert sent(house) == [first, second]
        await house.clock.advance(61)
        assert sent(house) == [first, second, first]


async def test_delayed_messages_wait_for_their_time_first(house: House) -> None:
    await publish(house, "rate=1, period=10s", delay="1h")
    assert (await shown(house))["waitListSize"] == 0
    await publish(house, "rate=1, period=10s")
    assert len(sent(house)) == 1
    await house.clock.advance(3600)
    assert house.wire.gaps_s == [3600]


async def test_the_latest_message_sets_the_limits() -> None:
    clock = ManualClock()
    async with open_house(taking(100, clock), clock=clock) as house:
        await publish_many(house, 5, "parallelism=1")
        assert len(sent(house)) == 1
        await publish(house, "parallelism=4, rate=100, period=1m")
        assert len(sent(house)) == 4
        assert ((await shown(house))["parallelismMax"], (await shown(house))["rateMax"]) == (4, 100)
        await publish(house, "rate=50")
        key = await shown(house)
        assert (key["parallelismMax"], key["rateMax"], key["ratePeriod"]) == (0, 50, 1)


async def test_a_pinned_limit_is_not_changed_by_messages(house: House) -> None:
    await publish(house, "parallelism=1, rate=1, period=1m")
    assert (await act(house, "pin?parallelism=5")).status == 200
    await publish(house, "parallelism=2, rate=20, period=2m")
    key = await shown(house)
    assert (key["parallelismMax"], key["rateMax"], key["ratePeriod"]) == (5, 20, 120)
    assert (key["isPinnedParallelism"], key["isPinnedRate"]) == (True, False)
    await act(house, "pin?rate=7&period=30")
    await publish(house, "parallelism=3, rate=30, period=3m")
    key = await shown(house)
    assert (key["parallelismMax"], key["rateMax"], key["ratePeriod"]) == (5, 7, 30)
    await act(house, "unpin?parallelism=true&rate=false")
    key = await shown(house)
    assert (key["isPinnedParallelism"], key["isPinnedRate"]) == (False, True)
    await publish(house, "parallelism=3, rate=30, period=3m")
    key = await shown(house)
    assert (key["parallelismMax"], key["rateMax"], key["ratePeriod"]) == (3, 7, 30)
    await act(house, "unpin?rate=True")
    await publish(house, "parallelism=3, rate=30, period=3m")
    assert (await shown(house))["rateMax"] == 30


async def test_a_pin_that_allows_more_takes_effect_at_once() -> None:
    clock = ManualClock()
    async with open_house(taking(100, clock), clock=clock) as house:
        await publish_many(house, 6, "parallelism=1, rate=1, period=1h")
        await act(house, "pin?parallelism=4")
        assert len(sent(house)) == 1
        await act(house, "pin?rate=3&period=3600")
        assert len(sent(house)) == 3


@pytest.mark.parametrize(
    ("verb", "text"),
    [
        ("pin", "name what to pin"),
        ("pin?parallelism=0", "invalid parallelism '0'"),
        ("pin?rate=x", "invalid rate 'x'"),
        ("pin?period=", "invalid period ''"),
        ("pin?speed=1", "unknown parameter 'speed'"),
        ("unpin", "name what to unpin"),
        ("unpin?parallelism=maybe", "invalid parallelism 'maybe'"),
        ("unpin?period=true", "unknown parameter 'period'"),
    ],
)
async def test_bad_pins_are_refused(house: House, verb: str, text: str) -> None:
    await publish(house, "parallelism=1")
    before = await shown(house)
    reply = await act(house, verb)
    assert (reply.status, text in reply.json["error"]) == (400, True)
    assert await shown(house) == before


async def test_a_paused_key_lets_its_messages_wait(house: House) -> None:
    await publish(house, "parallelism=10")
    assert (await act(house, "pause")).status == 200
    waiting = await publish_many(house, 3, "parallelism=10")
    key = await shown(house)
    assert (key["isPaused"], key["waitListSize"], len(sent(house))) == (True, 3, 1)
    await publish(house, "parallelism=10", key="other")
    assert len(sent(house)) == 2
    await house.clock.advance(86_400)
    assert len(sent(house)) == 2
    await act(house, "resume")
    assert sorted(filter(None, sent(house)[2:])) == sorted(waiting)
    assert (await shown(house))["isPaused"] is False


async def test_a_key_can_be_paused_and_pinned_before_anybody_uses_it(house: House) -> None:
    await act(house, "pause", "new")
    await act(house, "pin?parallelism=2", "new")
    await publish_many(house, 3, "parallelism=9", key="new")
    key = await shown(house, "new")
    assert (key["parallelismMax"], key["waitListSize"]) == (2, 3)


@pytest.mark.parametrize("verb", ["resume", "unpin?rate=true", "resetRate", "reset"])
async def test_an_unknown_key_is_not_found(house: House, verb: str) -> None:
    reply = await act(house, verb, "none")
    assert (reply.status, reply.json["error"]) == (404, "flow-control key none not found")
    assert (await house.call("GET", "/v2/flowControl/none")).status == 404


@pytest.mark.parametrize("verb", ["resetRate", "reset"])
async def test_a_reset_begins_a_new_period_now(house: House, verb: str) -> None:
    await publish_many(house, 3, "rate=2, period=1h")
    await house.clock.advance(600)
    assert len(sent(house)) == 2
    assert (await act(house, verb)).status == 200
    assert len(sent(house)) == 3
    key = await shown(house)
    assert (key["rateCount"], key["ratePeriodStart"]) == (1, house.clock.now_ms() // 1000)


async def test_a_key_may_contain_slashes_and_even_end_like_a_verb(house: House) -> None:
    for key in ("a/b", "team/pause", "pin/x/y"):
        await publish(house, "parallelism=2", key=key)
        assert (await act(house, "pin?parallelism=7", key)).status == 200
        assert ((await shown(house, key))["flowControlKey"], (await shown(house, key))["parallelismMax"]) == (key, 7)


async def test_keys_are_listed_and_searched(house: House) -> None:
    for key in ("b.2", "a_1", "b.1"):
        await publish(house, "parallelism=2", key=key)
    listed = (await house.call("GET", "/v2/flowControl")).json
    assert [key["flowControlKey"] for key in listed] == ["a_1", "b.1", "b.2"]
    found = (await house.call("GET", "/v2/flowControl?search=b.")).json
    assert [key["flowControlKey"] for key in found] == ["b.1", "b.2"]
    assert (await house.call("GET", "/v2/flowControl?search=%25")).json == []
    assert (await house.call("GET", "/v2/flowControl?serch=b")).status == 400


async def test_idle_keys_are_forgotten_but_not_pinned_paused_or_used_ones(house: House) -> None:
    for key in ("idle", "pinned", "paused", "used", "in-its-period"):
        await publish(house, "rate=5, period=7d" if key == "in-its-period" else "rate=5", key=key)
    await act(house, "pin?rate=1", "pinned")
    await act(house, "pause", "paused")
    await publish(house, "rate=5", key="used", delay="1d")
    await house.clock.advance(500)
    assert len((await house.call("GET", "/v2/flowControl")).json) == 5
    await house.clock.advance(200)
    listed = (await house.call("GET", "/v2/flowControl")).json
    assert [key["flowControlKey"] for key in listed] == ["in-its-period", "paused", "pinned", "used"]


async def test_global_parallelism_is_that_of_the_server() -> None:
    clock = ManualClock()
    async with open_house(taking(10, clock), clock=clock, config=ServerConfig(in_flight_max=30)) as house:
        for _ in range(3):
            await house.publish()
        shown = (await house.call("GET", "/v2/globalParallelism")).json
        assert shown == {"parallelismMax": 30, "parallelismCount": 3}


async def test_messages_are_cancelled_by_their_key(house: House) -> None:
    await act(house, "pause")
    await publish_many(house, 3, "parallelism=1")
    await publish(house, "parallelism=1", key="other", delay="1h")
    assert (await house.call("DELETE", "/v2/messages?flowControlKey=k")).json == {"cancelled": 3}
    assert (await shown(house))["waitListSize"] == 0
    await act(house, "resume")
    assert sent(house) == []


async def test_a_dead_letter_is_retried_under_its_key() -> None:
    async with open_house([500]) as house:
        await publish(house, "rate=1, period=1m", retries="0")
        (letter,) = await house.dead_letters("?flowControlKey=k")
        assert letter["flowControlKey"] == "k"
        await house.call("POST", f"/v2/dlq/retry/{letter['dlqId']}")
        await house.clock.settle()
        assert len(sent(house)) == 1
        await house.clock.advance(61)
        assert len(sent(house)) == 2


async def test_callbacks_may_have_a_key_of_their_own() -> None:
    async with open_house() as house:
        for _ in range(3):
            await house.publish(
                callback="https://report.test/",
                callback_flow_control_key="reports",
                callback_flow_control_value="rate=1, period=1m",
            )
        assert len(house.wire.sent_to("https://report.test/")) == 1
        await house.clock.advance(121)
        assert len(house.wire.sent_to("https://report.test/")) == 3


async def test_a_queue_and_a_key_hold_together() -> None:
    clock = ManualClock()
    async with open_house(taking(1, clock), clock=clock) as house:
        headers = {"Upstash-Flow-Control-Key": "k", "Upstash-Flow-Control-Value": "rate=1, period=10s"}
        ids = []
        for _ in range(3):
            reply = await house.call("POST", f"/v2/enqueue/q/{SHOP}", headers=headers)
            ids.append(reply.json["messageId"])
        without = (await house.call("POST", f"/v2/enqueue/q/{SHOP}")).json["messageId"]
        await clock.advance(25)
        assert sent(house) == [*ids, without]
        assert house.wire.gaps_s == [10, 10, 1]


async def test_two_queues_share_a_key_and_are_woken_by_each_other() -> None:
    clock = ManualClock()
    async with open_house(taking(10, clock), clock=clock) as house:
        headers = {"Upstash-Flow-Control-Key": "k", "Upstash-Flow-Control-Value": "parallelism=1"}
        for n in range(6):
            await house.call("POST", f"/v2/enqueue/q{n % 3}/{SHOP}", headers=headers)
        await clock.advance(65)
        assert len(sent(house)) == 6
        assert house.wire.gaps_s == [10] * 5


async def test_a_crash_leaves_no_slot_taken(tmp_path: Path) -> None:
    clock = ManualClock()
    (tmp_path / "a").mkdir()
    path = tmp_path / "a" / "server.db"
    async with open_house(taking(1e6, clock), database=open_database(f"sqlite:///{path}", threads=False)) as house:
        ids = await publish_many(house, 5, "parallelism=2, rate=100, period=1h")
        database = open_database(
            f"sqlite:///{shutil.copytree(path.parent, tmp_path / 'b') / 'server.db'}", threads=False
        )
        async with open_house(taking(1, clock), database=database, clock=clock) as again:
            await clock.settle()
            assert (await shown(again))["parallelismCount"] == 2
            await clock.advance(3)
            assert sorted(filter(None, sent(again))) == sorted(ids)
            assert (await shown(again))["rateCount"] == 7
        await clock.advance(2e6)


async def test_a_paused_key_stays_paused_over_a_restart(tmp_path: Path) -> None:
    clock = ManualClock()
    path = f"sqlite:///{tmp_path / 'server.db'}"
    async with open_house(database=open_database(path, threads=False), clock=clock) as house:
        await act(house, "pause")
        await publish(house, "parallelism=1")
    async with open_house(database=open_database(path, threads=False), clock=clock) as house:
        await clock.advance(60)
        assert sent(house) == []
        await act(house, "resume")
        assert len(sent(house)) == 1


async def test_a_destination_that_comes_back_gets_what_flow_control_orders_as_well() -> None:
    down = True

    def answer(_: HttpRequest) -> Any:
        return ConnectFailed("refused") if down else 200

    async with open_house(answer) as house:
        ids = await publish_many(house, 4, "parallelism=2")
        await house.clock.advance(5)
        down, house.wire.accepts_connections = False, True
        await house.clock.advance(2)
        assert sorted(filter(None, sent(house)[4:])) == sorted(ids)


@pytest.mark.parametrize("seed", range(6))
async def test_the_limits_are_never_overrun_and_everything_is_sent(seed: int) -> None:
    """Keys, queues, failures, delays and pauses at random; what is under way is counted at the destination."""
    chance = random.Random(seed)
    clock = ManualClock()
    limits = {"a": (1, None), "b": (3, 5), "c": (None, 2), "d": (2, 3)}
    under_way = dict.fromkeys(limits, 0)
    most = dict.fromkeys(limits, 0)
    begun: dict[str, list[int]] = {key: [] for key in limits}
    delivered: set[str] = set()

    async def answer(request: HttpRequest) -> int:
        key = request.header("X-Key") or ""
        under_way[key] += 1
        most[key] = max(most[key], under_way[key])
        begun[key].append(clock.now_ms())
        await clock.sleep(chance.choice([0, 0.1, 3, 40]))
        under_way[key] -= 1
        if chance.random() < 0.2:
            return 500
        delivered.add(request.header("Upstash-Message-Id") or "")
        return 200

    async with open_house(answer, clock=clock, config=ServerConfig(in_flight_max=12)) as house:
        accepted: list[str] = []
        for _ in range(80):
            key = chance.choice(list(limits))
            parallelism, rate = limits[key]
            parts = [f"parallelism={parallelism}" if parallelism else "", f"rate={rate}, period=10s" if rate else ""]
            headers = {
                "Upstash-Flow-Control-Key": key,
                "Upstash-Flow-Control-Value": ", ".join(filter(None, parts)),
                "Upstash-Forward-X-Key": key,
                "Upstash-Retries": "20",
                "Upstash-Retry-Delay": "2000",
                **({"Upstash-Delay": "30s"} if chance.random() < 0.2 else {}),
            }
            where = chance.choice(["publish", "enqueue/q", "enqueue/p"])
            reply = await house.call("POST", f"/v2/{where}/https://d{chance.randrange(3)}.test/", headers=headers)
            accepted.append(reply.json["messageId"])
            await clock.advance(chance.choice([0, 0, 0.5, 4]))
            if chance.random() < 0.1:
                await act(house, "pause", key)
                await clock.advance(5)
                await act(house, "resume", key)
        await clock.advance(20_000)
        assert delivered == set(accepted), f"seed {seed}"
        for key, (parallelism, rate) in limits.items():
            assert parallelism is None or most[key] <= parallelism, f"seed {seed}"
            if rate is not None:
                # Periods begin with a delivery, so those that begin in one are found again from the times alone.
                period_began_ms, used = -(10**9), 0
                for at_ms in begun[key]:
                    if at_ms >= period_began_ms + 10_000:
                        period_began_ms, used = at_ms, 0
                    used += 1
                    assert used <= rate, f"seed {seed}"
        assert house.server.deliverer.in_flight == 0
