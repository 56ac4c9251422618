"""A small shop whose runs fill the pictures of the console: what an operator would see on a working day."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, Field
from starlette.applications import Starlette
from starlette.routing import Route

from idioteque import Context, NonRetryableError, QStashDispatcher, Retry, Worker

ORDERS = 12


class OrderPlaced(BaseModel):
    type: Literal["order.placed"] = "order.placed"
    order: str
    items: list[str]
    card: str


class PaymentConfirmed(BaseModel):
    type: Literal["payment.confirmed"] = "payment.confirmed"
    order: str


class UserSignedUp(BaseModel):
    type: Literal["user.signup"] = "user.signup"
    user: str


Event = Annotated[OrderPlaced | PaymentConfirmed | UserSignedUp, Field(discriminator="type")]


async def reserve(item: str) -> str:
    await asyncio.sleep(0.02 + 0.01 * (len(item) % 5))  # stands for the shop's own work, which takes its time
    return f"shelf {len(item)}"


async def charge(card: str) -> str:
    await asyncio.sleep(0.06)
    if card == "declined":
        raise NonRetryableError("card ending 4242 was declined: insufficient funds")
    return "receipt 2026-1174"


async def send(what: str) -> str:
    await asyncio.sleep(0.015)
    return f"sent {what}"


def make_worker() -> Worker:
    """Return the shop's worker, which the app has and whoever fills its store: both go by the environment."""
    mount_url = f"http://127.0.0.1:{os.environ['SHOP_PORT']}/api/worker"
    store = f"sqlite:///{Path(os.environ['SHOP_FOLDER']) / 'runs.db'}"
    worker = Worker(events_schema=Event, store=store, dispatcher=QStashDispatcher(mount_url=mount_url, retries=0))

    @worker.function("process-order", on=OrderPlaced, retry=Retry(max_attempts=1))
    async def process_order(event: OrderPlaced, ctx: Context) -> str:
        async def fulfil() -> list[str]:
            return list(await asyncio.gather(*(ctx.execute(item, reserve, item) for item in event.items)))

        await ctx.execute("fulfil", fulfil)
        receipt = await ctx.execute("charge-card", charge, event.card)
        await ctx.execute("send-receipt", send, receipt)
        return receipt

    @worker.function("await-payment", on=OrderPlaced)
    async def await_payment(event: OrderPlaced, ctx: Context) -> bool:
        where = {"order": event.order}
        return await ctx.wait_for_event("payment", PaymentConfirmed, where=where, timeout="3d") is not None

    @worker.function("welcome", on=UserSignedUp)
    async def welcome(event: UserSignedUp, ctx: Context) -> None:
        await ctx.execute("send-welcome", send, f"welcome to {event.user}")
        await ctx.sleep("cool-down", "3d")
        await ctx.execute("send-tips", send, f"tips to {event.user}")

    return worker


def make_app() -> Starlette:
    worker = make_worker()
    return Starlette(routes=[Route("/api/worker", worker.dispatcher.mount(worker))])


async def reached(worker: Worker, run_id: str, *statuses: str) -> None:
    async with asyncio.timeout(60):
        while (run := await worker.runs.get(run_id)) is None or run.status not in statuses:
            await asyncio.sleep(0.01)


async def fill() -> dict[str, str]:
    """Sell something; return the ids of a run that is completed, one that failed and one that waits."""
    worker = make_worker()
    items = ["tea pot", "two cups", "green tea, 250 g", "sugar tongs"]
    published = {
        number: await worker.publish(
            OrderPlaced(order=f"o-{1040 + number}", items=items, card="declined" if number % 5 == 3 else "valid")
        )
        for number in range(ORDERS)
    }
    for user in ("ada", "grace", "katherine"):
        await worker.publish(UserSignedUp(user=user))
    for each in published.values():
        await reached(worker, each.run_id("process-order"), "completed", "failed")
        await reached(worker, each.run_id("await-payment"), "waiting")
    for number in range(0, ORDERS, 2):
        await worker.publish(PaymentConfirmed(order=f"o-{1040 + number}"))
        await reached(worker, published[number].run_id("await-payment"), "completed")
    await worker.close()
    last = ORDERS - 1
    return {
        "good": published[last].run_id("process-order"),
        "bad": published[8].run_id("process-order"),
        "later": published[last].run_id("await-payment"),
    }
