"""A small shop on FastAPI: an order is paid, then confirmed, while the stock of three shops is updated in parallel.

    POST /orders {"order_id": "1", "email": "ada@example.com", "items": {"book": 2}}

It runs against `idioteque serve` and, unchanged, against the hosted service: only the environment differs (README.md).
"""

from __future__ import annotations

import asyncio
import os
from typing import Annotated, Literal

from fastapi import FastAPI
from pydantic import BaseModel, Field
from starlette.routing import Route

from idioteque import Context, QStashDispatcher, Worker

SHOPS = ("Berlin", "Lisbon", "Oslo")


class OrderCreated(BaseModel):
    type: Literal["order-created"] = "order-created"
    order_id: str
    email: str
    items: dict[str, int]


class OrderPaid(BaseModel):
    type: Literal["order-paid"] = "order-paid"
    order_id: str
    email: str
    items: dict[str, int]
    receipt: str


Event = Annotated[OrderCreated | OrderPaid, Field(discriminator="type")]

dispatcher = QStashDispatcher(mount_url=os.environ.get("MOUNT_URL", "http://127.0.0.1:8000/api/worker"), retries=3)
worker = Worker(
    events_schema=Event, store=os.environ.get("IDIOTEQUE_STORE", "sqlite:///orders-runs.db"), dispatcher=dispatcher
)


async def charge(order: OrderCreated, idempotency_key: str) -> str:
    """Take the money; the key lets a payment provider see that a repeated call is the same payment."""
    print(f"charged order {order.order_id} (key {idempotency_key})", flush=True)
    return f"receipt-{order.order_id}"


async def announce_paid(order: OrderCreated, receipt: str) -> None:
    """Publish the next event; the deduplication id makes one event of it, however often this step has to run."""
    paid = OrderPaid(order_id=order.order_id, email=order.email, items=order.items, receipt=receipt)
    await worker.publish(paid, deduplication_id=f"paid-{order.order_id}")


async def send_email(to: str, subject: str) -> None:
    print(f"mail to {to}: {subject}", flush=True)


async def take_from_stock(shop: str, items: dict[str, int]) -> int:
    print(f"{shop}: {items}", flush=True)
    return sum(items.values())


@worker.function("take-payment", on=OrderCreated)
async def take_payment(order: OrderCreated, ctx: Context) -> str:
    receipt = await ctx.execute("charge", charge, order, ctx.run_id)
    await ctx.execute("announce-paid", announce_paid, order, receipt)
    return receipt


@worker.function("send-confirmation", on=OrderPaid)
async def send_confirmation(order: OrderPaid, ctx: Context) -> None:
    await ctx.execute("send-email", send_email, order.email, subject=f"Thank you! {order.receipt}")


@worker.function("update-inventory", on=OrderPaid)
async def update_inventory(order: OrderPaid, ctx: Context) -> int:
    taken = await asyncio.gather(
        *(ctx.execute(f"take-from-{shop}", take_from_stock, shop, order.items) for shop in SHOPS)
    )
    return sum(taken)


app = FastAPI(title="Orders")
app.router.routes.append(Route("/api/worker", dispatcher.mount(worker)))


@app.post("/orders", status_code=202)
async def create_order(order: OrderCreated) -> dict[str, str]:
    """Accept an order: once this answers, it will be paid, confirmed and taken from stock."""
    published = await worker.publish(order, deduplication_id=f"created-{order.order_id}")
    return {"run_id": published.run_id("take-payment")}


@app.get("/runs/{run_id}")
async def show_run(run_id: str) -> dict[str, object]:
    """Show how far a run is."""
    run = await worker.runs.get(run_id)
    if run is None:
        return {"status": "unknown"}
    return {"status": run.status, "result": run.result, "steps": {"/".join(s.key): s.status for s in run.steps}}
