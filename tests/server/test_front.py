"""The HTTP front over real sockets: what is no request, what takes too long or too much, and the order of replies."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from idioteque.server.errors import TooManyConnections
from idioteque.server.front.reception import Limits, Reception
from tests.destination import Destination, open_destination, until
from tests.processes import TOKEN, ServerProcess, start_server

SHORT_S = 0.5
CONNECTIONS_MAX = 20
AUTH = f"Authorization: Bearer {TOKEN}\r\n".encode()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    process = start_server(tmp_path_factory.mktemp("front"))
    yield process
    process.stop()


@pytest.fixture(scope="module")
def impatient(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """A server whose times are short and whose connections are few."""
    settings = {
        "head_s": SHORT_S, "idle_s": 2 * SHORT_S, "body_bytes_per_s_min": 1000, "connections_max": CONNECTIONS_MAX,
        "headers_max": 10, "headers_bytes_max": 2000, "url_bytes_max": 500, "body_bytes_max": 5000,
    }  # fmt: skip
    args = [part for name, value in settings.items() for part in ("--set", f"{name}={value}")]
    process = start_server(tmp_path_factory.mktemp("impatient"), args=args)
    yield process
    process.stop()


@pytest.fixture
def destination() -> Iterator[Destination]:
    with open_destination() as opened:
        yield opened


class Client:
    """One connection, read as HTTP by hand."""

    def __init__(self, server: ServerProcess) -> None:
        self._socket = socket.create_connection(("127.0.0.1", server.port), timeout=20)
        self._received = b""
        self.is_closed = False

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def send(self, data: bytes) -> None:
        self._socket.sendall(data)

    def end(self) -> None:
        self._socket.shutdown(socket.SHUT_WR)

    def response(self) -> tuple[int, bytes, bytes] | None:
        """Return status, head and body of the next response; None when the connection is closed instead."""
        while (end := self._received.find(b"\r\n\r\n")) < 0:
            if not self._more():
                assert self._received == b""
                return None
        head, rest = self._received[: end + 2], self._received[end + 4 :]
        status = int(head.split(b" ", 2)[1])
        if status == 100:
            self._received = rest
            return status, head, b""
        length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
        while len(rest) < length:
            assert self._more()
            rest = self._received[end + 4 :]
        self._received = rest[length:]
        return status, head, rest[:length]

    def whole_count(self) -> int:
        """Read all there is, and return how many responses are whole."""
        while self._more():
            pass
        return self._received.count(b"HTTP/1.1 200 OK")

    def statuses(self) -> list[int]:
        """Return the statuses of all responses until the server closes the connection."""
        found: list[int] = []
        while (response := self.response()) is not None:
            found.append(response[0])
        return found

    def _more(self) -> bool:
        try:
            data = self._socket.recv(65536)
        except ConnectionError:
            data = b""
        self._received += data
        self.is_closed = not data
        return bool(data)


def publish(url: str, *lines: bytes, body: bytes = b"", method: bytes = b"POST") -> bytes:
    """Return a good request, with further lines."""
    more = b"".join(line + b"\r\n" for line in lines)
    target = b"/v2/publish/" + url.encode()
    return b"%b %b HTTP/1.1\r\nHost: a\r\n%b%bContent-Length: %d\r\n\r\n%b" % (
        method, target, AUTH, more, len(body), body,
    )  # fmt: skip


def accepted_count(server: ServerProcess) -> int:
    with Client(server) as client:
        client.send(b"GET /metrics HTTP/1.1\r\nHost: a\r\n" + AUTH + b"\r\n")
        response = client.response()
    assert response is not None
    found = [line for line in response[2].splitlines() if line.startswith(b"idioteque_messages_accepted_total ")]
    return int(float(found[0].split()[1]))


FRAMED = b"POST /v2/publish/http://shop.test/ HTTP/1.1\r\nHost: a\r\n" + AUTH
CHUNKED = FRAMED + b"Transfer-Encoding: chunked\r\n\r\n"
SMUGGLED = FRAMED + b"Content-Length: 0\r\n\r\n"

NO_REQUESTS = {
    "length and chunks": FRAMED + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "chunks and length": FRAMED + b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n",
    "two lengths": FRAMED + b"Content-Length: 3\r\nContent-Length: 4\r\n\r\nabc",
    "two lengths that agree": FRAMED + b"Content-Length: 3\r\nContent-Length: 3\r\n\r\nabc",
    "a list of lengths": FRAMED + b"Content-Length: 3, 3\r\n\r\nabc",
    "a signed length": FRAMED + b"Content-Length: +3\r\n\r\nabc",
    "a negative length": FRAMED + b"Content-Length: -3\r\n\r\nabc",
    "a hexadecimal length": FRAMED + b"Content-Length: 0x3\r\n\r\nabc",
    "an empty length": FRAMED + b"Content-Length:\r\n\r\nabc",
    "an endless length": FRAMED + b"Content-Length: 99999999999999999999999\r\n\r\nabc",
    "an unknown coding": FRAMED + b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
    "two codings": FRAMED + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    "chunked twice": FRAMED + b"Transfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n",
    "identity behind chunked": FRAMED + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n0\r\n\r\n",
    "a space before the colon": FRAMED + b"Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n",
    "a vertical tab in a coding": FRAMED + b"Transfer-Encoding: \x0bchunked\r\n\r\n0\r\n\r\n",
    "chunks in HTTP/1.0": CHUNKED.replace(b"HTTP/1.1", b"HTTP/1.0") + b"0\r\n\r\n",
    "a signed chunk size": CHUNKED + b"+3\r\nabc\r\n0\r\n\r\n",
    "a chunk size with 0x": CHUNKED + b"0x3\r\nabc\r\n0\r\n\r\n",
    "a chunk size that overflows": CHUNKED + b"fffffffffffffffff\r\nabc\r\n0\r\n\r\n",
    "a bare LF behind a chunk size": CHUNKED + b"3\nabc\r\n0\r\n\r\n",
    "a bare LF in a chunk extension": CHUNKED + b"3;a\nabc\r\n0\r\n\r\n",
    "no line break behind a chunk": CHUNKED + b"3\r\nabc0\r\n\r\n",
    "a length in the trailers": CHUNKED + b"0\r\nContent-Length: 5\r\n\r\n",
    "bare LFs": FRAMED.replace(b"\r\n", b"\n") + b"Content-Length: 0\n\n",
    "one bare LF": FRAMED + b"X: a\nContent-Length: 0\r\n\r\n",
    "a bare CR": FRAMED + b"X: a\rContent-Length: 9\r\n\r\n",
    "a folded header": FRAMED + b"X: a\r\n b\r\nContent-Length: 0\r\n\r\n",
    "a NUL": FRAMED + b"X: a\x00b\r\nContent-Length: 0\r\n\r\n",
    "a control character": FRAMED + b"X: a\x01b\r\nContent-Length: 0\r\n\r\n",
    "a header without a colon": FRAMED + b"X\r\nContent-Length: 0\r\n\r\n",
    "a header without a name": FRAMED + b": a\r\nContent-Length: 0\r\n\r\n",
    "a header name with a bracket": FRAMED + b"X(: a\r\nContent-Length: 0\r\n\r\n",
    "two hosts": FRAMED + b"Host: b\r\nContent-Length: 0\r\n\r\n",
    "no host": FRAMED.replace(b"Host: a\r\n", b"") + b"Content-Length: 0\r\n\r\n",
    "a host with a space": FRAMED.replace(b"Host: a", b"Host: a b") + b"Content-Length: 0\r\n\r\n",
    "an old version": b"GET /v2/dlq\r\n\r\n",
    "an unknown version": FRAMED.replace(b"HTTP/1.1", b"HTTP/1.2") + b"Content-Length: 0\r\n\r\n",
    "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    "an unknown method": FRAMED.replace(b"POST", b"P(ST") + b"Content-Length: 0\r\n\r\n",
    "a target with a tab": FRAMED.replace(b"shop", b"sh\top") + b"Content-Length: 0\r\n\r\n",
    "a target that is not ASCII": FRAMED.replace(b"shop", b"sh\xc3\xb6p") + b"Content-Length: 0\r\n\r\n",
    "a target without a slash": b"POST v2/publish HTTP/1.1\r\nHost: a\r\n\r\n",
    "an asterisk": b"OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n",
    "a tunnel": b"CONNECT shop.test:443 HTTP/1.1\r\nHost: shop.test:443\r\n\r\n",
    "another protocol with a body": FRAMED + b"Connection: upgrade\r\nUpgrade: h2c\r\nContent-Length: 3\r\n\r\nabc",
}  # fmt: skip


@pytest.mark.parametrize("case", NO_REQUESTS)
def test_what_two_readers_might_read_differently_is_refused_and_nothing_behind_it_is_read(
    server: ServerProcess, case: str
) -> None:
    before = accepted_count(server)
    with Client(server) as client:
        client.send(NO_REQUESTS[case] + SMUGGLED)
        response = client.response()
        assert response is not None
        assert (response[0], list(json.loads(response[2]))) == (400, ["error"])
        assert client.response() is None
    assert accepted_count(server) == before


@pytest.mark.parametrize("case", ["a space before the colon", "two hosts", "a NUL", "0x"])
def test_a_bad_request_in_small_pieces_is_refused_as_well(server: ServerProcess, case: str) -> None:
    data = NO_REQUESTS.get(case, NO_REQUESTS["a chunk size with 0x"])
    with Client(server) as client:
        client._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for byte in data:
            try:
                client.send(bytes((byte,)))
            except ConnectionError:
                break
        assert client.statuses() == [400]


GOOD = {
    "chunks": b"3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n",
    "capital digits": b"3\r\nabc\r\n00002\r\nde\r\n0\r\n\r\n",
    "a chunk extension": b"5;name=value\r\nabcde\r\n0\r\n\r\n",
    "trailers": b"5\r\nabcde\r\n0\r\nUpstash-Delay: 10s\r\n\r\n",
}


@pytest.mark.parametrize("case", GOOD)
def test_a_body_in_chunks_is_one_body(server: ServerProcess, destination: Destination, case: str) -> None:
    with Client(server) as client:
        client.send(CHUNKED.replace(b"http://shop.test/", destination.url.encode()) + GOOD[case])
        response = client.response()
        assert response is not None
        assert response[0] == 200
    (request,) = destination.wait_for(1)
    assert request.body == b"abcde"


def test_ten_thousand_tiny_chunks_cost_no_more_than_their_bytes(
    server: ServerProcess, destination: Destination
) -> None:
    with Client(server) as client:
        head = CHUNKED.replace(b"http://shop.test/", destination.url.encode())
        client.send(head + b"1\r\nx\r\n" * 100_000 + b"0\r\n\r\n")
        response = client.response()
        assert response is not None
        assert response[0] == 200
    (request,) = destination.wait_for(1)
    assert request.body == b"x" * 100_000


def test_requests_that_come_together_are_answered_in_their_order(
    server: ServerProcess, destination: Destination
) -> None:
    url = destination.url
    with Client(server) as client:
        requests = [
            publish(f"{url}/1"), b"GET /v2/dlq HTTP/1.1\r\nHost: a\r\n" + AUTH + b"\r\n", publish("nonsense://x"),
            publish(f"{url}/2", b"Connection: close"), publish(f"{url}/3"),
        ]  # fmt: skip
        client.send(b"".join(requests))
        answers: list[Any] = []
        while (response := client.response()) is not None:
            answers.append((response[0], json.loads(response[2])))
    assert [status for status, _ in answers] == [200, 200, 400, 200]
    assert [answers[0][1]["url"], answers[3][1]["url"]] == [f"{url}/1", f"{url}/2"]
    assert sorted(request.target for request in destination.wait_for(2)) == ["/1", "/2"]


def test_a_flood_of_requests_is_answered_one_after_the_other(server: ServerProcess) -> None:
    count = 3000
    with Client(server) as client:
        client.send(publish("nonsense://x") * count + publish("nonsense://x", b"Connection: close"))
        assert client.statuses() == [400] * (count + 1)


def test_a_bad_request_is_answered_after_those_before_it(server: ServerProcess) -> None:
    with Client(server) as client:
        client.send(publish("http://shop.test/") + NO_REQUESTS["two hosts"] + SMUGGLED)
        assert client.statuses() == [200, 400]


def test_a_client_that_has_said_all_still_gets_its_answer(server: ServerProcess) -> None:
    with Client(server) as client:
        client.send(publish("http://shop.test/"))
        client.end()
        assert client.statuses() == [200]


def test_a_body_is_asked_for_when_it_is_welcome(server: ServerProcess, destination: Destination) -> None:
    head = FRAMED.replace(b"http://shop.test/", destination.url.encode()) + b"Expect: 100-continue\r\n"
    with Client(server) as client:
        client.send(head + b"Content-Length: 3\r\n\r\n")
        response = client.response()
        assert response is not None
        assert response[0] == 100
        client.send(b"abc")
        response = client.response()
        assert response is not None
        assert response[0] == 200
    with Client(server) as client:
        client.send(head + b"Content-Length: 3000000\r\n\r\n")
        assert client.statuses() == [413]
    with Client(server) as client:
        client.send(head.replace(TOKEN.encode(), b"wrong") + b"Content-Length: 3\r\n\r\n")
        assert client.statuses() == [401]
    with Client(server) as client:
        client.send(head.replace(b"100-continue", b"a miracle") + b"Content-Length: 3\r\n\r\n")
        assert client.statuses() == [417]


def test_a_refused_body_is_read_to_its_end_and_the_connection_is_kept(server: ServerProcess) -> None:
    with Client(server) as client:
        client.send(publish("http://shop.test/", body=b"x" * 3_000_000))
        response = client.response()
        assert response is not None
        assert response[0] == 413
        client.send(publish("http://shop.test/", b"Connection: close"))
        assert client.statuses() == [200]
    with Client(server) as client:
        client.send(CHUNKED + b"100000\r\n" + b"x" * 0x100000 + b"\r\n5\r\nabcde\r\n0\r\n\r\n")
        response = client.response()
        assert response is not None
        assert response[0] == 413
        client.send(publish("http://shop.test/", b"Connection: close"))
        assert client.statuses() == [200]


@pytest.mark.parametrize("coding", [b"gzip", b"br", b"deflate, gzip", b"identity, gzip"])
def test_a_compressed_body_is_refused(server: ServerProcess, coding: bytes) -> None:
    with Client(server) as client:
        client.send(publish("http://shop.test/", b"Content-Encoding: " + coding, body=b"x"))
        assert client.statuses() == [415]


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"GET /" + b"a" * 1000 + b" HTTP/1.1\r\nHost: a\r\n\r\n", 414),
        (b"GET / HTTP/1.1\r\nHost: a\r\n" + b"X: a\r\n" * 10 + b"\r\n", 431),
        (b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"a" * 2000 + b"\r\n\r\n", 431),
        (b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"a" * 500_000, 431),
        (b"GET /" + b"a" * 500_000, 431),
        (publish("http://shop.test/", body=b"x" * 5001), 413),
    ],
)
def test_what_is_longer_than_its_limit_is_refused(impatient: ServerProcess, data: bytes, status: int) -> None:
    with Client(impatient) as client:
        client.send(data)
        response = client.response()
        assert response is not None
        assert (response[0], list(json.loads(response[2]))) == (status, ["error"])


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"G",
        b"GET / HTTP/1.1\r\nHost: a\r\nX:",
        FRAMED + b"Content-Length: 4000\r\n\r\nabc",
        CHUNKED + b"3\r\nab",
    ],
)
def test_who_stops_in_the_middle_is_cut_off(impatient: ServerProcess, data: bytes) -> None:
    with Client(impatient) as client:
        client.send(data)
        begun_s = time.monotonic()
        assert client.statuses() == []
        assert time.monotonic() - begun_s > SHORT_S / 2


def test_a_head_that_drips_is_cut_off_however_long_it_goes_on(impatient: ServerProcess) -> None:
    with Client(impatient) as client:
        client.send(b"GET / HTTP/1.1\r\nHost: a\r\n")

        def drip() -> bool:
            try:
                client.send(b"X: a")
            except ConnectionError:
                return True
            return False

        until(drip)


def test_an_idle_connection_is_closed_after_a_while_and_not_before(impatient: ServerProcess) -> None:
    with Client(impatient) as client:
        for _ in range(3):
            client.send(publish("http://shop.test/"))
            response = client.response()
            assert response is not None
            assert response[0] == 200
        begun_s = time.monotonic()
        assert client.response() is None
        assert time.monotonic() - begun_s > SHORT_S


def test_connections_beyond_their_number_are_refused_until_others_end(impatient: ServerProcess) -> None:
    with ExitStack() as stack:
        clients = [stack.enter_context(Client(impatient)) for _ in range(CONNECTIONS_MAX + 5)]
        responses = [client.response() for client in clients]  # None: let in, and idle for too long
        refused = [response for response in responses if response is not None]
        assert [status for status, _, _ in refused] == [503] * 5
        assert all(b"retry-after: 1\r\n" in head for _, head, _ in refused)

    def is_let_in() -> bool:
        with Client(impatient) as client:
            client.send(publish("http://shop.test/"))
            response = client.response()
            return response is not None and response[0] == 200

    until(is_let_in)


def test_who_does_not_take_his_answers_gets_no_more_of_them_and_is_cut_off(impatient: ServerProcess) -> None:
    count = 3000
    with Client(impatient) as client:
        client.send((b"GET /metrics HTTP/1.1\r\nHost: a\r\n" + AUTH + b"\r\n") * count)

        def is_cut() -> bool:
            try:
                client.send(b"x")
            except ConnectionError:
                return True
            return False

        until(is_cut)
        assert client.whole_count() < count


class _Counted:
    """A connection as `Reception` sees it."""

    def sweep(self) -> None:
        return


async def test_one_address_has_a_share_of_the_connections_and_this_machine_all_of_them() -> None:
    async def app(*_: object) -> None:
        return

    reception = Reception(app, limits=Limits(connections_max=6, connections_per_peer_max=2))
    strangers = [_Counted() for _ in range(2)]
    for stranger in strangers:
        reception.enter(stranger, "192.0.2.1")
    with pytest.raises(TooManyConnections, match="this address has 2"):
        reception.enter(_Counted(), "192.0.2.1")
    reception.enter(_Counted(), "192.0.2.2")
    reception.leave(strangers[0], "192.0.2.1")
    reception.leave(strangers[0], "192.0.2.1")
    reception.enter(_Counted(), "192.0.2.1")
    for peer in ("127.0.0.1", "::1", "::ffff:127.0.0.1"):
        reception.enter(_Counted(), peer)
    with pytest.raises(TooManyConnections, match="this server has 6"):
        reception.enter(_Counted(), "127.0.0.1")
