"""Deduplication: which publishes are one message, for how long, and that nothing else depends on it."""

from __future__ import annotations

from pathlib import Path

import pytest

from idioteque.database import open_database
from idioteque.testing import ManualClock
from tests.server.house import SHOP, House, Reply, open_house

OTHER = "https://other.test/hook"


async def publish(house: House, url: str = SHOP, body: bytes = b"", id_: str | None = "x", **headers: str) -> Reply:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    if id_ is not None:
        named["Upstash-Deduplication-Id"] = id_
    reply = await house.call("POST", f"/v2/publish/{url}", headers=named, body=body)
    await house.clock.settle()
    return reply


def flags(*replies: Reply) -> list[bool]:
    assert [reply.status for reply in replies] == [202 if reply.json.get("deduplicated") else 200 for reply in replies]
    return [reply.json.get("deduplicated", False) for reply in replies]


async def test_a_second_publish_names_the_first_message_and_sends_nothing(house: House) -> None:
    first = await publish(house)
    second = await publish(house, OTHER, b"something else", Upstash_Retries="9")
    assert flags(first, second) == [False, True]
    assert second.json == {"messageId": first.json["messageId"], "url": SHOP, "deduplicated": True}
    assert [request.url for request in house.wire.requests] == [SHOP]


async def test_the_window_is_ten_minutes_from_the_acceptance_and_a_duplicate_does_not_prolong_it(house: House) -> None:
    first = await publish(house)
    await house.clock.advance(400)
    second = await publish(house)
    await house.clock.advance(199.999)
    third = await publish(house)
    await house.clock.advance(0.001)
    fourth = await publish(house)
    assert flags(first, second, third, fourth) == [False, True, True, False]
    assert len(house.wire.requests) == 2


async def test_the_window_of_a_delayed_message_begins_at_its_acceptance_too(house: House) -> None:
    first = await publish(house, Upstash_Delay="1h")
    await house.clock.advance(601)
    assert flags(first, await publish(house)) == [False, False]


async def test_a_cancelled_message_is_not_published_again(house: House) -> None:
    first = await publish(house, Upstash_Delay="1h")
    await house.call("DELETE", f"/v2/messages/{first.json['messageId']}")
    second = await publish(house)
    assert (flags(second), second.json["messageId"]) == ([True], first.json["messageId"])
    await house.clock.advance(7200)
    assert house.wire.requests == []


async def test_a_failed_message_is_not_published_again_and_its_dead_letter_is() -> None:
    async with open_house([500, 200]) as house:
        first = await publish(house, Upstash_Retries="0")
        (letter,) = await house.dead_letters()
        assert flags(await publish(house)) == [True]
        retried = await house.call("POST", f"/v2/dlq/retry/{letter['dlqId']}")
        await house.clock.settle()
        assert retried.status == 201
        assert retried.json["messageId"] != first.json["messageId"]
        assert len(house.wire.requests) == 2


async def test_the_window_is_kept_across_a_restart(tmp_path: Path) -> None:
    url, clock = f"sqlite:///{tmp_path / 'server.db'}", ManualClock()
    async with open_house(database=open_database(url, threads=False), clock=clock) as house:
        first = await publish(house)
    async with open_house(database=open_database(url, threads=False), clock=clock) as house:
        assert flags(first, await publish(house)) == [False, True]


async def test_a_refused_publish_takes_no_id(house: House) -> None:
    assert (await publish(house, Upstash_Retries="many")).status == 400
    assert (await publish(house, "nowhere")).status == 400
    assert flags(await publish(house)) == [False]


async def test_content_is_destination_body_and_forwarded_headers(house: House) -> None:
    def content(**headers: str) -> dict[str, str]:
        return {"Upstash_Content_Based_Deduplication": "true", **headers}

    replies = [
        await publish(house, body=b"a", id_=None, **content()),
        await publish(house, body=b"a", id_=None, **content()),
        await publish(house, body=b"b", id_=None, **content()),
        await publish(house, OTHER, b"a", None, **content()),
        await publish(house, body=b"a", id_=None, **content(Content_Type="text/plain")),
        await publish(house, body=b"a", id_=None, **content(Upstash_Forward_X="1")),
        await publish(house, body=b"a", id_=None, **content(Upstash_Forward_x="1")),
        # Not what is sent, but how: not content.
        await publish(house, body=b"a", id_=None, **content(Upstash_Retries="7", Upstash_Delay="1h")),
    ]
    assert flags(*replies) == [False, True, False, False, False, False, True, True]


@pytest.mark.parametrize(("value", "holds"), [("True", True), ("TRUE", True), ("1", True), ("False", False)])
async def test_the_python_sdk_writes_its_flag_with_a_capital(house: House, value: str, holds: bool) -> None:
    replies = [await publish(house, id_=None, Upstash_Content_Based_Deduplication=value) for _ in range(2)]
    assert flags(*replies) == [False, holds]


async def test_an_explicit_id_wins_over_the_content(house: House) -> None:
    replies = [
        await publish(house, body=body, id_=id_, Upstash_Content_Based_Deduplication="true")
        for body, id_ in ((b"a", "one"), (b"a", "two"), (b"b", "two"), (b"a", None))
    ]
    assert flags(*replies) == [False, False, True, False]


async def test_old_ids_are_forgotten(house: House) -> None:
    for number in range(5):
        await publish(house, id_=f"id-{number}")
    await house.clock.advance(700)
    rows = await house.server.database.read(lambda tx: tx.execute("SELECT COUNT(*) FROM deduplications"))
    assert rows[0][0] == 0
