"""`idioteque console`: the web pages alone, over any QStash."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket

import click

from idioteque.cli.checkup import console_checkup
from idioteque.cli.describing import checked_name, described_in
from idioteque.cli.pages import verifier
from idioteque.client import usable
from idioteque.console.app import Console
from idioteque.console.settings import ConsoleSettings
from idioteque.environment import account_from, is_dev
from idioteque.errors import ConfigurationError
from idioteque.server.process import LOOPBACK_HOSTS, Attached, bound_socket, serve_app
from idioteque.server.reporting import log_lines

DEFAULT_PORT = 8081
LIVE_EVERY_S = 3.0  # each look is some requests, perhaps to a service that counts them


@click.command()
@click.option("--store", metavar="URL", help="Where the runs are kept; IDIOTEQUE_STORE by default.")
@click.option("--mount-url", metavar="URL", help="Where runs' messages go; learnt from the log by default.")
@click.option("--app", metavar="MODULE:WORKER", help="The worker whose events it makes forms for.")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", type=click.IntRange(0, 65535), default=DEFAULT_PORT, show_default=True, help="0: a free one.")
@click.option("--prefix", default="", metavar="PATH", help="The path under which a proxy shows it, like /ops.")
@click.option("--trust-forwarded", is_flag=True, help="Take prefix and scheme from X-Forwarded-Prefix and -Proto.")
def console(
    store: str | None,
    mount_url: str | None,
    app: str | None,
    host: str,
    port: int,
    prefix: str,
    trust_forwarded: bool,
) -> None:
    """Show the web pages over the QStash of QSTASH_URL and QSTASH_TOKEN; who has that token may log in.

    QSTASH_READONLY_TOKEN lets in those who may only look. With QSTASH_DEV=true there is no login.
    """
    account = usable(account_from(os.environ))
    dev = is_dev(os.environ)
    if dev and host not in LOOPBACK_HOSTS:
        raise ConfigurationError(f"QSTASH_DEV=true means no login, so it listens on loopback only, not {host}")
    runs_in = store or os.environ.get("IDIOTEQUE_STORE") or None
    settings = ConsoleSettings(account.url, runs_in, mount_url, prefix, trust_forwarded, dev, live_every_s=LIVE_EVERY_S)
    log_lines()
    verify = verifier(account.token, os.environ.get("QSTASH_READONLY_TOKEN"))
    describe = None if app is None else described_in(checked_name(app, "WORKER"), {})
    pages = Console(settings, verify, checkup=console_checkup(account.url, None, settings.store), describe=describe)
    listener = bound_socket(host, port)
    with contextlib.closing(listener):
        asyncio.run(_serve(pages, listener))


async def _serve(pages: Console, listener: socket.socket) -> None:
    host, port = listener.getsockname()[:2]
    shown = f"[{host}]" if ":" in host else host
    try:
        await serve_app(
            Attached(pages, pages.let_go), listener, lambda: click.echo(f"the console is at http://{shown}:{port}/")
        )
    finally:
        await pages.close()
