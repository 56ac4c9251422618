"""`idioteque publish`: one message."""

from __future__ import annotations

import asyncio
import json
import math
import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path

import click

from idioteque import durations
from idioteque.cli.client import Json, connected
from idioteque.cli.output import show_rows
from idioteque.errors import InvalidValue

METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE")

_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")


@click.command()
@click.argument("destination", metavar="URL_OR_MOUNT")
@click.option("--data", help="The body: text, @FILE, or - for what comes in on stdin.")
@click.option("--method", type=click.Choice(METHODS, case_sensitive=False), help="Default: POST.")
@click.option("--header", "forwarded", multiple=True, metavar="NAME:VALUE", help="A header for the destination.")
@click.option("--delay", metavar="DURATION", help='Not before: seconds, or like "90s", "1h30m", "3d".')
@click.option("--retries", type=click.IntRange(min=0), help="How often to try again (the service's default: 3).")
@click.option("--callback", metavar="URL", help="Told of each attempt.")
@click.option("--failure-callback", metavar="URL", help="Told when no attempt succeeded.")
@click.option("--deduplication-id", metavar="ID", help="A second message under this id is not sent.")
@click.option("--label", "labels", multiple=True, help="To find it by in logs; may be given several times.")
@click.option("--json", "as_json", is_flag=True, help="Print the answer as JSON.")
def publish(
    destination: str,
    data: str | None,
    method: str | None,
    forwarded: Sequence[str],
    delay: str | None,
    retries: int | None,
    callback: str | None,
    failure_callback: str | None,
    deduplication_id: str | None,
    labels: Sequence[str],
    as_json: bool,
) -> None:
    """Publish one message and print its id.

    The destination is a URL, for example that of a worker's mount, or the name of a URL group (one id for each of its
    endpoints). A body that is JSON is sent as application/json unless --header says otherwise.
    """
    body = _body(data)
    options = {
        "Upstash-Method": method,
        "Upstash-Delay": None if delay is None else _delay(delay),
        "Upstash-Retries": None if retries is None else str(retries),
        "Upstash-Callback": callback,
        "Upstash-Failure-Callback": failure_callback,
        "Upstash-Deduplication-Id": deduplication_id,
        "Upstash-Label": ",".join(labels) or None,
    }
    headers = [(name, _checked(value, name)) for name, value in options.items() if value is not None]
    headers += [_forwarded(text) for text in forwarded]
    if "content-type" not in [name.lower() for name, _ in headers] and _is_json(body):
        headers.append(("Content-Type", "application/json"))
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


def _body(data: str | None) -> bytes:
    if data is None:
        return b""
    if data == "-":
        return sys.stdin.buffer.read()
    if not data.startswith("@"):
        return os.fsencode(data)
    try:
        return Path(data[1:]).read_bytes()
    except OSError as error:
        raise InvalidValue(f"--data: cannot read {data[1:]!r}: {error.strerror}") from error


def _delay(text: str) -> str:
    try:
        value: float | str = float(text)
    except ValueError:
        value = text
    return f"{math.ceil(durations.seconds(value, '--delay'))}s"


def _forwarded(text: str) -> tuple[str, str]:
    name, colon, value = text.partition(":")
    if not colon or _NAME.fullmatch(name.strip()) is None:
        raise InvalidValue(f"--header {text!r} must be like 'Name: value'")
    name = name.strip()
    sent = name if name.lower() == "content-type" else f"Upstash-Forward-{name}"
    return sent, _checked(value.strip(), f"--header {name}")


def _checked(value: str, what: str) -> str:
    if not all(character.isprintable() and ord(character) < 256 for character in value):
        raise InvalidValue(f"{what}: {value!r} holds characters that no header may hold")
    return value


def _is_json(body: bytes) -> bool:
    try:
        json.loads(body)
    except (ValueError, RecursionError):
        return False
    return True
