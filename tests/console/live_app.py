"""A worker whose runs the console's tests look at: they fail, wait for each other's events, and are sent again."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field
from starlette.applications import Starlette
from starlette.routing import Route

from idioteque import Context, Limit, NonRetryableError, QStashDispatcher, Retry, Worker

FOLDER = Path(os.environ.get("SHOP_FOLDER", "."))
QUICK = Retry(max_attempts=3, initial_delay_s=0.05, jitter=0)
ONCE = Retry(max_attempts=1)


class OrderPlaced(BaseModel):
    type: Literal["order.placed"] = "order.placed"
    order: str = Field(description="its number")
    count: int = 1
    express: bool = False
    size: Literal["small", "large"] = "small"
    items: list[str] = []


class OrderPaid(BaseModel):
    type: Literal["order.paid"] = "order.paid"
    order: str


class Poured(BaseModel):
    type: Literal["poured"] = "poured"
    order: str


class Unheard(BaseModel):
    type: Literal["nobody.listens"] = "nobody.listens"


Event = Annotated[OrderPlaced | OrderPaid | Poured | Unheard, Field(discriminator="type")]

dispatcher = QStashDispatcher(mount_url=f"http://127.0.0.1:{os.environ.get('SHOP_PORT', '1')}/api/worker", retries=0)
worker = Worker(events_schema=Event, store=f"sqlite:///{FOLDER / 'runs.db'}", dispatcher=dispatcher)


async def reserve(order: str) -> str:
    """Fail once for each order, as a shelf that is being looked at."""
    mark = FOLDER / f"reserved-{order}"
    if not mark.exists():
        mark.touch()
        raise ValueError(f"no shelf for {order} yet")
    return f"shelf of {order}"


async def pack(order: str) -> str:
    if "broken" in order and not (FOLDER / "mended").exists():
        raise NonRetryableError(f"cannot pack {order}")
    return f"parcel of {order}"


@worker.function("ship", on=OrderPlaced, retry=ONCE)
async def ship(event: OrderPlaced, ctx: Context) -> str:
    ctx.log.info("reserving for %s", event.order)
    await ctx.execute("reserve", reserve, event.order, retry=QUICK)
    if event.express:
        await ctx.wait_for_event("payment", OrderPaid, where={"order": event.order}, timeout="1d")
    parcel = await ctx.execute("pack", pack, event.order, retry=ONCE)
    ctx.log.warning("packed %s", event.order)
    return parcel


@worker.function("thank", on=[OrderPaid, OrderPlaced])
async def thank(event: Any, ctx: Context) -> str:
    return str(event.order)


@worker.function("pour", on=Poured, concurrency=Limit(1))
async def pour(event: Poured, ctx: Context) -> str:
    paid = await ctx.wait_for_event("payment", OrderPaid, where={"order": event.order}, timeout="1d")
    return "poured" if paid else "left"


def make_app() -> Starlette:
    mount = dispatcher.mount(worker, functions=[ship, thank, pour])
    return Starlette(routes=[Route("/api/worker", mount)])
