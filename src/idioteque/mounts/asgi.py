"""ASGI: what Starlette, FastAPI, Django, Litestar and every ASGI server speak."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from idioteque.transport import Handler, HttpRequest, HttpResponse

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]


async def serve(scope: Scope, receive: Receive, send: Send, handle: Handler, body_bytes_max: int) -> None:
    """Answer one ASGI scope: an HTTP request, or a lifespan when the mount is an application of its own."""
    if scope["type"] == "lifespan":
        await _live(receive, send)
        return
    if scope["type"] != "http":
        raise RuntimeError(f"a mount speaks HTTP, not {scope['type']!r}")
    body = await _body(receive, body_bytes_max)
    if body is None:
        return  # the client went away before its request was complete
    headers = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in scope["headers"]]
    await _answer(send, await handle(HttpRequest(scope["method"], scope["path"], headers, body)))


async def _body(receive: Receive, bytes_max: int) -> bytes | None:
    """Read a body; of one that is too long, just so much that the mount can see it is."""
    chunks: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return None
        chunk = message.get("body", b"")
        chunks.append(chunk)
        size += len(chunk)
        if size > bytes_max or not message.get("more_body", False):
            return b"".join(chunks)


async def _answer(send: Send, response: HttpResponse) -> None:
    headers = [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in response.headers]
    headers.append((b"content-length", str(len(response.body)).encode()))
    await send({"type": "http.response.start", "status": response.status, "headers": headers})
    await send({"type": "http.response.body", "body": response.body})


async def _live(receive: Receive, send: Send) -> None:
    while True:
        message = await receive()
        await send({"type": f"{message['type']}.complete"})
        if message["type"] == "lifespan.shutdown":
            return
