"""What a mount answers, whatever stands before it."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import logging
from typing import Any

import jwt
import pytest

from idioteque import ConfigurationError, HttpRequest, HttpResponse
from idioteque.clock import SystemClock
from idioteque.dispatcher import EventEnvelope, RunEnvelope
from idioteque.store import Lease
from tests.library.mounts.shop import KEY, NEXT_KEY, URL, Shop, headers, order, text_of

LATER_MS = 2**50


async def deliver(shop: Shop, body: bytes, given: dict[str, str] | None = None, method: str = "POST") -> HttpResponse:
    named = headers(body) if given is None else given
    return await shop.mount.handle(HttpRequest(method, "/api/worker", list(named.items()), body))


def claims(body: bytes, /, **changed: Any) -> dict[str, Any]:
    now_s = SystemClock().now_ms() // 1000
    digest = base64.urlsafe_b64encode(hashlib.sha256(body).digest()).decode()
    made = {
        "iss": "Upstash",
        "sub": URL,
        "exp": now_s + 300,
        "nbf": now_s,
        "iat": now_s,
        "jti": "jwt_1",
        "body": digest,
    }
    return {name: value for name, value in {**made, **changed}.items() if value is not None}


def token(
    body: bytes, /, *, key: str = KEY, algorithm: str = "HS256", jose: dict[str, Any] | None = None, **changed: Any
) -> str:
    return jwt.encode(claims(body, **changed), key, algorithm=algorithm, headers=jose)


# ---- what is accepted


async def test_a_signed_delivery_runs_the_function() -> None:
    shop = Shop()
    answer = await deliver(shop, order())
    assert (answer.status, text_of(answer.body)) == (200, "completed")
    assert shop.paid == {"1": 1}


@pytest.mark.parametrize("key", [KEY, NEXT_KEY])
async def test_either_key_will_do(key: str) -> None:
    shop = Shop()
    assert (await deliver(shop, order(), headers(order(), key=key))).status == 200
    assert (await deliver(shop, order("2"), {"upstash-signature": token(order("2"), key=key)})).status == 200
    assert shop.paid == {"1": 1, "2": 1}


async def test_one_key_alone_will_do(monkeypatch: pytest.MonkeyPatch) -> None:
    shop = Shop(keys=(None, KEY))
    assert (await deliver(shop, order())).status == 200


async def test_signatures_of_a_common_library_are_accepted() -> None:
    shop = Shop()
    for n, changed in enumerate([{}, {"nbf": 0}, {"jti": None}]):
        body = order(str(n))
        answer = await deliver(shop, body, {"Upstash-Signature": token(body, **changed)})
        assert answer.status == 200, text_of(answer.body)
    assert sum(shop.paid.values()) == 3


async def test_keys_may_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QSTASH_CURRENT_SIGNING_KEY", KEY)
    monkeypatch.setenv("QSTASH_NEXT_SIGNING_KEY", NEXT_KEY)
    assert (await deliver(Shop(keys=(None, None)), order())).status == 200


@pytest.mark.parametrize(
    "body",
    [b'{"type":"order","id":"7"}', b'{"event":{"type":"order","id":"7"}}', b' {"id" : "7", "type" : "order"} \n'],
)
async def test_a_bare_event_of_anybody_runs_the_function_under_its_message_id(body: bytes) -> None:
    shop = Shop()
    for _ in range(2):
        assert (await deliver(shop, body, headers(body, message_id="msg_7"))).status == 200
    assert shop.paid == {"7": 1}
    assert (await shop.worker.runs.list()).runs[0].event_id == "msg_7"


async def test_an_event_that_nobody_wants_is_acknowledged_saying_so() -> None:
    body = b'{"type":"unwanted"}'
    answer = await deliver(Shop(), body)
    assert (answer.status, text_of(answer.body)) == (200, "started nothing: no mounted function wants 'unwanted'")


async def test_a_redelivery_is_acknowledged_and_runs_nothing() -> None:
    shop = Shop()
    answers = [await deliver(shop, order(), headers(order(), message_id=f"msg_{n}")) for n in range(3)]
    assert [answer.status for answer in answers] == [200, 200, 200]
    assert shop.paid == {"1": 1}


# ---- what is refused


def changed_body() -> tuple[bytes, dict[str, str]]:
    return order() + b" ", headers(order())


def reserialised() -> tuple[bytes, dict[str, str]]:
    return json.dumps(json.loads(order()), indent=1).encode(), headers(order())


UNSIGNED: list[Any] = [
    {},
    {"Upstash-Signature": ""},
    {"Upstash-Signature": "a.b.c"},
    {"Upstash-Signature": "x" * 100_000},
    {"Upstash-Signature": "é.é.é"},
    {"Authorization": f"Bearer {KEY}"},
    headers(order(), key="sig_another_key"),
    headers(order(), key=""),
    headers(order(), url=URL + "/"),
    headers(order(), url=URL + "?a=b"),
    headers(order(), url=URL.replace("https", "http")),
    headers(order(), url=URL.replace(".com", ".com:443")),
    headers(order(), url=URL.upper()),
    headers(order(), url="https://evil.example.com/api/worker", Host="shop.example.com"),
    {"Upstash-Signature": token(order(), exp=5)},
    {"Upstash-Signature": token(order(), nbf=2**33)},
    {"Upstash-Signature": token(order(), iss="Nobody")},
    {"Upstash-Signature": token(order(), iss=None)},
    {"Upstash-Signature": token(order(), sub=None)},
    {"Upstash-Signature": token(order(), exp=None)},
    {"Upstash-Signature": token(order(), nbf=None)},
    {"Upstash-Signature": token(order(), body=None)},
    {"Upstash-Signature": token(order(), body=5)},
    {"Upstash-Signature": token(order(), key="x" * 64, algorithm="HS512")},
    {"Upstash-Signature": token(order(), algorithm="none", key="")},
    {"Upstash-Signature": token(order(), jose={"kid": "../../key"})},
    {"Upstash-Signature": token(order(), jose={"crit": ["b64"], "b64": False})},
    {"Upstash-Signature": token(order(), jose={"jku": "https://evil.example.com"})},
]


@pytest.mark.parametrize("given", UNSIGNED, ids=lambda given: repr(given)[:60])
async def test_what_is_not_signed_for_this_mount_is_refused_and_runs_nothing(given: dict[str, str]) -> None:
    shop = Shop()
    answer = await deliver(shop, order(), given)
    assert (answer.status, shop.paid) == (401, {})
    assert answer.header("Upstash-NonRetryable-Error") is None, "one wrong key must not bury everything"
    assert (await shop.worker.runs.list()).runs == []


@pytest.mark.parametrize("made", [changed_body, reserialised])
async def test_a_signature_holds_for_the_very_bytes(made: Any) -> None:
    shop = Shop()
    answer = await deliver(shop, *made())
    assert (answer.status, text_of(answer.body)) == (401, "the body is not the one that was signed")


async def test_two_signatures_are_none() -> None:
    shop = Shop()
    pairs = [("Upstash-Signature", headers(order())["Upstash-Signature"])] * 2
    answer = await shop.mount.handle(HttpRequest("POST", "/", pairs, order()))
    assert (answer.status, shop.paid) == (401, {})


async def test_a_signature_for_another_url_is_answered_with_both() -> None:
    answer = await deliver(Shop(), order(), headers(order(), url="https://other.example.com/hook"))
    assert "https://other.example.com/hook" in text_of(answer.body)
    assert URL in text_of(answer.body)


@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "PATCH", "DELETE", "OPTIONS", "post", ""])
async def test_anything_but_post_is_405(method: str) -> None:
    shop = Shop()
    answer = await deliver(shop, order(), method=method)
    assert (answer.status, answer.header("Allow"), shop.paid) == (405, "POST", {})


async def test_a_body_that_is_too_large_is_413_for_good() -> None:
    shop = Shop(body_bytes_max=1000)
    for size, status in ((1000 - len(order()), 200), (1001 - len(order()), 413)):
        body = order(note="x" * size)
        answer = await deliver(shop, body)
        assert answer.status == status
        assert (answer.header("Upstash-NonRetryable-Error") == "true") is (status == 413)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"not json",
        b"\xff\xfe",
        b"[]",
        b'{"type":"unknown"}',
        b'{"type":"order","id":5}',
        b'{"event":5}',
        b'{"type":"order","id":"\\ud800"}',
        b'{"type":"order","note":NaN}',
        b"[" * 100_000,
        b'{"idioteque":1}',
        b'{"idioteque":1,"kind":"event","event_id":"../../etc","event":{}}',
        EventEnvelope("evt_1", b'{"type":"unknown"}').encode(),
    ],
    ids=lambda body: repr(body[:30]),
)
async def test_what_can_never_be_understood_is_489_for_good(body: bytes) -> None:
    shop = Shop()
    answer = await deliver(shop, body)
    assert (answer.status, answer.header("Upstash-NonRetryable-Error"), shop.paid) == (489, "true", {})
    assert text_of(answer.body)


@pytest.mark.parametrize(
    "body",
    [
        b'{"idioteque":2,"kind":"event"}',
        b'{"idioteque":1,"kind":"wake","event_id":"evt_1"}',
        RunEnvelope("evt_1", "another", LATER_MS, b'{"type":"order"}').encode(),
        RunEnvelope("evt_unknown", "pay", LATER_MS).encode(),
    ],
    ids=lambda body: repr(body[:40]),
)
async def test_what_a_later_deployment_may_understand_is_503(body: bytes) -> None:
    answer = await deliver(Shop(), body)
    assert (answer.status, answer.header("Upstash-NonRetryable-Error")) == (503, None)


async def test_without_keys_everything_is_500_naming_the_variables(caplog: pytest.LogCaptureFixture) -> None:
    shop = Shop(keys=(None, None))
    assert "QSTASH_CURRENT_SIGNING_KEY and QSTASH_NEXT_SIGNING_KEY" in caplog.text
    for given in (headers(order()), {}, {"Upstash-Signature": token(order(), key="", algorithm="none")}):
        answer = await deliver(shop, order(), given)
        assert (answer.status, shop.paid) == (500, {})
        assert "QSTASH_CURRENT_SIGNING_KEY and QSTASH_NEXT_SIGNING_KEY" in text_of(answer.body)
        assert "insecure=True" in text_of(answer.body)


async def test_what_is_insecure_was_asked_for_by_name() -> None:
    shop = Shop(keys=(None, None), insecure=True)
    assert (await deliver(shop, order(), {})).status == 200
    assert shop.paid == {"1": 1}


async def test_a_store_that_is_away_is_503_and_runs_again_later(caplog: pytest.LogCaptureFixture) -> None:
    shop = Shop()
    shop.mount.engine._store = Broken()  # type: ignore[assignment]
    answer = await deliver(shop, order())
    assert answer.status == 503
    assert text_of(answer.body) == "the delivery could not be finished: OSError"
    assert "disk secret" not in answer.body.decode()


class Broken:
    def __getattr__(self, name: str) -> Any:
        async def fail(*args: object, **kwargs: object) -> None:
            raise OSError("disk secret")

        return fail


async def test_a_function_that_raises_is_not_shown_to_the_outside(caplog: pytest.LogCaptureFixture) -> None:
    shop = Shop(keys=(None, None), insecure=True)

    async def leaky(event: Any, ctx: Any) -> None:
        raise ValueError("password=hunter2")

    shop.worker.create_function("leaky", lambda event: event.note == "leak", leaky)
    mount = shop.dispatcher.mount(shop.worker, insecure=True)
    body = RunEnvelope("evt_9", "leaky", LATER_MS, b'{"type":"order","note":"leak"}').encode()
    answer = await mount.handle(HttpRequest("POST", "/", [], body))
    assert answer.ok
    assert "hunter2" not in answer.body.decode()
    assert "Traceback" not in answer.body.decode()


async def test_an_answer_is_short_whatever_was_sent() -> None:
    for body in (
        json.dumps({"idioteque": 1, "kind": ["x" * 100_000], "event_id": "e"}).encode(),
        json.dumps({"idioteque": "x" * 100_000}).encode(),
        json.dumps({"idioteque": 1, "kind": "run", "event_id": "e", "retries": ["x" * 100_000]}).encode(),
        json.dumps({"type": "x" * 100_000}).encode(),
    ):
        answer = await deliver(Shop(), body)
        assert not answer.ok
        assert len(answer.body) < 5000


@pytest.mark.parametrize("message_id", ["m" * 5000, "é" * 200, "a b", "\ud800"])
async def test_any_message_id_will_do_also_for_what_has_to_look_again(message_id: str) -> None:
    shop = Shop(insecure=True)
    entered, leave = asyncio.Event(), asyncio.Event()

    async def slow(order_id: str) -> str:
        entered.set()
        await leave.wait()
        return "slow"

    shop._pay = slow  # type: ignore[method-assign]
    first = asyncio.create_task(deliver(shop, order(), {"Upstash-Message-Id": "msg_1"}))
    await entered.wait()
    second = await deliver(shop, order(), {"Upstash-Message-Id": message_id})
    [check_back] = shop.sent.requests
    third = await deliver(shop, check_back.body, {"Upstash-Message-Id": "msg_3"})
    leave.set()
    assert [(await first).status, second.status, third.status] == [200, 200, 200]


@pytest.mark.parametrize("retried", ["", "x", "-1", "1e5", "²", "9" * 30, " 1"])
async def test_a_count_of_attempts_that_is_none_counts_as_the_first(retried: str) -> None:
    shop = Shop(insecure=True)
    assert (await deliver(shop, order(), {"Upstash-Message-Id": "msg_1", "Upstash-Retried": retried})).status == 200
    assert shop.paid == {"1": 1}


async def test_header_names_are_read_in_any_case() -> None:
    shop = Shop()
    given = {name.upper(): value for name, value in headers(order()).items()}
    assert (await deliver(shop, order(), given)).status == 200


async def test_a_refusal_leaves_no_secret_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    shop = Shop()
    given = headers(order(), key="sig_wrong_key_of_somebody")
    await deliver(shop, order(), given)
    for secret in (KEY, NEXT_KEY, "sig_wrong", given["Upstash-Signature"]):
        assert secret not in caplog.text
    assert "a delivery was refused" in caplog.text


async def test_a_callback_about_a_message_that_was_given_up_is_recorded_not_run() -> None:
    shop = Shop()
    body = json.dumps(
        {
            "sourceMessageId": "msg_1",
            "status": 503,
            "sourceBody": base64.b64encode(order()).decode(),
            "body": base64.b64encode(b"down").decode(),
            "dlqId": "dlq_1",
        }
    ).encode()
    answer = await deliver(shop, body, headers(body, **{"Idioteque-Callback": "failure"}))
    assert answer.ok
    assert shop.paid == {}
    [run] = (await shop.worker.runs.list()).runs
    why = await shop.worker.runs.why(run.id)
    assert why is not None
    assert (why.cause, "down" in why.text) == ("dead_letter", True)


async def test_nothing_is_mounted_without_functions() -> None:
    shop = Shop()
    with pytest.raises(ConfigurationError):
        shop.dispatcher.mount(shop.worker, functions=[])


async def test_a_lease_is_dropped_with_its_delivery() -> None:
    shop = Shop()
    await deliver(shop, order())
    [run] = (await shop.worker.runs.list()).runs
    assert list(await shop.worker.store.renew([Lease(run.id, 1)], 1000)) == [False]
