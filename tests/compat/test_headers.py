"""Each header of the protocol on a real socket: what a publish may carry, what a delivery brings, what answers do."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import http.client
import json
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from qstash import Receiver

from tests.compat.rows import covers
from tests.destination import Destination, Received, open_destination, until
from tests.processes import CURRENT_KEY, NEXT_KEY, ServerProcess, start_server


class Caller:
    """Publishes with bare headers, and finds what arrived."""

    def __init__(self, server: ServerProcess, destination: Destination) -> None:
        self.server = server
        self.destination = destination

    def call(self, method: str, path: str, body: bytes = b"", **headers: str) -> tuple[int, dict[str, str], Any]:
        with closing(http.client.HTTPConnection("127.0.0.1", self.server.port, timeout=20)) as connection:
            named = {name.replace("_", "-"): value for name, value in headers.items()}
            connection.request(method, path, body, {"Authorization": f"Bearer {self.server.token}", **named})
            response = connection.getresponse()
            document = json.loads(response.read())
            return response.status, {name.lower(): value for name, value in response.headers.items()}, document

    def publish(self, path: str = "/hook", body: bytes = b"", **headers: str) -> str:
        status, _, reply = self.call("POST", f"/v2/publish/{self.destination.url}{path}", body, **headers)
        assert status == 200, reply
        return str(reply["messageId"])

    def received(self, message_id: str, count: int = 1) -> Received:
        """Return the last of so many deliveries of a message."""

        def all_of_it() -> list[Received]:
            return [request for request in list(self.destination.received) if request.message_id == message_id]

        until(lambda: len(all_of_it()) >= count)
        return all_of_it()[count - 1]

    def message(self, message_id: str) -> Any:
        return self.call("GET", f"/v2/messages/{message_id}")[2]

    def at(self, path: str) -> list[Received]:
        """Return what came to a path, once something did."""
        until(lambda: any(request.target == path for request in list(self.destination.received)))
        return [request for request in list(self.destination.received) if request.target == path]


def by_path(request: Received) -> int | tuple[int, dict[str, str], bytes]:
    """Answer as the path says: `/status/500/Retry-After/0` gives that status and header, the second time 200."""
    parts = request.target.strip("/").split("/")
    if parts[0] != "status" or request.headers.get("upstash-retried") != "0":
        return 200
    return int(parts[1]), dict(zip(parts[2::2], parts[3::2], strict=False)), b"not now"


@pytest.fixture(scope="module")
def caller(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Caller]:
    server = start_server(tmp_path_factory.mktemp("server"))
    with open_destination(by_path) as destination:
        yield Caller(server, destination)
    assert server.stop() == 0


@covers("publish Authorization", "publish Content-Type", "publish Upstash-Method", "publish Upstash-Forward-*")
def test_method_type_and_forwarded_headers_arrive(caller: Caller) -> None:
    message_id = caller.publish(
        body=b"<a/>",
        Content_Type="text/xml",
        Upstash_Method="PATCH",
        Upstash_Forward_Authorization="Bearer theirs",
        Upstash_Forward_X_One="1",
    )
    request = caller.received(message_id)
    assert (request.method, request.headers["content-type"], request.body) == ("PATCH", "text/xml", b"<a/>")
    assert (request.headers["authorization"], request.headers["x-one"]) == ("Bearer theirs", "1")


@covers(
    "delivery User-Agent", "delivery Content-Type", "delivery forwarded headers", "delivery Upstash-Signature",
    "delivery Upstash-Message-Id", "delivery Upstash-Retried", "delivery Upstash-Caller-Ip",
    "delivery Accept-Encoding", "delivery Content-Length", "delivery Host",
)  # fmt: skip
def test_a_delivery_has_exactly_these_headers(caller: Caller) -> None:
    message_id = caller.publish("/exact", b"{}", Content_Type="application/json", Upstash_Forward_X_One="1")
    request = caller.received(message_id)
    signature = request.headers.pop("upstash-signature")
    Receiver(current_signing_key=CURRENT_KEY, next_signing_key=NEXT_KEY).verify(
        signature=signature, body="{}", url=f"{caller.destination.url}/exact"
    )
    assert request.headers == {
        "host": f"127.0.0.1:{caller.destination.port}",
        "user-agent": "Upstash-QStash",
        "accept-encoding": "identity",
        "content-length": "2",
        "content-type": "application/json",
        "x-one": "1",
        "upstash-message-id": message_id,
        "upstash-retried": "0",
        "upstash-caller-ip": "127.0.0.1",
    }


@covers("publish Upstash-Header-Forward", "publish Upstash-Telemetry-*")
def test_all_headers_are_forwarded_when_asked_and_none_that_is_ours(caller: Caller) -> None:
    telemetry = {"Upstash_Telemetry_Sdk": "sdk", "Upstash_Telemetry_Runtime": "node"}
    message_id = caller.publish(X_Hub="hub", Upstash_Header_Forward="true", **telemetry)
    headers = caller.received(message_id).headers
    assert headers["x-hub"] == "hub"
    assert [name for name in headers if "telemetry" in name or name == "authorization"] == []


@covers("publish Upstash-Delay", "publish Upstash-Not-Before")
def test_a_delay_and_a_time_put_a_message_off(caller: Caller) -> None:
    begun_s = time.monotonic()
    assert caller.received(caller.publish(Upstash_Delay="1s")).at_s - begun_s >= 0.9
    timed = caller.publish(Upstash_Delay="1d", Upstash_Not_Before="9999999")
    assert caller.received(timed).at_s - begun_s < 10


@covers("publish Upstash-Retries", "publish Upstash-Retry-Delay", "delivery Upstash-Retried")
def test_failures_are_retried_as_asked(caller: Caller) -> None:
    message_id = caller.publish("/status/500", Upstash_Retries="1", Upstash_Retry_Delay="10 * (1 + retried)")
    assert caller.received(message_id, 2).headers["upstash-retried"] == "1"


@covers("publish Upstash-Timeout")
def test_an_attempt_ends_at_its_timeout(tmp_path: Path) -> None:
    server = start_server(tmp_path)

    async def never(_: Received) -> int:
        await asyncio.sleep(60)
        return 200

    with open_destination(never) as destination:
        caller = Caller(server, destination)
        message_id = caller.publish(Upstash_Timeout="1", Upstash_Retries="0")
        until(lambda: len(caller.call("GET", f"/v2/dlq?messageId={message_id}")[2]["messages"]) == 1)
        (letter,) = caller.call("GET", f"/v2/dlq?messageId={message_id}")[2]["messages"]
    assert (letter["responseStatus"], "within 1 s" in letter["error"]) == (0, True)
    assert server.stop() == 0


@covers(
    "publish Upstash-Callback", "publish Upstash-Callback-*", "publish Upstash-Failure-Callback",
    "publish Upstash-Failure-Callback-*",
)  # fmt: skip
def test_callbacks_are_sent_as_they_are_configured(caller: Caller) -> None:
    url = caller.destination.url
    message_id = caller.publish(
        "/status/418/X-Why/tea",
        b"payload",
        Upstash_Retries="0",
        Upstash_Callback=f"{url}/each",
        Upstash_Callback_Method="PUT",
        Upstash_Callback_Forward_X_Kind="each",
        Upstash_Failure_Callback=f"{url}/end",
        Upstash_Failure_Callback_Forward_X_Kind="end",
    )
    (each,), (end,) = caller.at("/each"), caller.at("/end")
    assert (each.method, each.headers["x-kind"]) == ("PUT", "each")
    assert (end.method, end.headers["x-kind"]) == ("POST", "end")
    reports = [json.loads(request.body) for request in (each, end)]
    assert [report["sourceMessageId"] for report in reports] == [message_id] * 2
    assert ["dlqId" in report for report in reports] == [False, True]
    assert (reports[0]["status"], reports[0]["header"]["X-Why"]) == (418, ["tea"])
    assert base64.b64decode(reports[0]["body"]) == b"not now"
    assert base64.b64decode(reports[0]["sourceBody"]) == b"payload"


@covers("publish Upstash-Deduplication-Id", "publish Upstash-Content-Based-Deduplication")
def test_duplicates_are_answered_202_and_not_sent(caller: Caller) -> None:
    for headers in ({"Upstash_Deduplication_Id": "one"}, {"Upstash_Content_Based_Deduplication": "True"}):
        first = caller.publish("/dedup", b"same", **headers)
        status, _, reply = caller.call("POST", f"/v2/publish/{caller.destination.url}/dedup", b"same", **headers)
        assert (status, reply["messageId"], reply["deduplicated"]) == (202, first, True)
        caller.received(first)
    assert len(caller.at("/dedup")) == 2


@covers("publish Upstash-Label", "publish Upstash-Redact-Fields")
def test_labels_and_redactions_are_shown(caller: Caller) -> None:
    message_id = caller.publish(
        body=b"secret",
        Content_Type="text/plain",
        Upstash_Label="one, two",
        Upstash_Forward_X_Secret="hidden",
        Upstash_Redact_Fields="body, header[X-Secret]",
    )
    assert caller.received(message_id).body == b"secret"
    message = caller.message(message_id)
    assert (message["label"], message["labels"]) == ("one", ["one", "two"])
    assert message["body"] == f"REDACTED:{hashlib.sha256(b'secret').hexdigest()}"
    assert message["header"]["X-Secret"] == [f"REDACTED:{hashlib.sha256(b'hidden').hexdigest()}"]
    assert message["header"]["Content-Type"] == ["text/plain"]


@covers("answer Upstash-NonRetryable-Error")
def test_a_destination_may_forbid_further_attempts(caller: Caller) -> None:
    message_id = caller.publish("/status/489/Upstash-NonRetryable-Error/true", Upstash_Retries="5")
    until(lambda: len(caller.call("GET", f"/v2/dlq?messageId={message_id}")[2]["messages"]) == 1)
    assert caller.received(message_id).headers["upstash-retried"] == "0"


@covers(
    "answer Retry-After", "answer X-RateLimit-Reset", "answer X-RateLimit-Reset-Requests",
    "answer X-RateLimit-Reset-Tokens",
)  # fmt: skip
def test_a_destination_may_say_when_to_come_back(caller: Caller) -> None:
    for name in ("Retry-After", "X-RateLimit-Reset", "X-RateLimit-Reset-Requests", "X-RateLimit-Reset-Tokens"):
        begun_s = time.monotonic()
        message_id = caller.publish(f"/status/429/{name}/500ms", Upstash_Retry_Delay="86400000")
        assert 0.4 < caller.received(message_id, 2).at_s - begun_s < 10


@covers(
    "refusal RateLimit-Limit", "refusal RateLimit-Remaining", "refusal RateLimit-Reset",
    "refusal Burst-RateLimit-Limit", "refusal Burst-RateLimit-Remaining", "refusal Burst-RateLimit-Reset",
)  # fmt: skip
def test_limits_are_told_apart_by_their_headers(tmp_path: Path) -> None:
    settings = ["--set", "messages_per_day_max=1", "--set", "management_per_s_max=1"]
    server = start_server(tmp_path, args=settings)
    with open_destination() as destination:
        caller = Caller(server, destination)
        caller.publish()
        status, headers, _ = caller.call("POST", f"/v2/publish/{destination.url}")
        assert (status, headers["ratelimit-limit"], headers["ratelimit-remaining"]) == (429, "1", "0")
        assert int(headers["ratelimit-reset"]) % 86_400 == 0

        def refused() -> bool:
            return caller.call("GET", "/v2/dlq")[0] == 429

        until(refused)
        until(lambda: caller.call("GET", "/v2/dlq")[0] == 200)  # a new second
        status, headers, _ = caller.call("GET", "/v2/dlq")
        while status != 429:
            status, headers, _ = caller.call("GET", "/v2/dlq")
        assert (headers["burst-ratelimit-limit"], headers["burst-ratelimit-remaining"]) == ("1", "0")
        assert abs(int(headers["burst-ratelimit-reset"]) - time.time()) < 5
        assert "ratelimit-limit" not in headers
    assert server.stop() == 0
