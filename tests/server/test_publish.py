"""Publish and batch at the door: what is stored and sent, and what is refused with which text."""

from __future__ import annotations

import json
from typing import Any

import pytest

from idioteque.server.config import ServerConfig
from tests.server.house import SHOP, House, open_house

AUTH = "authorization"


async def test_a_message_arrives_as_it_was_published(house: House) -> None:
    reply = await house.call(
        "POST",
        f"/v2/publish/{SHOP}",
        headers={"Content-Type": "application/json", "Upstash-Forward-X-Test": "hi", "Upstash-Method": "PUT"},
        body=b'{"a": 1}',
    )
    await house.clock.settle()
    message_id = reply.json["messageId"]
    assert (reply.status, reply.json["url"]) == (200, SHOP)
    (request,) = house.wire.requests
    assert (request.method, request.url, request.body) == ("PUT", SHOP, b'{"a": 1}')
    assert [pair for pair in request.headers if pair[0] != "Upstash-Signature"] == [
        ("Content-Type", "application/json"),
        ("X-Test", "hi"),
        ("User-Agent", "Upstash-QStash"),
        ("Accept-Encoding", "identity"),
        ("Upstash-Message-Id", message_id),
        ("Upstash-Retried", "0"),
        ("Upstash-Caller-Ip", "192.0.2.7"),
    ]


@pytest.mark.parametrize(
    ("target", "url"),
    [
        ("https://example.com", "https://example.com"),
        ("https://ex.com/a%20b/%C3%A9?x=1&y=a%20b", "https://ex.com/a%20b/%C3%A9?x=1&y=a%20b"),
        ("https://ex.com/c//d", "https://ex.com/c//d"),
        ("https://ex.com/%2F%2e%2e/x;y=1", "https://ex.com/%2F%2e%2e/x;y=1"),
        ("https:/ex.com/x", "https://ex.com/x"),
        ("http%3A%2F%2Fex.com%2Fx", "http://ex.com/x"),
        ("HTTPS%3a%2f%2fex.com/x", "HTTPS://ex.com/x"),
        ("https://ex.com/?a=1&Upstash-Retries=3&b=%2B", "https://ex.com/?a=1&b=%2B"),
        ("https://ex.com/?upstash-retries=3", "https://ex.com/"),
        ("https://user:pass@ex.com:8443/x", "https://user:pass@ex.com:8443/x"),
        ("https://ex.com/?next=https://other.com/", "https://ex.com/?next=https://other.com/"),
    ],
)
async def test_the_destination_is_the_raw_rest_of_the_target(house: House, target: str, url: str) -> None:
    reply = await house.call("POST", f"/v2/publish/{target}")
    assert reply.json.get("url") == url


async def test_configuration_in_the_query_yields_to_headers(house: House) -> None:
    query = "upstash-retries=7&upstash-forward-x-a=1&upstash-method=PUT&keep=1"
    message_id = await house.publish(f"{SHOP}?{query}", method="PATCH")
    message = (await house.call("GET", f"/v2/messages/{message_id}")).json
    assert (message["maxRetries"], message["method"], message["url"]) == (7, "PATCH", f"{SHOP}?keep=1")
    assert message["header"] == {"X-A": ["1"]}


async def test_a_token_in_the_query_admits_and_goes_no_further(house: House) -> None:
    reply = await house.call("POST", f"/v2/publish/{SHOP}?qstash%5Ftoken=token-of-the-tests&a=1", token=None)
    await house.clock.settle()
    assert (reply.status, reply.json["url"]) == (200, f"{SHOP}?a=1")
    assert "token-of-the-tests" not in repr(house.wire.requests)


async def test_a_setting_turns_tokens_in_the_query_off() -> None:
    async with open_house(config=ServerConfig(token_in_query=False)) as house:
        reply = await house.call("POST", f"/v2/publish/{SHOP}?qstash_token=token-of-the-tests", token=None)
        assert reply.status == 401


@pytest.mark.parametrize(
    ("target", "text"),
    [
        ("my-group", "invalid destination url: endpoint has invalid scheme, add http:// or https://"),
        ("ftp://x.test/", "invalid destination url: endpoint has invalid scheme"),
        ("", "invalid destination url: endpoint has invalid scheme"),
        ("https://", "invalid destination url: '' is not a host name"),
        ("http://127.0.0.1:3000/", "invalid destination url: endpoint resolves to a loopback address: 127.0.0.1"),
        ("http://localhost/", "--dev"),
        ("http://10.1.2.3/", "--allow-private 10.1.2.3/32"),
        ("https://ex.com/%zz\x00", "control character"),
        ("https://ex.com/" + "a" * 9000, "longer than 8192 bytes"),
    ],
)
async def test_a_bad_destination_is_refused_and_nothing_is_stored(house: House, target: str, text: str) -> None:
    reply = await house.call("POST", f"/v2/publish/{target}")
    assert reply.status == 400
    assert text in reply.json["error"]
    assert await house.events() == []


@pytest.mark.parametrize(
    ("header", "value", "status", "text"),
    [
        ("Upstash-Method", "BREW", 400, "invalid Upstash-Method 'BREW'"),
        ("Upstash-Method", "GET\r\nX: y", 400, "printable ASCII"),
        ("Upstash-Delay", "soon", 400, "invalid Upstash-Delay 'soon'"),
        ("Upstash-Delay", "-5s", 400, "invalid Upstash-Delay"),
        ("Upstash-Delay", "99999999999d", 412, "quota maxDelay exceeded, current limit: "),
        ("Upstash-Not-Before", "1.5", 400, "invalid Upstash-Not-Before '1.5'"),
        ("Upstash-Not-Before", "99999999999", 412, "quota maxDelay exceeded"),
        ("Upstash-Retries", "-1", 400, "invalid Upstash-Retries '-1'"),
        ("Upstash-Retries", "1e3", 400, "invalid Upstash-Retries"),
        ("Upstash-Retries", "9999", 412, "quota maxRetries exceeded, current limit: 1000"),
        ("Upstash-Retry-Delay", "pow(2", 400, "invalid retry delay expression 'pow(2'"),
        ("Upstash-Retry-Delay", "__import__('os')", 400, "invalid retry delay expression"),
        ("Upstash-Timeout", "0", 400, "must be more than zero"),
        ("Upstash-Timeout", "fast", 400, "invalid Upstash-Timeout 'fast'"),
        ("Upstash-Callback", "not-a-url", 400, "invalid callback url: endpoint has invalid scheme"),
        ("Upstash-Failure-Callback", "http://127.0.0.1/", 400, "invalid callback url: endpoint resolves to a loopback"),
        ("Upstash-Deduplication-Id", "a:b", 400, "no colon"),
        ("Upstash-Deduplication-Id", "", 400, "invalid Upstash-Deduplication-Id"),
        ("Upstash-Content-Based-Deduplication", "maybe", 400, "must be true or false"),
        ("Upstash-Label", "a,b c", 400, "invalid Upstash-Label 'b c'"),
        ("Upstash-Forward-X", "a\nb", 400, "printable ASCII"),
        ("Upstash-Forward-X", "a\x00b", 400, "printable ASCII"),
        ("Upstash-Forward-X", "caf\xe9", 400, "printable ASCII"),
        ("Upstash-Forward-", "x", 400, "invalid forwarded header name"),
        ("Upstash-Forward-A B", "x", 400, "invalid forwarded header name"),
        ("Upstash-Forward-X", "a" * 20_000, 400, "longer than 16384 bytes"),
        ("Upstash-Flow-Control-Key", "k", 400, "needs Upstash-Flow-Control-Value"),
    ],
)
async def test_a_bad_header_is_refused_and_nothing_is_stored(
    house: House, header: str, value: str, status: int, text: str
) -> None:
    reply = await house.call("POST", f"/v2/publish/{SHOP}", headers={header: value})
    assert reply.status == status
    assert text in reply.json["error"]
    assert await house.events() == []


async def test_a_callbacks_own_headers_are_checked_too(house: House) -> None:
    headers = {"Upstash-Callback": "https://cb.test/", "Upstash-Callback-Retries": "many"}
    reply = await house.call("POST", f"/v2/publish/{SHOP}", headers=headers)
    assert reply.status == 400
    assert "invalid Upstash-Retries 'many'" in reply.json["error"]


async def test_too_many_forwarded_headers_are_refused(house: House) -> None:
    headers = {f"Upstash-Forward-X-{place}": "1" for place in range(65)}
    reply = await house.call("POST", f"/v2/publish/{SHOP}", headers=headers)
    assert (reply.status, "more than 64" in reply.json["error"]) == (400, True)


async def test_a_client_cannot_forge_what_the_server_or_the_connection_sets(house: House) -> None:
    forged = [
        "Host", "Content-Length", "Transfer-Encoding", "Connection", "TE", "Upgrade", "Upstash-Signature",
        "Upstash-Message-Id", "Upstash-Retried", "Upstash-Caller-Ip", "User-Agent", "Content-Type",
    ]  # fmt: skip
    await house.publish(**{f"Forward-{name}": "forged" for name in forged}, **{"Forward-Upstash-Workflow-X": "1"})
    (request,) = house.wire.requests
    assert "forged" not in repr(request.headers)
    assert request.header("Upstash-Workflow-X") == "1"


async def test_an_authorization_for_the_destination_survives(house: House) -> None:
    await house.publish(forward_authorization="Bearer theirs")
    assert house.wire.requests[0].header("Authorization") == "Bearer theirs"


async def test_a_webhooks_headers_are_forwarded_all_at_once(house: House) -> None:
    headers = {
        "Upstash-Header-Forward": "true",
        "X-Hub": "1",
        "X-Both": "plain",
        "Upstash-Forward-X-Both": "named",
        "Content-Type": "text/plain",
        "Connection": "close",
    }
    await house.call("POST", f"/v2/publish/{SHOP}", headers=headers, body=b"x")
    await house.clock.settle()
    sent = dict(house.wire.requests[0].headers)
    assert (sent["X-Hub"], sent["X-Both"], sent["Content-Type"]) == ("1", "named", "text/plain")
    assert not {"Authorization", "Connection", "Upstash-Header-Forward"} & set(sent)


async def test_values_of_a_repeated_header_are_joined(house: House) -> None:
    pairs = [("Upstash-Forward-Test-Case", "a"), ("upstash-forward-TEST-CASE", "b")]
    await house.call("POST", f"/v2/publish/{SHOP}", headers=pairs)
    await house.clock.settle()
    assert house.wire.requests[0].header("Test-Case") == "a, b"


async def test_a_large_body_is_refused_and_one_at_the_limit_is_not() -> None:
    async with open_house(config=ServerConfig(body_bytes_max=1000, batch_bytes_max=3000)) as house:
        assert (await house.call("POST", f"/v2/publish/{SHOP}", body=b"x" * 1000)).status == 200
        reply = await house.call("POST", f"/v2/publish/{SHOP}", body=b"x" * 1001)
        assert reply.status == 413
        assert "1000" in reply.json["error"]
        assert (await house.call("POST", "/v2/batch", body=b"[" + b" " * 3000 + b"]")).status == 413


async def test_a_deduplication_id_gives_one_message_for_ten_minutes(house: House) -> None:
    first = await house.call("POST", f"/v2/publish/{SHOP}", headers={"Upstash-Deduplication-Id": "order 7"})
    await house.clock.advance(599)
    second = await house.call("POST", f"/v2/publish/{SHOP}", headers={"Upstash-Deduplication-Id": "order 7"})
    await house.clock.advance(2)
    third = await house.call("POST", f"/v2/publish/{SHOP}", headers={"Upstash-Deduplication-Id": "order 7"})
    await house.clock.settle()
    assert (first.status, second.status, third.status) == (200, 202, 200)
    assert second.json == {"messageId": first.json["messageId"], "url": SHOP, "deduplicated": True}
    assert third.json["messageId"] != first.json["messageId"]
    assert len(house.wire.requests) == 2


async def test_content_decides_when_it_is_asked_to(house: House) -> None:
    async def publish(body: bytes, **headers: str) -> int:
        named = {"Upstash-Content-Based-Deduplication": "True", **headers}
        return (await house.call("POST", f"/v2/publish/{SHOP}", headers=named, body=body)).status

    assert [
        await publish(b"a"),
        await publish(b"a"),
        await publish(b"b"),
        await publish(b"a", **{"Content-Type": "text/plain"}),
        await publish(b"a", **{"Upstash-Forward-X": "1"}),
        await publish(b"a", **{"Upstash-Deduplication-Id": "other"}),
    ] == [200, 202, 200, 200, 200, 200]


async def test_a_batch_answers_in_order_and_bad_items_spoil_only_themselves(house: House) -> None:
    items: list[Any] = [
        {"destination": SHOP, "headers": {"upstash-method": "PUT", "Content-Type": "text/plain"}, "body": "one"},
        {"destination": "nowhere", "body": None},
        7,
        {"destination": SHOP, "headers": {"Upstash-Retries": "x"}},
        {"destination": SHOP, "body": {"not": "text"}},
        {"destination": SHOP, "headers": {"Upstash-Not-Before": "99999999999"}},
        {"destination": "https://ex.com/a b/é?x=1#frag", "body": "ünï", "queue": None},
    ]
    reply = await house.call("POST", "/v2/batch", document=items)
    await house.clock.settle()
    assert reply.status == 200
    answers = reply.json
    assert ["messageId" in answer for answer in answers] == [True, False, False, False, False, False, True]
    assert [len(answer["error"]) > 10 for answer in answers[1:6]] == [True] * 5
    sent = [(request.method, request.url, request.body) for request in house.wire.requests]
    assert sent == [("PUT", SHOP, b"one"), ("POST", "https://ex.com/a%20b/%C3%A9?x=1", "ünï".encode())]


async def test_a_batch_may_repeat_a_deduplication_id_within_itself(house: House) -> None:
    item = {"destination": SHOP, "headers": {"Upstash-Deduplication-Id": "same"}}
    answers = (await house.call("POST", "/v2/batch", document=[item, item])).json
    await house.clock.settle()
    assert answers[1] == {"messageId": answers[0]["messageId"], "url": SHOP, "deduplicated": True}
    assert len(house.wire.requests) == 1


async def test_an_empty_batch_gives_an_empty_list(house: House) -> None:
    reply = await house.call("POST", "/v2/batch", document=[])
    assert (reply.status, reply.json) == (200, [])


@pytest.mark.parametrize("body", [b"", b"{}", b"[", b"null", b"\xff", b"[" * 100_000])
async def test_a_malformed_batch_is_refused(house: House, body: bytes) -> None:
    reply = await house.call("POST", "/v2/batch", body=body)
    assert reply.status == 400
    assert "JSON array" in reply.json["error"]


async def test_a_surrogate_in_a_batch_is_an_error_of_its_item(house: House) -> None:
    body = b'[{"destination": "https://shop.test/hook", "body": "\\ud800"}]'
    reply = await house.call("POST", "/v2/batch", body=body)
    assert (reply.status, "surrogate" in reply.json[0]["error"]) == (200, True)


@pytest.mark.parametrize(("method", "status"), [("GET", 405), ("PUT", 405), ("DELETE", 405)])
async def test_publish_and_batch_are_posts(house: House, method: str, status: int) -> None:
    for path in (f"/v2/publish/{SHOP}", "/v2/batch"):
        reply = await house.call(method, path)
        assert (reply.status, set(reply.json)) == (status, {"error"})


@pytest.mark.parametrize("path", ["/v2", "/v2/", "/v2/nothing", "/v2/publish", "/v2/messages/", "/v2/batch/"])
async def test_an_unknown_path_is_a_404_in_json(house: House, path: str) -> None:
    reply = await house.call("POST", path)
    assert (reply.status, list(json.loads(reply.text))) == (404, ["error"])
