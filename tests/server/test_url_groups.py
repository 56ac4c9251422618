"""URL groups: their endpoints and default headers, and what a publish to one makes."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest

from idioteque.server.config import ServerConfig
from idioteque.transport import HttpResponse
from tests.server.house import SHOP, House, Reply, open_house

ONE, TWO, THREE = "https://one.test/a", "https://two.test/b", "https://three.test/c"


async def add(house: House, group: str, *endpoints: dict[str, str]) -> None:
    reply = await house.call("POST", f"/v2/topics/{group}/endpoints", document={"endpoints": endpoints})
    assert reply.status == 200, reply.text


async def group(house: House, name: str) -> Any:
    reply = await house.call("GET", f"/v2/topics/{name}")
    assert reply.status == 200, reply.text
    return reply.json


async def set_headers(house: House, name: str, headers: object) -> Reply:
    return await house.call("PATCH", f"/v2/topics/{name}", document={"headers": headers})


async def test_a_group_is_made_by_its_first_endpoint_and_gone_with_its_last(house: House) -> None:
    created_ms = house.clock.now_ms()
    await add(house, "news", {"url": ONE, "name": "one"}, {"url": TWO})
    await house.clock.advance(5)
    await add(house, "news", {"url": THREE})
    assert await group(house, "news") == {
        "name": "news",
        "createdAt": created_ms,
        "updatedAt": created_ms + 5000,
        "endpoints": [{"name": "one", "url": ONE}, {"url": TWO}, {"url": THREE}],
    }
    assert (await house.call("GET", "/v2/topics")).json == [await group(house, "news")]
    remove = {"endpoints": [{"name": "one"}, {"url": TWO}, {"url": THREE, "name": "of another"}]}
    assert (await house.call("DELETE", "/v2/topics/news/endpoints", document=remove)).status == 200
    assert (await group(house, "news"))["endpoints"] == [{"url": THREE}]
    await house.call("DELETE", "/v2/topics/news/endpoints", document={"endpoints": [{"url": THREE}]})
    assert (await house.call("GET", "/v2/topics/news")).status == 404
    assert (await house.call("GET", "/v2/topics")).json == []


async def test_an_endpoint_is_known_by_its_name_or_its_url(house: House) -> None:
    await add(house, "g", {"url": ONE, "name": "a"}, {"url": TWO, "name": "b"})
    await add(house, "g", {"url": THREE, "name": "a"})
    assert (await group(house, "g"))["endpoints"] == [{"name": "a", "url": THREE}, {"name": "b", "url": TWO}]
    await add(house, "g", {"url": TWO})
    assert (await group(house, "g"))["endpoints"][1] == {"name": "b", "url": TWO}
    await add(house, "g", {"url": TWO, "name": "a"})
    assert (await group(house, "g"))["endpoints"] == [{"name": "a", "url": TWO}]


async def test_a_group_that_does_not_exist_is_deleted_without_complaint_and_not_changed(house: House) -> None:
    assert (await house.call("DELETE", "/v2/topics/none")).status == 200
    assert (await house.call("GET", "/v2/topics/none")).status == 404
    assert (await set_headers(house, "none", {"Upstash-Retries": "1"})).status == 404
    remove = {"endpoints": [{"url": ONE}]}
    assert (await house.call("DELETE", "/v2/topics/none/endpoints", document=remove)).status == 404


@pytest.mark.parametrize(
    ("name", "document", "text"),
    [
        ("b@d", {"endpoints": [{"url": ONE}]}, "invalid URL group name 'b@d'"),
        ("g", {"endpoints": []}, "the body must be like"),
        ("g", {}, "the body must be like"),
        ("g", [], "the body must be a JSON object"),
        ("g", {"endpoints": ["x"]}, "an endpoint must be an object"),
        ("g", {"endpoints": [{"name": "x"}]}, "an endpoint must have a url"),
        ("g", {"endpoints": [{"url": 1}]}, "an endpoint's url must be a string"),
        ("g", {"endpoints": [{"url": ONE, "name": "a b"}]}, "invalid endpoint name 'a b'"),
        ("g", {"endpoints": [{"url": ONE}, {"url": "ftp://x"}]}, "endpoint has invalid scheme"),
        ("g", {"endpoints": [{"url": ONE}, {"url": "http://127.0.0.1/"}]}, "loopback address: 127.0.0.1"),
    ],
)
async def test_bad_endpoints_are_refused_and_none_is_stored(
    house: House, name: str, document: object, text: str
) -> None:
    reply = await house.call("POST", f"/v2/topics/{name}/endpoints", document=document)
    assert reply.status == 400
    assert text in reply.json["error"]
    assert (await house.call("GET", "/v2/topics")).json == []


async def test_groups_and_their_endpoints_have_quotas() -> None:
    async with open_house(config=ServerConfig(url_groups_max=1, url_group_endpoints_max=2)) as house:
        await add(house, "g", {"url": ONE}, {"url": TWO})
        for name in ("g", "h"):
            reply = await house.call("POST", f"/v2/topics/{name}/endpoints", document={"endpoints": [{"url": THREE}]})
            assert reply.status == 412
            assert "quota max" in reply.json["error"]
        assert len((await group(house, "g"))["endpoints"]) == 2


async def test_a_publish_to_a_group_goes_to_every_endpoint(house: House) -> None:
    await add(house, "news", {"url": ONE, "name": "one"}, {"url": TWO})
    reply = await house.call("POST", "/v2/publish/news", headers={"Upstash-Forward-X-A": "1"}, body=b"hello")
    await house.clock.settle()
    assert reply.status == 200
    assert [set(each) for each in reply.json] == [{"messageId", "url"}] * 2
    assert [each["url"] for each in reply.json] == [ONE, TWO]
    assert [(r.url, r.body, r.header("X-A"), r.header("Upstash-Topic-Name")) for r in house.wire.requests] == [
        (ONE, b"hello", "1", "news"),
        (TWO, b"hello", "1", "news"),
    ]
    first = (await house.call("GET", f"/v2/messages/{reply.json[0]['messageId']}")).json
    assert (first["topicName"], first["endpointName"]) == ("news", "one")
    assert {entry["topicName"] for entry in await house.events("?topicName=news")} == {"news"}
    assert await house.events("?topicName=other") == []


async def test_a_group_is_found_by_its_escaped_name_and_its_query_is_configuration_only(house: House) -> None:
    await add(house, "my.group-1", {"url": ONE + "?own=1"})
    reply = await house.call("POST", "/v2/publish/my%2Egroup%2D1?upstash-retries=7&other=1")
    message = (await house.call("GET", f"/v2/messages/{reply.json[0]['messageId']}")).json
    assert (message["url"], message["maxRetries"]) == (ONE + "?own=1", 7)


@pytest.mark.parametrize("name", ["nobody", "api%2Fllm", "api/llm", "api/email"])
async def test_a_publish_to_an_unknown_group_is_refused_like_a_url_without_scheme(house: House, name: str) -> None:
    reply = await house.call("POST", f"/v2/publish/{name}")
    assert reply.status == 400
    assert "invalid destination url: endpoint has invalid scheme, add http:// or https://" in reply.json["error"]


async def test_default_headers_are_those_of_every_publish_unless_it_brings_its_own(house: House) -> None:
    await add(house, "g", {"url": ONE})
    await set_headers(house, "g", {"Upstash-Retries": "7", "Upstash-Forward-X-A": ["a", "b"], "Upstash-Label": ["l"]})
    await set_headers(house, "g", {"upstash-method": "PUT", "Upstash-Label": []})
    assert (await group(house, "g"))["headers"] == {
        "Upstash-Retries": ["7"],
        "Upstash-Forward-X-A": ["a, b"],
        "Upstash-Method": ["PUT"],
    }
    reply = await house.call("POST", "/v2/publish/g", headers={"Upstash-Retries": "1"})
    message = (await house.call("GET", f"/v2/messages/{reply.json[0]['messageId']}")).json
    assert (message["maxRetries"], message["method"], message["header"]) == (1, "PUT", {"X-A": ["a, b"]})
    assert "labels" not in message


async def test_a_group_that_forwards_all_headers_takes_a_webhook_as_it_comes(house: House) -> None:
    await add(house, "g", {"url": ONE})
    await set_headers(house, "g", {"Upstash-Header-Forward": ["true"]})
    await house.call("POST", "/v2/publish/g", headers={"X-Event": "push", "Content-Type": "text/plain"}, body=b"x")
    await house.clock.settle()
    (request,) = house.wire.requests
    assert (request.header("X-Event"), request.header("Content-Type")) == ("push", "text/plain")
    assert request.header("Authorization") is None


@pytest.mark.parametrize(
    ("headers", "text"),
    [
        (None, "the body must be like"),
        ({"Upstash-Retries": 3}, "must be a string, or a list of strings"),
        ({"Upstash-Retries": "many"}, "invalid Upstash-Retries 'many'"),
        ({"X-Mine": "1"}, "none of a publish"),
        ({"Upstash-Forward-X": "a\r\nb"}, "printable ASCII"),
    ],
)
async def test_bad_default_headers_are_refused(house: House, headers: object, text: str) -> None:
    await add(house, "g", {"url": ONE})
    reply = await set_headers(house, "g", headers)
    assert reply.status == 400
    assert text in reply.json["error"]
    assert "headers" not in await group(house, "g")


async def test_each_endpoint_has_a_deduplication_window_of_its_own(house: House) -> None:
    await add(house, "g", {"url": ONE})
    first = await house.call("POST", "/v2/publish/g", headers={"Upstash-Deduplication-Id": "x"})
    await add(house, "g", {"url": TWO})
    second = await house.call("POST", "/v2/publish/g", headers={"Upstash-Deduplication-Id": "x"})
    assert (first.status, second.status) == (200, 200)
    assert second.json[0] == {**first.json[0], "deduplicated": True}
    assert "deduplicated" not in second.json[1]
    third = await house.call("POST", "/v2/publish/g", headers={"Upstash-Deduplication-Id": "x"})
    assert third.status == 202
    assert [each["deduplicated"] for each in third.json] == [True, True]
    await house.clock.settle()
    assert [request.url for request in house.wire.requests] == [ONE, TWO]


async def test_a_batch_answers_with_an_array_for_a_group(house: House) -> None:
    await add(house, "g", {"url": ONE}, {"url": TWO})
    items = [{"destination": SHOP}, {"destination": "g", "body": "hi", "queue": None}, {"destination": "nobody"}]
    reply = await house.call("POST", "/v2/batch", document=items)
    plain, fanned, error = reply.json
    assert (reply.status, plain["url"], [each["url"] for each in fanned]) == (200, SHOP, [ONE, TWO])
    assert "no URL group 'nobody'" in error["error"]
    await house.clock.settle()
    assert sorted(request.url for request in house.wire.requests) == sorted([SHOP, ONE, TWO])


async def test_what_a_group_multiplies_is_bounded() -> None:
    async with open_house(config=ServerConfig(fan_out_bytes_max=8 * 1024)) as house:
        await add(house, "g", {"url": ONE}, {"url": TWO})
        assert (await house.call("POST", "/v2/publish/g", body=b"x" * 4000)).status == 413
        items = [{"destination": "g"}] * 5
        reply = await house.call("POST", "/v2/batch", document=items)
        assert ["error" in each for each in reply.json] == [False, False, False, False, True]
        await house.clock.settle()
        assert len(house.wire.requests) == 8


async def test_a_deleted_groups_messages_go_on_and_a_retried_dead_letter_keeps_its_group() -> None:
    async with open_house([500]) as house:
        await add(house, "g", {"url": ONE, "name": "one"})
        reply = await house.call("POST", "/v2/publish/g", headers={"Upstash-Retries": "1"})
        await house.call("DELETE", "/v2/topics/g")
        await house.clock.advance(60)
        (letter,) = await house.dead_letters("?topicName=g")
        assert (letter["messageId"], letter["endpointName"]) == (reply.json[0]["messageId"], "one")
        await house.call("POST", f"/v2/dlq/retry/{letter['dlqId']}")
        await house.clock.settle()
        assert [r.header("Upstash-Topic-Name") for r in house.wire.requests] == ["g", "g", "g"]


async def test_callbacks_name_the_group_and_the_endpoint() -> None:
    async with open_house([HttpResponse(200, (), b"done")]) as house:
        await add(house, "g", {"url": ONE, "name": "one"})
        await house.call("POST", "/v2/publish/g", headers={"Upstash-Callback": "https://cb.test/"}, body=b"x")
        await house.clock.settle()
        (callback,) = house.wire.sent_to("https://cb.test/")
        told = json.loads(callback.body)
        assert (told["topicName"], told["endpointName"], base64.b64decode(told["sourceBody"])) == ("g", "one", b"x")
        assert callback.header("Upstash-Topic-Name") is None


async def test_pending_messages_of_a_group_are_cancelled_together(house: House) -> None:
    await add(house, "g", {"url": ONE}, {"url": TWO})
    await house.call("POST", "/v2/publish/g", headers={"Upstash-Delay": "1h"})
    await house.publish(delay="1h")
    assert (await house.call("DELETE", "/v2/messages?topicName=g")).json == {"cancelled": 2}
