"""The options that describe a message, and the publish headers and body they become."""

from __future__ import annotations

import json
import math
import os
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypedDict, TypeVar

import click

from idioteque import durations
from idioteque.errors import InvalidValue

METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE")

Command = TypeVar("Command", bound=Callable[..., Any])

_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")


class MessageOptions(TypedDict):
    """What `describing` adds to a command."""

    data: str | None
    method: str | None
    forwarded: Sequence[str]
    delay: str | None
    retries: int | None
    callback: str | None
    failure_callback: str | None
    labels: Sequence[str]


def describing(command: Command) -> Command:
    """Give a command the options of a message."""
    for option in reversed(
        (
            click.option("--data", help="The body: text, @FILE, or - for what comes in on stdin."),
            click.option("--method", type=click.Choice(METHODS, case_sensitive=False), help="Default: POST."),
            click.option(
                "--header", "forwarded", multiple=True, metavar="NAME:VALUE", help="A header for the destination."
            ),
            click.option("--delay", metavar="DURATION", help='Not before: seconds, or like "90s", "1h30m", "3d".'),
            click.option(
                "--retries", type=click.IntRange(min=0), help="How often to try again (the service's default: 3)."
            ),
            click.option("--callback", metavar="URL", help="Told of each attempt."),
            click.option("--failure-callback", metavar="URL", help="Told when no attempt succeeded."),
            click.option("--label", "labels", multiple=True, help="To find it by in logs; may be given several times."),
        )
    ):
        command = option(command)
    return command


def headers_and_body(
    options: MessageOptions, more: Mapping[str, str | None]
) -> tuple[Sequence[tuple[str, str]], bytes]:
    """Return publish headers, and `more` of them that are not None, with the body.

    A body that is JSON is sent as application/json unless a header says otherwise.
    """
    body, delay, retries = body_from(options["data"]), options["delay"], options["retries"]
    named = {
        "Upstash-Method": options["method"],
        "Upstash-Delay": None if delay is None else _delay(delay),
        "Upstash-Retries": None if retries is None else str(retries),
        "Upstash-Callback": options["callback"],
        "Upstash-Failure-Callback": options["failure_callback"],
        "Upstash-Label": ",".join(options["labels"]) or None,
        **more,
    }
    headers = [(name, _checked(value, name)) for name, value in named.items() if value is not None]
    headers += [_forwarded(text) for text in options["forwarded"]]
    if "content-type" not in [name.lower() for name, _ in headers] and _is_json(body):
        headers.append(("Content-Type", "application/json"))
    return headers, body


def body_from(data: str | None) -> bytes:
    """Return the body that `--data` says; empty when it says nothing."""
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


def header_from(text: str) -> tuple[str, str]:
    """Return the name and the value that `--header` says."""
    name, colon, value = text.partition(":")
    if not colon or _NAME.fullmatch(name.strip()) is None:
        raise InvalidValue(f"--header {text!r} must be like 'Name: value'")
    name = name.strip()
    return name, _checked(value.strip(), f"--header {name}")


def _forwarded(text: str) -> tuple[str, str]:
    name, value = header_from(text)
    return name if name.lower() == "content-type" else f"Upstash-Forward-{name}", value


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
