"""A server in the test's own process, time and network: what goes in by its ASGI door, and what it sends."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from idioteque.database import Database, open_database
from idioteque.server.app import Server
from idioteque.server.config import ServerConfig
from idioteque.testing import ManualClock, ScriptedTransport
from idioteque.testing.transport import Answers
from idioteque.transport import HttpRequest

TOKEN = "token-of-the-tests"
READONLY = "readonly-token-of-the-tests"
CURRENT_KEY = "sig_CurrentKeyOfTheTestsxxxxxxxxx"
NEXT_KEY = "sig_NextKeyOfTheTestsxxxxxxxxxxxx"
ENVIRONMENT = {
    "QSTASH_TOKEN": TOKEN,
    "QSTASH_READONLY_TOKEN": READONLY,
    "QSTASH_CURRENT_SIGNING_KEY": CURRENT_KEY,
    "QSTASH_NEXT_SIGNING_KEY": NEXT_KEY,
}
SHOP = "https://shop.test/hook"


@dataclass(frozen=True, slots=True)
class Reply:
    status: int
    text: str
    headers: Mapping[str, str]

    @property
    def json(self) -> Any:
        return json.loads(self.text)


class TimedTransport(ScriptedTransport):
    """Also notes when each request was sent."""

    def __init__(self, clock: ManualClock, answers: Answers = (200,)) -> None:
        super().__init__(answers)
        self._clock = clock
        self.times_ms: list[int] = []

    async def send(self, request: HttpRequest, **options: Any) -> Any:
        self.times_ms.append(self._clock.now_ms())
        return await super().send(request, **options)

    @property
    def gaps_s(self) -> list[int]:
        return [round((b - a) / 1000) for a, b in zip(self.times_ms, self.times_ms[1:], strict=False)]

    def sent_to(self, url: str) -> list[HttpRequest]:
        return [request for request in self.requests if request.url == url]


@dataclass(slots=True)
class House:
    server: Server
    clock: ManualClock
    wire: TimedTransport

    async def call(
        self,
        method: str,
        target: str,
        *,
        headers: Mapping[str, str] | list[tuple[str, str]] | None = None,
        body: bytes = b"",
        document: object = None,
        token: str | None = TOKEN,
        peer: str = "192.0.2.7",
    ) -> Reply:
        """Send a request to the ASGI door, its target as it would stand on the wire."""
        if document is not None:
            body = json.dumps(document).encode()
        pairs = list(headers.items()) if isinstance(headers, Mapping) else list(headers or ())
        if token is not None:
            pairs.append(("Authorization", f"Bearer {token}"))
        return await call_app(self.server.app, method, target, pairs, body, peer)

    async def publish(self, url: str = SHOP, body: bytes = b"", **headers: str) -> str:
        """Publish by HTTP; `retry_delay="1000"` stands for `Upstash-Retry-Delay: 1000`. Return the message id."""
        named = {f"Upstash-{name.replace('_', '-')}": value for name, value in headers.items()}
        reply = await self.call("POST", f"/v2/publish/{url}", headers=named, body=body)
        assert reply.status == 200, reply.text
        await self.clock.settle()
        return reply.json["messageId"]

    async def events(self, query: str = "") -> list[dict[str, Any]]:
        reply = await self.call("GET", f"/v2/events{query}")
        assert reply.status == 200, reply.text
        return reply.json["events"]

    async def states(self, message_id: str) -> list[str]:
        """The states of a message, the earliest first."""
        return [entry["state"] for entry in await self.events(f"?messageId={message_id}&order=earliestFirst")]

    async def dead_letters(self, query: str = "") -> list[dict[str, Any]]:
        reply = await self.call("GET", f"/v2/dlq{query}")
        assert reply.status == 200, reply.text
        return reply.json["messages"]


async def call_app(
    app: Any, method: str, target: str, headers: list[tuple[str, str]], body: bytes, peer: str = "192.0.2.7"
) -> Reply:
    path, _, query = target.partition("?")
    scope = {
        "type": "http",
        "method": method,
        "path": path,
        "raw_path": path.encode(),
        "query_string": query.encode(),
        "headers": [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in headers],
        "client": (peer, 40000),
        "http_version": "1.1",
        "scheme": "http",
        "server": ("127.0.0.1", 8080),
        "root_path": "",
    }
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    await app(scope, receive, send)
    text = b"".join(message.get("body", b"") for message in sent[1:]).decode()
    return Reply(sent[0]["status"], text, {name.decode(): value.decode() for name, value in sent[0]["headers"]})


@asynccontextmanager
async def open_house(
    answers: Answers = (200,),
    *,
    config: ServerConfig | None = None,
    database: Database | None = None,
    clock: ManualClock | None = None,
    environment: Mapping[str, str] = ENVIRONMENT,
) -> AsyncIterator[House]:
    clock = clock or ManualClock()
    wire = TimedTransport(clock, answers)
    server = Server(
        config or ServerConfig(),
        database=database or open_database("sqlite://:memory:", threads=False),
        clock=clock,
        transport=wire,
        environment=environment,
    )
    await server.start()
    try:
        yield House(server, clock, wire)
    finally:
        stopping = asyncio.ensure_future(server.stop())
        while not stopping.done():
            await clock.advance(1)
        await stopping
