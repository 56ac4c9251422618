"""A request as it stands on the wire, and what is refused before anybody looks at what it asks for."""

from __future__ import annotations

import re
from collections.abc import Hashable
from dataclasses import dataclass
from typing import Protocol
from urllib.parse import unquote

import httptools

from idioteque.server.errors import (
    BadRequest,
    ExpectationFailed,
    HeadersTooLarge,
    Refused,
    TargetTooLong,
    UnsupportedEncoding,
)
from idioteque.transport import Headers

VERSIONS = frozenset(("1.1", "1.0"))
_HOST = re.compile(rb"[!-~]*")


@dataclass(slots=True)
class Head:
    """What requests share whose heads are the same bytes, as whoever answers them found it; None before.

    `pattern` is what the answer depends on, `entry` how they were let in.
    """

    pattern: Hashable = None
    entry: Entry | None = None


@dataclass(frozen=True, slots=True)
class Entry:
    """That a request was let in: the digest of its token, which is to be compared again each time, and its room."""

    token_digest: bytes
    room: int


@dataclass(slots=True)
class Request:
    """A request; `path` and `query` are those of its target, as written, and header names are in lower case.

    `first` has the first value of each header; `head` is None where the head came for the first time.
    """

    method: str
    path: bytes
    query: bytes
    headers: list[tuple[bytes, bytes]]
    first: dict[bytes, bytes]
    peer: str = ""
    body: bytes = b""
    head: Head | None = None

    @property
    def plain_path(self) -> str:
        """The path, its escapes resolved."""
        return unquote(self.path.decode("latin-1"))


class Answer(Protocol):
    """Called with status, JSON text and further headers, once."""

    def __call__(self, status: int, text: str, headers: Headers = ()) -> None: ...


class Hot(Protocol):
    """Who answers requests that need no application around them."""

    def room(self, request: Request) -> int | None:
        """Return how long the body of such a request may be, by its head alone; None leaves it to the application.

        Raise `Refused` for one that is not let in.
        """
        ...

    def begin(self, request: Request, answer: Answer) -> None:
        """Do what a request asks for that `room` was found for, and answer it then."""
        ...

    def refused(self, status: int) -> None:
        """Hear of a request that was refused before, or after `room` was asked for."""
        ...


@dataclass(frozen=True, slots=True)
class HeadLimits:
    """How long the head of a request may be."""

    url_bytes_max: int = 16 * 1024
    headers_max: int = 100
    headers_bytes_max: int = 32 * 1024


def read_head(
    method: bytes,
    target: bytes,
    version: str,
    headers: list[tuple[bytes, bytes]],
    limits: HeadLimits,
    peer: str,
    head_bytes: int,
) -> Request:
    """Return the request of a head that parser and protocol agree about; raise `Refused` for any other.

    What two readers might take for different requests is refused, not mended (RFC 9112, sections 3.2 and 6.3). The head
    has at most `head_bytes`, so that its headers need be measured only where that is a lot.
    """
    if len(target) > limits.url_bytes_max:
        raise TargetTooLong(f"the request target is longer than {limits.url_bytes_max} bytes")
    if len(headers) > limits.headers_max:
        raise HeadersTooLarge(f"there are more than {limits.headers_max} headers")
    if version not in VERSIONS:
        raise BadRequest("this server speaks HTTP/1.1")
    first = first_values(headers)
    if not _CHECKS.keys().isdisjoint(first):
        for name, value in headers:
            if (check := _CHECKS.get(name)) is not None:
                check(value, version)
    if head_bytes > limits.headers_bytes_max and sum(map(_length, headers)) > limits.headers_bytes_max:
        raise HeadersTooLarge(f"the headers are longer than {limits.headers_bytes_max} bytes")
    host = first.get(b"host")
    if host is None:
        if version == "1.1":
            raise BadRequest("a request has one Host header")
    elif _HOST.fullmatch(host) is None:
        raise BadRequest("invalid Host header")
    elif len(first) < len(headers) and [name for name, _ in headers].count(b"host") > 1:
        raise BadRequest("a request has one Host header")
    path, query = _parts(target)
    return Request(method.decode("latin-1"), path, query, headers, first, peer)


def first_values(headers: list[tuple[bytes, bytes]]) -> dict[bytes, bytes]:
    """Return the first value of each header."""
    return dict(reversed(headers))


def check_upgrade(request: Request) -> None:
    """Refuse a body beside `Upgrade`, which the parser takes for another protocol's first bytes."""
    length = request.first.get(b"content-length")
    if request.method == "CONNECT" or (length or b"0").strip(b"0") or request.first.get(b"transfer-encoding"):
        raise BadRequest("this server speaks HTTP/1.1 only: send no Upgrade header with a body")


def refusal_of(error: Exception) -> Refused:
    """Return what is answered to bytes that the parser does not take for a request."""
    if isinstance(error, httptools.HttpParserInvalidMethodError):
        return BadRequest("invalid HTTP request: no method that this server knows")
    return BadRequest(f"invalid HTTP request: {error}")


def _length(header: tuple[bytes, bytes]) -> int:
    return len(header[0]) + len(header[1])


def _parts(target: bytes) -> tuple[bytes, bytes]:
    """Return path and query of a target in origin form or, as proxies write it, in absolute form."""
    target = target.partition(b"#")[0]
    if not target.startswith(b"/"):
        try:
            parsed = httptools.parse_url(target)
        except httptools.HttpParserInvalidURLError:
            raise BadRequest("invalid request target") from None
        if b"://" not in target:
            raise BadRequest("invalid request target: it must begin with a slash")
        return parsed.path or b"/", parsed.query or b""
    path, _, query = target.partition(b"?")
    return path, query


def _check_encoding(value: bytes, _version: str) -> None:
    if value.strip().lower() not in (b"", b"identity"):
        raise UnsupportedEncoding("a body must be sent as it is: Content-Encoding is not supported")


def _check_transfer(value: bytes, version: str) -> None:
    if version != "1.1" or value.strip().lower() != b"chunked":
        raise BadRequest("Transfer-Encoding must be chunked, in HTTP/1.1")


def _check_expect(value: bytes, _version: str) -> None:
    if value.strip().lower() != b"100-continue":
        raise ExpectationFailed("the only expectation that can be met is 100-continue")


_CHECKS = {b"content-encoding": _check_encoding, b"transfer-encoding": _check_transfer, b"expect": _check_expect}
