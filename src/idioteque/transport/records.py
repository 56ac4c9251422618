"""Plain records for a request and its response, and the seam through which they are exchanged.

The same two records describe a delivery on its way in, so that all behind a framework's door speaks one language.
Nobody changes them, but they are not frozen: they are made for every exchange, and that would cost three times as much.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, cast

from idioteque.errors import TransportError

Headers = Sequence[tuple[str, str]]
"""Header pairs in the order of the wire; names in any case, each character of a value one byte (ISO 8859-1)."""

DEFAULT_TIMEOUT_S = 30.0
RESPONSE_BYTES_MAX = 1024 * 1024


@dataclass(slots=True, unsafe_hash=True)
class HttpRequest:
    """A request: `url` is absolute on the way out; on the way in it is what the request line says.

    The first `shared` headers are those of many requests, and are not put into words anew for each.
    """

    method: str
    url: str
    headers: Headers = ()
    body: bytes = b""
    shared: int = 0

    def header(self, name: str) -> str | None:
        """Return the first value of a header, or None; names compare without case."""
        return _header(self.headers, name)


@dataclass(slots=True, unsafe_hash=True)
class HttpResponse:
    """A response; `complete` is False when the body was longer than the caller wanted and reading stopped."""

    status: int
    headers: Headers = ()
    body: bytes = b""
    complete: bool = True

    @property
    def ok(self) -> bool:
        """Whether the status is 2xx."""
        return 200 <= self.status < 300

    def header(self, name: str) -> str | None:
        """Return the first value of a header, or None; names compare without case."""
        return _header(self.headers, name)


Handler = Callable[[HttpRequest], Awaitable[HttpResponse]]
"""What a mount offers to a framework's adapter."""


class HttpTransport(Protocol):
    """One HTTP exchange at a time. Redirects are never followed, bodies never decompressed, proxies never used."""

    async def send(
        self,
        request: HttpRequest,
        *,
        timeout_s: float = DEFAULT_TIMEOUT_S,
        response_bytes_max: int = RESPONSE_BYTES_MAX,
    ) -> HttpResponse:
        """Send a request and return whatever response came; the deadline covers everything from DNS to the last byte.

        Raise a `TransportError` when none came: ConnectFailed, ConnectionCut, ExchangeTimeout or AddressDenied, and a
        plain one for a request that can never be sent: its URL or a header breaks the rules of HTTP.
        """
        ...

    async def probe(self, url: str, *, timeout_s: float = 2.0) -> bool:
        """Return whether the URL's host accepts a TCP connection."""
        ...

    async def close(self) -> None:
        """Close every pooled connection of the running loop."""
        ...


class Beginning(Protocol):
    """A transport that sends some requests without a task for each."""

    def begin(
        self,
        request: HttpRequest,
        tell: Callable[[HttpResponse | TransportError], None],
        *,
        timeout_s: float,
        response_bytes_max: int,
    ) -> Callable[[], None] | None:
        """Begin to send a request; None, and nothing begun, leaves it to `HttpTransport.send`.

        `tell` is called with what came of it, in a later turn of the loop; it must not raise. What is returned ends the
        exchange: nobody is told of it then.
        """
        ...


def beginning_of(transport: HttpTransport) -> Beginning | None:
    """Return the transport as one that begins requests, or None when it does not."""
    return cast(Beginning, transport) if hasattr(transport, "begin") else None


def _header(headers: Headers, name: str) -> str | None:
    wanted, length = name.lower(), len(name)
    for key, value in headers:
        if len(key) == length and key.lower() == wanted:
            return value
    return None
