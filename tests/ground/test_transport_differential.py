"""Our client beside another one: of every answer both make the same, or neither makes anything."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from idioteque.errors import TransportError
from idioteque.transport import HttpRequest, HttpResponse, PooledTransport, addresses
from tests.ground.peers import Behaviour, Wire, answering, saying, serving

LENGTH_2 = b"Content-Length: 2\r\n"
CHUNKED = b"Transfer-Encoding: chunked\r\n"

ANSWERS = {
    "plain": b"HTTP/1.1 200 OK\r\n" + LENGTH_2 + b"\r\nok",
    "no reason": b"HTTP/1.1 200 \r\n" + LENGTH_2 + b"\r\nok",
    "no reason and no space": b"HTTP/1.1 200\r\n" + LENGTH_2 + b"\r\nok",
    "a long reason": b"HTTP/1.1 200 " + b"very " * 100 + b"well\r\n" + LENGTH_2 + b"\r\nok",
    "old version": b"HTTP/1.0 200 OK\r\n" + LENGTH_2 + b"\r\nok",
    "old version that stays": b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\n" + LENGTH_2 + b"\r\nok",
    "that closes": b"HTTP/1.1 200 OK\r\nConnection: close\r\n" + LENGTH_2 + b"\r\nok",
    "to the end": b"HTTP/1.1 200 OK\r\n\r\nall of it",
    "to the end, announced": b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nall of it",
    "nothing to the end": b"HTTP/1.1 200 OK\r\n\r\n",
    "empty": b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
    "no content": b"HTTP/1.1 204 No Content\r\n\r\n",
    "not modified, with a length": b"HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n",
    "server error": b"HTTP/1.1 500 Oh\r\n" + LENGTH_2 + b"\r\nno",
    "unknown status": b"HTTP/1.1 799 Hm\r\n" + LENGTH_2 + b"\r\nhm",
    "chunks": b"HTTP/1.1 200 OK\r\n" + CHUNKED + b"\r\n2\r\nok\r\n3;x=y\r\n...\r\n0\r\n\r\n",
    "chunks in capitals": b"HTTP/1.1 200 OK\r\nTRANSFER-ENCODING: Chunked\r\n\r\nA\r\n0123456789\r\n0\r\n\r\n",
    "chunks and trailers": b"HTTP/1.1 200 OK\r\n" + CHUNKED + b"\r\n2\r\nok\r\n0\r\nX-After: 1\r\n\r\n",
    "no chunks": b"HTTP/1.1 200 OK\r\n" + CHUNKED + b"\r\n0\r\n\r\n",
    "interim": b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\n" + LENGTH_2 + b"\r\nok",
    "two interim": b"HTTP/1.1 102 P\r\nX: 1\r\n\r\nHTTP/1.1 103 H\r\n\r\nHTTP/1.1 201 C\r\n" + LENGTH_2 + b"\r\nok",
    "headers twice": b"HTTP/1.1 200 OK\r\nX-A: 1\r\nx-a: 2\r\nX-A: 1\r\n" + LENGTH_2 + b"\r\nok",
    "no value": b"HTTP/1.1 200 OK\r\nX-A:\r\nX-B: \r\n" + LENGTH_2 + b"\r\nok",
    "spaces around a value": b"HTTP/1.1 200 OK\r\nX-A: \t a b \t \r\n" + LENGTH_2 + b"\r\nok",
    "a value of bytes": b"HTTP/1.1 200 OK\r\nX-A: caf\xe9 \xc3\xa9\r\n" + LENGTH_2 + b"\r\nok",
    "a redirect": b"HTTP/1.1 307 Go\r\nLocation: /there\r\nContent-Length: 0\r\n\r\n",
    "packed": b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\n" + LENGTH_2 + b"\r\n\x1f\x8b",
    # ---- what is not as it should be
    "another protocol": b"SSH-2.0-OpenSSH_9\r\n\r\n",
    "another version": b"HTTP/3.0 200 OK\r\n" + LENGTH_2 + b"\r\nok",
    "status of two digits": b"HTTP/1.1 20 OK\r\n" + LENGTH_2 + b"\r\nok",
    "status of letters": b"HTTP/1.1 abc OK\r\n" + LENGTH_2 + b"\r\nok",
    "two lengths": b"HTTP/1.1 200 OK\r\n" + LENGTH_2 + b"Content-Length: 3\r\n\r\nok.",
    "a negative length": b"HTTP/1.1 200 OK\r\nContent-Length: -2\r\n\r\nok",
    "a length with a sign": b"HTTP/1.1 200 OK\r\nContent-Length: +2\r\n\r\nok",
    "a length of letters": b"HTTP/1.1 200 OK\r\nContent-Length: two\r\n\r\nok",
    "length and chunks": b"HTTP/1.1 200 OK\r\n" + LENGTH_2 + CHUNKED + b"\r\n2\r\nok\r\n0\r\n\r\n",
    "a chunk's length in letters": b"HTTP/1.1 200 OK\r\n" + CHUNKED + b"\r\nzz\r\nok\r\n0\r\n\r\n",
    "a chunk without its end": b"HTTP/1.1 200 OK\r\n" + CHUNKED + b"\r\n2\r\nokok\r\n0\r\n\r\n",
    "a header without a colon": b"HTTP/1.1 200 OK\r\nnonsense\r\n" + LENGTH_2 + b"\r\nok",
    "a space before the colon": b"HTTP/1.1 200 OK\r\nX-A : 1\r\n" + LENGTH_2 + b"\r\nok",
    "a NUL in a value": b"HTTP/1.1 200 OK\r\nX-A: a\x00b\r\n" + LENGTH_2 + b"\r\nok",
    "cut in the head": b"HTTP/1.1 200 OK\r\nX-A",
    "cut in the body": b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nok",
    "cut in a chunk": b"HTTP/1.1 200 OK\r\n" + CHUNKED + b"\r\n9\r\nok",
    "cut behind a chunk": b"HTTP/1.1 200 OK\r\n" + CHUNKED + b"\r\n2\r\nok\r\n",
    "nothing": b"",
}

Outcome = tuple[int, list[tuple[str, str]], bytes] | None
"""Status, headers and body; None for an error."""


@pytest.fixture
async def ours() -> AsyncIterator[PooledTransport]:
    transport = PooledTransport()
    yield transport
    await transport.close()


async def by_us(transport: PooledTransport, method: str, url: str, body: bytes = b"") -> Outcome:
    try:
        response = await transport.send(HttpRequest(method, url, (), body), timeout_s=20)
    except TransportError:
        return None
    return response.status, list(response.headers), response.body


async def by_them(method: str, url: str, body: bytes = b"") -> Outcome:
    try:
        async with (
            aiohttp.ClientSession(auto_decompress=False) as session,
            session.request(method, url, data=body or None, allow_redirects=False) as response,
        ):
            read = await response.read()
            headers = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in response.raw_headers]
            return response.status, headers, read
    except aiohttp.ClientError:
        return None


@pytest.mark.parametrize("method", ["GET", "POST"])
@pytest.mark.parametrize("answer", ANSWERS)
async def test_both_make_the_same_of_an_answer(ours: PooledTransport, answer: str, method: str) -> None:
    async with serving(saying(ANSWERS[answer], "close")) as peer:
        assert await by_us(ours, method, peer.url, b"body") == await by_them(method, peer.url, b"body")


@pytest.mark.parametrize("answer", ANSWERS)
async def test_an_answer_in_single_bytes_is_the_same_answer(ours: PooledTransport, answer: str) -> None:
    async def dripping(wire: Wire) -> None:
        await wire.request()
        for byte in ANSWERS[answer]:
            await wire.send(bytes([byte]))
            await asyncio.sleep(0)

    async with serving(saying(ANSWERS[answer], "close")) as whole, serving(dripping) as drops:
        assert await by_us(ours, "POST", whole.url) == await by_us(ours, "POST", drops.url)


TOKENS = st.text("abcXYZ-", min_size=1, max_size=8).map(lambda text: f"X-{text}")
VALUES = st.text([chr(code) for code in range(0x21, 0x7F)], max_size=20)


@st.composite
def well_formed(draw: st.DrawFn) -> bytes:
    """Draw an answer that follows the rules, its body delimited in one of the three ways."""
    body = draw(st.binary(max_size=300))
    lines = [f"HTTP/1.1 {draw(st.integers(200, 599).filter(lambda status: status not in (204, 304)))} Reason"]
    lines += [f"{name}: {value}" for name, value in draw(st.lists(st.tuples(TOKENS, VALUES), max_size=6))]
    how = draw(st.sampled_from(["length", "chunks", "end"]))
    if how == "length":
        return "\r\n".join([*lines, f"Content-Length: {len(body)}", "", ""]).encode() + body
    if how == "end":
        return "\r\n".join([*lines, "", ""]).encode() + body
    size = draw(st.integers(1, 50))
    pieces = [body[at : at + size] for at in range(0, len(body), size)]
    chunks = b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in pieces)
    return "\r\n".join([*lines, "Transfer-Encoding: chunked", "", ""]).encode() + chunks + b"0\r\n\r\n"


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(well_formed(), st.integers(1, 400))
def test_both_make_the_same_of_any_well_formed_answer(raw: bytes, piece: int) -> None:
    async def in_pieces(wire: Wire) -> None:
        await wire.request()
        for at in range(0, len(raw), piece):
            await wire.send(raw[at : at + piece])
            await asyncio.sleep(0)

    async def compare() -> tuple[Outcome, Outcome]:
        transport = PooledTransport()
        async with serving(in_pieces) as peer:
            try:
                return await by_us(transport, "POST", peer.url), await by_them("POST", peer.url)
            finally:
                await transport.close()

    ours, theirs = asyncio.run(compare())
    assert ours == theirs
    assert ours is not None


UNASKED = ("User-Agent", "Accept", "Accept-Encoding", "Content-Type")
REQUESTS = ["/", "", "/a//b/../c?x=1&y=%2F", "?only=query", "/%7Euser/", "/path#fragment", "/a;b=c,d:e@f!$'()*+"]


@pytest.mark.parametrize("path", REQUESTS)
@pytest.mark.parametrize(("method", "body"), [("GET", b""), ("POST", b""), ("PUT", b"x" * 70_000), ("DELETE", b"y")])
async def test_both_ask_in_the_same_words(ours: PooledTransport, method: str, body: bytes, path: str) -> None:
    async with serving(answering(ANSWERS["plain"])) as peer:
        await by_us(ours, method, f"http://us%40:er@127.0.0.1:{peer.port}{path}", body)
        async with (
            aiohttp.ClientSession(skip_auto_headers=UNASKED) as theirs,
            theirs.request(
                method, aiohttp.client.URL(f"http://us%40:er@127.0.0.1:{peer.port}{path}", encoded=True),
                data=body or None, allow_redirects=False,
            ),
        ):  # fmt: skip
            pass
        one, two = (request.partition(b"\r\n\r\n") for request in peer.requests)
        assert one[0].split(b"\r\n")[0] == two[0].split(b"\r\n")[0]
        assert sorted(one[0].lower().split(b"\r\n")) == sorted(two[0].lower().split(b"\r\n"))
        assert one[2] == two[2] == body


async def test_the_answer_to_a_head_has_no_body_whatever_it_announces(ours: PooledTransport) -> None:
    async with serving(saying(b"HTTP/1.1 200 OK\r\nContent-Length: 5000\r\n\r\n", "hang")) as peer:
        assert await by_us(ours, "HEAD", peer.url) == await by_them("HEAD", peer.url)


async def test_an_early_answer_counts_and_the_rest_of_the_request_stays(ours: PooledTransport) -> None:
    async def impatient(wire: Wire) -> None:
        await wire.reader.readuntil(b"\r\n\r\n")
        await wire.send(b"HTTP/1.1 413 Too Much\r\nContent-Length: 0\r\n\r\n")
        await wire.closed_by_the_client()

    async with serving(impatient) as peer:
        for _ in range(2):
            outcome = await by_us(ours, "POST", peer.url, b"x" * 30_000_000)
            assert outcome is not None
            assert outcome[0] == 413
        assert peer.connections == 2


async def test_another_protocol_that_nobody_asked_for_is_refused(ours: PooledTransport) -> None:
    raw = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n\x81\x05hello"
    async with serving(saying(raw, "hang")) as peer:
        assert await by_us(ours, "POST", peer.url) is None


@pytest.fixture
def trusted(monkeypatch: pytest.MonkeyPatch) -> ssl.SSLContext:
    """Trust the test's certificate, and return what a server needs to show it."""
    certificate = Path(__file__).with_name("self_signed.pem")
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    monkeypatch.setattr(addresses, "_tls", lambda: ssl.create_default_context(cafile=certificate))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    return context


@pytest.mark.parametrize("answer", ["plain", "to the end", "chunks", "cut in the body", "that closes", "nothing"])
async def test_tls_makes_no_difference(ours: PooledTransport, trusted: ssl.SSLContext, answer: str) -> None:
    behaviour: Behaviour = saying(ANSWERS[answer], "close")
    async with serving(behaviour, tls=trusted) as secret, serving(behaviour) as plain:
        over_tls = await by_us(ours, "POST", f"https://localhost:{secret.port}/", b"body" * 50_000)
        assert over_tls == await by_us(ours, "POST", plain.url, b"body" * 50_000)
        assert (over_tls is None) == (answer in ("cut in the body", "nothing"))


async def test_tls_connections_are_kept_and_used_again(ours: PooledTransport, trusted: ssl.SSLContext) -> None:
    async with serving(answering(ANSWERS["plain"]), tls=trusted) as peer:
        for _ in range(3):
            response = await ours.send(HttpRequest("POST", f"https://localhost:{peer.port}/", (), b"x" * 200_000))
            assert response == HttpResponse(200, [("Content-Length", "2")], b"ok")
        assert peer.connections == 1
