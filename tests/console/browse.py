"""A visitor of a console: cookies, forms with their token, and what came back; and a worker whose runs there are."""

from __future__ import annotations

import asyncio
import http.client
import re
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlencode, urlsplit

from pydantic import BaseModel

from idioteque import Context, InlineDispatcher, NonRetryableError, Retry, Worker


@dataclass(frozen=True, slots=True)
class Shown:
    status: int
    text: str
    headers: dict[str, str]


@dataclass
class Visitor:
    """Follows no redirects; keeps the cookies that it is given."""

    url: str
    cookies: dict[str, str] = field(default_factory=dict)

    def get(self, path: str, **headers: str) -> Shown:
        return self._send("GET", path, None, headers)

    def post(self, path: str, fields: dict[str, str] | list[tuple[str, str]], **headers: str) -> Shown:
        return self._send("POST", path, urlencode(fields).encode(), headers)

    def log_in(self, token: str) -> Shown:
        return self.post("/login", {"token": token, "next": "/runs"})

    def act(self, page: str, path: str, fields: dict[str, str] | None = None) -> Shown:
        """Send a form as the page would: with the token that stands in it."""
        found = re.search(r'name="csrf" value="([0-9a-f]+)"', self.get(page).text)
        assert found, "the page has no form"
        return self.post(path, {"csrf": found[1], **(fields or {})})

    def _send(self, method: str, path: str, body: bytes | None, headers: dict[str, str]) -> Shown:
        parts = urlsplit(self.url)
        connection = http.client.HTTPConnection(parts.hostname or "", parts.port or 80, timeout=30)
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        if self.cookies:
            sent["Cookie"] = "; ".join(f"{name}={value}" for name, value in self.cookies.items())
        if body is not None:
            sent.setdefault("Content-Type", "application/x-www-form-urlencoded")
        try:
            connection.request(method, path, body, sent)
            answer = connection.getresponse()
            for name, value in answer.getheaders():
                if name.lower() == "set-cookie":
                    key, _, rest = value.partition("=")
                    self.cookies[key] = rest.partition(";")[0]
            text = answer.read().decode(errors="replace")
            return Shown(answer.status, text, {name.lower(): value for name, value in answer.getheaders()})
        finally:
            connection.close()


class Order(BaseModel):
    type: Literal["order"] = "order"
    id: str


HOSTILE = '<script>alert(1)</script>"><img src=x onerror=alert(2)>\u202egpj.exe\x1b[31m'


def fill_store(path: Path) -> dict[str, str]:
    """Leave three runs in a store, one each that completed, failed and sleeps; return their ids by these names."""

    async def fill() -> dict[str, Any]:
        dispatcher = InlineDispatcher()
        worker = Worker(events_schema=Order, store=f"sqlite:///{path}", dispatcher=dispatcher)

        async def charge(order_id: str) -> str:
            return f"receipt of {order_id}"

        async def refuse() -> None:
            raise NonRetryableError(HOSTILE)

        @worker.function("pay", on=lambda event: event.id == "good")
        async def pay(event: Order, ctx: Context) -> str:
            async def both() -> str:
                return await ctx.execute("charge", charge, event.id)

            return await ctx.execute("payment", both)

        @worker.function("break", on=lambda event: event.id == "bad", retry=Retry(max_attempts=1))
        async def break_(event: Order, ctx: Context) -> None:
            await ctx.execute("refuse", refuse)

        @worker.function("remind", on=lambda event: event.id == "later")
        async def remind(event: Order, ctx: Context) -> None:
            await ctx.sleep("cool-down", "3d")

        dispatcher.mount(worker)
        ids: dict[str, str] = {}
        for name, function_id in (("good", "pay"), ("bad", "break"), ("later", "remind")):
            run_id = (await worker.publish(Order(id=name))).run_id(function_id)
            while (run := await worker.runs.get(run_id)) is None or run.status == "running":
                await asyncio.sleep(0.01)
            ids[name] = run_id
        await worker.close()
        return ids

    with ThreadPoolExecutor(1) as thread:  # a loop of its own, whatever runs in this one
        return thread.submit(lambda: asyncio.run(fill())).result()
