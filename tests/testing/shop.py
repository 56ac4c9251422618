"""A worker as a user would write it: a real dispatcher and a real store, none of which a test wants to touch."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field

from idioteque import QStashDispatcher, Retry, Worker


class Order(BaseModel):
    type: Literal["order"] = "order"
    id: str = "1"
    items: int = 2


class Paid(BaseModel):
    type: Literal["paid"] = "paid"
    order_id: str = "1"


class Receipt(BaseModel):
    number: str
    amount: int


AnyEvent = Annotated[Order | Paid, Field(discriminator="type")]

FLAKY = Retry(max_attempts=3, initial_delay_s=60.0, jitter=0.0)
ONCE = Retry(max_attempts=1)


class Effects:
    """What the steps of one test did to the world."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()

    def note(self, name: str) -> None:
        self.counts[name] += 1


def make_worker(tmp_path: Path) -> Worker:
    """Return a worker whose store would be a file and whose messages would leave the machine."""
    return Worker(
        events_schema=AnyEvent,
        store=f"sqlite:///{tmp_path / 'runs.db'}",
        dispatcher=QStashDispatcher(mount_url="https://app.example.com/api/worker", token="token"),
    )


async def charge(order_id: str) -> Receipt:
    return Receipt(number=f"r-{order_id}", amount=10)


def ship(order_id: str) -> str:
    return f"parcel-{order_id}"


def identity(value: Any) -> Any:
    return value
