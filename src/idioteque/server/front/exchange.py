"""One request and its response between a connection and an ASGI application."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import MutableMapping
from http import HTTPStatus
from typing import Any, Protocol

from idioteque.server.front.reception import App
from idioteque.server.front.request import Request

Event = MutableMapping[str, Any]

NO_BODY = (204, 304)

logger = logging.getLogger("idioteque.server")


class Wire(Protocol):
    """The connection as an exchange sees it."""

    def write(self, data: bytes) -> None: ...
    async def drain(self) -> None:
        """Return once the peer has taken enough of what was written."""
        ...

    def common_headers(self) -> bytes: ...
    def end(self, *, keep: bool) -> None:
        """The response is complete; `keep` says whether another one may follow on the connection."""
        ...

    def abort(self) -> None: ...


class Exchange:
    """Runs the application for one request, whose body is complete."""

    def __init__(self, wire: Wire, request: Request, *, is_old: bool, keep: bool) -> None:
        self._wire = wire
        self._request = request
        self._is_old = is_old  # HTTP/1.0 knows no chunks
        self._keep = keep
        self._is_body_given = False
        self._gone = asyncio.Event()
        self._head: Event | None = None
        self._is_begun = self._is_chunked = self._is_complete = False
        self._left_bytes: int | None = None

    def disconnect(self) -> None:
        """The client went away."""
        self._gone.set()

    async def run(self, app: App, scope: Event) -> None:
        """Serve the request; whatever the application leaves undone is a failure of the server's."""
        try:
            await app(scope, self._receive, self._send)
        except Exception:
            logger.exception("the application failed on %s %s", self._request.method, scope["path"])
        if self._is_complete or self._gone.is_set():
            return
        if self._is_begun:
            self._wire.abort()
            return
        await self._send({"type": "http.response.start", "status": 500, "headers": [(b"connection", b"close")]})
        await self._send({"type": "http.response.body", "body": b"Internal Server Error"})

    async def _receive(self) -> Event:
        if not self._is_body_given:
            self._is_body_given = True
            return {"type": "http.request", "body": self._request.body, "more_body": False}
        await self._gone.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: Event) -> None:
        if self._gone.is_set():
            return
        if message["type"] == "http.response.start":
            self._head = message
            return
        if self._head is None or self._is_complete:
            raise RuntimeError(f"{message['type']} is out of turn")
        body, more = message.get("body", b""), message.get("more_body", False)
        head = b"" if self._is_begun else self._begin(self._head, None if more else len(body))
        self._wire.write(head + self._framed(body, more=more))
        if more:
            await self._wire.drain()
            return
        if self._left_bytes:
            raise RuntimeError("the response is shorter than its Content-Length")
        self._is_complete = True
        self._gone.set()
        self._wire.end(keep=self._keep)

    def _begin(self, head: Event, whole_bytes: int | None) -> bytes:
        self._is_begun = True
        status: int = head["status"]
        lines = [status_line(status), self._wire.common_headers()]
        length: int | None = None
        for name, value in head.get("headers", ()):
            lowered = name.lower()
            if b"\r" in value or b"\n" in value:
                raise RuntimeError("a response header holds a line break")
            if lowered == b"content-length":
                length = int(value)
            elif lowered == b"connection":
                self._keep = self._keep and b"close" not in value.lower()
                continue
            elif lowered == b"transfer-encoding":
                continue
            lines.append(lowered + b": " + value + b"\r\n")
        if status not in NO_BODY and length is None:
            if whole_bytes is not None:
                length = whole_bytes
                lines.append(b"content-length: %d\r\n" % length)
            elif self._is_old:
                self._keep = False
            else:
                self._is_chunked = True
                lines.append(b"transfer-encoding: chunked\r\n")
        if status in NO_BODY or self._request.method == "HEAD":
            length, self._is_chunked = 0, False
        self._left_bytes = length
        if not self._keep:
            lines.append(b"connection: close\r\n")
        return b"".join((*lines, b"\r\n"))

    def _framed(self, body: bytes, *, more: bool) -> bytes:
        if self._request.method == "HEAD":
            return b""
        if self._is_chunked:
            chunk = b"%x\r\n%b\r\n" % (len(body), body) if body else b""
            return chunk if more else chunk + b"0\r\n\r\n"
        if self._left_bytes is not None:
            self._left_bytes -= len(body)
            if self._left_bytes < 0:
                raise RuntimeError("the response is longer than its Content-Length")
        return body


def status_line(status: int) -> bytes:
    """Return the first line of a response."""
    return _STATUS_LINES.get(status) or b"HTTP/1.1 %d \r\n" % status


_STATUS_LINES = {status.value: f"HTTP/1.1 {status.value} {status.phrase}\r\n".encode() for status in HTTPStatus}


def scope_of(request: Request, addresses: tuple[object, object], *, is_old: bool, is_tls: bool) -> Event:
    """Return what ASGI says of a request; `addresses` are those of the client and of the server."""
    client, server = addresses
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.0" if is_old else "1.1",
        "method": request.method,
        "scheme": "https" if is_tls else "http",
        "path": request.plain_path,
        "raw_path": request.path,
        "query_string": request.query,
        "root_path": "",
        "headers": request.headers,
        "client": client,
        "server": server,
        "state": {},
    }
