"""`idioteque publish`: one message."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from typing import Unpack

import click

from idioteque.cli.client import connected
from idioteque.cli.message import MessageOptions, describing, headers_and_body
from idioteque.cli.output import show_rows
from idioteque.client import Json


@click.command()
@click.argument("destination", metavar="URL_OR_MOUNT")
@describing
@click.option("--deduplication-id", metavar="ID", help="A second message under this id is not sent.")
@click.option("--json", "as_json", is_flag=True, help="Print the answer as JSON.")
def publish(destination: str, deduplication_id: str | None, as_json: bool, **options: Unpack[MessageOptions]) -> None:
    """Publish one message and print its id.

    The destination is a URL, for example that of a worker's mount, or the name of a URL group (one id for each of its
    endpoints). A body that is JSON is sent as application/json unless --header says otherwise.
    """
    headers, body = headers_and_body(options, {"Upstash-Deduplication-Id": deduplication_id})
    accepted = asyncio.run(_publish(destination, headers, body))
    if as_json:
        show_rows(accepted, {}, as_json=True)
        return
    for message in accepted:
        click.echo(str(message.get("messageId", "")))
        if message.get("deduplicated"):
            click.echo("a duplicate: this is the message sent before", err=True)


async def _publish(destination: str, headers: Sequence[tuple[str, str]], body: bytes) -> list[Json]:
    async with connected(os.environ) as qstash:
        return await qstash.publish(destination, headers, body)
