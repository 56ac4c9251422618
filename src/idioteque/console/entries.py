"""What the API says of messages, as the screens show it: fields by the protocol's names become typed records."""

from __future__ import annotations

import base64
import binascii
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import cast

from idioteque.client import Json
from idioteque.dispatcher import EventEnvelope, decode
from idioteque.errors import EventRejected, InvalidValue
from idioteque.function import run_id

_DIGITS = re.compile(r"[0-9a-f]{8,}|\d+", re.IGNORECASE)
FINGERPRINT_LENGTH_MAX = 120
ATTEMPT_ENDS = ("DELIVERED", "ERROR", "FAILED")


@dataclass(frozen=True, slots=True)
class Payload:
    """A body: `text` is cut at the limit; `is_binary` when it is no UTF-8, and then shown as base64."""

    text: str
    bytes: int
    is_cut: bool
    is_binary: bool


@dataclass(frozen=True, slots=True)
class Entry:
    """A line of the log: one state of one message, with the answer that caused it, if any."""

    at_ms: int
    state: str
    message_id: str
    url: str
    method: str
    status: int | None
    error: str
    next_at_ms: int | None
    queue: str
    labels: tuple[str, ...]
    response: Payload
    response_headers: tuple[tuple[str, str], ...]
    took_ms: int | None = None
    """How long the attempt took that ended in this state, as far as the log before it tells."""


@dataclass(frozen=True, slots=True)
class Carried:
    """The run or the event that a message carries, when it is one of the library's."""

    event_id: str
    function_id: str
    run_id: str


def entry_of(row: Json, chars_max: int) -> Entry:
    """Read an entry of the log."""
    status = row.get("responseStatus")
    next_at_ms = row.get("nextDeliveryTime")
    return Entry(
        at_ms=number(row, "time"),
        state=text(row, "state"),
        message_id=text(row, "messageId"),
        url=text(row, "url"),
        method=text(row, "method"),
        status=status if isinstance(status, int) else None,
        error=text(row, "error"),
        next_at_ms=next_at_ms if isinstance(next_at_ms, int) else None,
        queue=text(row, "queueName"),
        labels=tuple(str(label) for label in items(row, "labels")),
        response=payload(unpacked(row, "responseBody"), chars_max),
        response_headers=headers_of(row, "responseHeader"),
    )


def timeline(rows: Sequence[Json], chars_max: int) -> tuple[Entry, ...]:
    """Read the entries of one message, the earliest first, and tell how long each attempt took."""
    entries: list[Entry] = []
    began_ms: int | None = None
    for row in rows:
        entry = entry_of(row, chars_max)
        if entry.state == "ACTIVE":
            began_ms = entry.at_ms
        elif entry.state in ATTEMPT_ENDS and began_ms is not None:
            entry, began_ms = replace(entry, took_ms=max(0, entry.at_ms - began_ms)), None
        entries.append(entry)
    return tuple(entries)


def payload(body: bytes, chars_max: int) -> Payload:
    """Return a body for the eye."""
    try:
        shown, is_binary = body.decode(), False
    except UnicodeDecodeError:
        shown, is_binary = base64.b64encode(body).decode(), True
    return Payload(shown[:chars_max], len(body), len(shown) > chars_max, is_binary)


def text(row: Json, name: str) -> str:
    """Return a field as text; "" when it is missing."""
    value = row.get(name)
    return "" if value is None else str(value)


def number(row: Json, name: str) -> int:
    """Return a field as a whole number; 0 when it is none."""
    value = row.get(name)
    return value if isinstance(value, int) and not isinstance(value, bool) else 0


def items(row: Json, name: str) -> Sequence[object]:
    """Return a field's list; empty when it is none."""
    value = row.get(name)
    return cast(list[object], value) if isinstance(value, list) else ()


def unpacked(row: Json, name: str) -> bytes:
    """Return a body of the log, which is base64 there; what is not base64 is taken as it stands."""
    value = text(row, name)
    try:
        return base64.b64decode(value, validate=True)
    except (binascii.Error, ValueError):
        return value.encode()


def plain_body(row: Json, name: str = "body") -> bytes:
    """Return the body of a message or a dead letter: text, or base64 under a name that says so."""
    packed = row.get(f"{name}Base64")
    if isinstance(packed, str):
        try:
            return base64.b64decode(packed, validate=True)
        except (binascii.Error, ValueError):
            return packed.encode()
    return text(row, name).encode(errors="replace")


def headers_of(row: Json, name: str) -> tuple[tuple[str, str], ...]:
    """Return headers as pairs."""
    value = row.get(name)
    if not isinstance(value, dict):
        return ()
    found: list[tuple[str, str]] = []
    for key, values in cast(Mapping[str, object], value).items():
        several = cast(list[object], values) if isinstance(values, list) else [values]
        found += [(key, str(one)) for one in several]
    return tuple(found)


def carried(body: bytes, message_id: str) -> Carried | None:
    """Return what a message of the library carries; None for any other message."""
    if b'"idioteque"' not in body[:200]:
        return None
    try:
        envelope = decode(body, message_id)
    except (EventRejected, InvalidValue):
        return None
    if isinstance(envelope, EventEnvelope):
        return Carried(envelope.event_id, "", "")
    return Carried(envelope.event_id, envelope.function_id, run_id(envelope.event_id, envelope.function_id))


def fingerprint(url: str, status: int, error: str, response: bytes) -> str:
    """Return what dead letters of one cause have in common: where they went, the status and the error, without ids."""
    said = error or response[:FINGERPRINT_LENGTH_MAX].decode(errors="replace")
    first = said.strip().splitlines()[0] if said.strip() else "(empty answer)"
    return f"{status or 'no answer'} {_DIGITS.sub('…', first)[:FINGERPRINT_LENGTH_MAX]} at {url.partition('?')[0]}"


def curl(api_url: str, url: str, headers: Sequence[tuple[str, str]], body: bytes, method: str = "POST") -> str:
    """Return the command that publishes such a message again; the token comes from the environment."""
    parts = ["curl -X POST", shlex.quote(f"{api_url}/v2/publish/{url}"), '-H "Authorization: Bearer $QSTASH_TOKEN"']
    if method != "POST":
        parts.append(f"-H 'Upstash-Method: {method}'")
    parts += [f"-H {shlex.quote(f'{name}: {value}')}" for name, value in headers]
    if body:
        parts.append(f"--data-binary {shlex.quote(body.decode(errors='replace'))}")
    return " \\\n  ".join(parts)


def forwarded(headers: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
    """Return a message's own headers as publish headers, which forward them."""
    return [
        (name if name.lower() == "content-type" else f"Upstash-Forward-{name}", value)
        for name, value in headers
        if not name.lower().startswith("upstash-")
    ]
