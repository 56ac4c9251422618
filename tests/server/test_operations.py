"""Messages, the log, dead letters and callbacks, as operators and SDKs use them."""

from __future__ import annotations

import base64
import json

import pytest

from idioteque.server.config import ServerConfig
from idioteque.transport import HttpResponse
from tests.server.house import SHOP, House, open_house

OTHER = "https://other.test/hook"


async def test_a_message_shows_what_it_is(house: House) -> None:
    message_id = await house.publish(
        body=b'{"a":1}',
        delay="1h",
        retries="0",
        retry_delay="1000 * retried",
        timeout="30",
        label="a,b",
        callback="https://cb.test/ok",
        callback_retries="1",
        callback_forward_x_kind="cb",
        failure_callback="https://cb.test/failed",
        forward_test_header="v",
    )
    message = (await house.call("GET", f"/v2/messages/{message_id}")).json
    now_ms = house.clock.now_ms()
    assert message == {
        "messageId": message_id,
        "url": SHOP,
        "method": "POST",
        "header": {"Test-Header": ["v"]},
        "maxRetries": 0,
        "notBefore": now_ms + 3_600_000,
        "createdAt": now_ms,
        "body": '{"a":1}',
        "callback": "https://cb.test/ok",
        "failureCallback": "https://cb.test/failed",
        "callbackHeader": {"Upstash-Retries": ["1"], "Upstash-Forward-X-Kind": ["cb"]},
        "failureCallbackHeader": {},
        "label": "a",
        "labels": ["a", "b"],
        "retryDelayExpression": "1000 * retried",
        "callerIP": "192.0.2.7",
    }


async def test_a_body_that_is_no_text_is_shown_in_base64(house: House) -> None:
    message_id = await house.publish(body=b"\xff\x00")
    message = (await house.call("GET", f"/v2/messages/{message_id}")).json
    assert message["bodyBase64"] == base64.b64encode(b"\xff\x00").decode()
    assert "body" not in message
    assert message["notBefore"] == message["createdAt"]


async def test_a_delivered_message_stays_readable_for_a_while(house: House) -> None:
    message_id = await house.publish()
    assert await house.states(message_id) == ["CREATED", "ACTIVE", "DELIVERED"]
    await house.clock.advance(599)
    assert (await house.call("GET", f"/v2/messages/{message_id}")).status == 200
    await house.clock.advance(2)
    assert (await house.call("GET", f"/v2/messages/{message_id}")).status == 404
    assert (await house.call("GET", "/v2/messages/msg_unknown")).status == 404


async def test_cancelling_a_waiting_message_ends_it(house: House) -> None:
    message_id = await house.publish(delay="1h")
    assert (await house.call("DELETE", f"/v2/messages/{message_id}")).json == {"cancelled": 1}
    assert (await house.call("DELETE", f"/v2/messages/{message_id}")).status == 404
    await house.clock.advance(7200)
    assert house.wire.requests == []
    assert await house.states(message_id) == ["CREATED", "CANCEL_REQUESTED", "CANCELED"]


async def test_cancelling_between_retries_ends_a_message() -> None:
    async with open_house([500]) as house:
        message_id = await house.publish(failure_callback="https://cb.test/")
        assert (await house.call("DELETE", f"/v2/messages/{message_id}")).json == {"cancelled": 1}
        await house.clock.advance(100_000)
        assert len(house.wire.requests) == 1
        assert (await house.states(message_id))[-2:] == ["CANCEL_REQUESTED", "CANCELED"]


@pytest.mark.parametrize(("status", "last"), [(200, "DELIVERED"), (500, "CANCELED")])
async def test_cancelling_during_an_attempt_lets_it_end_and_allows_no_other(status: int, last: str) -> None:
    async def slow(_: object) -> int:
        await house.clock.sleep(5)
        return status

    async with open_house(slow) as house:
        message_id = await house.publish(callback="https://cb.test/")
        assert (await house.call("DELETE", f"/v2/messages/{message_id}")).json == {"cancelled": 1}
        assert (await house.states(message_id))[-1] == "CANCEL_REQUESTED"
        await house.clock.advance(10_000)
        assert (await house.states(message_id))[-1] == last
        assert len(house.wire.sent_to(SHOP)) == 1
        assert await house.dead_letters() == []


async def test_messages_are_cancelled_by_ids_in_the_query_and_in_the_body(house: House) -> None:
    ids = [await house.publish(delay="1h") for _ in range(5)]
    reply = await house.call("DELETE", f"/v2/messages?messageIds={ids[0]}&messageIds={ids[1]}&messageIds=unknown")
    assert reply.json == {"cancelled": 2}
    reply = await house.call("DELETE", "/v2/messages", document={"messageIds": [ids[1], ids[2]]})
    assert reply.json == {"cancelled": 1}
    assert (await house.call("DELETE", "/v2/messages", document={"messageIds": []})).json == {"cancelled": 0}
    assert (await house.call("DELETE", "/v2/messages")).json == {"cancelled": 2}


async def test_messages_are_cancelled_by_filters(house: House) -> None:
    for label in ("a", "b", "a_b"):
        await house.publish(delay="1h", label=label)
    await house.publish(OTHER, delay="1h", label="x,b")
    assert (await house.call("DELETE", "/v2/messages?label=b&url=" + OTHER)).json == {"cancelled": 1}
    assert (await house.call("DELETE", "/v2/messages?label=a")).json == {"cancelled": 1}
    assert (await house.call("DELETE", "/v2/messages?host=other.test")).json == {"cancelled": 0}
    assert (await house.call("DELETE", "/v2/messages?queueName=none")).json == {"cancelled": 0}
    assert (await house.call("DELETE", "/v2/messages?host=shop.test&path=/hook&count=1")).json == {"cancelled": 1}
    assert (await house.call("DELETE", "/v2/messages?fromDate=0&callerIp=192.0.2.7")).json == {"cancelled": 1}


@pytest.mark.parametrize(
    "query", ["?messageId=x", "?labeel=a", "?label=", "?messageIds=", "?url=", "?count=0", "?count=x", "?fromDate=now"]
)
async def test_a_misspelt_or_empty_selector_never_means_everything(house: House, query: str) -> None:
    await house.publish(delay="1h")
    reply = await house.call("DELETE", f"/v2/messages{query}")
    assert (reply.status, list(reply.json)) == (400, ["error"])
    assert (await house.call("DELETE", "/v2/messages")).json == {"cancelled": 1}


@pytest.mark.parametrize("body", [b"[]", b"nonsense", b'{"messageIds": "x", "more": 1}', b'{"messageIds": [[]]}'])
async def test_a_malformed_selection_in_a_body_never_means_everything(house: House, body: bytes) -> None:
    await house.publish(delay="1h")
    assert (await house.call("DELETE", "/v2/messages", body=body)).status == 400
    assert (await house.call("DELETE", "/v2/messages")).json == {"cancelled": 1}


async def test_the_log_is_paged_without_a_gap_or_a_repetition(house: House) -> None:
    for _ in range(5):
        await house.publish()
    for order in ("earliestFirst", "latestFirst"):
        whole = [(e["messageId"], e["state"]) for e in await house.events(f"?order={order}")]
        assert len(whole) == len(set(whole)) == 15
        for count in (1, 2, 4, 7):
            pages: list[tuple[str, str]] = []
            cursor = ""
            while True:
                reply = (await house.call("GET", f"/v2/logs?order={order}&count={count}{cursor}")).json
                assert reply["logs"] == reply["events"]
                pages.extend((e["messageId"], e["state"]) for e in reply["events"])
                if "cursor" not in reply:
                    break
                assert len(reply["events"]) == count
                cursor = f"&cursor={reply['cursor']}"
            assert pages == whole


async def test_the_log_is_filtered_by_state_message_label_and_time() -> None:
    async with open_house([500, 200]) as house:
        first = await house.publish(retries="1", retry_delay="1000", label="a")
        await house.clock.advance(5)
        second = await house.publish(OTHER, label="b")
        assert [e["messageId"] for e in await house.events("?state=DELIVERED")] == [second, first]
        assert {e["state"] for e in await house.events("?state=IN_PROGRESS")} == {"ACTIVE", "ERROR", "RETRY"}
        assert await house.events("?state=CANCELLED") == []
        assert {e["labels"][0] for e in await house.events("?label=b")} == {"b"}
        assert {e["messageId"] for e in await house.events(f"?messageIds={first}&messageIds={second}")} == {
            first,
            second,
        }
        since_ms = house.clock.now_ms()
        assert {e["messageId"] for e in await house.events(f"?fromDate={since_ms}")} == {second}
        assert (await house.call("GET", "/v2/events?state=NAPPING")).status == 400
        assert (await house.call("GET", "/v2/events?cursor=x")).status == 400
        assert (await house.call("GET", "/v2/events?colour=x")).status == 400


async def test_log_entries_carry_both_spellings() -> None:
    async with open_house([HttpResponse(500, [("X-A", "1")], b"no")]) as house:
        await house.publish(retry_delay="5000", callback="https://cb.test/", timeout="20s")
        entry = (await house.events(f"?state=ERROR&url={SHOP}"))[0]
        assert entry["responseHeader"] == entry["responseHeaders"] == {"X-A": ["1"]}
        assert entry["retryDelayExpr"] == entry["retryDelayExpression"] == "5000"
        assert (entry["timeout"], entry["callback"], entry["callbackHeaders"]) == (20_000, "https://cb.test/", {})
        assert base64.b64decode(entry["responseBody"]) == b"no"


async def test_a_dead_letter_is_found_deleted_and_gone() -> None:
    async with open_house([500]) as house:
        ids: list[str] = []
        for place in range(6):
            ids.append(await house.publish(retries="0", label=f"l{place}"))
            await house.clock.advance(1)
        letters = await house.dead_letters()
        assert [letter["messageId"] for letter in letters] == ids
        first = letters[0]["dlqId"]
        assert (await house.call("GET", f"/v2/dlq/{first}")).json == letters[0]
        assert (await house.call("DELETE", f"/v2/dlq/{first}")).json == {"deleted": 1}
        assert (await house.call("DELETE", f"/v2/dlq/{first}")).status == 404
        assert (await house.call("GET", f"/v2/dlq/{first}")).status == 404
        second, third = letters[1]["dlqId"], letters[2]["dlqId"]
        assert (await house.call("DELETE", f"/v2/dlq?dlqIds={second}&dlqIds={first}")).json == {"deleted": 1}
        assert (await house.call("DELETE", "/v2/dlq", document={"dlqIds": [third]})).json == {"deleted": 1}
        assert (await house.call("DELETE", "/v2/dlq?label=l3")).json == {"deleted": 1}
        assert (await house.call("DELETE", "/v2/dlq?labeel=l4")).status == 400
        assert (await house.call("DELETE", "/v2/dlq?host=shop.test")).status == 400
        assert (await house.call("DELETE", "/v2/dlq?count=100")).json == {"deleted": 2}


async def test_dead_letters_are_paged_and_filtered() -> None:
    async with open_house(lambda request: 404 if "other" in request.url else 500) as house:
        for url in (SHOP, OTHER, SHOP):
            await house.publish(url, retries="0")
        assert len(await house.dead_letters("?responseStatus=404")) == 1
        assert len(await house.dead_letters("?responseStatus=404&responseStatus=500")) == 3
        page = (await house.call("GET", "/v2/dlq?count=2")).json
        rest = (await house.call("GET", f"/v2/dlq?count=2&cursor={page['cursor']}")).json
        assert [len(page["messages"]), len(rest["messages"])] == [2, 1]
        assert "cursor" not in rest


async def test_retrying_a_dead_letter_publishes_it_anew() -> None:
    async with open_house([500, 500, 200]) as house:
        old = await house.publish(body=b"payload", retries="1", retry_delay="0", forward_x="1")
        await house.clock.advance(1)
        dlq_id = (await house.dead_letters())[0]["dlqId"]
        reply = await house.call("POST", f"/v2/dlq/retry/{dlq_id}")
        await house.clock.settle()
        new = reply.json["messageId"]
        assert (reply.status, new != old) == (201, True)
        last = house.wire.requests[-1]
        assert (last.body, last.header("X"), last.header("Upstash-Retried")) == (b"payload", "1", "0")
        assert await house.states(new) == ["CREATED", "ACTIVE", "DELIVERED"]
        assert (await house.call("POST", f"/v2/dlq/retry/{dlq_id}")).status == 404


async def test_dead_letters_are_retried_in_bulk() -> None:
    async with open_house(lambda _: 500 if len(house.wire.requests) <= 3 else 200) as house:
        for label in ("a", "b", "b"):
            await house.publish(retries="0", label=label)
        reply = await house.call("POST", "/v2/dlq/retry?label=b")
        assert (reply.status, len(reply.json["responses"]), reply.json["cursor"]) == (201, 2, "")
        assert (await house.call("POST", "/v2/dlq/retry?label=none")).json == {"cursor": "", "responses": []}
        assert (await house.call("POST", "/v2/dlq/retry?dlqIds=dlq_unknown")).status == 404
        await house.clock.settle()
        assert len(await house.events("?state=DELIVERED")) == 2
        assert len(await house.dead_letters()) == 1


async def test_a_callback_reports_every_attempt_and_a_failure_callback_the_end() -> None:
    def answer(request: object) -> HttpResponse | int:
        return HttpResponse(500, [("X-Why", "broken")], b"no") if SHOP in repr(request)[:120] else 200

    async with open_house(answer) as house:
        message_id = await house.publish(
            body=b"payload",
            retries="1",
            retry_delay="1000",
            callback="https://cb.test/each",
            callback_method="PUT",
            callback_forward_x_kind="each",
            failure_callback="https://cb.test/end",
            failure_callback_retries="9",
        )
        await house.clock.advance(5)
        each, end = house.wire.sent_to("https://cb.test/each"), house.wire.sent_to("https://cb.test/end")
        (letter,) = await house.dead_letters()
        assert [(r.method, r.header("X-Kind"), r.header("Content-Type")) for r in each] == [
            ("PUT", "each", "application/json")
        ] * 2
        reports = [json.loads(request.body) for request in [*each, *end]]
        assert [report["retried"] for report in reports] == [0, 1, 1]
        assert ["dlqId" in report for report in reports] == [False, False, True]
        assert reports[2] == {
            "status": 500,
            "header": {"X-Why": ["broken"]},
            "body": base64.b64encode(b"no").decode(),
            "retried": 1,
            "maxRetries": 1,
            "sourceMessageId": message_id,
            "url": SHOP,
            "method": "POST",
            "sourceHeader": {},
            "sourceBody": base64.b64encode(b"payload").decode(),
            "notBefore": letter["notBefore"],
            "createdAt": letter["createdAt"],
            "callerIP": "192.0.2.7",
            "dlqId": letter["dlqId"],
        }
        created = {e["url"]: e for e in await house.events("?state=CREATED")}
        assert created["https://cb.test/each"]["maxRetries"] == 1
        assert created["https://cb.test/end"]["maxRetries"] == 9


async def test_a_callback_that_fails_is_retried_and_buried_like_any_message() -> None:
    async with open_house(lambda request: 200 if request.url == SHOP else 500) as house:
        await house.publish(callback="https://cb.test/", callback_retries="1", callback_retry_delay="1000")
        await house.clock.advance(5)
        assert len(house.wire.sent_to("https://cb.test/")) == 2
        assert (await house.dead_letters())[0]["url"] == "https://cb.test/"


async def test_old_things_are_thrown_away_and_nothing_else() -> None:
    config = ServerConfig(log_retention_s=3600, dead_letter_retention_s=7200)
    async with open_house(lambda request: 500 if "other" in request.url else 200, config=config) as house:
        delivered = await house.publish()
        await house.publish(OTHER, retries="0")
        waiting = await house.publish(delay="1d")
        await house.clock.advance(3700)
        assert await house.events() == []
        assert len(await house.dead_letters()) == 1
        assert (await house.call("GET", f"/v2/messages/{waiting}")).status == 200
        assert (await house.call("GET", f"/v2/messages/{delivered}")).status == 404
        await house.clock.advance(3700)
        assert await house.dead_letters() == []
        await house.clock.advance(86_400)
        assert len(house.wire.sent_to(SHOP)) == 2
        await house.clock.advance(3700)
        rows = await house.server.database.read(lambda tx: tx.execute("SELECT COUNT(*) FROM messages"))
        assert rows == [(0,)]
