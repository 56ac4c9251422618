"""Queues: first in, first out, with so many under way at once, whatever happens in between."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from qstash import QStash
from qstash.message import BatchRequest

from idioteque.database import open_database
from idioteque.errors import ConnectFailed
from idioteque.server.config import ServerConfig
from idioteque.testing import ManualClock
from idioteque.transport import HttpRequest
from tests.destination import Received, open_destination, until
from tests.processes import start_server
from tests.server.house import SHOP, House, Reply, open_house


async def enqueue(house: House, queue: str = "q", url: str = SHOP, body: bytes = b"", **headers: str) -> str:
    reply = await enqueue_raw(house, queue, url, body, **headers)
    assert reply.status == 200, reply.text
    await house.clock.settle()
    return reply.json["messageId"]


async def enqueue_raw(house: House, queue: str, url: str = SHOP, body: bytes = b"", **headers: str) -> Reply:
    named = {f"Upstash-{name.replace('_', '-')}": value for name, value in headers.items()}
    return await house.call("POST", f"/v2/enqueue/{queue}/{url}", headers=named, body=body)


async def save(house: House, name: str = "q", **settings: object) -> Reply:
    return await house.call("POST", "/v2/queues", document={"queueName": name, **settings})


async def queue(house: House, name: str = "q") -> dict[str, Any]:
    reply = await house.call("GET", f"/v2/queues/{name}")
    assert reply.status == 200, reply.text
    return reply.json


def taking(seconds: float, clock: ManualClock) -> Callable[[HttpRequest], Awaitable[int]]:
    """A destination that takes so long to say yes."""

    async def answer(_: HttpRequest) -> int:
        await clock.sleep(seconds)
        return 200

    return answer


def sent(house: House) -> list[str | None]:
    return [request.header("Upstash-Message-Id") for request in house.wire.requests]


async def test_a_queue_is_made_changed_and_shown(house: House) -> None:
    created_ms = house.clock.now_ms()
    assert (await save(house, parallelism=3, paused=True)).status == 200
    made = {"name": "q", "parallelism": 3, "createdAt": created_ms, "updatedAt": created_ms, "lag": 0, "paused": True}
    assert await queue(house) == made
    await house.clock.advance(2)
    reply = await house.call("POST", "/v2/queues/", document={"queueName": "q", "parallelism": 2, "paused": False})
    assert reply.status == 200
    assert await queue(house) == {**made, "parallelism": 2, "paused": False, "updatedAt": created_ms + 2000}
    await save(house, "other")
    shown = (await house.call("GET", "/v2/queues")).json
    assert [(each["name"], each["parallelism"], each["paused"]) for each in shown] == [
        ("other", 1, False),
        ("q", 2, False),
    ]


async def test_an_enqueue_makes_its_queue_and_never_changes_one(house: House) -> None:
    await enqueue(house, "new")
    assert (await queue(house, "new"))["parallelism"] == 1
    await save(house, "wide", parallelism=5)
    await enqueue(house, "wide")
    assert (await queue(house, "wide"))["parallelism"] == 5


@pytest.mark.parametrize(
    ("document", "status", "text"),
    [
        ({}, 400, "the body must be like"),
        ({"queueName": 1}, 400, "the body must be like"),
        ({"queueName": "a/b"}, 400, "invalid queue name 'a/b'"),
        ({"queueName": "q", "parallelism": 0}, 400, "invalid parallelism 0"),
        ({"queueName": "q", "parallelism": "2"}, 400, "parallelism must be an integer"),
        ({"queueName": "q", "parallelism": True}, 400, "parallelism must be an integer"),
        ({"queueName": "q", "paused": "no"}, 400, "paused must be true or false"),
        ({"queueName": "q", "parallelism": 1001}, 412, "quota maxQueueParallelism exceeded, current limit: 1000"),
    ],
)
async def test_bad_settings_are_refused_and_nothing_is_made(
    house: House, document: object, status: int, text: str
) -> None:
    reply = await house.call("POST", "/v2/queues", document=document)
    assert (reply.status, text in reply.json["error"]) == (status, True)
    assert (await house.call("GET", "/v2/queues")).json == []


async def test_an_unknown_queue_is_not_found_and_deleted_without_complaint(house: House) -> None:
    for method, path in (("GET", ""), ("POST", "/pause"), ("POST", "/resume")):
        reply = await house.call(method, f"/v2/queues/none{path}")
        assert (reply.status, reply.json["error"]) == (404, "queue none not found")
    assert (await house.call("DELETE", "/v2/queues/none")).status == 200


async def test_a_bad_queue_name_is_refused_and_an_escaped_one_read(house: House) -> None:
    assert "invalid queue name 'a b'" in (await enqueue_raw(house, "a%20b")).json["error"]
    assert (await enqueue_raw(house, "")).status == 400
    message_id = await enqueue(house, "a%2Eb", delay="1h")
    assert (await house.call("GET", f"/v2/messages/{message_id}")).json["queueName"] == "a.b"
    assert (await house.call("POST", "/v2/enqueue/q")).status == 400
    assert (await house.call("GET", f"/v2/enqueue/q/{SHOP}")).status == 405


async def test_the_number_of_queues_has_a_quota() -> None:
    async with open_house(config=ServerConfig(queues_max=1)) as house:
        await enqueue(house, "one")
        text = "quota maxQueues exceeded, current limit: 1"
        for reply in (await save(house, "two"), await enqueue_raw(house, "two")):
            assert (reply.status, reply.json["error"]) == (412, text)
        items = [{"destination": SHOP, "queue": "two"}, {"destination": SHOP, "queue": "one"}]
        bad, good = (await house.call("POST", "/v2/batch", document=items)).json
        assert (bad, "messageId" in good) == ({"error": text}, True)
        assert [each["name"] for each in (await house.call("GET", "/v2/queues")).json] == ["one"]


async def test_messages_are_sent_one_by_one_in_the_order_of_their_acceptance() -> None:
    clock = ManualClock()
    async with open_house(taking(10, clock), clock=clock) as house:
        ids = [await enqueue(house, body=b"%d" % n) for n in range(20)]
        assert (await queue(house))["lag"] == 20
        assert [entry["state"] for entry in await house.events(f"?messageId={ids[1]}")] == ["CREATED"]
        await clock.advance(205)
        assert sent(house) == ids
        assert house.wire.gaps_s == [10] * 19
        assert (await queue(house))["lag"] == 0
        assert await house.states(ids[-1]) == ["CREATED", "ACTIVE", "DELIVERED"]


async def test_a_batch_is_put_in_in_its_order_and_one_message_shows_its_queue(house: House) -> None:
    await save(house, paused=True)
    items = [{"destination": SHOP, "queue": "q" if n % 2 else None, "body": str(n)} for n in range(40)]
    replies = (await house.call("POST", "/v2/batch", document=items)).json
    ids = [each["messageId"] for each in replies]
    await house.clock.settle()
    assert sorted(filter(None, sent(house))) == sorted(ids[::2])
    await house.call("POST", "/v2/queues/q/resume")
    await house.clock.advance(1)
    assert sent(house)[20:] == ids[1::2]
    assert (await house.call("GET", f"/v2/messages/{ids[1]}")).json["queueName"] == "q"
    assert {entry["queueName"] for entry in await house.events("?queueName=q")} == {"q"}
    assert len(await house.events("?queueName=q&state=DELIVERED")) == 20
    assert await house.events("?queueName=other") == []


async def test_the_order_is_kept_over_retries() -> None:
    failures = iter([500, 500])
    async with open_house(lambda _: next(failures, 200)) as house:
        first, second = await enqueue(house, retries="5"), await enqueue(house)
        await house.clock.advance(159)
        assert sent(house) == [first, first]
        await house.clock.advance(2)
        assert sent(house) == [first, first, first, second]


async def test_a_message_that_fails_for_good_lets_the_next_one_go() -> None:
    async with open_house(lambda request: 500 if request.body == b"bad" else 200) as house:
        bad = await enqueue(house, body=b"bad", retries="1", retry_delay="5000")
        good = await enqueue(house)
        await house.clock.advance(4)
        assert sent(house) == [bad]
        await house.clock.advance(2)
        assert sent(house) == [bad, bad, good]
        (letter,) = await house.dead_letters("?queueName=q")
        assert (letter["messageId"], letter["queueName"]) == (bad, "q")


async def test_a_retried_dead_letter_goes_to_the_end_of_its_queue() -> None:
    codes = iter([500])
    async with open_house(lambda _: next(codes, 200)) as house:
        await enqueue(house, retries="0")
        await save(house, paused=True)
        behind = await enqueue(house)
        (letter,) = await house.dead_letters()
        again = (await house.call("POST", f"/v2/dlq/retry/{letter['dlqId']}")).json["messageId"]
        await save(house, paused=False)
        await house.clock.settle()
        assert sent(house)[1:] == [behind, again]


async def test_parallelism_is_how_many_are_under_way_and_they_start_in_order() -> None:
    clock = ManualClock()
    async with open_house(taking(10, clock), clock=clock) as house:
        await save(house, parallelism=3, paused=True)
        ids = [await enqueue(house) for _ in range(9)]
        await save(house, paused=False)
        await clock.advance(9)
        assert sent(house) == ids[:3]
        await clock.advance(2)
        assert sent(house) == ids[:6]
        await save(house, parallelism=1)
        await clock.advance(10)
        assert sent(house) == ids[:7]
        await save(house, parallelism=2)
        await clock.settle()
        assert sent(house) == ids[:8]


async def test_a_paused_queue_sends_nothing_not_even_retries() -> None:
    async with open_house([500, 200]) as house:
        first, second = await enqueue(house), await enqueue(house)
        await house.call("POST", "/v2/queues/q/pause")
        await house.clock.advance(3600)
        assert sent(house) == [first]
        assert (await queue(house))["paused"] is True
        await house.call("POST", "/v2/queues/q/resume")
        await house.clock.settle()
        assert sent(house) == [first, first, second]


async def test_a_delayed_message_holds_up_those_behind_it(house: House) -> None:
    await save(house, parallelism=2)
    late = await enqueue(house, delay="1m")
    behind = await enqueue(house)
    await house.clock.advance(59)
    assert sent(house) == []
    await house.clock.advance(1)
    assert sent(house) == [late, behind]


async def test_the_next_message_waits_for_the_callback_of_the_one_before() -> None:
    clock = ManualClock()

    async def answer(request: HttpRequest) -> int:
        await clock.sleep(30 if "callback" in request.url else 1)
        return 200

    async with open_house(answer, clock=clock) as house:
        first = await enqueue(house, callback="https://callback.test/")
        second = await enqueue(house)
        await clock.advance(30)
        assert [request.url for request in house.wire.requests] == [SHOP, "https://callback.test/"]
        await clock.advance(2)
        assert [request.url for request in house.wire.requests] == [SHOP, "https://callback.test/", SHOP]
        assert (sent(house)[0], sent(house)[2]) == (first, second)


async def test_the_next_message_waits_for_the_retries_of_a_failure_callback() -> None:
    codes = iter([500, 500, 200])
    async with open_house(lambda request: 200 if "good" in request.url else next(codes)) as house:
        await enqueue(house, retries="0", failure_callback="https://report.test/", failure_callback_retries="1")
        await enqueue(house, url="https://good.test/")
        await house.clock.advance(11)
        assert [request.url for request in house.wire.requests] == [SHOP, "https://report.test/"]
        await house.clock.advance(2)
        assert [request.url for request in house.wire.requests][2:] == ["https://report.test/", "https://good.test/"]


async def test_a_cancelled_callback_holds_up_nobody() -> None:
    async with open_house(lambda request: 500 if "report" in request.url else 200) as house:
        await enqueue(house, callback="https://report.test/")
        second = await enqueue(house)
        report = sent(house)[1]
        assert sent(house)[2:] == []
        await house.call("DELETE", f"/v2/messages/{report}")
        await house.clock.settle()
        assert sent(house)[2:] == [second]


@pytest.mark.parametrize("header", ["Delay", "Not-Before"])
@pytest.mark.parametrize("kind", ["Callback", "Failure-Callback"])
async def test_a_delayed_callback_of_a_message_in_a_queue_is_refused(house: House, kind: str, header: str) -> None:
    named = {f"Upstash-{kind}": "https://c.test/", f"Upstash-{kind}-{header}": "10" if "-" in header else "10s"}
    reply = await house.call("POST", f"/v2/enqueue/q/{SHOP}", headers=named)
    assert (reply.status, "no delayed callback" in reply.json["error"]) == (400, True)
    assert (await house.call("POST", f"/v2/publish/{SHOP}", headers=named)).status == 200


async def test_a_cancelled_message_leaves_the_queue_to_the_next_one() -> None:
    async with open_house([500, 200]) as house:
        first, second, third = [await enqueue(house) for _ in range(3)]
        assert (await house.call("DELETE", f"/v2/messages/{second}")).json == {"cancelled": 1}
        assert (await house.call("DELETE", f"/v2/messages/{first}")).json == {"cancelled": 1}
        await house.clock.settle()
        assert sent(house) == [first, third]
        assert (await queue(house))["lag"] == 0


async def test_messages_are_cancelled_by_the_name_of_their_queue(house: House) -> None:
    await save(house, paused=True)
    for _ in range(3):
        await enqueue(house)
    await enqueue(house, "other", delay="1h")
    assert (await house.call("DELETE", "/v2/messages?queueName=q")).json == {"cancelled": 3}
    assert ((await queue(house))["lag"], (await queue(house, "other"))["lag"]) == (0, 1)


async def test_a_deleted_queue_takes_its_messages_with_it() -> None:
    clock = ManualClock()
    async with open_house(taking(10, clock), clock=clock) as house:
        under_way, waiting = await enqueue(house), await enqueue(house)
        assert (await house.call("DELETE", "/v2/queues/q")).status == 200
        assert (await house.call("GET", "/v2/queues/q")).status == 404
        assert (await house.call("GET", f"/v2/messages/{waiting}")).status == 404
        assert await house.states(waiting) == ["CREATED", "CANCEL_REQUESTED", "CANCELED"]
        anew = await enqueue(house)
        await clock.settle()
        assert sent(house) == [under_way, anew]
        await clock.advance(11)
        assert (await house.states(under_way))[-1] == (await house.states(anew))[-1] == "DELIVERED"


async def test_a_queue_keeps_its_order_over_restarts(tmp_path: Path) -> None:
    clock = ManualClock()

    def database() -> Any:
        return open_database(f"sqlite:///{tmp_path / 'server.db'}", threads=False)

    async with open_house(taking(10, clock), database=database(), clock=clock) as house:
        ids = [await enqueue(house) for _ in range(5)]
        await clock.advance(15)
    async with open_house(taking(10, clock), database=database(), clock=clock) as house:
        ids += [await enqueue(house) for _ in range(3)]
        await clock.advance(70)
        seen = [message_id for message_id in sent(house) if message_id is not None]
        assert list(dict.fromkeys(seen)) == ids[-len(seen) :]


async def test_a_stop_begins_nothing_new_in_a_queue() -> None:
    clock = ManualClock()
    async with open_house(taking(5, clock), clock=clock) as house:
        first = await enqueue(house)
        await enqueue(house)
        await clock.advance(1)
    assert sent(house) == [first]


async def test_after_a_crash_the_message_that_was_under_way_goes_first(tmp_path: Path) -> None:
    clock = ManualClock()
    (tmp_path / "a").mkdir()
    path = tmp_path / "a" / "server.db"
    async with open_house(taking(1e6, clock), database=open_database(f"sqlite:///{path}", threads=False)) as house:
        first, second = await enqueue(house), await enqueue(house)
        as_at_a_crash = shutil.copytree(path.parent, tmp_path / "b") / "server.db"
        database = open_database(f"sqlite:///{as_at_a_crash}", threads=False)
        async with open_house(taking(1, clock), database=database, clock=clock) as again:
            await clock.settle()
            assert sent(again) == [first]
            assert again.wire.requests[0].header("Upstash-Retried") == "0"
            await clock.advance(1)
            assert sent(again) == [first, second]
        await clock.advance(2e6)


def test_a_killed_server_starts_everything_in_order_and_one_by_one(tmp_path: Path) -> None:
    order: list[str] = []
    under_way, most = 0, 0

    async def answer(request: Received) -> int:
        nonlocal under_way, most
        if request.message_id not in order:
            order.append(request.message_id)
        under_way += 1
        most = max(most, under_way)
        await asyncio.sleep(0.001)
        under_way -= 1
        return 200

    accepted: list[str] = []
    with open_destination(answer) as destination:
        for _ in range(3):
            server = start_server(tmp_path)
            client = QStash(server.token, base_url=server.url)
            items = [BatchRequest(url=destination.url, queue="q") for _ in range(200)]
            accepted += [each.message_id for each in client.message.batch(items)]
            client.http._client.close()
            middle = len(accepted) - 120
            until(lambda middle=middle: len(order) > middle)
            server.kill()
        server = start_server(tmp_path)
        until(lambda: len(order) == len(accepted))
        assert server.stop() == 0
    assert order == accepted
    assert most == 1


async def test_a_duplicate_takes_no_place(house: House) -> None:
    await save(house, paused=True)
    first = await enqueue(house, deduplication_id="d")
    reply = await enqueue_raw(house, "q", deduplication_id="d")
    assert (reply.status, reply.json["messageId"]) == (202, first)
    assert (await queue(house))["lag"] == 1


async def test_a_url_group_is_put_into_a_queue_endpoint_by_endpoint(house: House) -> None:
    endpoints = [{"url": "https://one.test/"}, {"url": "https://two.test/"}]
    await house.call("POST", "/v2/topics/g/endpoints", document={"endpoints": endpoints})
    await save(house, paused=True)
    reply = await house.call("POST", "/v2/enqueue/q/g")
    assert [each["url"] for each in reply.json] == ["https://one.test/", "https://two.test/"]
    assert (await queue(house))["lag"] == 2
    await save(house, paused=False)
    await house.clock.settle()
    assert [request.url for request in house.wire.requests] == ["https://one.test/", "https://two.test/"]


async def test_a_schedule_fills_a_queue_and_leaves_its_parallelism_alone(house: House) -> None:
    await save(house, parallelism=7)
    headers = {"Upstash-Cron": "* * * * *", "Upstash-Queue-Name": "q", "Upstash-Schedule-Id": "s"}
    assert (await house.call("POST", f"/v2/schedules/{SHOP}", headers=headers)).status == 200
    await house.clock.advance(61)
    (entry,) = await house.events("?scheduleId=s&state=DELIVERED")
    assert entry["queueName"] == "q"
    assert (await queue(house))["parallelism"] == 7


async def test_a_queue_whose_destination_comes_back_goes_on_at_once() -> None:
    down = True

    def answer(_: HttpRequest) -> Any:
        return ConnectFailed("refused") if down else 200

    async with open_house(answer) as house:
        first, second = await enqueue(house), await enqueue(house)
        await house.clock.advance(3)
        assert sent(house) == [first]
        down, house.wire.accepts_connections = False, True
        await house.clock.advance(2)
        assert sent(house) == [first, first, second]


async def test_queues_do_not_wait_for_each_other() -> None:
    clock = ManualClock()
    async with open_house(taking(100, clock), clock=clock) as house:
        ids = [await enqueue(house, f"q{n}") for n in range(50)]
        plain = await house.publish()
        assert sorted(filter(None, sent(house))) == sorted([*ids, plain])


async def test_a_queue_that_stands_still_costs_nothing_and_loses_nothing() -> None:
    clock = ManualClock()
    async with open_house(taking(0.1, clock), clock=clock) as house:
        await save(house, parallelism=10, paused=True)
        for _ in range(5):
            items = [{"destination": f"https://d{n % 7}.test/", "queue": "q"} for n in range(100)]
            await house.call("POST", "/v2/batch", document=items)
        await clock.advance(3600)
        assert (await queue(house))["lag"] == 500
        await save(house, paused=False)
        await clock.advance(6)
        assert ((await queue(house))["lag"], len(sent(house)), len(set(sent(house)))) == (0, 500, 500)
