"""What the connections of one web server have in common: limits, their number, and the sweep that ends slow ones."""

from __future__ import annotations

import asyncio
import ipaddress
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

from idioteque.server.config import ServerConfig
from idioteque.server.errors import TooManyConnections
from idioteque.server.front.heads import Heads
from idioteque.server.front.request import HeadLimits, Hot

BODY_BYTES_MAX = 1024 * 1024
SWEEPS = 4
"""How often connections are looked at within the shortest of their times."""

App = Callable[..., Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Limits:
    """What a connection may take of the server."""

    head: HeadLimits = field(default_factory=HeadLimits)
    body_bytes_max: int = BODY_BYTES_MAX
    connections_max: int = 1000
    connections_per_peer_max: int = 100
    head_s: float = 10.0
    idle_s: float = 60.0
    body_bytes_per_s_min: int = 1024

    @staticmethod
    def of(config: ServerConfig) -> Limits:
        """Return the limits that an operator chose; what is not published may be as long as what is."""
        return Limits(
            HeadLimits(config.url_bytes_max * 2, config.headers_max, config.headers_bytes_max),
            max(config.body_bytes_max, BODY_BYTES_MAX),
            config.connections_max,
            config.connections_per_peer_max,
            config.head_s,
            config.idle_s,
            config.body_bytes_per_s_min,
        )

    @property
    def head_bytes_max(self) -> int:
        """What a head may have at most before it is complete, separators included."""
        return self.head.url_bytes_max + self.head.headers_bytes_max + 4 * self.head.headers_max + 1024


class Swept(Protocol):
    """A connection that is looked at from time to time."""

    def sweep(self) -> None:
        """End what has taken too long."""
        ...


class State(Protocol):
    """The part of uvicorn's state that a connection takes part in: a stop waits for both sets to be empty."""

    connections: set[Any]
    tasks: set[asyncio.Task[None]]
    default_headers: list[tuple[bytes, bytes]]


@dataclass(slots=True)
class Reception:
    """Where connections are counted; `now_s` is the loop's time as of the last sweep, which is exact enough."""

    app: App
    hot: Hot | None = None
    limits: Limits = Limits()
    now_s: float = 0.0
    heads: Heads = field(default_factory=Heads)
    _connections: set[Swept] = field(default_factory=set[Swept])
    _by_peer: Counter[str] = field(default_factory=Counter[str])
    _sweeping: asyncio.TimerHandle | None = None
    _date: tuple[object, bytes] = (None, b"")

    def enter(self, connection: Swept, peer: str) -> None:
        """Count a connection; raise `TooManyConnections` for one too many. This machine's own count as one server's."""
        if len(self._connections) >= self.limits.connections_max:
            raise TooManyConnections(f"this server has {self.limits.connections_max} connections; try again")
        if self._by_peer[peer] >= self.limits.connections_per_peer_max and not _is_loopback(peer):
            raise TooManyConnections(f"this address has {self._by_peer[peer]} connections; close some, and try again")
        if self._sweeping is None:
            self._sweep_later()
        self._by_peer[peer] += 1
        self._connections.add(connection)

    def leave(self, connection: Swept, peer: str) -> None:
        """Count a connection no more."""
        if connection not in self._connections:
            return
        self._connections.discard(connection)
        self._by_peer[peer] -= 1
        if not self._by_peer[peer]:
            del self._by_peer[peer]

    def common_headers(self, state: State) -> bytes:
        """Return the header lines of every reply: the date, which uvicorn sets once a second."""
        if self._date[0] is not state.default_headers:
            lines = b"".join(name + b": " + value + b"\r\n" for name, value in state.default_headers)
            self._date = (state.default_headers, lines)
        return self._date[1]

    def _sweep(self) -> None:
        self._sweep_later()
        for connection in list(self._connections):
            connection.sweep()
        if not self._connections and self._sweeping is not None:
            self._sweeping.cancel()
            self._sweeping = None

    def _sweep_later(self) -> None:
        loop = asyncio.get_running_loop()
        self.now_s = loop.time()
        every_s = min(self.limits.head_s, self.limits.idle_s, SWEEPS) / SWEEPS
        self._sweeping = loop.call_later(every_s, self._sweep)


def _is_loopback(peer: str) -> bool:
    try:
        address = ipaddress.ip_address(peer.partition("%")[0])
    except ValueError:
        return False
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return (mapped or address).is_loopback
