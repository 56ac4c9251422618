"""Heads that came before are not parsed again, and what is served of them is what the parser would have said."""

from __future__ import annotations

from pathlib import Path

import pytest

from idioteque.server.front.heads import HEAD_BYTES_MAX, REMEMBERED_MAX, Heads
from idioteque.server.front.request import HeadLimits, Request, read_head
from tests.destination import open_destination
from tests.processes import start_server
from tests.server.test_front import Client, publish

PEER = "192.0.2.1"


def wire(*lines: str, body: bytes = b"hello", length: int | None = None) -> bytes:
    head = ["POST /v2/publish/http://shop.test/ HTTP/1.1", "Host: a", *lines]
    head += [] if length == -1 else [f"Content-Length: {len(body) if length is None else length}"]
    return "\r\n".join(head).encode() + b"\r\n\r\n" + body


def parsed(data: bytes) -> Request:
    """Return the request of bytes as the connection has it when the parser is done."""
    head, _, body = data.partition(b"\r\n\r\n")
    first, *lines = head.split(b"\r\n")
    method, target, _ = first.split(b" ")
    pairs = [(name.lower(), value) for name, _, value in (line.partition(b": ") for line in lines)]
    request = read_head(method, target, "1.1", pairs, HeadLimits(), PEER, len(head))
    request.body = body
    return request


def remembering(*known: bytes) -> Heads:
    heads = Heads()
    for data in known:
        heads.remember(data, parsed(data))
    return heads


def test_a_head_that_came_before_gives_the_same_request_with_a_body_and_a_peer_of_its_own() -> None:
    found = remembering(wire(body=b"hello")).request(wire(body=b"world"), "::1")
    assert found is not None
    assert (found.body, found.peer) == (b"world", "::1")
    like = parsed(wire(body=b"hello"))
    for name in ("method", "path", "query", "headers", "first"):
        assert getattr(found, name) == getattr(like, name)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\r\n\r\n",
        wire()[:-1],
        wire() + b"!",
        wire() + wire(),
        wire()[:-5],
        b"\r\n" + wire(),
        wire()[1:],
        wire(body=b"longer"),
        wire("Upstash-Retries: 1"),
        wire("host: b"),
    ],
)
def test_only_the_whole_of_one_request_is_taken_for_it(data: bytes) -> None:
    assert remembering(wire()).request(data, PEER) is None


@pytest.mark.parametrize(
    "data",
    [
        wire("Upstash-Deduplication-Id: 1"),
        wire("Expect: 100-continue"),
        wire("Upgrade: h2c"),
        wire("Transfer-Encoding: chunked", body=b"0\r\n\r\n", length=-1),
        wire("X-Long: " + "x" * HEAD_BYTES_MAX),
        wire(length=4),
        wire(length=-1),
    ],
)
def test_what_may_not_come_again_as_it_is_is_not_remembered(data: bytes) -> None:
    assert remembering(data).request(data, PEER) is None


def test_so_many_are_remembered_and_the_oldest_go() -> None:
    heads = remembering(*[wire(f"Upstash-Retries: {n}") for n in range(REMEMBERED_MAX + 1)])
    assert heads.request(wire("Upstash-Retries: 0"), PEER) is None
    assert heads.request(wire("Upstash-Retries: 1"), PEER) is not None


def test_requests_of_one_head_are_delivered_each_with_its_body_and_in_whatever_pieces(tmp_path: Path) -> None:
    with open_destination() as destination:
        server = start_server(tmp_path)
        try:
            with Client(server) as client, Client(server) as other:
                bodies = [b"body-%d" % n for n in range(8)]
                for place, body in enumerate(bodies):
                    data = publish(destination.url, body=body)
                    parts = [data[: 10 * place], data[10 * place :]] if place % 2 else [data]
                    one = other if place > 4 else client
                    for part in parts:
                        one.send(part)
                    response = one.response()
                    assert response is not None
                    assert response[0] == 200
                assert sorted(each.body for each in destination.wait_for(len(bodies))) == bodies
                # A head that was let in tells nothing about who is let in with another.
                client.send(publish(destination.url, body=b"body-8").replace(b"Bearer ", b"Bearer x"))
                refused = client.response()
                assert refused is not None
                assert refused[0] == 401
                both = publish(destination.url, body=b"body-8") + publish(destination.url, body=b"body-9")
                other.send(both)
                answers = [other.response(), other.response()]
                assert [answer[0] for answer in answers if answer is not None] == [200, 200]
                received = [each.body for each in destination.wait_for(len(bodies) + 2)]
                assert sorted(received) == [*bodies, b"body-8", b"body-9"]
        finally:
            server.stop()
