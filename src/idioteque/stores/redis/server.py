"""The server under the run store: its connections, the check of how it is set up, and what its errors mean."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import cast
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit
from weakref import WeakKeyDictionary

from redis import exceptions as errors
from redis.asyncio import BlockingConnectionPool
from redis.asyncio.connection import AbstractConnection
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from idioteque.clock import SystemClock
from idioteque.durations import seconds
from idioteque.errors import CommitUnknown, ConfigurationError, DatabaseError, DatabaseFull, InvalidValue, first_line
from idioteque.stores.redis.scripts import Script

CONNECT_S = 5.0
REPLY_S = 10.0
RECONNECT_S = 10.0  # an operation that found no server for so long has failed
RECONNECT_EVERY_S = 0.1
CONNECTIONS_MAX = 64
RETENTION = "30d"
WAIT_AOF_SINCE = (7, 2)
SERVER_SINCE = (6, 2)
REFUSED = ("READONLY", "LOADING", "CLUSTERDOWN", "MASTERDOWN", "TRYAGAIN", "BUSY ")
"""With these the server did nothing, and may soon do it: after a failover, a start, or a script of somebody's."""

Part = str | bytes | int


@dataclass(frozen=True, slots=True)
class Options:
    """What a store's URL asks for beside the server: `?prefix=idioteque&retention=30d&redis_wait_aof=1`."""

    server_url: str
    name: str
    prefix: str
    retention_ms: int
    waits_for_aof: bool

    @classmethod
    def of(cls, url: str) -> Options:
        """Read a URL; raise `ConfigurationError` for what it asks in vain."""
        parts = urlsplit(url)
        query = dict(parse_qsl(parts.query, keep_blank_values=True))
        prefix, wait = query.pop("prefix", "idioteque"), query.pop("redis_wait_aof", "0")
        retention = query.pop("retention", RETENTION)
        host = parts.hostname
        if wait not in ("0", "1"):
            raise ConfigurationError(f"redis_wait_aof is 0 or 1, not {wait!r}")
        if not host or not prefix or set("{}") & set(prefix):
            raise ConfigurationError("write redis://user:password@host:6379/0, and a prefix without braces")
        try:
            number, retention_ms = parts.port or 6379, int(seconds(retention, "retention") * 1000)
        except (ValueError, InvalidValue) as error:
            raise ConfigurationError(f"the URL of a Redis store: {first_line(error)}") from None
        if retention_ms <= 0:
            raise ConfigurationError("a retention must be longer than nothing")
        server_url = urlunsplit(parts._replace(query=urlencode(query)))
        return cls(server_url, f"{host}:{number}", prefix, retention_ms, wait == "1")


@dataclass(slots=True)
class _Pool:
    connections: BlockingConnectionPool
    checking: asyncio.Lock = field(default_factory=asyncio.Lock)
    is_checked: bool = False


class RedisServer:
    """Runs scripts on one server. Connections belong to the event loop that made them, and to the process."""

    def __init__(self, url: str) -> None:
        self.options = Options.of(url)
        self.name = self.options.name
        self._clock = SystemClock()
        self._pools: WeakKeyDictionary[asyncio.AbstractEventLoop, _Pool] = WeakKeyDictionary()
        self._process_id = os.getpid()
        self._of_the_parent: list[object] = []
        self._is_closed = False
        try:
            self._new_pool()
        except (ValueError, TypeError) as error:
            raise ConfigurationError(f"the URL of the Redis store at {self.name}: {first_line(error)}") from None

    async def run(self, script: Script, key: str, *arguments: Part, is_repeatable: bool = True) -> object:
        """Run a script on a key; again if its answer was lost, where that changes nothing.

        Raise `DatabaseError` when it did not run, `CommitUnknown` when it may have run.
        """
        by_name: list[Part] = ["EVALSHA", script.sha, 1, key, *arguments]
        by_text: list[Part] = ["EVAL", script.text, 1, key, *arguments]
        return (await self._ask([by_name], by_text, is_repeatable=is_repeatable, is_write=True))[0]

    async def read(self, commands: Sequence[Sequence[Part]]) -> list[object]:
        """Return the answers to some reading commands, sent together."""
        return await self._ask(commands, None, is_repeatable=True, is_write=False) if commands else []

    async def close(self) -> None:
        self._is_closed = True
        pool = self._pools.pop(asyncio.get_running_loop(), None)
        if pool is not None:
            await pool.connections.disconnect()

    # ---- asking

    async def _ask(
        self, commands: Sequence[Sequence[Part]], by_text: list[Part] | None, *, is_repeatable: bool, is_write: bool
    ) -> list[object]:
        give_up_s = self._clock.monotonic_s() + RECONNECT_S
        is_unknown = False
        stop_if_cancelled = _cancellation()
        while True:
            stop_if_cancelled()
            connection: AbstractConnection | None = None
            pool = self._pool()
            try:
                connection = await _connected(pool.connections)
                await self._check(pool, connection)
                answers = await self._exchange(connection, commands, by_text)
                stop_if_cancelled()
                return answers
            except (TimeoutError, errors.RedisError, OSError) as error:
                was_sent = connection is not None and pool.is_checked and not isinstance(error, errors.ResponseError)
                is_unknown = is_unknown or (was_sent and is_write and not isinstance(error, errors.BusyLoadingError))
                failure, may_pass = self._judged(error)
                if connection is not None and may_pass:
                    await connection.disconnect(nowait=True)
                is_over = self._clock.monotonic_s() >= give_up_s or self._is_closed
                if is_over or not may_pass or (is_unknown and not is_repeatable):
                    raise (self._lost() if is_unknown else failure) from error
            except BaseException:
                if connection is not None:  # somebody's answer may be on its way
                    await connection.disconnect(nowait=True)
                raise
            finally:
                if connection is not None:
                    await pool.connections.release(connection)
            await self._clock.sleep(RECONNECT_EVERY_S)

    async def _exchange(
        self, connection: AbstractConnection, commands: Sequence[Sequence[Part]], by_text: list[Part] | None
    ) -> list[object]:
        """Send commands together and return their answers, after they are on the disk where that was asked for."""
        waits = by_text is not None and self.options.waits_for_aof
        answers = await _answers(connection, [*commands, *(self._waiting() if waits else ())])
        if by_text is not None and isinstance(answers[0], errors.NoScriptError):
            answers = await _answers(connection, [by_text, *(self._waiting() if waits else ())])
        for answer in answers:
            if isinstance(answer, Exception):
                raise answer
        if waits and cast("list[int]", answers[-1])[0] < 1:
            raise errors.TimeoutError("the append-only file was not written in time")
        return answers[: len(commands)]

    def _waiting(self) -> list[list[Part]]:
        """Return what holds an answer back until all that it may tell of is on the disk.

        A script that only read may have seen what another connection wrote; a write of our own comes after that.
        """
        return [
            ["SET", f"{self.options.prefix}:waits", 1],
            ["WAITAOF", 1, 0, int(REPLY_S * 900)],
        ]

    # ---- connections

    def _pool(self) -> _Pool:
        if self._is_closed:
            raise DatabaseError(f"the store at {self.name} is closed")
        if self._process_id != os.getpid():
            self._of_the_parent.append(self._pools)  # kept: its sockets are the parent's too
            self._pools, self._process_id = WeakKeyDictionary(), os.getpid()
        loop = asyncio.get_running_loop()
        pool = self._pools.get(loop)
        if pool is None:
            pool = self._pools[loop] = _Pool(self._new_pool())
        return pool

    def _new_pool(self) -> BlockingConnectionPool:
        return BlockingConnectionPool.from_url(  # pyright: ignore[reportUnknownMemberType]
            self.options.server_url,
            max_connections=CONNECTIONS_MAX,
            timeout=RECONNECT_S,
            socket_connect_timeout=CONNECT_S,
            socket_timeout=REPLY_S,
            socket_keepalive=True,
            retry=Retry(NoBackoff(), 0),
            protocol=2,
        )

    async def _check(self, pool: _Pool, connection: AbstractConnection) -> None:
        """Refuse a server that would lose runs; once for each pool."""
        if pool.is_checked:
            return
        async with pool.checking:
            answered = await _answers(connection, [["INFO", part] for part in ("server", "memory", "persistence")])
            told: dict[str, str] = {}
            for answer in answered:
                if isinstance(answer, Exception):
                    raise answer
                text = cast("bytes", answer).decode(errors="replace")
                told.update((name, value) for name, _, value in (line.partition(":") for line in text.splitlines()))
            self._refuse(told)
            pool.is_checked = True

    def _refuse(self, told: dict[str, str]) -> None:
        version = _version(told.get("redis_version", ""))
        policy = told.get("maxmemory_policy", "noeviction")
        if policy != "noeviction":
            raise ConfigurationError(
                f"the Redis at {self.name} has maxmemory-policy {policy}, which would throw runs away when memory is"
                " short; set it to noeviction"
            )
        if version < SERVER_SINCE:
            raise ConfigurationError(f"the Redis at {self.name} is older than {_dotted(SERVER_SINCE)}; upgrade it")
        if self.options.waits_for_aof and version < WAIT_AOF_SINCE:
            raise ConfigurationError(
                f"redis_wait_aof=1 needs Redis {_dotted(WAIT_AOF_SINCE)} or newer, and the one at {self.name} is"
                f" {_dotted(version)}"
            )
        if self.options.waits_for_aof and told.get("aof_enabled") != "1":
            raise ConfigurationError(f"redis_wait_aof=1 needs appendonly yes in the Redis at {self.name}")

    # ---- failing

    def _lost(self) -> CommitUnknown:
        return CommitUnknown(
            f"the Redis at {self.name} was lost during an operation, which it may have made; ask again"
        )

    def _judged(self, error: Exception) -> tuple[DatabaseError, bool]:
        """Return what an error is to the caller, and whether it may pass by itself."""
        text = first_line(error)
        is_full = isinstance(error, errors.OutOfMemoryError) or "OOM command" in text
        if is_full or ("MISCONF" in text and "No space left" in text):
            return DatabaseFull(f"no room left in the Redis at {self.name}: {text}"), False
        failure = DatabaseError(f"the Redis at {self.name}: {text}")
        if isinstance(error, errors.AuthenticationError | errors.AuthorizationError | errors.NoPermissionError):
            return failure, False
        if isinstance(error, errors.ConnectionError | errors.TimeoutError | OSError | asyncio.TimeoutError):
            return failure, True
        is_refusal = isinstance(error, errors.ReadOnlyError | errors.ClusterDownError | errors.TryAgainError)
        return failure, is_refusal or any(word in text for word in REFUSED)


def _cancellation() -> Callable[[], None]:
    """Return what raises the cancellation that came since: `asyncio.wait_for`, which the driver uses, may lose one."""
    task = asyncio.current_task()
    before = task.cancelling() if task else 0

    def stop_if_cancelled() -> None:
        if task and task.cancelling() > before:
            raise asyncio.CancelledError

    return stop_if_cancelled


async def _connected(pool: BlockingConnectionPool) -> AbstractConnection:
    connecting: Awaitable[AbstractConnection] = pool.get_connection()  # type: ignore[no-untyped-call]  # pyright: ignore
    return await connecting


async def _answers(connection: AbstractConnection, commands: Sequence[Sequence[Part]]) -> list[object]:
    """Send commands in one go and return an answer or an error for each."""
    await connection.send_packed_command(connection.pack_commands(commands))
    answers: list[object] = []
    for _ in commands:
        try:
            answers.append(cast("object", await connection.read_response()))
        except errors.ResponseError as error:
            answers.append(error)
    return answers


def _version(text: str) -> tuple[int, ...]:
    version = (0, 0)
    with suppress(ValueError, IndexError):
        version = (int(text.split(".")[0]), int(text.split(".")[1]))
    return version


def _dotted(version: tuple[int, ...]) -> str:
    return ".".join(str(number) for number in version)
