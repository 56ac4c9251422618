"""Publishing to QStash: the exact requests, what becomes of every answer, and no secret in what people read."""

from __future__ import annotations

import asyncio
import gc
import json
import logging
import weakref
from typing import Any

import pytest

from idioteque import BatchDispatchError, ConfigurationError, DispatchError, HttpRequest, HttpResponse, InvalidValue
from idioteque.dispatcher import Outgoing
from idioteque.dispatchers import QStashDispatcher
from idioteque.errors import ConnectFailed, ConnectionCut, ExchangeTimeout, IdiotequeError
from idioteque.testing import ManualClock, ScriptedTransport
from idioteque.transport import PooledTransport
from tests.ground.peers import Wire, serving

MOUNT = "https://app.example.com/api/worker?a=b"
TOKEN = "token-that-nobody-may-see"
ACCEPTED = HttpResponse(200, body=b'{"messageId":"msg_1","url":"x"}')


class Rushed(ManualClock):
    """A clock on which nobody waits; it keeps what was asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.pauses: list[float] = []

    async def sleep(self, seconds: float) -> None:
        self.pauses.append(seconds)


def dispatcher(transport: Any, **options: Any) -> QStashDispatcher:
    given = {"token": TOKEN, "url": "https://qstash.test", "clock": Rushed(), **options}
    return QStashDispatcher(mount_url=MOUNT, transport=transport, **given)


def headers_of(request: HttpRequest) -> dict[str, str]:
    named = {name.lower(): value for name, value in request.headers}
    assert len(named) == len(request.headers), "no name twice"
    return named


def outgoing(n: int, **options: Any) -> Outgoing:
    return Outgoing(f'{{"n":{n}}}'.encode(), f"dd_{n}", **options)


# ---- one message


async def test_a_message_is_published_to_the_mount_with_all_its_options() -> None:
    wire = ScriptedTransport([ACCEPTED])
    sent = await dispatcher(wire).dispatch({"a": 1}, retries=7, delay="1h", deduplication_id="order:1")
    [request] = wire.requests
    headers = headers_of(request)
    assert sent == "msg_1"
    assert (request.method, request.url) == ("POST", f"https://qstash.test/v2/publish/{MOUNT}")
    assert request.body == b'{"a":1}'
    assert headers["authorization"] == f"Bearer {TOKEN}"
    assert headers["content-type"] == "application/json"
    assert headers["upstash-retries"] == "7"
    assert headers["upstash-delay"] == "3600s"
    assert headers["upstash-retry-delay"] == "1000 * pow(45, retried)"
    assert ":" not in headers["upstash-deduplication-id"]


@pytest.mark.parametrize(
    ("own", "asked", "sent"), [(3, None, "3"), (3, 0, "0"), (0, None, "0"), (0, 5, "5"), (9, 2, "2")]
)
async def test_retries_are_those_asked_for_and_zero_means_zero(own: int, asked: int | None, sent: str) -> None:
    wire = ScriptedTransport([ACCEPTED])
    await dispatcher(wire, retries=own).dispatch({}, retries=asked)
    assert headers_of(wire.requests[0])["upstash-retries"] == sent


@pytest.mark.parametrize(
    ("delay", "header"),
    [(None, None), (0, None), (0.001, "1s"), (1, "1s"), (1.2, "2s"), ("3d", "259200s"), (90.0, "90s")],
)
async def test_a_delay_is_rounded_up_to_seconds(delay: Any, header: str | None) -> None:
    wire = ScriptedTransport([ACCEPTED])
    await dispatcher(wire).dispatch({}, delay=delay)
    assert headers_of(wire.requests[0]).get("upstash-delay") == header


@pytest.mark.parametrize("delay", [-1, float("nan"), float("inf"), "soon", True])
async def test_a_delay_that_is_none_is_refused(delay: Any) -> None:
    wire = ScriptedTransport([ACCEPTED])
    with pytest.raises(InvalidValue):
        await dispatcher(wire).dispatch({}, delay=delay)
    assert wire.requests == []


async def test_one_deduplication_id_is_one_id_and_none_is_always_another() -> None:
    wire = ScriptedTransport([ACCEPTED])
    for deduplication_id in ("a", "a", "b", None, None):
        await dispatcher(wire).dispatch({}, deduplication_id=deduplication_id)
    ids = [headers_of(request)["upstash-deduplication-id"] for request in wire.requests]
    assert ids[0] == ids[1]
    assert len(set(ids)) == 4


@pytest.mark.parametrize("status", [200, 201, 202])
async def test_any_success_is_one(status: int) -> None:
    answer = HttpResponse(status, body=b'{"messageId":"msg_1","deduplicated":true}')
    assert await dispatcher(ScriptedTransport([answer])).dispatch({}) == "msg_1"


@pytest.mark.parametrize("status", [400, 401, 403, 404, 412, 413, 422, 301, 307, 100])
async def test_a_refusal_is_an_error_at_once_with_status_and_text(status: int) -> None:
    wire = ScriptedTransport([HttpResponse(status, body=b'{"error":"quota maxDelay exceeded"}')])
    with pytest.raises(DispatchError, match="quota maxDelay exceeded") as refusal:
        await dispatcher(wire).dispatch({})
    assert (refusal.value.status, refusal.value.body) == (status, "quota maxDelay exceeded")
    assert len(wire.requests) == 1


@pytest.mark.parametrize(
    "answer",
    [500, 502, 503, 429, ConnectFailed("refused"), ConnectionCut("cut"), ExchangeTimeout("slow")],
    ids=repr,
)
async def test_what_may_pass_is_tried_again_under_the_same_id(answer: Any) -> None:
    wire, clock = ScriptedTransport([answer, answer, ACCEPTED]), Rushed()
    assert await dispatcher(wire, clock=clock).dispatch({}) == "msg_1"
    assert len({headers_of(request)["upstash-deduplication-id"] for request in wire.requests}) == 1
    assert len(wire.requests) == 3
    assert 0 < clock.pauses[0] < clock.pauses[1] < 2


@pytest.mark.parametrize("answer", [500, 429, ConnectionCut("cut")], ids=repr)
async def test_what_does_not_pass_is_an_error_in_the_end(answer: Any) -> None:
    wire = ScriptedTransport([answer])
    with pytest.raises(DispatchError) as failure:
        await dispatcher(wire).dispatch({})
    assert failure.value.status == (answer if isinstance(answer, int) else None)
    assert len(wire.requests) == 3


@pytest.mark.parametrize("body", [b"", b"<html>", b"[]", b"null", b"{}", b'{"messageId":5}', b"\xff"])
async def test_a_success_that_names_no_message_is_an_error(body: bytes) -> None:
    with pytest.raises(DispatchError):
        await dispatcher(ScriptedTransport([HttpResponse(200, body=body)])).dispatch({})


# ---- several messages


def accepting(request: HttpRequest) -> HttpResponse:
    ids = [{"messageId": f"msg_{json.loads(item['body'])['n']}"} for item in json.loads(request.body)]
    return HttpResponse(200, body=json.dumps(ids).encode())


async def test_several_messages_are_one_request() -> None:
    wire = ScriptedTransport(accepting)
    messages = [outgoing(0), outgoing(1, delay_s=5.5, retries=0, headers=[("Upstash-Forward-X", "y")])]
    assert await dispatcher(wire).send(messages) == ["msg_0", "msg_1"]
    [request] = wire.requests
    assert (request.method, request.url) == ("POST", "https://qstash.test/v2/batch")
    first, second = json.loads(request.body)
    assert [first["destination"], second["destination"]] == [MOUNT, MOUNT]
    assert [first["body"], second["body"]] == ['{"n":0}', '{"n":1}']
    assert first["headers"]["Upstash-Retries"] == "3"
    assert "Upstash-Delay" not in first["headers"]
    assert second["headers"]["Upstash-Retries"] == "0"
    assert second["headers"]["Upstash-Delay"] == "6s"
    assert second["headers"]["Upstash-Deduplication-Id"] == "dd_1"
    assert second["headers"]["Upstash-Forward-X"] == "y"
    assert TOKEN not in request.body.decode()


async def test_nothing_is_sent_for_nothing() -> None:
    wire = ScriptedTransport(accepting)
    assert await dispatcher(wire).send([]) == []
    assert wire.requests == []


async def test_many_messages_are_cut_into_batches_that_keep_their_order() -> None:
    wire = ScriptedTransport(accepting)
    sent = await dispatcher(wire).send([outgoing(n) for n in range(1201)])
    assert sent == [f"msg_{n}" for n in range(1201)]
    assert [len(json.loads(request.body)) for request in wire.requests] == [500, 500, 201]


async def test_large_messages_are_cut_into_batches_by_their_bytes() -> None:
    wire = ScriptedTransport(accepting)
    bodies = [f'{{"n":{n},"x":"{"x" * 1_500_000}"}}'.encode() for n in range(5)]
    sent = await dispatcher(wire).send([Outgoing(body, f"dd_{n}") for n, body in enumerate(bodies)])
    assert sent == [f"msg_{n}" for n in range(5)]
    assert [len(json.loads(request.body)) for request in wire.requests] == [2, 2, 1]
    assert max(len(request.body) for request in wire.requests) < 10 * 1024 * 1024


async def test_a_batch_that_was_refused_in_part_says_which() -> None:
    answer = [{"messageId": "msg_0"}, {"error": "quota exceeded"}, {"messageId": "msg_2", "deduplicated": True}, "odd"]
    wire = ScriptedTransport([HttpResponse(200, body=json.dumps(answer).encode())])
    with pytest.raises(BatchDispatchError, match="2 of 4 messages were refused: quota exceeded") as refusal:
        await dispatcher(wire).send([outgoing(n) for n in range(4)])
    assert refusal.value.failed == {1: "quota exceeded", 3: "odd"}
    assert refusal.value.accepted == {0: "msg_0", 2: "msg_2"}


async def test_a_later_batch_that_fails_does_not_hide_what_was_accepted_before() -> None:
    requests = 0

    def second_fails(request: HttpRequest) -> HttpResponse:
        nonlocal requests
        requests += 1
        return accepting(request) if requests == 1 else HttpResponse(403, body=b'{"error":"no more today"}')

    with pytest.raises(BatchDispatchError, match=r"701 of 1201 .* no more today") as refusal:
        await dispatcher(ScriptedTransport(second_fails)).send([outgoing(n) for n in range(1201)])
    assert refusal.value.accepted == {n: f"msg_{n}" for n in range(500)}
    assert list(refusal.value.failed) == list(range(500, 1201))
    assert requests == 2


async def test_a_batch_that_failed_as_a_whole_is_one_error() -> None:
    with pytest.raises(DispatchError, match="answered 403") as refusal:
        await dispatcher(ScriptedTransport([403])).send([outgoing(0), outgoing(1)])
    assert not isinstance(refusal.value, BatchDispatchError)


@pytest.mark.parametrize("body", [b"{}", b"[]", b'[{"messageId":"msg_1"}]', b"null"])
async def test_a_batch_answered_by_something_else_is_an_error(body: bytes) -> None:
    with pytest.raises(DispatchError, match="something else"):
        await dispatcher(ScriptedTransport([HttpResponse(200, body=body)])).send([outgoing(0), outgoing(1)])


# ---- over a real connection


async def test_the_request_on_the_wire() -> None:
    async def answer(wire: Wire) -> None:
        await wire.request()
        await wire.send(b'HTTP/1.1 200 OK\r\nContent-Length: 21\r\n\r\n{"messageId":"msg_9"}')
        await wire.closed_by_the_client()

    async with serving(answer) as peer:
        transport = PooledTransport()
        sent = await dispatcher(transport, url=peer.url).dispatch({"a": "é"}, deduplication_id="x")
        await transport.close()
    head, _, body = peer.requests[0].partition(b"\r\n\r\n")
    assert sent == "msg_9"
    assert head.startswith(f"POST /v2/publish/{MOUNT} HTTP/1.1\r\n".encode())
    assert f"authorization: bearer {TOKEN}".encode() in head.lower()
    assert body == b'{"a":"\\u00e9"}'


def test_a_loop_for_each_message_leaves_nothing_open() -> None:
    dispatcher_of_all = dispatcher(PooledTransport(), clock=None, url="http://unused.test")
    loops: list[weakref.ref[asyncio.AbstractEventLoop]] = []

    async def publish() -> None:
        async def answer(wire: Wire) -> None:
            await wire.request()
            await wire.send(b'HTTP/1.1 200 OK\r\nContent-Length: 21\r\n\r\n{"messageId":"msg_9"}')
            await wire.closed_by_the_client()

        loops.append(weakref.ref(asyncio.get_running_loop()))
        async with serving(answer) as peer:
            dispatcher_of_all.url = peer.url
            await dispatcher_of_all.dispatch({})

    for _ in range(10):
        asyncio.run(publish())
    gc.collect()
    assert [loop() for loop in loops] == [None] * 10


# ---- settings and secrets


def test_settings_come_from_the_environment_unless_they_are_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QSTASH_URL", "https://other.test/")
    monkeypatch.setenv("QSTASH_TOKEN", " from-the-environment\n")
    assert QStashDispatcher(mount_url=MOUNT).url == "https://other.test"
    assert QStashDispatcher(mount_url=MOUNT, url="http://mine.test/").url == "http://mine.test"


async def test_without_any_setting_it_is_the_hosted_service_and_publishing_names_the_variable() -> None:
    wire = ScriptedTransport([ACCEPTED])
    unset = QStashDispatcher(mount_url=MOUNT, transport=wire)
    assert unset.url == "https://qstash.upstash.io"
    with pytest.raises(DispatchError, match="QSTASH_TOKEN"):
        await unset.dispatch({})
    assert wire.requests == []


@pytest.mark.parametrize(
    ("value", "port", "url"),
    [
        ("true", "", "http://127.0.0.1:8080"),
        ("1", "9123", "http://127.0.0.1:9123"),
        ("TRUE", "80", "http://127.0.0.1:80"),
        ("false", "9123", "https://other.test"),
        ("0", "", "https://other.test"),
        ("", "", "https://other.test"),
    ],
)
async def test_the_local_server_wins_when_it_is_asked_for(
    monkeypatch: pytest.MonkeyPatch, value: str, port: str, url: str
) -> None:
    monkeypatch.setenv("QSTASH_URL", "https://other.test")
    monkeypatch.setenv("QSTASH_TOKEN", "of-the-other")
    monkeypatch.setenv("QSTASH_DEV", value)
    monkeypatch.setenv("QSTASH_DEV_PORT", port)
    wire = ScriptedTransport([ACCEPTED])
    asked = QStashDispatcher(mount_url=MOUNT, transport=wire)
    await asked.dispatch({})
    assert asked.url == url
    assert ("of-the-other" in headers_of(wire.requests[0])["authorization"]) is (url == "https://other.test")


@pytest.mark.parametrize(
    ("name", "value"),
    [("QSTASH_DEV", "maybe"), ("QSTASH_DEV_PORT", "0"), ("QSTASH_DEV_PORT", "99999"), ("QSTASH_DEV_PORT", "²")],
)
def test_a_setting_that_means_nothing_is_refused(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv("QSTASH_DEV", "true")
    monkeypatch.setenv(name, value)
    with pytest.raises(ConfigurationError, match=name):
        QStashDispatcher(mount_url=MOUNT)


@pytest.mark.parametrize(
    "options",
    [
        {"mount_url": "app.example.com/api"},
        {"mount_url": "/api"},
        {"mount_url": "ftp://app.example.com"},
        {"mount_url": "https://"},
        {"mount_url": "https://[::1"},
        {"mount_url": "https://host:99999/"},
        {"mount_url": "https://app.example.com/é"},
        {"mount_url": "https://app.example.com/a b"},
        {"mount_url": "https://app.example.com/#part"},
        {"mount_url": "https://app.example.com/?upstash-delay=1"},
        {"mount_url": "https://app.example.com/?qstash_token=x"},
        {"mount_url": MOUNT, "url": "qstash.test"},
        {"mount_url": MOUNT, "url": "http://[::1"},
        {"mount_url": MOUNT, "retries": -1},
    ],
    ids=repr,
)
def test_what_can_never_work_is_refused_before_anything_is_sent(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError):
        QStashDispatcher(**options)


@pytest.mark.parametrize(
    "answer",
    [401, HttpResponse(500, body=b"Traceback"), HttpResponse(200, body=b"{}"), ConnectFailed("refused"), 301],
    ids=repr,
)
async def test_no_secret_in_what_people_read(answer: Any, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    asked = dispatcher(ScriptedTransport([answer]), current_signing_key="sig_secret", next_signing_key="sig_secret2")
    texts = [repr(asked), str(asked)]
    for send in (asked.dispatch({}), asked.send([outgoing(0), outgoing(1)])):
        with pytest.raises(IdiotequeError) as failure:
            await send
        texts += [str(failure.value), repr(failure.value), repr(failure.value.__cause__)]
    texts += [record.getMessage() for record in caplog.records]
    assert not [text for text in texts if TOKEN in text or "sig_secret" in text]
