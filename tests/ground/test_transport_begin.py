"""Requests that are begun without a task: the same outcomes as those of `send`, told by a call."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable

import pytest

from idioteque.errors import AddressDenied, ConnectionCut, ExchangeTimeout, TransportError
from idioteque.transport import HttpRequest, HttpResponse, PooledTransport
from tests.ground.peers import Wire, answering, serving

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


class Ear:
    """Hears what came of an exchange."""

    def __init__(self) -> None:
        self._heard: asyncio.Future[HttpResponse | TransportError] = asyncio.get_running_loop().create_future()

    def __call__(self, outcome: HttpResponse | TransportError) -> None:
        self._heard.set_result(outcome)

    @property
    def is_told(self) -> bool:
        return self._heard.done()

    async def told(self) -> HttpResponse | TransportError:
        return await self._heard


@pytest.fixture
async def transport() -> AsyncIterator[PooledTransport]:
    transport = PooledTransport()
    yield transport
    await transport.close()


def post(url: str, body: bytes = b"body") -> HttpRequest:
    return HttpRequest("POST", url, (), body)


def begin(
    transport: PooledTransport, request: HttpRequest, ear: Ear, timeout_s: float = 30.0
) -> Callable[[], None] | None:
    return transport.begin(request, ear, timeout_s=timeout_s, response_bytes_max=1000)


async def test_what_comes_back_on_a_kept_connection_is_told_later(transport: PooledTransport) -> None:
    async with serving(answering(OK)) as peer:
        await transport.send(post(peer.url))
        for _ in range(3):
            ear = Ear()
            assert begin(transport, post(peer.url), ear) is not None
            assert not ear.is_told
            response = await ear.told()
            assert isinstance(response, HttpResponse)
            assert (response.status, response.body) == (200, b"ok")
        assert peer.connections == 1
        assert len(peer.requests) == 4
        assert peer.requests[0] == peer.requests[3]


async def test_what_send_has_to_do_is_not_begun(transport: PooledTransport) -> None:
    async with serving(answering(OK)) as peer:
        ear = Ear()
        assert begin(transport, post(peer.url), ear) is None  # no connection is kept
        await transport.send(post(peer.url))
        assert begin(transport, HttpRequest("GET", peer.url), ear) is None  # may be sent twice
        assert begin(transport, post(peer.url), ear, timeout_s=5) is None  # has to end on time
        assert begin(transport, post("no-url"), ear) is None
        assert begin(transport, HttpRequest("POST", peer.url, [("X", "a\r\nb: c")]), ear) is None
        assert len(peer.requests) == 1
        assert begin(transport, post(peer.url), ear) is not None  # the connection was left alone by all of them
        assert isinstance(await ear.told(), HttpResponse)


async def test_an_address_that_is_not_allowed_any_more_is_not_sent_to() -> None:
    denied = False

    def check(address: str, port: int) -> None:
        if denied:
            raise AddressDenied(f"{address} may not be reached")

    transport = PooledTransport(check)
    async with serving(answering(OK)) as peer:
        await transport.send(post(peer.url))
        denied = True
        assert begin(transport, post(peer.url), Ear()) is None
        assert len(peer.requests) == 1
        await transport.close()


async def test_a_connection_cut_at_a_begun_request_is_told_as_a_cut(transport: PooledTransport) -> None:
    async def behaviour(wire: Wire) -> None:
        await wire.request()
        await wire.send(OK)
        await wire.request()
        wire.reset()

    async with serving(behaviour) as peer:
        await transport.send(post(peer.url))
        ear = Ear()
        assert begin(transport, post(peer.url), ear) is not None
        assert isinstance(await ear.told(), ConnectionCut)
        assert begin(transport, post(peer.url), Ear()) is None  # and it is kept no longer


async def second_request_hangs(wire: Wire) -> None:
    await wire.request()
    await wire.send(OK)
    await wire.request()
    await wire.closed_by_the_client()


async def test_a_begun_request_meets_its_deadline(transport: PooledTransport, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("idioteque.transport.pool.LOOKED_AT_S", 0.0)
    monkeypatch.setattr("idioteque.transport.pool.LOOK_EVERY_S", 0.01)
    async with serving(second_request_hangs) as peer:
        await transport.send(post(peer.url))
        ear = Ear()
        assert begin(transport, post(peer.url), ear, timeout_s=0.05) is not None
        async with asyncio.timeout(5):
            assert isinstance(await ear.told(), ExchangeTimeout)


async def test_nobody_is_told_of_what_was_broken_off_and_its_connection_is_closed(transport: PooledTransport) -> None:
    async with serving(second_request_hangs) as peer:
        await transport.send(post(peer.url))
        ear = Ear()
        break_off = begin(transport, post(peer.url), ear)
        assert break_off is not None
        break_off()
        assert (await transport.send(post(peer.url))).status == 200  # on a connection of its own
        assert peer.connections == 2
        assert not ear.is_told


async def test_begun_requests_count_towards_the_connections_of_a_host() -> None:
    transport = PooledTransport(connections_per_host_max=1)
    async with serving(answering(OK)) as peer:
        await transport.send(post(peer.url))
        first, second = Ear(), Ear()
        assert begin(transport, post(peer.url, b"first"), first) is not None
        assert begin(transport, post(peer.url, b"second"), second) is None
        waiting = asyncio.ensure_future(transport.send(post(peer.url, b"third")))
        assert isinstance(await first.told(), HttpResponse)
        assert (await waiting).status == 200
        assert peer.connections == 1
        await transport.close()


async def test_a_name_that_is_not_allowed_is_refused_each_time(transport: PooledTransport) -> None:
    async with serving(answering(OK)) as peer:
        for name in ("Content-Length", "transfer-encoding", "a b", "a:"):
            for _ in range(2):
                with pytest.raises(TransportError, match=r"set by the transport|not a token"):
                    await transport.send(HttpRequest("POST", peer.url, ((name, "1"),)))
