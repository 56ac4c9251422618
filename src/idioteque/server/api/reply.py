"""Replies as plain ASGI, and bodies read within a bound."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from typing import Any

from idioteque.server.errors import TooLarge
from idioteque.transport import Headers

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

_JSON = (b"content-type", b"application/json")


class Disconnected(Exception):
    """The client went away before its request was complete."""


async def send_json(send: Send, status: int, text: str, headers: Headers = ()) -> None:
    """Send a JSON text as a reply."""
    body = text.encode()
    sent = [_JSON, (b"content-length", str(len(body)).encode())]
    sent.extend((name.lower().encode(), value.encode()) for name, value in headers)
    await send({"type": "http.response.start", "status": status, "headers": sent})
    await send({"type": "http.response.body", "body": body})


def error_json(error: str) -> str:
    """Return `{"error": …}`."""
    return json.dumps({"error": error}, separators=(",", ":"))


async def send_error(send: Send, status: int, error: str, headers: Headers = ()) -> None:
    """Send `{"error": …}`."""
    await send_json(send, status, error_json(error), headers)


async def read_body(headers: Mapping[bytes, bytes], receive: Receive, bytes_max: int) -> bytes:
    """Return the request's body; raise `TooLarge` as soon as it is known to be longer than the bound."""
    announced = headers.get(b"content-length")
    if announced is not None and int(announced) > bytes_max:
        raise TooLarge(f"the body has {int(announced)} bytes; at most {bytes_max} are accepted")
    message = await receive()
    body: bytes = message.get("body", b"")
    if not message.get("more_body", False):
        return _bounded(_connected(message, body), bytes_max)
    chunks = [body]
    length = len(body)
    while message.get("more_body", False):
        message = await receive()
        chunk: bytes = _connected(message, message.get("body", b""))
        length += len(chunk)
        if length > bytes_max:
            raise TooLarge(f"the body is longer than {bytes_max} bytes")
        chunks.append(chunk)
    return b"".join(chunks)


def _connected(message: Mapping[str, Any], body: bytes) -> bytes:
    if message["type"] == "http.disconnect":
        raise Disconnected
    return body


def _bounded(body: bytes, bytes_max: int) -> bytes:
    if len(body) > bytes_max:
        raise TooLarge(f"the body is longer than {bytes_max} bytes")
    return body
