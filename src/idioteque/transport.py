"""All HTTP that leaves this package: plain records for a request and its response, the seam, and its implementation.

The same two records describe a delivery on its way in, so that all behind a framework's door speaks one language.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import ipaddress
import re
import socket
import weakref
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Protocol
from urllib.parse import urlsplit

import aiohttp
import aiohttp.abc
import yarl

from idioteque.errors import AddressDenied, ConnectFailed, ConnectionCut, ExchangeTimeout, TransportError

Headers = Sequence[tuple[str, str]]
"""Header pairs in the order of the wire; names in any case, each character of a value one byte (ISO 8859-1).

On the way out, a value whose bytes are no valid UTF-8 has its characters sent as UTF-8 instead.
"""

DEFAULT_TIMEOUT_S = 30.0
RESPONSE_BYTES_MAX = 1024 * 1024
CONNECT_TIMEOUT_S = 10.0
RESOLVE_TIMEOUT_S = 5.0
KEEP_ALIVE_S = 4.0  # below the five seconds after which common servers close an idle connection
CONNECTIONS_PER_HOST_MAX = 512
_READ_BYTES = 64 * 1024

_URL = re.compile(r"https?://[!-~]+", re.IGNORECASE)
_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")


@dataclass(frozen=True, slots=True)
class HttpRequest:
    """A request: `url` is absolute on the way out; on the way in it is what the request line says."""

    method: str
    url: str
    headers: Headers = ()
    body: bytes = b""

    def header(self, name: str) -> str | None:
        """Return the first value of a header, or None; names compare without case."""
        return _header(self.headers, name)


@dataclass(frozen=True, slots=True)
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


AddressCheck = Callable[[str, int], None]
"""Called with every IP address and port about to be connected to; raises `AddressDenied` to refuse it."""


class PooledTransport:
    """`HttpTransport` over aiohttp: connections pooled per destination, one pool per event loop."""

    def __init__(self, check_address: AddressCheck | None = None) -> None:
        self._check = check_address
        self._sessions: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, aiohttp.ClientSession] = (
            weakref.WeakKeyDictionary()
        )
        self._keepers: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, AsyncGenerator[None]] = (
            weakref.WeakKeyDictionary()
        )

    async def send(
        self,
        request: HttpRequest,
        *,
        timeout_s: float = DEFAULT_TIMEOUT_S,
        response_bytes_max: int = RESPONSE_BYTES_MAX,
    ) -> HttpResponse:
        where = origin(request.url)
        try:
            async with asyncio.timeout(timeout_s):
                return await self._exchange(request, response_bytes_max)
        except TransportError:
            raise
        except aiohttp.ConnectionTimeoutError as error:
            raise ConnectFailed(f"no connection to {where} within {CONNECT_TIMEOUT_S:g} s") from error
        except TimeoutError:
            raise ExchangeTimeout(f"{where} did not answer within {timeout_s:g} s") from None
        except aiohttp.ClientConnectorError as error:
            raise _connect_error(where, error) from error
        except aiohttp.InvalidURL as error:
            raise TransportError(f"cannot send to {where}: its host is not valid") from error
        except (aiohttp.ClientError, OSError) as error:
            raise ConnectionCut(f"{where}: {_described(error)}") from error
        except ValueError as error:
            raise TransportError(f"cannot send to {where}: {error}") from error

    async def _exchange(self, request: HttpRequest, response_bytes_max: int) -> HttpResponse:
        url = _target(request.url)
        if self._check is not None:
            self._check_literal(url.host or "", url.port or 0, self._check)
        session = await self._session()
        async with session.request(
            request.method, url, headers=_outgoing(request.headers), data=request.body or None, allow_redirects=False
        ) as response:
            body, complete = await _read(response, response_bytes_max)
            headers = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in response.raw_headers]
            return HttpResponse(response.status, headers, body, complete)

    @staticmethod
    def _check_literal(host: str, port: int, check: AddressCheck) -> None:
        """Check a host that is an address and so never reaches the resolver; refuse all but the usual spelling."""
        if is_address(host):
            check(host, port)
        elif ":" in host or host.replace(".", "").isdigit():
            raise AddressDenied(f"{host!r} is not an address in its usual form")

    async def _session(self) -> aiohttp.ClientSession:
        loop = asyncio.get_running_loop()
        session = self._sessions.get(loop)
        if session is None or session.closed:
            connector = aiohttp.TCPConnector(
                limit=0,
                limit_per_host=CONNECTIONS_PER_HOST_MAX,
                keepalive_timeout=KEEP_ALIVE_S,
                resolver=_CheckedResolver(self._check),
                use_dns_cache=False,
            )
            session = self._sessions[loop] = aiohttp.ClientSession(
                connector=connector,
                auto_decompress=False,
                cookie_jar=aiohttp.DummyCookieJar(),
                skip_auto_headers=("User-Agent", "Accept", "Accept-Encoding", "Content-Type"),
                timeout=aiohttp.ClientTimeout(total=None, connect=None, sock_connect=CONNECT_TIMEOUT_S),
                trust_env=False,
            )
            keeper = self._keepers[loop] = self._keep(loop, session)
            await anext(keeper)
        return session

    async def _keep(self, loop: asyncio.AbstractEventLoop, session: aiohttp.ClientSession) -> AsyncGenerator[None]:
        """Close a session when its loop ends, which ends every generator: `asyncio.run` for each message is common."""
        try:
            yield
        finally:
            if self._sessions.get(loop) is session:  # else there is a younger one
                del self._sessions[loop]
                self._keepers.pop(loop, None)
            await session.close()

    async def probe(self, url: str, *, timeout_s: float = 2.0) -> bool:
        try:
            parts = urlsplit(url)
            port = parts.port or (443 if parts.scheme == "https" else 80)
            async with asyncio.timeout(timeout_s):
                address = (await resolve(parts.hostname or "", port, self._check))[0]
                _, writer = await asyncio.open_connection(address, port)
                writer.close()
                with contextlib.suppress(OSError):
                    await writer.wait_closed()
                return True
        except (OSError, ValueError, TransportError):  # a timeout is an OSError
            return False

    async def close(self) -> None:
        keeper = self._keepers.pop(asyncio.get_running_loop(), None)
        if keeper is not None:
            await keeper.aclose()


class _CheckedResolver(aiohttp.abc.AbstractResolver):
    """Resolves a name, has every answer checked, and hands out addresses: what was checked is what is connected to."""

    def __init__(self, check: AddressCheck | None) -> None:
        self._check = check

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[aiohttp.abc.ResolveResult]:
        addresses = await resolve(host, port, self._check)
        return [
            {
                "hostname": host,
                "host": address,
                "port": port,
                "family": socket.AF_INET6 if ":" in address else socket.AF_INET,
                "proto": 0,
                "flags": socket.AI_NUMERICHOST,
            }
            for address in addresses
        ]

    async def close(self) -> None:
        return


async def resolve(host: str, port: int, check: AddressCheck | None) -> list[str]:
    """Return the addresses of a host, each one checked; an OSError when the name is unknown."""
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(RESOLVE_TIMEOUT_S):
            answers = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except TimeoutError:
        raise OSError(f"the name {host!r} was not resolved within {RESOLVE_TIMEOUT_S:g} s") from None
    except UnicodeError:
        raise OSError(f"{host!r} is not a valid host name") from None
    addresses = list(dict.fromkeys(str(answer[4][0]) for answer in answers))
    if not addresses:
        raise OSError(f"the name {host!r} has no address")
    if check is not None:
        for address in addresses:
            check(address, port)
    return addresses


@functools.lru_cache(maxsize=4096)
def is_address(host: str) -> bool:
    """Whether a URL's host is an IP address rather than a name."""
    try:
        ipaddress.ip_address(host.strip("[]").partition("%")[0])
    except ValueError:
        return False
    return True


def origin(url: str) -> str:
    """Return scheme, host and port of a URL: all of it that may stand in a log."""
    try:
        parts = urlsplit(url)
        host = parts.hostname or ""
        host = f"[{host}]" if ":" in host else host
        return f"{parts.scheme}://{host}" + (f":{parts.port}" if parts.port else "")
    except ValueError:
        return "(not a URL)"


async def _read(response: aiohttp.ClientResponse, bytes_max: int) -> tuple[bytes, bool]:
    chunks: list[bytes] = []
    room = bytes_max
    while chunk := await response.content.read(min(_READ_BYTES, room + 1)):
        if len(chunk) > room:
            response.close()
            return b"".join([*chunks, chunk[:room]]), False
        chunks.append(chunk)
        room -= len(chunk)
    return b"".join(chunks), True


@functools.lru_cache(maxsize=4096)
def _target(url: str) -> yarl.URL:
    """Return a URL whose every character goes out as it is; lenient parsers drop or escape what cannot."""
    try:
        parsed = yarl.URL(url, encoded=True)
        if _URL.fullmatch(url) and parsed.host and parsed.port is not None:
            return parsed
    except ValueError:
        pass
    raise TransportError(f"cannot send to {origin(url)}: not an http:// or https:// URL of visible ASCII characters")


def _outgoing(headers: Headers) -> list[tuple[str, str]]:
    """Return headers as aiohttp wants them.

    It writes UTF-8, so it gets the text that has the wanted bytes in UTF-8. And of one name in two spellings it would
    drop the first, so the first is the spelling of all.
    """
    outgoing: list[tuple[str, str]] = []
    spelling: dict[str, str] = {}
    for name, value in headers:
        if not _is_token(name):
            raise ValueError(f"the header name {name!r} is not a token")
        if not value.isascii():
            with contextlib.suppress(UnicodeError):
                value = value.encode("latin-1").decode()
        outgoing.append((spelling.setdefault(name.lower(), name), value))
    return outgoing


@functools.lru_cache(maxsize=4096)
def _is_token(name: str) -> bool:
    return _TOKEN.fullmatch(name) is not None


def _connect_error(where: str, error: aiohttp.ClientConnectorError) -> TransportError:
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, AddressDenied):
            return cause
        cause = cause.__cause__ or cause.__context__
    return ConnectFailed(f"no connection to {where}: {error.os_error or error}")


def _described(error: Exception) -> str:
    """Describe an error without the URL, which may hold secrets."""
    text = error.message if isinstance(error, aiohttp.ClientResponseError) else str(error)
    return text or type(error).__name__


def _header(headers: Headers, name: str) -> str | None:
    wanted = name.lower()
    for key, value in headers:
        if key.lower() == wanted:
            return value
    return None


Handler = Callable[[HttpRequest], Awaitable[HttpResponse]]
"""What a mount offers to a framework's adapter."""
