"""WSGI: what Flask, Bottle and older servers speak. A request waits in its own thread for the background loop."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from http import HTTPStatus
from typing import Any

from idioteque.bridge import run_sync
from idioteque.transport import Handler, HttpRequest, HttpResponse

Environ = dict[str, Any]
StartResponse = Callable[[str, list[tuple[str, str]]], object]


def serve(environ: Environ, start_response: StartResponse, handle: Handler, body_bytes_max: int) -> Iterable[bytes]:
    """Answer one WSGI request."""
    request = HttpRequest(
        environ["REQUEST_METHOD"], environ.get("PATH_INFO", ""), _headers(environ), _body(environ, body_bytes_max)
    )

    async def handled() -> HttpResponse:
        return await handle(request)

    response = run_sync(handled())
    phrase = _PHRASES.get(response.status, "Not Retryable")
    start_response(f"{response.status} {phrase}", [*response.headers, ("Content-Length", str(len(response.body)))])
    return [response.body]


_PHRASES = {status.value: status.phrase for status in HTTPStatus}


def _headers(environ: Environ) -> list[tuple[str, str]]:
    headers = [(name[5:].replace("_", "-"), str(value)) for name, value in environ.items() if name.startswith("HTTP_")]
    return [*headers, ("Content-Type", str(environ["CONTENT_TYPE"]))] if environ.get("CONTENT_TYPE") else headers


def _body(environ: Environ, bytes_max: int) -> bytes:
    """Read a body; of one that is too long, just so much that the mount can see it is."""
    length = str(environ.get("CONTENT_LENGTH") or "")
    if length.isascii() and length.isdigit():
        return bytes(environ["wsgi.input"].read(min(int(length), bytes_max + 1)))
    return bytes(environ["wsgi.input"].read(bytes_max + 1)) if environ.get("wsgi.input_terminated") else b""
