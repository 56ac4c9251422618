"""One small worker behind a signed mount, and what a QStash would send it."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from pydantic import BaseModel

from idioteque import Context, HttpResponse, Mount, QStashDispatcher, Worker
from idioteque.clock import Clock, SystemClock
from idioteque.dispatcher import EventEnvelope
from idioteque.signing import sign
from idioteque.testing import ScriptedTransport

URL = "https://shop.example.com/api/worker"
KEY, NEXT_KEY = "sig_current0123456789abcdefghijkl", "sig_next0123456789abcdefghijklmno"
ACCEPTED = HttpResponse(200, body=b'{"messageId":"msg_sent"}')


class Order(BaseModel):
    type: Literal["order", "unwanted"] = "order"
    id: str = "1"
    note: str = ""


@dataclass
class Shop:
    """A worker with one function, whose only step counts."""

    mount_url: str = URL
    clock: Clock = field(default_factory=SystemClock)
    body_bytes_max: int | None = None
    insecure: bool = False
    keys: tuple[str | None, str | None] = (KEY, NEXT_KEY)

    def __post_init__(self) -> None:
        self.sent = ScriptedTransport([ACCEPTED])
        self.dispatcher = QStashDispatcher(
            mount_url=self.mount_url,
            token="token",
            url="https://qstash.test",
            current_signing_key=self.keys[0],
            next_signing_key=self.keys[1],
            transport=self.sent,
            clock=self.clock,
        )
        self.worker = Worker(events_schema=Order, store="memory:", dispatcher=self.dispatcher, clock=self.clock)
        self.paid: Counter[str] = Counter()

        async def pay(event: Order, ctx: Context) -> str:
            return await ctx.execute("pay", self._pay, event.id)

        self.worker.create_function("pay", "order", pay)
        self.mount: Mount = self.dispatcher.mount(self.worker, insecure=self.insecure)
        if self.body_bytes_max is not None:
            self.mount = Mount(self.mount.engine, self.mount._verifier, body_bytes_max=self.body_bytes_max)

    async def _pay(self, order_id: str) -> str:
        self.paid[order_id] += 1
        return f"paid {order_id}"


def order(order_id: str = "1", note: str = "") -> bytes:
    """Return the body of a message that carries an order."""
    event = json.dumps({"type": "order", "id": order_id, "note": note}).encode()
    return EventEnvelope(f"evt_{order_id}", event).encode()


def headers(body: bytes, *, url: str = URL, key: str = KEY, message_id: str = "msg_1", **more: str) -> dict[str, str]:
    """Return the headers of a delivery of this body, signed now."""
    return {
        "Content-Type": "application/json",
        "Upstash-Signature": sign(url, body, key, SystemClock().now_ms()),
        "Upstash-Message-Id": message_id,
        "Upstash-Retried": "0",
        **more,
    }


def text_of(body: bytes | str) -> str:
    """Return the message or the error of an answer, which is JSON with nothing else in it."""
    document: Mapping[str, Any] = json.loads(body)
    [(name, text)] = document.items()
    assert name in ("message", "error")
    return str(text)
