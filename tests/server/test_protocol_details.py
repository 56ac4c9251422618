"""Details of the protocol that SDKs and users stumble over: redaction, query configuration, callbacks of callbacks."""

from __future__ import annotations

import base64
import hashlib
import json
from urllib.parse import quote

import pytest

from idioteque.server.config import ServerConfig
from idioteque.transport import HttpResponse
from tests.server.house import SHOP, House, open_house

BODY = b"secret payload"
PLACEHOLDER = f"REDACTED:{hashlib.sha256(BODY).hexdigest()}"


def digest(value: str) -> list[str]:
    return [f"REDACTED:{hashlib.sha256(value.encode()).hexdigest()}"]


@pytest.mark.parametrize(
    ("fields", "body", "authorization", "plain"),
    [
        ("body", True, False, False),
        ("header", False, True, True),
        ("headers", False, True, True),
        ("header[Authorization]", False, True, False),
        ("headers[authorization]", False, True, False),
        ("body,header[X-Plain]", True, False, True),
        ("body , headers[X-Plain], header[AUTHORIZATION]", True, True, True),
        ("Body,Header", True, True, True),
    ],
)
async def test_redacted_fields_are_shown_as_digests_and_sent_as_they_are(
    fields: str, body: bool, authorization: bool, plain: bool
) -> None:
    async with open_house([500, 200]) as house:
        message_id = await house.publish(
            body=BODY, retries="0", redact_fields=fields, forward_authorization="Bearer a", forward_x_plain="p"
        )
        (letter,) = await house.dead_letters()
        entries = await house.events(f"?messageId={message_id}")
        shown = {
            "Authorization": digest("Bearer a") if authorization else ["Bearer a"],
            "X-Plain": digest("p") if plain else ["p"],
        }
        assert [each["header"] for each in (letter, *entries)] == [shown] * (1 + len(entries))
        assert letter["body"] == (PLACEHOLDER if body else BODY.decode())
        assert {each["body"] for each in entries} == {PLACEHOLDER if body else base64.b64encode(BODY).decode()}
        # What is tried again is the original, and it is still redacted.
        again = (await house.call("POST", f"/v2/dlq/retry/{letter['dlqId']}")).json["messageId"]
        await house.clock.settle()
        for request in house.wire.requests:
            assert (request.body, request.header("Authorization")) == (BODY, "Bearer a")
        assert (await house.call("GET", f"/v2/messages/{again}")).json["header"] == shown


async def test_an_empty_body_has_nothing_to_redact(house: House) -> None:
    message_id = await house.publish(redact_fields="body")
    assert "body" not in (await house.call("GET", f"/v2/messages/{message_id}")).json


async def test_a_callback_brings_the_originals(house: House) -> None:
    await house.publish(body=BODY, redact_fields="body,header", forward_x="v", callback="https://cb.test/")
    (request,) = house.wire.sent_to("https://cb.test/")
    report = json.loads(request.body)
    assert (base64.b64decode(report["sourceBody"]), report["sourceHeader"]) == (BODY, {"X": ["v"]})


@pytest.mark.parametrize("fields", ["", "bodies", "body;header", "header[]", "header[a b]", "header[X", "url", "body,"])
async def test_a_bad_redaction_is_refused(house: House, fields: str) -> None:
    reply = await house.call("POST", f"/v2/publish/{SHOP}", headers={"Upstash-Redact-Fields": fields})
    assert (reply.status, "Upstash-Redact-Fields" in reply.json["error"]) == (400, True)


async def test_every_setting_may_stand_in_the_query_and_none_reaches_the_destination(house: House) -> None:
    settings = {
        "upstash-method": "PUT",
        "Upstash-Retries": "7",
        "upstash-delay": "100s",
        "upstash-retry-delay": "1000 * (1 + retried)",
        "upstash-timeout": "30",
        "upstash-callback": "https://cb.test/?a=b&c=d",
        "upstash-callback-retries": "2",
        "upstash-failure-callback": "https://cb.test/failed",
        "upstash-label": "one,two",
        "upstash-redact-fields": "body",
        "upstash-forward-x-one": "a b",
    }
    query = "&".join(f"{name}={quote(value, safe='')}" for name, value in settings.items())
    reply = await house.call("POST", f"/v2/publish/{SHOP}?keep=%2B&{query}&also=1", body=BODY)
    message = (await house.call("GET", f"/v2/messages/{reply.json['messageId']}")).json
    assert message["url"] == f"{SHOP}?keep=%2B&also=1"
    assert (message["method"], message["maxRetries"], message["labels"]) == ("PUT", 7, ["one", "two"])
    assert message["notBefore"] - message["createdAt"] == 100_000
    assert (message["callback"], message["failureCallback"]) == ("https://cb.test/?a=b&c=d", "https://cb.test/failed")
    assert (message["callbackHeader"], message["header"]) == ({"Upstash-Retries": ["2"]}, {"X-One": ["a b"]})
    assert (message["retryDelayExpression"], message["body"]) == ("1000 * (1 + retried)", PLACEHOLDER)


async def test_a_webhook_needs_nothing_but_a_url(house: House) -> None:
    target = f"/v2/publish/{SHOP}?qstash_token=token-of-the-tests&upstash-header-forward=true&event=push"
    headers = {
        "X-Hub-Signature": "s",
        "Content-Type": "text/plain",
        "Cookie": "c=1",
        "Host": "us",
        "Connection": "close",
    }
    reply = await house.call("POST", target, headers=headers, body=b"hook", token=None)
    await house.clock.settle()
    (request,) = house.wire.requests
    assert (reply.status, request.url, request.body) == (200, f"{SHOP}?event=push", b"hook")
    sent = {name.lower() for name, _ in request.headers}
    assert {"x-hub-signature", "content-type", "cookie"} <= sent
    assert not {"host", "connection", "authorization"} & sent


async def test_callbacks_of_callbacks_are_configured_by_their_prefix() -> None:
    def answer(request: object) -> int:
        return 500 if "/failing" in repr(request)[:150] else 200

    async with open_house(answer) as house:
        await house.publish(
            callback="https://cb.test/failing",
            callback_retries="0",
            callback_delay="10s",
            callback_failure_callback="https://cb.test/nested",
            callback_failure_callback_forward_x_deep="yes",
            callback_failure_callback_method="PUT",
        )
        await house.clock.advance(9)
        assert house.wire.sent_to("https://cb.test/failing") == []
        await house.clock.advance(2)
        (nested,) = house.wire.sent_to("https://cb.test/nested")
        assert (nested.method, nested.header("X-Deep")) == ("PUT", "yes")
        report = json.loads(nested.body)
        assert (report["url"], report["status"]) == ("https://cb.test/failing", 500)
        assert json.loads(base64.b64decode(report["sourceBody"]))["url"] == SHOP


@pytest.mark.parametrize(
    ("header", "value", "text"),
    [
        ("Upstash-Callback", "ftp://x.test", "invalid callback url: endpoint has invalid scheme"),
        ("Upstash-Failure-Callback", "http://127.0.0.1/", "loopback"),
        ("Upstash-Callback-Failure-Callback", "nowhere", "invalid callback url"),
        ("Upstash-Callback-Retries", "x", "Upstash-Retries"),
        ("Upstash-Failure-Callback-Delay", "soon", "Upstash-Delay"),
        ("Upstash-Callback-Redact-Fields", "x", "Upstash-Redact-Fields"),
    ],
)
async def test_what_a_callback_is_given_is_checked_at_publish(house: House, header: str, value: str, text: str) -> None:
    headers = {"Upstash-Callback": "https://cb.test/", "Upstash-Failure-Callback": "https://cb.test/", header: value}
    reply = await house.call("POST", f"/v2/publish/{SHOP}", headers=headers)
    assert (reply.status, text in reply.json["error"]) == (400, True), reply.text
    assert await house.events() == []


async def test_a_callback_carries_no_more_of_an_answer_than_its_limit() -> None:
    config = ServerConfig(logged_bytes_max=10)
    answers = [HttpResponse(500, [], b"y" * 100), 200]
    async with open_house(answers, config=config) as house:
        await house.publish(retries="0", failure_callback="https://cb.test/")
        report = json.loads(house.wire.sent_to("https://cb.test/")[0].body)
        assert base64.b64decode(report["body"]) == b"y" * 100
        assert (await house.dead_letters())[0]["responseBody"] == "y" * 10


async def test_what_is_zero_or_false_is_shown(house: House) -> None:
    message_id = await house.publish(retries="0", delay="1h")
    message = (await house.call("GET", f"/v2/messages/{message_id}")).json
    assert message["maxRetries"] == 0
    async with open_house([ConnectionError("no")]) as other:
        await other.publish(retries="0")
        assert (await other.dead_letters())[0]["responseStatus"] == 0


@pytest.mark.parametrize("target", ["/v2/messages/", "/v2/dlq/", "/v2/schedules/", "/v2/queues/x/", "/v2//messages"])
async def test_an_empty_name_is_no_list_and_no_everything(house: House, target: str) -> None:
    kept = await house.publish(delay="1h")
    for method in ("GET", "DELETE"):
        assert (await house.call(method, target)).status in (404, 405)
    assert (await house.call("GET", f"/v2/messages/{kept}")).status == 200


async def test_legacy_api_destinations_are_refused_with_a_reason(house: House) -> None:
    for target in ("/v2/publish/api/llm", "/v2/publish/api/email"):
        assert (await house.call("POST", target)).status == 400
    assert (await house.call("POST", "/llm/v1/chat/completions")).status == 404


async def test_the_read_only_token_reads_every_list_and_changes_nothing(house: House) -> None:
    message_id = await house.publish(delay="1h")
    for path in ("/v2/events", "/v2/logs", "/v2/dlq", f"/v2/messages/{message_id}", "/v2/schedules", "/v2/topics"):
        assert (await house.call("GET", path, token="readonly-token-of-the-tests")).status == 200
    for method, path in (
        ("POST", f"/v2/publish/{SHOP}"), ("POST", "/v2/batch"), ("DELETE", "/v2/messages"), ("DELETE", "/v2/dlq"),
        ("POST", "/v2/dlq/retry"), ("DELETE", f"/v2/messages/{message_id}"), ("POST", "/v2/topics/g/endpoints"),
        ("POST", f"/v2/schedules/{SHOP}"), ("PATCH", "/v2/schedules/x/pause"), ("DELETE", "/v2/topics/g"),
    ):  # fmt: skip
        reply = await house.call(method, path, token="readonly-token-of-the-tests")
        assert (reply.status, list(reply.json)) == (403, ["error"])
    assert await house.states(message_id) == ["CREATED"]


async def test_the_log_tells_each_life_of_a_message_in_its_order() -> None:
    def answer(request: object) -> int:
        return 200 if "/good" in repr(request)[:120] else 500

    async with open_house(answer) as house:
        good = await house.publish("https://x.test/good")
        bad = await house.publish("https://x.test/bad", retries="1", retry_delay="1000")
        await house.clock.advance(2)
        late = await house.publish("https://x.test/good", delay="1h")
        await house.call("DELETE", f"/v2/messages/{late}")
        assert await house.states(good) == ["CREATED", "ACTIVE", "DELIVERED"]
        assert await house.states(bad) == ["CREATED", "ACTIVE", "ERROR", "RETRY", "ACTIVE", "ERROR", "FAILED"]
        assert await house.states(late) == ["CREATED", "CANCEL_REQUESTED", "CANCELED"]
        assert len(await house.events(f"?messageId={good}&state=DELIVERED")) == 1
        assert {e["state"] for e in await house.events(f"?messageId={bad}&state=IN_PROGRESS")} == {
            "ACTIVE",
            "ERROR",
            "RETRY",
        }


async def test_batch_items_take_headers_in_any_case_and_destinations_as_they_stand(house: House) -> None:
    items = [
        {"destination": f"{SHOP}?upstash-retries=1", "headers": {"UPSTASH-Method": "put", "content-TYPE": "a/b"}},
        {"destination": SHOP, "headers": None, "body": None, "queue": None},
        {"destination": SHOP, "headers": {"Upstash-Delay": "999999d"}},
        {"destination": SHOP, "headers": {"Upstash-Forward-X": "a\r\nb"}},
        {"destination": SHOP, "body": 5},
        {"body": "no destination"},
        "nothing",
    ]
    reply = await house.call("POST", "/v2/batch", document=items)
    await house.clock.settle()
    assert (reply.status, ["error" in item for item in reply.json]) == (
        200,
        [False, False, True, True, True, True, True],
    )
    first, second = house.wire.requests
    assert (first.method, first.url, first.header("Content-Type")) == ("PUT", f"{SHOP}?upstash-retries=1", "a/b")
    assert (second.method, second.body) == ("POST", b"")


async def test_a_setting_has_names_resolved_at_publish() -> None:
    rewrites = (("https://split.test", "http://10.0.0.1"),)
    async with open_house(config=ServerConfig(resolve_at_publish=True, rewrites=rewrites)) as house:
        for url, text in (
            ("https://no-such-name.invalid/x", "unable to resolve host: lookup no-such-name.invalid"),
            ("https://localhost.localdomain/", "invalid destination url"),
        ):
            reply = await house.call("POST", f"/v2/publish/{url}")
            assert (reply.status, text in reply.json["error"]) == (400, True), reply.text
        items = [{"destination": "https://no-such-name.invalid/"}, {"destination": "https://split.test/"}]
        reply = await house.call("POST", "/v2/batch", document=items)
        assert ["error" in item for item in reply.json] == [True, False]
        assert (await house.call("POST", "/v2/publish/https://93.184.215.14/")).status == 200
    async with open_house() as house:
        assert (await house.call("POST", "/v2/publish/https://no-such-name.invalid/x")).status == 200
