"""The console and the server put together, and the console on its own: the one place that knows both."""

from __future__ import annotations

import hmac
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, MutableMapping
from contextlib import asynccontextmanager
from dataclasses import replace
from hashlib import sha256
from typing import Any
from urllib.parse import unquote

from idioteque.cli.checkup import console_checkup
from idioteque.console.app import Console
from idioteque.console.forms import Describe
from idioteque.console.sessions import Role as ConsoleRole
from idioteque.console.settings import ConsoleSettings
from idioteque.server.app import Server
from idioteque.server.core.credentials import Role
from idioteque.server.errors import Refused
from idioteque.server.process import Attach, Attached
from idioteque.transport import DEFAULT_TIMEOUT_S, RESPONSE_BYTES_MAX, HttpRequest, HttpResponse

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

SERVERS = ("/v2", "/health", "/ready", "/metrics", "/status", "/waiting", "/pending", "/openapi.json")


def with_console(settings: ConsoleSettings, describe: Callable[[str], Describe] | None = None) -> Attach:
    """Return what puts a console in front of a server: the API stays where it is, every other path is the console's.

    `describe` returns, for the server's URL, what tells of the worker whose runs are shown.
    """

    @asynccontextmanager
    async def attach(server: Server, url: str) -> AsyncGenerator[Attached, None]:
        own = replace(settings, api_url=url, dev=server.config.dev)

        def verify(token: str) -> ConsoleRole | None:
            try:
                role = server.credentials.role(token, "console")
            except Refused:
                return None
            return "admin" if role is Role.ADMIN else "reader"

        inside = InsideTransport(server.app, url)
        checkup = console_checkup(url, inside, own.store)
        worker = None if describe is None else describe(url)
        console = Console(own, verify, transport=inside, clock=server.clock, checkup=checkup, describe=worker)

        async def front(scope: Scope, receive: Receive, send: Send) -> None:
            await (server.app if _is_servers(scope) else console)(scope, receive, send)

        try:
            yield Attached(front, console.let_go, server.app)
        finally:
            await console.close()

    return attach


def verifier(token: str | None, readonly_token: str | None) -> Callable[[str], ConsoleRole | None]:
    """Return what a console on its own lets in: who has the token that it uses itself, or the read-only one."""
    digests: Mapping[ConsoleRole, bytes] = {
        "admin": sha256((token or "").encode()).digest() if token else b"",
        "reader": sha256((readonly_token or "").encode()).digest() if readonly_token else b"",
    }

    def verify(given: str) -> ConsoleRole | None:
        digest = sha256(given.encode("utf-8", "surrogatepass")).digest()
        fits: dict[ConsoleRole, bool] = {role: hmac.compare_digest(digest, one) for role, one in digests.items()}
        return "admin" if fits["admin"] else "reader" if fits["reader"] else None

    return verify


class InsideTransport:
    """`HttpTransport` to the server of this very process, without a socket: the same requests at the same door."""

    def __init__(self, app: App, url: str) -> None:
        self._app = app
        self._url = url

    async def send(
        self,
        request: HttpRequest,
        *,
        timeout_s: float = DEFAULT_TIMEOUT_S,
        response_bytes_max: int = RESPONSE_BYTES_MAX,
    ) -> HttpResponse:
        target = request.url.removeprefix(self._url)
        path, _, query = target.partition("?")
        headers = [(name.lower().encode(), value.encode("latin-1", "replace")) for name, value in request.headers]
        headers.append((b"content-length", str(len(request.body)).encode()))
        scope: Scope = {
            "type": "http",
            "http_version": "1.1",
            "method": request.method,
            "scheme": "http",
            "path": unquote(path),
            "raw_path": path.encode(),
            "query_string": query.encode(),
            "root_path": "",
            "headers": headers,
            "client": ("console", 0),
            "server": ("console", 0),
        }
        answered: list[MutableMapping[str, Any]] = []

        async def receive() -> MutableMapping[str, Any]:
            return {"type": "http.request", "body": request.body, "more_body": False}

        async def send(message: MutableMapping[str, Any]) -> None:
            answered.append(message)

        await self._app(scope, receive, send)
        body = b"".join(message.get("body", b"") for message in answered[1:])
        pairs = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in answered[0]["headers"]]
        return HttpResponse(answered[0]["status"], pairs, body[:response_bytes_max], len(body) <= response_bytes_max)

    async def probe(self, url: str, *, timeout_s: float = 2.0) -> bool:
        return True

    async def close(self) -> None:
        return


def _is_servers(scope: Scope) -> bool:
    path = str(scope.get("path", ""))
    return scope["type"] != "http" or any(path == one or path.startswith(one + "/") for one in SERVERS)
