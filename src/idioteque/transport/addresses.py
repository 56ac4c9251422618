"""Where a URL leads: its parts, its addresses, each of them checked, and a connection to the first that answers."""

from __future__ import annotations

import asyncio
import functools
import ipaddress
import re
import socket
import ssl
from base64 import b64encode
from collections.abc import Callable
from dataclasses import dataclass
from itertools import zip_longest
from typing import TypeVar
from urllib.parse import unquote, urlsplit

from idioteque.errors import AddressDenied, ConnectFailed, TransportError

AddressCheck = Callable[[str, int], None]
"""Called with every IP address and port about to be connected to; raises `AddressDenied` to refuse it."""

CONNECT_TIMEOUT_S = 10.0
RESOLVE_TIMEOUT_S = 5.0
HEAD_START_S = 0.25  # before the next address of a host is tried as well (RFC 8305)

_URL = re.compile(
    r"(https?)://(?:([^/?#]*)@)?(\[[^\]/?#@]+\]|[^\[\]:/?#@]+)(?::([0-9]{0,5}))?([/?][^#]*)?(?:#.*)?", re.IGNORECASE
)
_VISIBLE = re.compile(r"[!-~]+")


class Speaker(asyncio.Protocol):
    """What speaks on a connection, and can close it at once."""

    def abort(self) -> None:
        """Close the connection."""
        raise NotImplementedError


P = TypeVar("P", bound=Speaker)


@dataclass(frozen=True, slots=True)
class Target:
    """A URL taken apart: `path` is all that goes into the request line, `authority` what the Host header says.

    `authorization` is the header value for what stands before an @, or None; `where` may stand in a log.
    """

    is_tls: bool
    host: str
    port: int
    path: str
    authority: str
    authorization: str | None
    where: str

    @property
    def pool(self) -> tuple[bool, str, int]:
        """What a connection must agree in to be used for it."""
        return (self.is_tls, self.host, self.port)


@functools.lru_cache(maxsize=4096)
def target_of(url: str) -> Target:
    """Take a URL apart, whose every character goes out as it is; raise `TransportError` for what HTTP cannot carry."""
    match = _URL.fullmatch(url) if _VISIBLE.fullmatch(url) else None
    if match is None or (match[4] and int(match[4]) > 65535):
        raise TransportError(
            f"cannot send to {origin(url)}: not an http:// or https:// URL of visible ASCII characters"
        )
    scheme, user, host, port, path = match.groups()
    is_tls = scheme.lower() == "https"
    path = path or "/"
    return Target(
        is_tls=is_tls,
        host=host.strip("[]").lower(),
        port=int(port) if port else (443 if is_tls else 80),
        path=path if path.startswith("/") else f"/{path}",
        authority=f"{host}:{port}" if port else host,
        authorization=None if user is None else _basic(user),
        where=origin(url),
    )


def _basic(user: str) -> str:
    name, _, password = user.partition(":")
    return "Basic " + b64encode(f"{unquote(name)}:{unquote(password)}".encode()).decode()


def check_literal(target: Target, check: AddressCheck) -> None:
    """Check a host that is an address and so never reaches the resolver; refuse all but the usual spelling."""
    host = target.host
    if is_address(host):
        check(host, target.port)
    elif ":" in host or host.replace(".", "").isdigit():
        raise AddressDenied(f"{host!r} is not an address in its usual form")


async def connect(target: Target, check: AddressCheck | None, protocol: Callable[[], P]) -> P:
    """Open a connection, TLS and its handshake included; what was checked is what is connected to."""
    try:
        async with asyncio.timeout(CONNECT_TIMEOUT_S):
            literal = is_address(target.host)
            addresses = [target.host] if literal else await resolve(target.host, target.port, check)
            return await _first_to_answer(target, addresses, protocol)
    except TimeoutError:
        raise ConnectFailed(f"no connection to {target.where} within {CONNECT_TIMEOUT_S:g} s") from None
    except OSError as error:
        raise ConnectFailed(f"no connection to {target.where}: {error}") from error


async def _first_to_answer(target: Target, addresses: list[str], protocol: Callable[[], P]) -> P:
    """Try one address after the other, the next one also when the one before takes its time."""
    attempts: set[asyncio.Task[P]] = set()
    waiting = _alternating(addresses)
    error: BaseException = OSError("no address")
    try:
        while waiting or attempts:
            if waiting:
                attempts.add(asyncio.ensure_future(_open(target, waiting.pop(0), protocol)))
            done, attempts = await asyncio.wait(
                attempts, timeout=HEAD_START_S if waiting else None, return_when=asyncio.FIRST_COMPLETED
            )
            for each in done:
                failed = each.exception()
                if failed is None:
                    return each.result()
                error = failed
        raise error
    finally:
        for each in attempts:
            each.cancel()
            each.add_done_callback(_let_go)


def _let_go(attempt: asyncio.Task[P]) -> None:
    """Close what an attempt opened that came too late."""
    if not attempt.cancelled() and attempt.exception() is None:
        attempt.result().abort()


async def _open(target: Target, address: str, protocol: Callable[[], P]) -> P:
    loop = asyncio.get_running_loop()
    if not target.is_tls:
        return (await loop.create_connection(protocol, address, target.port))[1]
    opened = await loop.create_connection(
        protocol, address, target.port, ssl=_tls(), server_hostname=target.host.rstrip(".")
    )
    return opened[1]


def _alternating(addresses: list[str]) -> list[str]:
    """Return addresses with the two families in turn, beginning with the family of the first."""
    first = [one for one in addresses if (":" in one) == (":" in addresses[0])]
    second = [one for one in addresses if (":" in one) != (":" in addresses[0])]
    return [one for pair in zip_longest(first, second) for one in pair if one is not None]


@functools.cache
def _tls() -> ssl.SSLContext:
    context = ssl.create_default_context()
    context.set_alpn_protocols(["http/1.1"])
    return context


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
