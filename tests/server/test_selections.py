"""Filters of every list: each finds what it names, an odd one is refused, and none is taken for 'everything'."""

from __future__ import annotations

import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from idioteque.server.config import ServerConfig
from idioteque.server.errors import BadRequest
from idioteque.server.wire.filters import DEAD_LETTERS, FIELDS, LOGS, MESSAGES, Kind, parse_selection
from tests.server.house import House, open_house

ONE = "https://one.test/a?x=1"
TWO = "https://two.test:8443/b"
EVIL = [
    "'",
    "%",
    "_",
    '"',
    "\\",
    "' OR '1'='1",
    "%' --",
    "a,b",
    "x\x00y",
    "*",
    ")",
    ";DROP TABLE messages;--",
    "\u202e",
]


async def waiting(house: House) -> None:
    """Two messages that differ in everything a filter may name, and the second is a second younger."""
    await house.publish(ONE, delay="1h", label="l1")
    await house.clock.advance(1)
    headers = {"Upstash-Delay": "1h", "Upstash-Label": "l2,l3"}
    assert (await house.call("POST", f"/v2/publish/{TWO}", headers=headers, peer="192.0.2.99")).status == 200


@pytest.mark.parametrize(
    ("query", "count"),
    [
        ("url=https%3A%2F%2Fone.test%2Fa%3Fx%3D1", 1),
        ("url=https%3A%2F%2Fone.test%2Fa", 0),
        ("host=two.test%3A8443", 1),
        ("path=/b", 1),
        ("path=/b&path=/a", 2),
        ("path=/b&host=one.test", 0),
        ("label=l1", 1),
        ("label=l3", 1),
        ("label=l1,l3", 2),
        ("label=l1&label=l2", 2),
        ("label=l", 0),
        ("label=L1", 0),
        ("callerIp=192.0.2.99", 1),
        ("callerIP=192.0.2.99", 1),
        ("callerIp=192.0.2.7&callerIp=192.0.2.99", 2),
        ("fromDate=1700000001000", 1),
        ("toDate=1700000000000", 1),
        ("fromDate=1700000000000&toDate=1700000001000", 2),
        ("fromDate=1700000000001&toDate=1700000000999", 0),
        ("topicName=none", 0),
        ("queueName=none", 0),
        ("scheduleId=none", 0),
        ("flowControlKey=none", 0),
        ("count=1", 1),
        ("count=5", 2),
    ],
)
async def test_each_filter_cancels_what_it_names(house: House, query: str, count: int) -> None:
    await waiting(house)
    assert len(await house.events(f"?{query}&state=CREATED")) == count
    assert (await house.call("DELETE", f"/v2/messages?{query}")).json == {"cancelled": count}
    assert (await house.call("DELETE", "/v2/messages")).json == {"cancelled": 2 - count}


async def test_a_body_selects_as_the_query_does(house: House) -> None:
    await waiting(house)
    for document, count in (
        ({"label": "l1", "host": "two.test:8443"}, 0),
        ({"messageIds": []}, 0),
        ({"label": ["l1", "l2"], "count": 1}, 1),
        ({"fromDate": 0, "callerIp": ["192.0.2.99", "192.0.2.7"]}, 1),
    ):
        assert (await house.call("DELETE", "/v2/messages", document=document)).json == {"cancelled": count}


async def test_a_setting_lets_a_cancel_take_every_match_whatever_the_count() -> None:
    async with open_house(config=ServerConfig(cancel_honours_count=False)) as house:
        await waiting(house)
        assert (await house.call("DELETE", "/v2/messages?count=1")).json == {"cancelled": 2}


@pytest.mark.parametrize(
    "query",
    [
        "labeel=x", "label=", "label=,", "label=l1,", "url=", "messageIds=", "messageIds=&messageIds=a", "count=0",
        "count=-1", "count=x", "count=", "fromDate=", "fromDate=x", "fromDate=1.5", "toDate=-1", "Label=l1", "all=true",
        "state=CREATED", "messageId=x", "responseStatus=500", "cursor=x", "=", "x", "label[]=l1", "source=workflow",
    ],
)  # fmt: skip
async def test_an_odd_selector_is_refused_and_cancels_nothing(house: House, query: str) -> None:
    await waiting(house)
    reply = await house.call("DELETE", f"/v2/messages?{query}")
    assert (reply.status, list(reply.json)) == (400, ["error"])
    assert (await house.call("DELETE", "/v2/messages")).json == {"cancelled": 2}


@pytest.mark.parametrize(
    "body",
    [
        b"{}", b"[]", b"null", b"x", b'{"label": []}', b'{"label": ""}', b'{"label": null}', b'{"labels": ["l1"]}',
        b'{"messageIds": null}', b'{"messageIds": [1.5]}', b'{"messageIds": [""]}', b'{"messageIds": {"a": 1}}',
        b'{"count": true}', b'{"all": true}', b'{"filter": {"label": "l1"}}', b"[" * 100_000,
        b'{"label": "\\ud800"}',  # half of a surrogate pair
    ],
)  # fmt: skip
async def test_an_odd_body_is_refused_and_cancels_nothing(house: House, body: bytes) -> None:
    await waiting(house)
    assert (await house.call("DELETE", "/v2/messages", body=body)).status == 400
    assert (await house.call("DELETE", "/v2/messages")).json == {"cancelled": 2}


async def test_dead_letters_are_selected_alike_by_query_and_body() -> None:
    async with open_house(lambda request: 404 if "two" in request.url else 500) as house:
        await house.publish(ONE, retries="0", label="l1")
        await house.clock.advance(1)
        await house.publish(TWO, retries="0", label="l2")
        (first, second) = await house.dead_letters()
        for query in (
            "label=l1", f"messageId={first['messageId']}", "responseStatus=500", "toDate=1700000000000",
            "url=https%3A%2F%2Fone.test%2Fa%3Fx%3D1", f"dlqIds={first['dlqId']}", "count=1",
        ):  # fmt: skip
            assert await house.dead_letters(f"?{query}") == [first], query
        assert await house.dead_letters("?order=latestFirst") == [second, first]
        assert await house.dead_letters("?source=workflow") == []
        for query in ("host=one.test", "path=/a", "state=FAILED", "source=x", "order=x", "dlqIds=", "cursor="):
            for method, path in (("GET", "/v2/dlq"), ("DELETE", "/v2/dlq"), ("POST", "/v2/dlq/retry")):
                assert (await house.call(method, f"{path}?{query}")).status == 400, query
        assert (await house.call("DELETE", "/v2/dlq?source=workflow")).json == {"deleted": 0}
        assert (await house.call("DELETE", "/v2/dlq", body=b"{}")).status == 400
        assert (await house.call("POST", "/v2/dlq/retry", document={"label": "none"})).json["responses"] == []
        assert (await house.call("DELETE", "/v2/dlq", document={"label": ["l1"]})).json == {"deleted": 1}
        assert await house.dead_letters() == [second]


async def test_a_bulk_delete_goes_on_at_its_cursor() -> None:
    async with open_house([500]) as house:
        for _ in range(7):
            await house.publish(ONE, retries="0")
        counts, cursor = [], ""
        while True:
            reply = (await house.call("DELETE", f"/v2/dlq?count=3{cursor}")).json
            counts.append(reply["deleted"])
            if "cursor" not in reply:
                break
            cursor = f"&cursor={reply['cursor']}"
        assert counts == [3, 3, 1]


@pytest.mark.parametrize("kind", [MESSAGES, LOGS, DEAD_LETTERS])
@settings(max_examples=200, deadline=None)
@given(
    pairs=st.lists(
        st.tuples(
            st.sampled_from([*FIELDS, "label", "count", "messageIds", "dlqIds", "state", "x", ""]), st.text(max_size=8)
        )
    )
)
def test_whatever_is_given_selects_less_or_is_refused(kind: Kind, pairs: list[tuple[str, str]]) -> None:
    try:
        chosen, _ = parse_selection(kind, "", json.dumps({name: [value] for name, value in pairs}).encode())
    except BadRequest:
        return
    selectors = [name for name, _ in pairs if name != "count"]
    assert not selectors or chosen.ids or chosen.fields or chosen.labels or chosen.message_ids or chosen.states


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    value=st.one_of(st.sampled_from(EVIL), st.text(min_size=1, max_size=12)),
    name=st.sampled_from(["url", "host", "path", "label", "callerIp", "topicName", "queueName", "scheduleId",
                          "flowControlKey", "messageIds"]),
)  # fmt: skip
async def test_no_value_of_a_filter_is_taken_for_sql_or_for_a_pattern(value: str, name: str) -> None:
    async with open_house() as house:
        await house.publish(ONE, delay="1h", label="l1")
        for method, path in (("GET", "/v2/events"), ("DELETE", "/v2/messages")):
            body = json.dumps({name: [value]}).encode() if method == "DELETE" else b""
            query = "" if body else "?" + "&".join([f"{name}={''.join(f'%{byte:02X}' for byte in value.encode())}"])
            reply = await house.call(method, path + query, body=body)
            assert reply.status == 400 or reply.json in ({"cancelled": 0}, {"events": [], "logs": []}), reply.text
        assert len(await house.events()) == 1
