"""`idioteque serve`: the QStash-compatible server."""

from __future__ import annotations

import os
import sys

import click

from idioteque.cli.describing import checked_name, described_in
from idioteque.cli.pages import with_console
from idioteque.console.settings import ConsoleSettings
from idioteque.server.config import ServerConfig, with_settings
from idioteque.server.network import checked_networks, checked_rewrite
from idioteque.server.process import run
from idioteque.server.reporting import LogFormat, log_lines

DEFAULTS = ServerConfig()


@click.command()
@click.option("--host", default=DEFAULTS.host, show_default=True, help="Address to listen on.")
@click.option(
    "--port", type=click.IntRange(0, 65535), default=DEFAULTS.port, show_default=True, help="0 takes a free one."
)
@click.option(
    "--database",
    metavar="URL",
    default=lambda: os.environ.get("IDIOTEQUE_DATABASE") or DEFAULTS.database,
    show_default=f"IDIOTEQUE_DATABASE, or {DEFAULTS.database}",
    help="Where messages are stored.",
)
@click.option("--dev", is_flag=True, help="Published credentials, private destinations, loopback only.")
@click.option("--allow-private", metavar="CIDR", multiple=True, help="Reach a network that is not public.")
@click.option("--rewrite", metavar="FROM=TO", multiple=True, help="Send to another origin, signed as published.")
@click.option(
    "--durability",
    type=click.Choice(["full", "relaxed"]),
    default=DEFAULTS.durability,
    show_default=True,
    help="relaxed may lose the last moments at power loss.",
)
@click.option(
    "--set",
    "settings",
    metavar="NAME=VALUE",
    multiple=True,
    help="Change a limit, e.g. body_bytes_max=65536; the names are those of ServerConfig.",
)
@click.option("--store", metavar="URL", help="Where the console finds runs; IDIOTEQUE_STORE by default.")
@click.option(
    "--mount-url", metavar="URL", help="Where the console sends runs' messages; learnt from the log by default."
)
@click.option("--app", metavar="MODULE:WORKER", help="The worker whose events the console makes forms for.")
@click.option("--console-prefix", default="", metavar="PATH", help="The path under which a proxy shows the console.")
@click.option("--trust-forwarded", is_flag=True, help="Let the proxy say it: X-Forwarded-Prefix and -Proto.")
@click.option(
    "--log-format", type=click.Choice(["text", "json"]), default="text", show_default=True, help="Of what stderr gets."
)
@click.option("--no-console", is_flag=True, help="Serve the API alone.")
def serve(
    host: str,
    port: int,
    database: str,
    dev: bool,
    allow_private: tuple[str, ...],
    rewrite: tuple[str, ...],
    durability: str,
    settings: tuple[str, ...],
    store: str | None,
    mount_url: str | None,
    app: str | None,
    console_prefix: str,
    trust_forwarded: bool,
    log_format: LogFormat,
    no_console: bool,
) -> None:
    """Run the QStash-compatible server until SIGTERM, which lets deliveries under way end; the console is on /.

    Credentials come from QSTASH_TOKEN, QSTASH_CURRENT_SIGNING_KEY and QSTASH_NEXT_SIGNING_KEY, or are made at the first
    start; QSTASH_READONLY_TOKEN may only read.
    """
    log_lines(log_format)
    named = ServerConfig(
        host=host,
        port=port,
        database=database,
        durability=durability,
        dev=dev,
        allow_private=checked_networks(allow_private),
        rewrites=tuple(checked_rewrite(text) for text in rewrite),
    )
    config = with_settings(named, settings)
    runs_in = store or os.environ.get("IDIOTEQUE_STORE") or None
    describe = None if app is None else described_in(checked_name(app, "WORKER"), {})
    pages = ConsoleSettings("", runs_in, mount_url, console_prefix, trust_forwarded)
    for network in allow_private:
        click.echo(f"destinations in {network} are reached although they are not public")
    code = run(
        config,
        lambda line: click.echo(line),
        None if no_console else with_console(pages, describe and (lambda _: describe)),
    )
    sys.stdout.flush()
    raise SystemExit(code)
