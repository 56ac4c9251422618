"""A response that is the same bytes as the last one on its connection is not parsed again, and means the same."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Sequence

import pytest

from idioteque.transport import HttpRequest, HttpResponse, PooledTransport
from tests.ground.peers import Wire, serving


def response(body: bytes = b"ok", status: str = "200 OK", *lines: str) -> bytes:
    head = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", *lines]
    return "\r\n".join(head).encode() + b"\r\n\r\n" + body


@pytest.fixture
async def transport() -> AsyncIterator[PooledTransport]:
    transport = PooledTransport()
    yield transport
    await transport.close()


async def asked(transport: PooledTransport, sent: Sequence[bytes]) -> tuple[list[HttpResponse], int]:
    """Return what comes of a request for each of the bytes, which one connection answers; and how many there were."""
    left = iter(sent)

    async def behaviour(wire: Wire) -> None:
        for raw in left:
            await wire.request()
            await wire.send(raw)
        await wire.closed_by_the_client()

    async with serving(behaviour) as peer:
        responses = [await transport.send(HttpRequest("POST", peer.url, (), b"body")) for _ in sent]
        await transport.close()
        return responses, peer.connections


async def test_responses_mean_what_they_say_whichever_came_before(transport: PooledTransport) -> None:
    first, other, failed = response(), response(b"no"), response(b"ok", "503 No", "Retry-After: 1")
    sent = [first, first, other, first, failed, failed, first, response(b""), response(b""), first]
    responses, connections = await asked(transport, sent)
    assert [(each.status, each.body, each.complete) for each in responses] == [
        (200, b"ok", True), (200, b"ok", True), (200, b"no", True), (200, b"ok", True), (503, b"ok", True),
        (503, b"ok", True), (200, b"ok", True), (200, b"", True), (200, b"", True), (200, b"ok", True),
    ]  # fmt: skip
    assert [each.header("retry-after") for each in responses[3:7]] == [None, "1", "1", None]
    assert responses[1] is responses[0]  # not made anew
    assert responses[3] is not responses[0]
    assert connections == 1


async def test_what_ends_its_connection_ends_it_each_time(transport: PooledTransport) -> None:
    closing = response(b"ok", "200 OK", "Connection: close")
    for raw in (closing, response() + b"HTTP/1.1 200"):
        answers = iter([response(), raw, response(), raw, response()])

        async def behaviour(wire: Wire, answers: Iterator[bytes] = answers) -> None:
            while True:
                await wire.request()
                await wire.send(next(answers))

        async with serving(behaviour) as peer:
            for _ in range(5):
                assert (await transport.send(HttpRequest("POST", peer.url, (), b"body"))).body == b"ok"
            assert peer.connections == 3


async def test_a_repeated_response_may_be_too_long_for_the_next_request(transport: PooledTransport) -> None:
    async def behaviour(wire: Wire) -> None:
        while True:
            await wire.request()
            await wire.send(response(b"x" * 10))

    async with serving(behaviour) as peer:
        request = HttpRequest("POST", peer.url, (), b"body")
        whole = [await transport.send(request, response_bytes_max=10) for _ in range(2)]
        assert [(each.body, each.complete) for each in whole] == [(b"x" * 10, True)] * 2
        cut = await transport.send(request, response_bytes_max=9)
        assert (cut.body, cut.complete) == (b"x" * 9, False)


async def test_the_same_head_has_no_body_after_head(transport: PooledTransport) -> None:
    async def behaviour(wire: Wire) -> None:
        while True:
            await wire.request()
            await wire.send(response(b""))

    async with serving(behaviour) as peer:
        for method in ("POST", "HEAD", "POST", "POST", "HEAD"):
            answer = await transport.send(HttpRequest(method, peer.url))
            assert (answer.status, answer.body) == (200, b"")


async def test_a_response_in_pieces_is_put_together_after_one_that_was_whole(transport: PooledTransport) -> None:
    pieces = [response()[:at] for at in (1, 20, len(response()) - 1)]

    async def behaviour(wire: Wire) -> None:
        for piece in pieces:
            for _ in range(2):
                await wire.request()
                await wire.send(response())
            await wire.request()
            await wire.send(piece)
            await wire.send(response()[len(piece) :])
        await wire.closed_by_the_client()

    async with serving(behaviour) as peer:
        for _ in range(3 * len(pieces)):
            assert (await transport.send(HttpRequest("POST", peer.url, (), b"body"))).body == b"ok"
        assert peer.connections == 1
        await transport.close()
