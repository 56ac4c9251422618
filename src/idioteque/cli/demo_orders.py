"""The worker that `idioteque demo` starts and kills: orders are paid, confirmed, and taken from three shops' stock.

Every step leaves a line in a journal that outlives the process, so that the demo can count what was done twice.
"""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, Field
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from idioteque import Context, QStashDispatcher, Worker
from idioteque.ids import nonce

SHOPS = ("Berlin", "Lisbon", "Oslo")
WORK_S = 0.02
STEPS_PER_ORDER = 2 + 1 + len(SHOPS)
RUNS_PER_ORDER = 3


class OrderCreated(BaseModel):
    type: Literal["order-created"] = "order-created"
    order_id: str
    cents: int


class OrderPaid(BaseModel):
    type: Literal["order-paid"] = "order-paid"
    order_id: str
    receipt: str


Event = Annotated[OrderCreated | OrderPaid, Field(discriminator="type")]


def make_worker(directory: Path, mount_url: str) -> Worker:
    """Declare the demo's functions; its journal and its runs are kept in the directory."""
    worker = Worker(
        events_schema=Event,
        store=f"sqlite:///{directory / 'runs.db'}",
        dispatcher=QStashDispatcher(mount_url=mount_url, retries=8),
    )
    journal = os.open(directory / "effects.log", os.O_CREAT | os.O_WRONLY | os.O_APPEND, 0o600)

    async def effect(ctx: Context, step: str) -> str:
        """Do something to the world: one line, whose last word is different every time."""
        receipt = nonce()
        os.write(journal, f"{ctx.run_id} {step} {receipt}\n".encode())
        await asyncio.sleep(WORK_S)
        return receipt

    async def announce(ctx: Context, event: OrderPaid) -> str:
        published = await worker.publish(event, deduplication_id=f"paid-{event.order_id}")
        os.write(journal, f"{ctx.run_id} announce {published.event_id}\n".encode())
        return published.event_id

    @worker.function("take-payment", on="order-created")
    async def take_payment(event: OrderCreated, ctx: Context) -> str:
        receipt = await ctx.execute("pay", effect, ctx, "pay")
        await ctx.execute("announce", announce, ctx, OrderPaid(order_id=event.order_id, receipt=receipt))
        return receipt

    @worker.function("send-confirmation", on="order-paid")
    async def send_confirmation(event: OrderPaid, ctx: Context) -> str:
        await ctx.execute("send-email", effect, ctx, "send-email")
        return event.receipt

    @worker.function("update-inventory", on="order-paid")
    async def update_inventory(event: OrderPaid, ctx: Context) -> list[str]:
        return list(await asyncio.gather(*(ctx.execute(shop, effect, ctx, shop) for shop in SHOPS)))

    return worker


def make_app() -> Starlette:
    """Serve the worker's endpoint; the directory and the URL come from the environment."""
    directory = Path(os.environ["IDIOTEQUE_DEMO_DIRECTORY"])
    mount_url = os.environ["IDIOTEQUE_DEMO_MOUNT_URL"]
    worker = make_worker(directory, mount_url)
    assert isinstance(worker.dispatcher, QStashDispatcher)

    async def health(_: Request) -> PlainTextResponse:
        return PlainTextResponse("ok")

    mount = worker.dispatcher.mount(worker)
    return Starlette(routes=[Route("/health", health), Route("/api/worker", mount)])
