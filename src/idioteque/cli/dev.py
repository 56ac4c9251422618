"""`idioteque dev`: a development server and somebody's app beside it, started and ended as one."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from asyncio.subprocess import Process
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass

import click

from idioteque.cli.describing import checked_name, described_in
from idioteque.cli.pages import with_console
from idioteque.clock import SystemClock
from idioteque.console.settings import ConsoleSettings
from idioteque.environment import DEV_CURRENT_SIGNING_KEY, DEV_NEXT_SIGNING_KEY, DEV_PORT, DEV_TOKEN
from idioteque.errors import ConfigurationError
from idioteque.server.app import Server
from idioteque.server.config import ServerConfig
from idioteque.server.process import Attach, Attached, bound_socket, run
from idioteque.server.reporting import log_lines
from idioteque.transport import PooledTransport

HOST = "127.0.0.1"
APP_PORT = 8000
APP_GRACE_S = 3  # how long the app lets its requests end
APP_EXIT_S = 10.0  # and how long we wait for its process
LOOK_EVERY_S = 0.05
ASKED_TO_END = (0, -signal.SIGINT, -signal.SIGTERM, 128 + signal.SIGINT, 128 + signal.SIGTERM)


@click.command()
@click.argument("app", metavar="MODULE:APP")
@click.option("--port", type=click.IntRange(0, 65535), default=DEV_PORT, show_default=True, help="Of the server.")
@click.option("--app-port", type=click.IntRange(1, 65535), default=APP_PORT, show_default=True, help="Of the app.")
@click.option(
    "--database",
    metavar="URL",
    default=lambda: os.environ.get("IDIOTEQUE_DATABASE") or ServerConfig().database,
    show_default=f"IDIOTEQUE_DATABASE, or {ServerConfig().database}",
    help="Where messages are stored.",
)
@click.option("--store", metavar="URL", help="Where the console finds runs; the app gets it as IDIOTEQUE_STORE.")
@click.option("--reload", is_flag=True, help="Start the app again when a file changes.")
def dev(app: str, port: int, app_port: int, database: str, store: str | None, reload: bool) -> None:
    """Run a development server, its console, and the ASGI app MODULE:APP until Ctrl-C.

    The app gets QSTASH_DEV, QSTASH_URL, QSTASH_TOKEN and the signing keys; its mount URL names --app-port.
    """
    _check_app(app, app_port)
    log_lines()
    runs_in = store or os.environ.get("IDIOTEQUE_STORE", "").strip() or None
    beside = AppProcess(app, app_port, runs_in, reload)
    pages = with_console(
        ConsoleSettings("", runs_in, None, "", False), lambda url: described_in(app, environment_of(url, runs_in))
    )
    config = ServerConfig(host=HOST, port=port, database=database, dev=True)
    code = run(config, lambda line: click.echo(line), beside.together_with(pages))
    sys.stdout.flush()
    raise SystemExit(code or int(beside.has_failed))


def _check_app(app: str, port: int) -> None:
    """Raise for an app that cannot be started, as far as that is known without running its code."""
    checked_name(app, "APP")
    try:
        bound_socket(HOST, port).close()
    except ConfigurationError:
        raise ConfigurationError(f"port {port} of {HOST} is in use; choose another one with --app-port") from None


@dataclass(slots=True)
class AppProcess:
    """Somebody's app in a process of its own, which ends with the server, as the server ends with it."""

    app: str
    port: int
    store: str | None
    reload: bool
    has_failed: bool = False

    def together_with(self, attach: Attach) -> Attach:
        """Return what attaches the same and runs the app for as long."""

        @asynccontextmanager
        async def both(server: Server, url: str) -> AsyncGenerator[Attached, None]:
            async with attach(server, url) as attached:
                process = await self._start(url)
                # No await until the server listens to signals: the watcher may send one.
                watching = asyncio.create_task(self._watch(process, url))
                try:
                    yield attached
                finally:
                    watching.cancel()
                    await _end(process)

        return both

    async def _start(self, url: str) -> Process:
        arguments = ["--host", HOST, "--port", str(self.port), "--timeout-graceful-shutdown", str(APP_GRACE_S)]
        arguments += ["--log-level", "warning", *(["--reload"] if self.reload else [])]
        command = (sys.executable, "-m", "uvicorn", self.app, *arguments)
        return await asyncio.create_subprocess_exec(
            *command, stdin=asyncio.subprocess.DEVNULL, env={**os.environ, **environment_of(url, self.store)}
        )

    async def _watch(self, process: Process, url: str) -> None:
        """Tell when the app accepts connections, and stop the server when it has ended."""
        telling = asyncio.create_task(self._tell(url))
        try:
            code = await process.wait()
        finally:
            telling.cancel()
        if code not in ASKED_TO_END:
            self.has_failed = True
            click.echo(f"the app {self.app} ended with code {code}; what it said is above", err=True)
        signal.raise_signal(signal.SIGTERM)

    async def _tell(self, url: str) -> None:
        transport, clock = PooledTransport(), SystemClock()
        here = f"http://{HOST}:{self.port}"
        try:
            while not await transport.probe(here):
                await clock.sleep(LOOK_EVERY_S)
        finally:
            await transport.close()
        click.echo(f"the app {self.app} is running at {here}")
        click.echo(f"the console is at {url}/")


def environment_of(url: str, store: str | None) -> Mapping[str, str]:
    """Return the variables with which an app, or any SDK, finds a development server."""
    named = {"IDIOTEQUE_STORE": store} if store else {}
    return {
        "QSTASH_DEV": "true",
        "QSTASH_DEV_PORT": url.rpartition(":")[2],
        "QSTASH_URL": url,
        "QSTASH_TOKEN": DEV_TOKEN,
        "QSTASH_CURRENT_SIGNING_KEY": DEV_CURRENT_SIGNING_KEY,
        "QSTASH_NEXT_SIGNING_KEY": DEV_NEXT_SIGNING_KEY,
        **named,
    }


async def _end(process: Process) -> None:
    if process.returncode is not None:
        return
    with suppress(ProcessLookupError):
        process.terminate()
    try:
        async with asyncio.timeout(APP_EXIT_S):
            await process.wait()
    except TimeoutError:
        process.kill()
        await process.wait()
