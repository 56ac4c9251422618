"""Restate's producer: one-way calls through its ingress, over the same HTTP client as ours."""

from __future__ import annotations

import json
import os

from bench.orders import Order, run, serve
from idioteque.clock import SystemClock
from idioteque.transport import HttpRequest, PooledTransport

HEADERS = (("Content-Type", "application/json"),)
ATTEMPTS = 100
PAUSE_S = 0.1


async def main() -> None:
    base_url, transport, clock = os.environ["BENCH_INGRESS_URL"], PooledTransport(), SystemClock()

    async def publish(order: Order, number: int) -> None:
        body = json.dumps([number, order.steps]).encode()
        request = HttpRequest("POST", f"{base_url}/{order.function}/send", HEADERS, body)
        for _ in range(ATTEMPTS):
            response = await transport.send(request)
            if response.ok:
                return
            if response.status != 404:  # a new deployment is known to the ingress a moment later
                raise RuntimeError(f"the ingress answered {response.status}: {response.body[:200]!r}")
            await clock.sleep(PAUSE_S)

    await serve(publish)


if __name__ == "__main__":
    run(main)
