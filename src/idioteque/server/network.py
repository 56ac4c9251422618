"""Which destinations may be reached: the text of a URL at publish, every address at each attempt.

The tables follow the IANA special-purpose registries rather than `ipaddress.is_global`, which calls several ways into
private networks global. An IPv6 address that carries an IPv4 address is judged by what it carries.
"""

from __future__ import annotations

import functools
import ipaddress
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NoReturn

from idioteque.errors import AddressDenied, ConfigurationError
from idioteque.server.errors import BadRequest
from idioteque.transport import (
    DEFAULT_TIMEOUT_S,
    RESPONSE_BYTES_MAX,
    HttpRequest,
    HttpResponse,
    HttpTransport,
    is_address,
)

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

URL_BYTES_MAX = 8192


def _networks(*texts: str) -> tuple[Network, ...]:
    return tuple(ipaddress.ip_network(text) for text in texts)


LOOPBACK = _networks("127.0.0.0/8", "::1/128")

METADATA = _networks(  # cloud metadata services: they hand out credentials, so no setting opens them
    "169.254.169.254/32", "169.254.170.0/24", "168.63.129.16/32", "100.100.100.200/32", "192.0.0.192/32",
    "fd00:ec2::/32", "fd20:ce::254/128", "fe80::a9fe:a9fe/128",
)  # fmt: skip

PRIVATE_V4 = _networks(
    "0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12", "192.0.0.0/24",
    "192.0.2.0/24", "192.88.99.0/24", "192.168.0.0/16", "198.18.0.0/15", "198.51.100.0/24", "203.0.113.0/24",
    "224.0.0.0/4", "240.0.0.0/4",
)  # fmt: skip

PUBLIC_V6 = ipaddress.IPv6Network("2000::/3")  # all that is assigned for global use; the rest is refused
PRIVATE_V6 = _networks("2001::/23", "2001:db8::/32", "3fff::/20")

CARRIERS: Mapping[ipaddress.IPv6Network, int] = {  # networks that carry an IPv4 address, and how far from the right
    ipaddress.IPv6Network("::ffff:0:0/96"): 0,  # mapped
    ipaddress.IPv6Network("::ffff:0:0:0/96"): 0,  # translated
    ipaddress.IPv6Network("::/96"): 0,  # compatible
    ipaddress.IPv6Network("64:ff9b::/96"): 0,  # NAT64
    ipaddress.IPv6Network("2002::/16"): 80,  # 6to4
}
TEREDO = ipaddress.IPv6Network("2001::/32")  # carries two: its server's, and its client's with all bits turned

BLOCKED_PORTS = frozenset(  # services that can be talked into mischief by an HTTP request; the list browsers use, and
    (  # the databases and caches that are commonly left open
        1, 7, 9, 11, 13, 15, 17, 19, 20, 21, 22, 23, 25, 37, 42, 43, 53, 69, 77, 79, 87, 95, 101, 102, 103, 104, 109,
        110, 111, 113, 115, 117, 119, 123, 135, 137, 139, 143, 161, 179, 389, 427, 465, 512, 513, 514, 515, 526, 530,
        531, 532, 540, 548, 554, 556, 563, 587, 601, 636, 989, 990, 993, 995, 1719, 1720, 1723, 2049, 2375, 3306, 3659,
        4045, 4190, 5060, 5061, 5432, 6000, 6379, 6566, 6665, 6666, 6667, 6668, 6669, 6679, 6697, 10080, 11211, 27017,
    )
)  # fmt: skip

_AUTHORITY = re.compile(r"(https?)://([^/?]*)", re.IGNORECASE)
_HOST_AND_PORT = re.compile(r"(\[[0-9A-Fa-f:.%A-Za-z0-9_~-]+\]|[^:\[\]]*)(?::([0-9]{0,5}))?")
_NAME = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9_.-]{0,252})")
_NUMERIC_LABEL = re.compile(r"[0-9]+|0[xX][0-9A-Fa-f]*")
_UNSAFE = re.compile(r"[^!-~]")


class NetworkPolicy:
    """Says no to addresses that are not public, unless the operator allowed their network.

    Nor to the server itself, once `refuse_own` has told where that is: a message sent there would feed it for ever.
    """

    def __init__(
        self, allow_private: Sequence[str] = (), *, dev: bool = False, url_bytes_max: int = URL_BYTES_MAX
    ) -> None:
        self._url_bytes_max = url_bytes_max
        self._allowed = (*_parsed(allow_private), *(_networks("0.0.0.0/0", "::/0") if dev else ()))
        self._own: frozenset[tuple[str, int]] = frozenset()

    def refuse_own(self, host: str, port: int) -> None:
        """Tell where the server listens; a wildcard stands for loopback too."""
        hosts = {"0.0.0.0": ("127.0.0.1", "::1"), "::": ("127.0.0.1", "::1"), "localhost": ("127.0.0.1", "::1")}  # noqa: S104
        self._own = frozenset((one, port) for one in (host, *hosts.get(host, ())))

    def check_address(self, text: str, port: int) -> None:
        """Raise `AddressDenied` unless this address may be connected to; called with every one that is about to be."""
        reason = self._denial(text)
        if reason is None and (text.partition("%")[0], port) in self._own:
            reason = f"endpoint is this server itself: {text}:{port}"
        if reason is not None:
            raise AddressDenied(f"invalid destination url: {reason}")

    @functools.lru_cache(maxsize=4096)  # noqa: B019 - one policy lives as long as its server
    def _denial(self, text: str) -> str | None:
        address = ipaddress.ip_address(text.partition("%")[0])
        carried = carried_addresses(address)
        if any(_within(one, METADATA) for one in (address, *carried)):
            return f"endpoint resolves to a metadata address: {text} (never reached, whatever is allowed)"
        if _within(address, self._allowed) or (carried and all(_within(one, self._allowed) for one in carried)):
            return None
        if is_public(address):
            return None
        kind = "loopback" if any(_within(one, LOOPBACK) for one in (address, *carried)) else "private"
        return (
            f"endpoint resolves to a {kind} address: {text} "
            f"(allow it with --allow-private {ipaddress.ip_network(address)}, or all of them with --dev)"
        )

    def checked_url(self, url: str) -> str:
        """Return a destination as it will be stored and sent, or raise `BadRequest` for what its text alone forbids.

        What HTTP cannot carry is percent-encoded and the fragment dropped, as clients do; names are judged at each
        attempt, when they are resolved.
        """
        if _UNSAFE.search(url) or "#" in url:
            url = _encoded(url)
        if len(url) > self._url_bytes_max:
            _refuse(f"it is longer than {self._url_bytes_max} bytes")
        match = _AUTHORITY.match(url)
        if match is None:
            _refuse("endpoint has invalid scheme, add http:// or https://")
        reason = self._authority_denial(match.group(2))
        if reason is not None:
            _refuse(reason)
        return url

    @functools.lru_cache(maxsize=4096)  # noqa: B019 - one policy lives as long as its server
    def _authority_denial(self, authority: str) -> str | None:
        match = _HOST_AND_PORT.fullmatch(authority.rpartition("@")[2])
        if match is None or "\\" in authority:
            return f"{authority!r} is not a host and a port"
        host, port = match.group(1), match.group(2)
        if port and (not 0 < int(port) < 65536 or int(port) in BLOCKED_PORTS):
            return f"port {port} is not one to send messages to"
        if host.startswith("["):
            return self._denial(host[1:-1]) if is_address(host) else f"{host} is not an IPv6 address"
        name = host.rstrip(".").lower()
        if not _NAME.fullmatch(name) or ".." in name:
            return f"{host!r} is not a host name; write an international one in its xn-- form"
        if name == "localhost" or name.endswith(".localhost"):
            return self._denial("127.0.0.1")
        if not _NUMERIC_LABEL.fullmatch(name.rpartition(".")[2]):
            return None
        if not is_address(name) or host.endswith("."):
            return f"{host} is not an address; write four decimal numbers"
        return self._denial(name)


class RewritingTransport:
    """An `HttpTransport` that sends what goes to one origin to another, while the request stays as it was signed.

    The operator named the other origin, so it is reached through a transport with a policy of its own.
    """

    def __init__(self, usual: HttpTransport, rewritten: HttpTransport, rewrites: Iterable[tuple[str, str]]) -> None:
        self._usual = usual
        self._rewritten = rewritten
        self._origins = {source.rstrip("/").lower(): target.rstrip("/") for source, target in rewrites}

    async def send(
        self,
        request: HttpRequest,
        *,
        timeout_s: float = DEFAULT_TIMEOUT_S,
        response_bytes_max: int = RESPONSE_BYTES_MAX,
    ) -> HttpResponse:
        transport, url = self._route(request.url)
        if url != request.url:
            host = split_url(request.url).host
            request = replace(request, url=url, headers=[*request.headers, ("Host", host)])
        return await transport.send(request, timeout_s=timeout_s, response_bytes_max=response_bytes_max)

    async def probe(self, url: str, *, timeout_s: float = 2.0) -> bool:
        transport, url = self._route(url)
        return await transport.probe(url, timeout_s=timeout_s)

    async def close(self) -> None:
        await self._usual.close()
        await self._rewritten.close()

    def _route(self, url: str) -> tuple[HttpTransport, str]:
        parts = split_url(url)
        target = self._origins.get(parts.origin)
        return (self._usual, url) if target is None else (self._rewritten, target + url[parts.origin_length :])


@dataclass(frozen=True, slots=True)
class UrlParts:
    """What is asked of a destination: `origin` and `host` (with its port, if written) in lower case, and the path."""

    origin: str
    host: str
    path: str
    origin_length: int


@functools.lru_cache(maxsize=4096)
def split_url(url: str) -> UrlParts:
    """Split a URL that `checked_url` has let pass."""
    match = _AUTHORITY.match(url)
    assert match is not None, url
    host = match.group(2).rpartition("@")[2].lower()
    path = url[match.end() :].partition("?")[0]
    return UrlParts(f"{match.group(1).lower()}://{host}", host, path or "/", match.end())


def checked_networks(texts: Sequence[str]) -> tuple[str, ...]:
    """Return networks in CIDR notation as they were given, or raise `ConfigurationError`."""
    _parsed(texts)
    return tuple(texts)


def checked_rewrite(text: str) -> tuple[str, str]:
    """Return the two origins of `FROM=TO`, or raise `ConfigurationError`."""
    source, _, target = text.partition("=")
    for origin in (source, target):
        if not re.fullmatch(r"https?://[^/?#@\s]+/?", origin, re.IGNORECASE):
            raise ConfigurationError(f"--rewrite takes FROM=TO, two origins like https://app.example.com; not {text!r}")
    return source, target


def is_public(address: Address) -> bool:
    """Whether an address is one of the public internet, by our own tables."""
    carried = carried_addresses(address)
    if carried:
        return all(is_public(one) for one in carried)
    if isinstance(address, ipaddress.IPv4Address):
        return not _within(address, PRIVATE_V4) and not _within(address, METADATA)
    return address in PUBLIC_V6 and not _within(address, PRIVATE_V6) and not _within(address, METADATA)


def carried_addresses(address: Address) -> tuple[ipaddress.IPv4Address, ...]:
    """Return the IPv4 addresses that an IPv6 address stands for: what a gateway would connect to."""
    if isinstance(address, ipaddress.IPv4Address):
        return ()
    if address in TEREDO:
        server, client = (int(address) >> 64) & 0xFFFFFFFF, ~int(address) & 0xFFFFFFFF
        return ipaddress.IPv4Address(server), ipaddress.IPv4Address(client)
    for network, shift in CARRIERS.items():
        if address in network:
            return (ipaddress.IPv4Address((int(address) >> shift) & 0xFFFFFFFF),)
    return ()


def _within(address: Address, networks: Iterable[Network]) -> bool:
    return any(address in network for network in networks if network.version == address.version)


def _parsed(texts: Sequence[str]) -> tuple[Network, ...]:
    try:
        return tuple(ipaddress.ip_network(text, strict=False) for text in texts)
    except ValueError as error:
        raise ConfigurationError(f"--allow-private takes a network like 10.1.0.0/16: {error}") from None


def _encoded(url: str) -> str:
    url = url.partition("#")[0]
    if any(ord(character) < 32 or ord(character) == 127 for character in url):
        _refuse("it contains a control character")
    try:
        return _UNSAFE.sub(lambda m: "".join(f"%{byte:02X}" for byte in m.group().encode()), url)
    except UnicodeEncodeError:
        _refuse("it contains half of a surrogate pair")


def _refuse(reason: str) -> NoReturn:
    raise BadRequest(f"invalid destination url: {reason}")
