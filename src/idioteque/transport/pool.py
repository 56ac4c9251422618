"""`HttpTransport` over connections that are pooled per destination, one pool per event loop."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import re
import weakref
from collections import deque
from collections.abc import AsyncGenerator, Callable
from functools import partial
from urllib.parse import urlsplit

from idioteque.errors import ConnectionCut, ExchangeTimeout, TransportError
from idioteque.transport.addresses import AddressCheck, Target, check_literal, connect, resolve, target_of
from idioteque.transport.connection import Connection, Tell
from idioteque.transport.records import DEFAULT_TIMEOUT_S, RESPONSE_BYTES_MAX, Headers, HttpRequest, HttpResponse

KEEP_ALIVE_S = 4.0  # below the five seconds after which common servers close an idle connection
CONNECTIONS_PER_HOST_MAX = 512
CLOSE_TIMEOUT_S = 1.0
LOOK_EVERY_S = (
    0.25  # at the deadlines of kept connections: a timer for each would cost more than an exchange's own work
)
LOOKED_AT_S = 10.0  # the shortest timeout for which that is exact enough

IDEMPOTENT = frozenset(("GET", "HEAD", "PUT", "DELETE", "OPTIONS", "TRACE"))
WITH_BODY = frozenset(("POST", "PUT", "PATCH"))
OWN_HEADERS = frozenset(("content-length", "transfer-encoding"))

_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")


class PooledTransport:
    """An `HttpTransport` of HTTP/1.1; `check_address` may refuse any address that is about to be connected to.

    It opens at most so many connections to one host; what goes beyond them waits.
    """

    def __init__(
        self, check_address: AddressCheck | None = None, *, connections_per_host_max: int = CONNECTIONS_PER_HOST_MAX
    ) -> None:
        self._check = check_address
        self._connections_per_host_max = connections_per_host_max
        self._latest: _Pool | None = None
        self._pools: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, _Pool] = weakref.WeakKeyDictionary()
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
        target = target_of(request.url)
        try:
            head = _head(request, target)
        except ValueError as error:
            raise TransportError(f"cannot send to {target.where}: {error}") from error
        if self._check is not None:
            check_literal(target, self._check)
        loop = asyncio.get_running_loop()
        pool = self._pools.get(loop) or await self._pool(loop)
        kept = pool.take_kept(target) if timeout_s >= LOOKED_AT_S else None
        if kept is not None:
            pool.set_deadline(kept, timeout_s)
            try:
                return await _exchange(kept, head, request, response_bytes_max)
            except ConnectionCut:
                if kept.heard or request.method not in IDEMPOTENT:
                    raise
            except BaseException:
                kept.abort()
                raise
            finally:
                pool.unset_deadline(kept)
                pool.give_back(target, kept)
        try:
            async with asyncio.timeout(timeout_s):
                while True:
                    connection, is_fresh = await pool.take(target, self._check)
                    try:
                        return await _exchange(connection, head, request, response_bytes_max)
                    except ConnectionCut:
                        # A kept connection may be closed just when it is used again, before the request was looked at.
                        if is_fresh or connection.heard or request.method not in IDEMPOTENT:
                            raise
                    except BaseException:
                        connection.abort()
                        raise
                    finally:
                        pool.give_back(target, connection)
        except TimeoutError:
            raise ExchangeTimeout(f"{target.where} did not answer within {timeout_s:g} s") from None

    def begin(
        self, request: HttpRequest, tell: Tell, *, timeout_s: float, response_bytes_max: int
    ) -> Callable[[], None] | None:
        """See `Beginning`: it can where a connection is kept for the request, and that is never sent twice."""
        pool = self._latest
        if pool is None or pool.loop is not asyncio.get_running_loop():
            return None
        if timeout_s < LOOKED_AT_S or request.method in IDEMPOTENT:
            return None
        try:
            target = target_of(request.url)
            if self._check is not None:
                check_literal(target, self._check)
            head = _head(request, target)
        except (TransportError, ValueError):
            return None  # `send` says what is wrong
        kept = pool.take_kept(target)
        if kept is None:
            return None
        pool.set_deadline(kept, timeout_s)
        ended = partial(pool.ended, target, kept, tell)
        kept.exchange(head, request.body, ended, is_head=False, bytes_max=response_bytes_max)
        return partial(pool.drop, target, kept)

    async def _pool(self, loop: asyncio.AbstractEventLoop) -> _Pool:
        pool = self._latest = self._pools[loop] = _Pool(loop, self._connections_per_host_max)
        keeper = self._keepers[loop] = self._keep(loop, pool)
        await anext(keeper)
        return pool

    async def _keep(self, loop: asyncio.AbstractEventLoop, pool: _Pool) -> AsyncGenerator[None]:
        """Close a pool when its loop ends, which ends every generator: `asyncio.run` for each message is common."""
        try:
            yield
        finally:
            if self._latest is pool:
                self._latest = None
            if self._pools.get(loop) is pool:  # else there is a younger one
                del self._pools[loop]
                self._keepers.pop(loop, None)
            await pool.close()

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


class _Host:
    """The connections to one destination: those that are idle, the latest used last, and who waits for one."""

    __slots__ = ("idle", "used", "waiting")

    def __init__(self) -> None:
        self.idle: deque[Connection] = deque()
        self.used = 0
        self.waiting: deque[asyncio.Future[None]] = deque()


class _Pool:
    """The connections of one event loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop, connections_per_host_max: int) -> None:
        self.loop = loop
        self._connections_per_host_max = connections_per_host_max
        self._hosts: dict[tuple[bool, str, int], _Host] = {}
        self._open: set[Connection] = set()
        self._sweeping: asyncio.TimerHandle | None = None
        self._deadlines: dict[Connection, tuple[float, float]] = {}
        self._looking: asyncio.TimerHandle | None = None

    def take_kept(self, target: Target) -> Connection | None:
        """Return a connection that is open, where one is idle; `give_back` must follow."""
        host = self._hosts.get(target.pool)
        if host is None or host.used >= self._connections_per_host_max:
            return None
        kept = self._idle(host)
        if kept is not None:
            host.used += 1
        return kept

    def set_deadline(self, connection: Connection, timeout_s: float) -> None:
        """End an exchange of a connection that takes longer, within `LOOK_EVERY_S`."""
        self._deadlines[connection] = (self.loop.time() + timeout_s, timeout_s)
        if self._looking is None:
            self._looking = self.loop.call_later(LOOK_EVERY_S, self._look)

    def unset_deadline(self, connection: Connection) -> None:
        """Let a connection's exchange have ended."""
        del self._deadlines[connection]

    def ended(self, target: Target, connection: Connection, tell: Tell, outcome: HttpResponse | TransportError) -> None:
        """Take a kept connection back whose exchange has a deadline and has ended, and pass on what came of it."""
        self.unset_deadline(connection)
        self.give_back(target, connection)
        tell(outcome)

    def drop(self, target: Target, connection: Connection) -> None:
        """Take a kept connection back whose exchange has a deadline and nobody waits for."""
        connection.drop()
        self.unset_deadline(connection)
        self.give_back(target, connection)

    async def take(self, target: Target, check: AddressCheck | None) -> tuple[Connection, bool]:
        """Return a connection for one exchange, and whether it is a new one; `give_back` must follow."""
        host = self._hosts.get(target.pool)
        if host is None:
            host = self._hosts[target.pool] = _Host()
        if host.used >= self._connections_per_host_max:
            await self._turn(target, host)
        else:
            host.used += 1
        kept = self._idle(host)
        if kept is not None:
            return kept, False
        try:
            connection = await connect(target, check, lambda: Connection(target.where))
        except BaseException:
            self._leave(target, host)
            raise
        self._open.add(connection)
        connection.closed.add_done_callback(lambda _: self._open.discard(connection))
        return connection, True

    def give_back(self, target: Target, connection: Connection) -> None:
        """Keep a connection that may be used again, and let the next one have its turn."""
        host = self._hosts[target.pool]
        if connection.is_open:
            connection.idle_since = self.loop.time()
            host.idle.append(connection)
            if self._sweeping is None:
                self._sweeping = self.loop.call_later(KEEP_ALIVE_S, self._sweep)
        self._leave(target, host)

    async def close(self) -> None:
        """Close every connection and wait until the loop has let go of them."""
        for timer in (self._sweeping, self._looking):
            if timer is not None:
                timer.cancel()
        left = [connection.closed for connection in self._open]
        for connection in list(self._open):
            connection.abort()
        if left:
            await asyncio.wait(left, timeout=CLOSE_TIMEOUT_S)

    def _idle(self, host: _Host) -> Connection | None:
        idle_since_min = self.loop.time() - KEEP_ALIVE_S
        while host.idle:
            connection = host.idle.pop()
            if connection.is_open and connection.idle_since >= idle_since_min:
                return connection
            connection.abort()
        return None

    async def _turn(self, target: Target, host: _Host) -> None:
        """Return when somebody has left his place to this caller."""
        turn: asyncio.Future[None] = self.loop.create_future()
        host.waiting.append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():  # it was this one's turn just now: the next may have it
                self._leave(target, host)
            raise

    def _leave(self, target: Target, host: _Host) -> None:
        while host.waiting:
            turn = host.waiting.popleft()
            if not turn.done():
                turn.set_result(None)
                return
        host.used -= 1
        if not (host.used or host.idle):
            self._hosts.pop(target.pool, None)

    def _look(self) -> None:
        """End the exchanges whose time is over."""
        self._looking = self.loop.call_later(LOOK_EVERY_S, self._look) if self._deadlines else None
        now_s = self.loop.time()
        for connection, (deadline_s, timeout_s) in list(self._deadlines.items()):
            if deadline_s <= now_s:
                connection.expire(timeout_s)

    def _sweep(self) -> None:
        """Close what has not been used for a while; the oldest stand first."""
        self._sweeping = None
        idle_since_min = self.loop.time() - KEEP_ALIVE_S
        for key, host in list(self._hosts.items()):
            while host.idle and (not host.idle[0].is_open or host.idle[0].idle_since <= idle_since_min):
                host.idle.popleft().abort()
            if not (host.idle or host.used or host.waiting):
                del self._hosts[key]
        if any(host.idle for host in self._hosts.values()):
            self._sweeping = self.loop.call_later(KEEP_ALIVE_S / 2, self._sweep)


async def _exchange(connection: Connection, head: bytes, request: HttpRequest, bytes_max: int) -> HttpResponse:
    future: asyncio.Future[HttpResponse] = asyncio.get_running_loop().create_future()
    tell = partial(_resolve, future)
    connection.exchange(head, request.body, tell, is_head=request.method == "HEAD", bytes_max=bytes_max)
    return await future


def _resolve(future: asyncio.Future[HttpResponse], outcome: HttpResponse | TransportError) -> None:
    if future.done():
        return
    if isinstance(outcome, TransportError):
        future.set_exception(outcome)
    else:
        future.set_result(outcome)


def _head(request: HttpRequest, target: Target) -> bytes:
    """Return a request up to its body, or raise `ValueError` for what would be another request than was asked for."""
    if not _is_token(request.method):
        raise ValueError(f"{request.method[:20]!r} is no method")
    shared, headers = request.shared, request.headers
    lines, has_host, has_authorization = _lines(headers[shared:])
    if shared:
        first_lines, first_host, first_authorization = _shared_lines(tuple(headers[:shared]))
        lines, has_host = first_lines + lines, first_host or has_host
        has_authorization = first_authorization or has_authorization
    if not has_host:
        lines = f"Host: {target.authority}\r\n{lines}"
    if target.authorization is not None and not has_authorization:
        lines += f"Authorization: {target.authorization}\r\n"
    if request.body or request.method in WITH_BODY:
        lines += f"Content-Length: {len(request.body)}\r\n"
    try:
        return f"{request.method} {target.path} HTTP/1.1\r\n{lines}\r\n".encode("latin-1")
    except UnicodeEncodeError:
        raise ValueError("a header value holds a character that is no byte of ISO 8859-1") from None


def _lines(headers: Headers) -> tuple[str, bool, bool]:
    """Return headers as lines, and whether Host and Authorization are among them; raise `ValueError` for a bad one."""
    has_host, has_authorization = _checked_names(tuple([name for name, _ in headers]))
    lines = "".join([f"{name}: {value}\r\n" for name, value in headers])
    if lines.count("\n") != len(headers) or lines.count("\r") != len(headers) or "\0" in lines:
        raise ValueError("a header value holds a line break or a NUL")
    return lines, has_host, has_authorization


@functools.lru_cache(maxsize=1024)
def _checked_names(names: tuple[str, ...]) -> tuple[bool, bool]:
    """Return whether Host and Authorization are among the names, which are those of many requests; raise `ValueError`
    for a bad one."""
    lowered = [name.lower() for name in names]
    for name, lower in zip(names, lowered, strict=True):
        if not _is_token(name):
            raise ValueError(f"the header name {name!r} is not a token")
        if lower in OWN_HEADERS:
            raise ValueError(f"the header {name} is set by the transport")
    return "host" in lowered, "authorization" in lowered


@functools.lru_cache(maxsize=256)
def _shared_lines(headers: tuple[tuple[str, str], ...]) -> tuple[str, bool, bool]:
    return _lines(headers)


@functools.lru_cache(maxsize=4096)
def _is_token(name: str) -> bool:
    return _TOKEN.fullmatch(name) is not None
