"""Orders: what a producer is told to publish, and the loop that publishes it in the producer's own process.

It runs in the peers' environments as well, so it needs nothing but the standard library; uvloop is taken where it is.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import asdict, dataclass
from importlib import import_module
from importlib.util import find_spec

IN_FLIGHT = 64
READY = "ready"


@dataclass(frozen=True, slots=True)
class Order:
    """Publish `count` events for a function, the runs numbered from `first`, each of so many steps.

    `per_s` is None for as fast as `in_flight` calls at a time can go. `mode` is that of the steps, where there are
    several. `waits` is False when runs must outlive the call that started them.
    """

    function: str
    first: int
    count: int
    steps: int = 1
    in_flight: int = IN_FLIGHT
    per_s: float | None = None
    mode: str = "inline"
    waits: bool = True

    def encode(self) -> str:
        """Return the order as one line."""
        return json.dumps(asdict(self))


Publish = Callable[[Order, int], Awaitable[None]]
"""Publishes the run of this number; returns when it is accepted."""


async def produce(publish: Publish, order: Order) -> list[int]:
    """Carry out an order; return the monotonic time in ns at which each publish was called."""
    called_ns = [0] * order.count
    if order.per_s is not None:
        await _paced(publish, order, called_ns)
        return called_ns
    numbers = iter(range(order.count))

    async def work() -> None:
        for index in numbers:
            called_ns[index] = time.monotonic_ns()
            await publish(order, order.first + index)

    await asyncio.gather(*(work() for _ in range(min(order.in_flight, order.count))))
    return called_ns


async def _paced(publish: Publish, order: Order, called_ns: list[int]) -> None:
    assert order.per_s is not None
    began_s = time.monotonic()

    async def one(index: int) -> None:
        called_ns[index] = time.monotonic_ns()
        await publish(order, order.first + index)

    async with asyncio.TaskGroup() as tasks:
        for index in range(order.count):
            await asyncio.sleep(max(0.0, began_s + index / order.per_s - time.monotonic()))
            tasks.create_task(one(index))


async def serve(publish: Publish) -> None:
    """Carry out the orders that come in, one a line; answer each with the times, or with what went wrong."""
    loop = asyncio.get_running_loop()
    _say({READY: True})
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        try:
            answer: dict[str, object] = {"called_ns": await produce(publish, Order(**json.loads(line)))}
        except Exception as error:  # the measuring side decides what becomes of it
            answer = {"error": f"{type(error).__name__}: {error}"}
        _say(answer)
    os._exit(0)  # peers leave threads behind that would keep the process


def run(main: Callable[[], Coroutine[object, object, None]]) -> None:
    """Run a producer, on uvloop where it is installed."""
    loops = find_spec("uvloop") and import_module("uvloop").new_event_loop
    with asyncio.Runner(loop_factory=loops or None) as runner:
        runner.run(main())


def _say(answer: dict[str, object]) -> None:
    sys.stdout.write(json.dumps(answer) + "\n")
    sys.stdout.flush()
