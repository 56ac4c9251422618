"""The server as a process: its socket, its signals, its exit code."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import gc
import logging
import os
import signal
import socket
import sys
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import uvicorn

from idioteque.database import SqliteDatabase
from idioteque.errors import ConfigurationError, DatabaseBroken, DatabaseError
from idioteque.server.app import Server
from idioteque.server.config import ServerConfig
from idioteque.server.front.protocol import Connection
from idioteque.server.front.reception import Limits, Reception, State
from idioteque.server.front.request import Hot

BACKLOG = 2048
REQUEST_GRACE_S = 5
GC_THRESHOLDS = (50_000, 20, 50)  # the usual ones look for cycles so often that a sixth of the CPU goes into it
LOOPBACK_HOSTS = ("127.0.0.1", "::1", "localhost")

logger = logging.getLogger("idioteque.server")

Say = Callable[[str], None]
"""Prints one line for the operator, at once."""


@dataclass(frozen=True, slots=True)
class Attached:
    """The application to serve; `let_go` ends what would stream for ever, when the process is about to stop.

    `hot` answers some requests without it.
    """

    app: Callable[..., Awaitable[None]]
    let_go: Callable[[], None]
    hot: Hot | None = None


Attach = Callable[[Server, str], AbstractAsyncContextManager[Attached]]
"""Makes what is served out of a started server and its URL; its end is awaited when no request can come any more."""


@contextlib.asynccontextmanager
async def alone(server: Server, url: str) -> AsyncGenerator[Attached, None]:
    """Serve the server as it is."""
    yield Attached(server.app, lambda: None, server.app)


def run(config: ServerConfig, say: Say, attach: Attach | None = None) -> int:
    """Serve until SIGTERM or SIGINT; return the exit code: 0, or 1 when the database failed on the way.

    `attach` may put something in front of the server, see `Attach`.

    Raise `ConfigurationError` for what the operator must change before a start can succeed.
    """
    if config.dev and config.host not in LOOPBACK_HOSTS:
        raise ConfigurationError(f"--dev uses published credentials, so it listens on loopback only, not {config.host}")
    if config.database.startswith(("postgres:", "postgresql:")):
        raise ConfigurationError("the server keeps its messages in SQLite: name one with --database sqlite:///file.db")
    listener = bound_socket(config.host, config.port)
    with contextlib.closing(listener), asyncio.Runner(loop_factory=_loop_factory()) as runner:
        return runner.run(_serve(config, listener, say, attach or alone))


def bound_socket(host: str, port: int) -> socket.socket:
    """Return a listening socket; raise `ConfigurationError` when the address cannot be used."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        if error.errno == errno.EADDRINUSE:
            raise ConfigurationError(f"port {port} of {host} is in use; choose another one with --port") from None
        raise ConfigurationError(f"cannot listen on {host}:{port}: {error.strerror or error}") from None
    return listener


class _WebServer(uvicorn.Server):
    """uvicorn, but the signals are ours, and so is the line that says it is ready."""

    def __init__(self, config: uvicorn.Config, ready: Callable[[], None], let_go: Callable[[], None]) -> None:
        super().__init__(config)
        self._ready = ready
        self._let_go = let_go

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None]:
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            self._ready()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._let_go()
        await super().shutdown(sockets)


async def _serve(config: ServerConfig, listener: socket.socket, say: Say, attach: Attach) -> int:
    host, port = listener.getsockname()[:2]
    shown_host = f"[{host}]" if ":" in host else host
    server = await _started(config, port)
    _tell_credentials(server, say)
    gc.freeze()
    gc.set_threshold(*GC_THRESHOLDS)
    url = f"http://{shown_host}:{port}"
    failed: list[DatabaseBroken] = []
    try:
        async with attach(server, url) as attached:
            limits = Limits.of(config)
            web = web_server(attached, lambda: say(f"idioteque is running at {url}"), limits)
            _watch(server, web, failed)
            await _serve_until_told(web, listener)
    finally:
        await server.stop()
    if failed:
        say(f"idioteque stopped: {failed[0]}")
        return 1
    return 0


async def _started(config: ServerConfig, port: int) -> Server:
    server: Server | None = None
    try:
        server = Server(config)
        server.policy.refuse_own(config.host, port)
        await server.start()
    except DatabaseError as error:
        if server is not None:
            await server.database.close()
        raise ConfigurationError(f"the database cannot be used: {error}") from error
    return server


async def serve_app(attached: Attached, listener: socket.socket, ready: Callable[[], None]) -> None:
    """Serve an application that needs no server of ours, until SIGTERM or SIGINT."""
    await _serve_until_told(web_server(attached, ready), listener)


def web_server(attached: Attached, ready: Callable[[], None], limits: Limits = Limits()) -> _WebServer:  # noqa: B008
    """Return the web server for an application; `ready` is called when it accepts connections."""
    reception = Reception(attached.app, attached.hot, limits)

    def connection(server_state: State, **_: object) -> Connection:
        return Connection(reception, server_state)

    config = uvicorn.Config(
        attached.app,
        loop="none",
        http=cast(type[asyncio.Protocol], connection),
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        timeout_graceful_shutdown=REQUEST_GRACE_S,
    )
    return _WebServer(config, ready, attached.let_go)


async def _serve_until_told(web: uvicorn.Server, listener: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, _ask_to_stop, web)
    await web.serve(sockets=[listener])


def _watch(server: Server, web: uvicorn.Server, failed: list[DatabaseBroken]) -> None:
    """Stop the process when the database breaks: only a restart can tell what is stored."""
    loop = asyncio.get_running_loop()

    def broken(error: DatabaseBroken) -> None:
        failed.append(error)
        loop.call_soon_threadsafe(_ask_to_stop, web)

    if isinstance(server.database, SqliteDatabase):
        server.database.on_broken(broken)


def _ask_to_stop(web: uvicorn.Server) -> None:
    web.should_exit = True


def _tell_credentials(server: Server, say: Say) -> None:
    """Show a token that was made just now: once, and on a terminal only; else leave it in a private file."""
    token = server.credentials.new_token
    if token is None:
        return
    text = (
        f"QSTASH_TOKEN={token}\n"
        f"QSTASH_CURRENT_SIGNING_KEY={server.credentials.current_key}\n"
        f"QSTASH_NEXT_SIGNING_KEY={server.credentials.next_key}\n"
    )
    if sys.stdout.isatty():
        say(f"Made for this server, and not shown again:\n\n{text}")
        return
    database = server.database
    beside = database.path if isinstance(database, SqliteDatabase) and database.path != ":memory:" else "idioteque"
    path = Path(beside + ".credentials").absolute()
    with os.fdopen(os.open(path, os.O_CREAT | os.O_WRONLY | os.O_TRUNC | os.O_CLOEXEC, 0o600), "w") as file:
        file.write(text)
    say(f"a token and signing keys were made for this server; they are in {path}")


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop]:
    try:
        import uvloop  # not on Windows
    except ImportError:
        return asyncio.new_event_loop
    return uvloop.new_event_loop
