"""The pooled transport against real sockets that behave badly."""

from __future__ import annotations

import asyncio
import gzip
import socket
import ssl
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from idioteque.errors import AddressDenied, ConnectFailed, ConnectionCut, ExchangeTimeout, TransportError
from idioteque.transport import HttpRequest, HttpResponse, PooledTransport, origin
from tests.ground.peers import Wire, answering, saying, serving

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


class Guard:
    """Allows the addresses given and keeps what it was asked."""

    def __init__(self, *allowed: str) -> None:
        self.allowed = allowed
        self.asked: list[tuple[str, int]] = []

    def __call__(self, address: str, port: int) -> None:
        self.asked.append((address, port))
        if address not in self.allowed:
            raise AddressDenied(f"{address} may not be reached")


MakeGuarded = Callable[[Guard], PooledTransport]


@pytest.fixture
async def transport() -> AsyncIterator[PooledTransport]:
    transport = PooledTransport()
    yield transport
    await transport.close()


@pytest.fixture
async def guarded_by() -> AsyncIterator[MakeGuarded]:
    """Make transports whose addresses are checked."""
    made: list[PooledTransport] = []

    def make(guard: Guard) -> PooledTransport:
        made.append(PooledTransport(guard))
        return made[-1]

    yield make
    for one in made:
        await one.close()


def get(url: str, *headers: tuple[str, str]) -> HttpRequest:
    return HttpRequest("GET", url, headers)


def post(url: str, body: bytes = b"body") -> HttpRequest:
    return HttpRequest("POST", url, (), body)


# ---- what is sent and what comes back


async def test_nothing_is_sent_but_what_was_asked_for(transport: PooledTransport) -> None:
    async with serving(answering(OK)) as peer:
        await transport.send(
            HttpRequest("POST", f"{peer.url}/a//b/%2e%2e/c%20d?x=%26&y", [("X-One", "1")], bytes(range(256)))
        )
        await transport.send(HttpRequest("DELETE", f"{peer.url}/?", [("x-two", "a"), ("X-Two", "b")]))
        await transport.send(HttpRequest("POST", peer.url))
        head, _, body = peer.requests[0].partition(b"\r\n\r\n")
        assert body == bytes(range(256))
        line, *headers = head.split(b"\r\n")
        assert line == b"POST /a//b/%2e%2e/c%20d?x=%26&y HTTP/1.1"
        assert sorted(headers) == [b"Content-Length: 256", b"Host: 127.0.0.1:%d" % peer.port, b"X-One: 1"]
        assert [line for line in peer.requests[1].split(b"\r\n") if b"wo:" in line] == [b"x-two: a", b"X-Two: b"]
        assert b"Content-Length: 0" in peer.requests[2]


async def test_a_response_comes_back_as_it_is(transport: PooledTransport) -> None:
    raw = b"HTTP/1.1 418 No\r\nX-A: 1\r\nx-a: caf\xe9\r\nSet-Cookie: a=b\r\nContent-Length: 3\r\n\r\n\x00\xff\n"
    async with serving(answering(raw)) as peer:
        response = await transport.send(get(peer.url))
        assert (response.status, response.body, response.complete, response.ok) == (418, b"\x00\xff\n", True, False)
        assert list(response.headers)[:2] == [("X-A", "1"), ("x-a", "café")]
        assert response.header("SET-COOKIE") == "a=b"
        assert response.header("x-none") is None
        await transport.send(get(peer.url))
        assert b"ookie" not in peer.requests[1]


async def test_header_values_keep_their_bytes(transport: PooledTransport) -> None:
    async with serving(answering(OK)) as peer:
        await transport.send(get(peer.url, ("X-Name", "caf\xe9"), ("X-Bytes", "é".encode().decode("latin-1"))))
        assert b"X-Bytes: \xc3\xa9\r\n" in peer.requests[0]
        assert b"X-Name: caf\xe9\r\n" in peer.requests[0]
        with pytest.raises(TransportError, match="no byte of ISO 8859-1"):
            await transport.send(get(peer.url, ("X-Name", "\N{SNOWMAN}")))


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_redirects_are_not_followed(transport: PooledTransport, status: int) -> None:
    raw = b"HTTP/1.1 %d Go\r\nLocation: /elsewhere\r\nContent-Length: 0\r\n\r\n" % status
    async with serving(answering(raw)) as peer:
        response = await transport.send(post(peer.url))
        assert (response.status, response.header("location")) == (status, "/elsewhere")
        assert len(peer.requests) == 1


@pytest.mark.parametrize("encoding", [b"gzip", b"deflate", b"br", b"unheard-of"])
async def test_bodies_are_not_decompressed(transport: PooledTransport, encoding: bytes) -> None:
    packed = gzip.compress(b"x" * 10_000_000)
    raw = b"HTTP/1.1 200 OK\r\nContent-Encoding: %s\r\nContent-Length: %d\r\n\r\n" % (encoding, len(packed))
    async with serving(answering(raw + packed)) as peer:
        assert (await transport.send(get(peer.url))).body == packed


async def test_proxies_of_the_environment_are_not_used(
    transport: PooledTransport, monkeypatch: pytest.MonkeyPatch, unused_port: int
) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{unused_port}")
    async with serving(answering(OK)) as peer:
        assert (await transport.send(get(peer.url))).body == b"ok"


@pytest.mark.parametrize("status", [204, 304])
async def test_a_response_without_a_body_is_complete(transport: PooledTransport, status: int) -> None:
    async with serving(answering(b"HTTP/1.1 %d None\r\n\r\n" % status)) as peer:
        for _ in range(2):
            assert await transport.send(get(peer.url)) == HttpResponse(status, [])


async def test_interim_responses_are_passed_over(transport: PooledTransport) -> None:
    async with serving(answering(b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n" * 100 + OK)) as peer:
        assert (await transport.send(get(peer.url))).body == b"ok"


async def test_many_exchanges_run_at_once(transport: PooledTransport) -> None:
    async with serving(answering(OK)) as peer:
        responses = await asyncio.gather(*(transport.send(post(peer.url)) for _ in range(200)))
        assert {response.status for response in responses} == {200}


async def test_no_more_connections_are_opened_to_a_host_than_asked_for() -> None:
    transport = PooledTransport(connections_per_host_max=3)
    async with serving(answering(OK)) as peer:
        responses = await asyncio.gather(*(transport.send(get(peer.url)) for _ in range(20)))
        assert [response.status for response in responses] == [200] * 20
        assert len(peer.requests) == 20
        assert peer.connections <= 3
    await transport.close()


def test_each_event_loop_has_connections_of_its_own() -> None:
    transport = PooledTransport()

    async def use() -> int:
        async with serving(answering(OK)) as peer:
            await asyncio.gather(*(transport.send(get(peer.url)) for _ in range(10)))
            await transport.close()
            return (await transport.send(get(peer.url))).status

    async def use_and_close() -> int:
        try:
            return await use()
        finally:
            await transport.close()

    async def in_threads() -> list[int]:
        return await asyncio.gather(*(asyncio.to_thread(lambda: asyncio.run(use_and_close())) for _ in range(3)))

    assert asyncio.run(in_threads()) == [200] * 3
    assert asyncio.run(use_and_close()) == 200


# ---- no answer


async def test_a_refused_connection_means_that_nothing_was_sent(transport: PooledTransport, unused_port: int) -> None:
    with pytest.raises(ConnectFailed, match=f"no connection to http://127.0.0.1:{unused_port}"):
        await transport.send(post(f"http://127.0.0.1:{unused_port}/path?secret=1"))


@pytest.mark.parametrize("host", ["no-such-name.invalid", "a" * 64 + ".test", "under..dots", "[::1%251]:1", "x" * 300])
async def test_a_name_without_an_address_means_that_nothing_was_sent(transport: PooledTransport, host: str) -> None:
    with pytest.raises(ConnectFailed):
        await transport.send(post(f"http://{host}/"))


async def test_a_reset_at_once_is_a_cut(transport: PooledTransport) -> None:
    async def behaviour(wire: Wire) -> None:
        wire.reset()

    async with serving(behaviour) as peer:
        with pytest.raises((ConnectionCut, ConnectFailed)):
            await transport.send(post(peer.url))


PARTS = {
    "nothing": b"",
    "half a status line": b"HTTP/1.1 20",
    "a status line": b"HTTP/1.1 200 OK\r\n",
    "half a header": b"HTTP/1.1 200 OK\r\nContent-Le",
    "the headers": b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n",
    "half the body": b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nbegun",
    "half a chunk": CHUNKED + b"ff\r\nbegun",
    "no last chunk": CHUNKED + b"5\r\nbegun\r\n",
}


@pytest.mark.parametrize("end", ["close", "reset"])
@pytest.mark.parametrize("part", PARTS)
async def test_an_answer_that_breaks_off_is_a_cut(transport: PooledTransport, part: str, end: str) -> None:
    async with serving(saying(PARTS[part], end)) as peer:
        with pytest.raises(ConnectionCut, match=peer.url):
            await transport.send(post(peer.url))


@pytest.mark.parametrize("part", PARTS)
async def test_an_answer_that_stands_still_meets_the_deadline(transport: PooledTransport, part: str) -> None:
    async with serving(saying(PARTS[part], "hang")) as peer:
        begun = time.monotonic()
        with pytest.raises(ExchangeTimeout, match=r"did not answer within 0\.3 s"):
            await transport.send(post(peer.url), timeout_s=0.3)
        assert 0.25 < time.monotonic() - begun < 5


async def test_the_deadline_is_one_for_all_even_when_bytes_keep_coming(transport: PooledTransport) -> None:
    async def behaviour(wire: Wire) -> None:
        await wire.request()
        for byte in OK[:-1].replace(b"2\r\n", b"2000\r\n") + b"." * 10_000:
            await wire.send(bytes([byte]))
            await asyncio.sleep(0.01)

    async with serving(behaviour) as peer:
        begun = time.monotonic()
        with pytest.raises(ExchangeTimeout):
            await transport.send(post(peer.url), timeout_s=0.5)
        assert 0.45 < time.monotonic() - begun < 5


async def test_a_flood_of_interim_responses_meets_the_deadline(transport: PooledTransport) -> None:
    async def behaviour(wire: Wire) -> None:
        await wire.request()
        while True:
            await wire.send(b"HTTP/1.1 102 Processing\r\n\r\n" * 100)

    async with serving(behaviour) as peer:
        with pytest.raises((ExchangeTimeout, ConnectionCut)):
            await transport.send(post(peer.url), timeout_s=0.5)


@pytest.mark.parametrize(
    "raw",
    [
        b"SSH-2.0-OpenSSH_9\r\n",
        b"\x00" * 100 + b"\r\n\r\n",
        b"HTTP/1.1 banana\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: banana\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX: " + b"y" * 1_000_000 + b"\r\n\r\n",
        CHUNKED + b"zz\r\nxx\r\n0\r\n\r\n",
    ],
)
async def test_what_is_no_http_is_a_cut(transport: PooledTransport, raw: bytes) -> None:
    async with serving(saying(raw, "close")) as peer:
        with pytest.raises(ConnectionCut):
            await transport.send(post(peer.url), timeout_s=10)


async def test_a_connection_that_is_never_accepted_is_given_up(
    transport: PooledTransport, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("idioteque.transport.addresses.CONNECT_TIMEOUT_S", 0.3)
    with full_backlog() as port:
        begun = time.monotonic()
        with pytest.raises(ConnectFailed, match=r"within 0\.3 s"):
            await transport.send(post(f"http://127.0.0.1:{port}"), timeout_s=20)
        assert time.monotonic() - begun < 10
        with pytest.raises(ExchangeTimeout):
            await transport.send(post(f"http://127.0.0.1:{port}"), timeout_s=0.1)


class full_backlog:  # noqa: N801 - used like a function
    """A listening socket that answers no further attempt to connect."""

    def __enter__(self) -> int:
        self.sockets = [socket.socket()]
        self.sockets[0].bind(("127.0.0.1", 0))
        self.sockets[0].listen(0)
        address = self.sockets[0].getsockname()
        for _ in range(8):
            client = socket.socket()
            client.setblocking(False)
            client.connect_ex(address)
            self.sockets.append(client)
        return int(address[1])

    def __exit__(self, *_: object) -> None:
        for one in self.sockets:
            one.close()


async def test_a_caller_that_is_cancelled_closes_its_connection_only(transport: PooledTransport) -> None:
    closed = asyncio.Event()

    async def behaviour(wire: Wire) -> None:
        if b"slow" in await wire.request():
            await wire.closed_by_the_client()
            closed.set()
        await wire.send(OK)

    async with serving(behaviour) as peer:
        task = asyncio.create_task(transport.send(post(f"{peer.url}/slow")))
        while not peer.requests:
            await asyncio.sleep(0.001)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await asyncio.wait_for(closed.wait(), 10)
        assert (await transport.send(post(peer.url))).body == b"ok"


# ---- bodies without end


@pytest.mark.parametrize(
    "head", [CHUNKED, b"HTTP/1.1 200 OK\r\n\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999\r\n\r\n"]
)
async def test_a_body_without_end_is_read_to_the_cap(transport: PooledTransport, head: bytes) -> None:
    hung_up = asyncio.Event()

    async def behaviour(wire: Wire) -> None:
        await wire.request()
        await wire.send(head)
        try:
            while True:
                await wire.send(b"10000\r\n" + b"x" * 65536 + b"\r\n")
        finally:
            hung_up.set()

    async with serving(behaviour) as peer:
        response = await transport.send(get(peer.url), response_bytes_max=100_000)
        assert (len(response.body), response.complete) == (100_000, False)
        await asyncio.wait_for(hung_up.wait(), 10)


@pytest.mark.parametrize(("cap", "complete"), [(9, False), (10, True), (11, True), (0, False)])
async def test_a_body_is_cut_at_the_cap_exactly(transport: PooledTransport, cap: int, complete: bool) -> None:
    async with serving(answering(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n0123456789")) as peer:
        for _ in range(2):
            response = await transport.send(get(peer.url), response_bytes_max=cap)
            assert (response.body, response.complete) == (b"0123456789"[:cap], complete)


# ---- connections that are kept


async def test_a_connection_is_used_again(transport: PooledTransport) -> None:
    async with serving(answering(OK)) as peer:
        for _ in range(5):
            await transport.send(post(peer.url))
        assert peer.connections == 1


async def test_a_connection_that_was_closed_meanwhile_is_not_used(transport: PooledTransport) -> None:
    async with serving(saying(OK, "close")) as peer:
        for n in range(5):
            assert (await transport.send(post(peer.url))).body == b"ok"
            assert peer.connections == n + 1
            for _ in range(100):  # turns in which the end of the connection is noticed
                await asyncio.sleep(0)


async def test_a_connection_cut_at_its_second_request_is_a_cut(transport: PooledTransport) -> None:
    """Whether the peer acted is unknown, so the request is not sent again here."""

    async def behaviour(wire: Wire) -> None:
        await wire.request()
        await wire.send(OK)
        await wire.request()

    async with serving(behaviour) as peer:
        await transport.send(post(peer.url))
        with pytest.raises(ConnectionCut):
            await transport.send(post(peer.url))
        assert len(peer.requests) == 2


async def test_a_kept_connection_that_stands_still_meets_the_deadline_of_its_exchange(
    transport: PooledTransport, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("idioteque.transport.pool.LOOKED_AT_S", 0.0)
    monkeypatch.setattr("idioteque.transport.pool.LOOK_EVERY_S", 0.01)

    async def once(wire: Wire) -> None:
        await wire.request()
        await wire.send(OK)
        await wire.request()
        await wire.closed_by_the_client()

    async with serving(once) as peer:
        await transport.send(post(peer.url))
        with pytest.raises(ExchangeTimeout, match=r"did not answer within 0\.1 s"):
            await transport.send(post(peer.url), timeout_s=0.1)
        assert (await transport.send(post(peer.url))).status == 200
        assert (peer.connections, len(peer.requests)) == (2, 3)


async def test_a_place_goes_to_whoever_waits_even_when_its_caller_is_cancelled() -> None:
    transport = PooledTransport(connections_per_host_max=1)

    async def slow(wire: Wire) -> None:
        while True:
            await wire.request()
            await hold.wait()
            await wire.send(OK)

    hold = asyncio.Event()
    async with serving(slow) as peer:
        sending = [asyncio.ensure_future(transport.send(post(peer.url))) for _ in range(4)]
        while not peer.requests:
            await asyncio.sleep(0)
        sending[1].cancel()
        hold.set()
        done = await asyncio.gather(*sending, return_exceptions=True)
        assert [getattr(each, "status", None) for each in done] == [200, None, 200, 200]
        assert (await transport.send(post(peer.url))).status == 200
        assert peer.connections == 1
    await transport.close()


async def test_an_idempotent_request_is_sent_again_where_a_kept_connection_was_cut(transport: PooledTransport) -> None:
    async def behaviour(wire: Wire) -> None:
        await wire.request()
        await wire.send(OK)
        await wire.request()

    async with serving(behaviour) as peer:
        for _ in range(2):
            assert (await transport.send(get(peer.url))).body == b"ok"
        assert peer.connections == 2


async def test_bytes_behind_a_response_are_not_taken_for_the_next(transport: PooledTransport) -> None:
    smuggled = OK + b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil"
    async with serving(answering(smuggled)) as peer:
        for _ in range(3):
            try:
                assert (await transport.send(post(peer.url))).body == b"ok"
            except ConnectionCut:  # noticed: just as good
                continue


# ---- what may not be sent


@pytest.mark.parametrize("evil", ["a\r\nX-Evil: 1", "a\nb", "a\rb", "a\0b"])
async def test_header_injection_is_refused_and_nothing_sent(transport: PooledTransport, evil: str) -> None:
    async with serving(answering(OK)) as peer:
        for request in (
            get(peer.url, ("X-Ok", evil)),
            get(peer.url, (evil, "x")),
            get(peer.url, ("X-Ok ", "space")),
            get(peer.url, ("X:Ok", "colon")),
            get(peer.url, ("", "empty")),
            HttpRequest(f"GET / HTTP/1.1\r\n{evil}", peer.url),
            get(f"{peer.url}/{evil}"),
            get(f"{peer.url}/?{evil}"),
        ):
            with pytest.raises(TransportError, match="cannot send to") as caught:
                await transport.send(request, timeout_s=5)
            assert type(caught.value) is TransportError
        assert peer.requests == []
        assert (await transport.send(get(peer.url))).body == b"ok"


@pytest.mark.parametrize(
    "url",
    [
        "",
        "/relative",
        "//host/x",
        "http://",
        "http:///x",
        "ftp://127.0.0.1/",
        "http://127.0.0.1:port/",
        "http://127.0.0.1:99999/",
        "http://[::1",
        "http://a b/",
        "http://127.0.0.1/a b",
        "http://127.0.0.1/é",
        "mailto:a@b",
    ],
)
async def test_what_is_no_url_is_refused_and_nothing_sent(transport: PooledTransport, url: str) -> None:
    with pytest.raises(TransportError, match="cannot send to") as caught:
        await transport.send(get(url), timeout_s=5)
    assert type(caught.value) is TransportError


async def test_an_error_names_no_more_of_a_url_than_its_origin(transport: PooledTransport, unused_port: int) -> None:
    async with serving(saying(b"nonsense\r\n\r\n", "close")) as peer:
        for target in (
            f"{peer.url}/path?token=s3cret#s3cret",
            f"http://u:s3cret@127.0.0.1:{peer.port}/s3cret",
            f"http://127.0.0.1:{unused_port}/s3cret",
            f"http://u:s3cret@127.0.0.1:{unused_port}:x/s3cret",
        ):
            with pytest.raises(TransportError) as caught:
                await transport.send(HttpRequest("POST", target, [("Authorization", "s3cret")], b"s3cret"))
            assert "s3cret" not in str(caught.value)


def test_an_origin_is_what_may_stand_in_a_log() -> None:
    assert origin("https://user:pw@shop.test:8443/path?token=x") == "https://shop.test:8443"
    assert origin("http://[::1]:80/x") == "http://[::1]:80"
    assert origin("http://[::1") == "(not a URL)"
    assert origin("http://a.test:pw/") == "(not a URL)"


# ---- addresses that may not be reached


HOSTS = [
    "127.0.0.1",
    "localhost",
    "LOCALHOST",
    "localhost.",
    "2130706433",
    "0x7f000001",
    "127.1",
    "0x7f.1",
    "0177.0.0.1",
    "127.0.0.1.",
    "[::ffff:127.0.0.1]",
    "[::ffff:7f00:1]",
    "0",
    "ok@127.0.0.1",
    "①②⑦.0.0.1",
    "127.000.000.001",
]


@pytest.mark.parametrize("host", HOSTS)
async def test_a_denied_address_is_not_connected_to_however_it_is_spelt(host: str, guarded_by: MakeGuarded) -> None:
    guarded = guarded_by(Guard())
    async with serving(answering(OK)) as peer:
        url = f"http://{host}:{peer.port}/"
        for _ in range(2):
            with pytest.raises(TransportError):
                await guarded.send(get(url))
        assert not await guarded.probe(url)
        assert peer.connections == 0


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
async def test_a_denied_address_says_so_and_which(host: str, guarded_by: MakeGuarded) -> None:
    guarded = guarded_by(Guard())
    with pytest.raises(AddressDenied, match="may not be reached"):
        await guarded.send(get(f"http://{host}:9/"))


@pytest.mark.parametrize("host", ["127.0.0.1", "good.test"])
async def test_an_allowed_address_is_reached(host: str, names: dict[str, list[str]], guarded_by: MakeGuarded) -> None:
    names["good.test"] = ["127.0.0.1"]
    guard = Guard("127.0.0.1")
    guarded = guarded_by(guard)
    async with serving(answering(OK)) as peer:
        assert (await guarded.send(get(f"http://{host}:{peer.port}/"))).body == b"ok"
        assert await guarded.probe(f"http://{host}:{peer.port}/")
        assert set(guard.asked) == {("127.0.0.1", peer.port)}


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[str]]:
    """A name service of the test: each answer is used once, the last one for ever."""
    served: dict[str, list[str]] = {}
    ask = socket.getaddrinfo

    def getaddrinfo(host: str, port: int, *args: object, **options: object) -> object:
        if host not in served:
            return ask(host, port, *args, **options)  # type: ignore[arg-type]
        answers = served[host]
        answer = answers.pop(0) if len(answers) > 1 else answers[0]
        return [found for one in answer.split() for found in ask(one, port, type=socket.SOCK_STREAM)]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    return served


async def test_one_denied_answer_denies_the_name(names: dict[str, list[str]], guarded_by: MakeGuarded) -> None:
    names["split.test"] = ["127.0.0.1 127.0.0.9"]
    guarded = guarded_by(Guard("127.0.0.1"))
    async with serving(answering(OK)) as peer:
        with pytest.raises(AddressDenied):
            await guarded.send(get(f"http://split.test:{peer.port}/"))
        assert peer.connections == 0


async def test_a_name_that_changes_its_address_is_checked_again(
    names: dict[str, list[str]], guarded_by: MakeGuarded
) -> None:
    """What was checked is what is connected to: no second question is asked in between."""
    names["rebinding.test"] = ["127.0.0.1", "127.0.0.9"]
    guarded = guarded_by(Guard("127.0.0.1"))
    async with serving(saying(OK, "close")) as peer:
        assert (await guarded.send(get(f"http://rebinding.test:{peer.port}/"))).body == b"ok"
        with pytest.raises(AddressDenied):
            await guarded.send(get(f"http://rebinding.test:{peer.port}/"))


# ---- probes


async def test_a_probe_says_whether_somebody_listens(transport: PooledTransport, unused_port: int) -> None:
    async with serving(answering(OK)) as peer:
        assert await transport.probe(f"{peer.url}/path") is True
        assert await transport.probe(f"http://127.0.0.1:{unused_port}") is False
        assert await transport.probe("http://no-such-name.invalid") is False


@pytest.mark.parametrize(
    "url", ["", "nonsense", "http://[::1", "http://a.test:port/", "http://127.0.0.1:99999/", "http:///"]
)
async def test_a_probe_of_what_is_no_url_is_false(transport: PooledTransport, url: str) -> None:
    assert await transport.probe(url) is False


async def test_a_probe_that_hangs_is_false(transport: PooledTransport) -> None:
    with full_backlog() as port:
        assert await transport.probe(f"http://127.0.0.1:{port}", timeout_s=0.2) is False


# ---- TLS


async def test_a_failed_handshake_means_that_nothing_was_sent(transport: PooledTransport) -> None:
    async def behaviour(wire: Wire) -> None:
        await wire.send(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")

    async with serving(behaviour) as peer:
        with pytest.raises(ConnectFailed):
            await transport.send(post(f"https://127.0.0.1:{peer.port}/"), timeout_s=10)


async def test_a_certificate_that_nobody_vouches_for_is_refused(transport: PooledTransport) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(Path(__file__).with_name("self_signed.pem"))
    async with serving(answering(OK), tls=context) as peer:
        with pytest.raises(ConnectFailed, match="certificate"):
            await transport.send(post(f"https://localhost:{peer.port}/"), timeout_s=10)
        assert peer.requests == []
