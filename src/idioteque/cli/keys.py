"""`idioteque keys`: what deliveries are signed with, and the token of a server of one's own."""

from __future__ import annotations

import asyncio
import os

import click

from idioteque.cli.client import ask
from idioteque.cli.output import show_record
from idioteque.client import QStash
from idioteque.server.app import replace_token
from idioteque.server.config import ServerConfig

DEFAULT_DATABASE = ServerConfig().database


@click.group()
def keys() -> None:
    """Look at signing keys and rotate them; make a new token."""


@keys.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def show(as_json: bool) -> None:
    """Print the current signing key and the next one."""
    show_record(ask(QStash.keys), as_json=as_json)


@keys.command()
@click.option("--yes", is_flag=True, help="Do not ask first.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def rotate(yes: bool, as_json: bool) -> None:
    """Make the next signing key the current one, and a new one the next; print both.

    Receivers that know both of the old keys go on working until the rotation after this one.
    """
    if not yes:
        click.confirm("rotate the signing keys?", abort=True, err=True)
    show_record(ask(QStash.rotate_keys), as_json=as_json)


@keys.command("new-token")
@click.option(
    "--database",
    metavar="URL",
    default=lambda: os.environ.get("IDIOTEQUE_DATABASE") or DEFAULT_DATABASE,
    show_default=f"IDIOTEQUE_DATABASE, or {DEFAULT_DATABASE}",
    help="The database of a server that is stopped.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def new_token(database: str, as_json: bool) -> None:
    """Replace the token of a server that is stopped, and print the new one, which is not shown again."""
    token = asyncio.run(replace_token(database))
    if as_json:
        show_record({"token": token}, as_json=True)
    else:
        click.echo(token)
    click.echo("a QSTASH_TOKEN in the server's environment has precedence over it", err=True)
