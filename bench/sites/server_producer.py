"""Publishes plain messages to the server alone, over the cheapest HTTP there is."""

from __future__ import annotations

import os
from urllib.parse import urlsplit

from bench.orders import Order, run, serve
from bench.wire import Client

BODY = b'{"v":"' + b"x" * 292 + b'"}'  # 300 bytes


async def main() -> None:
    port = urlsplit(os.environ["QSTASH_URL"]).port or 80
    client = Client(port)
    head = (
        f"POST /v2/publish/{os.environ['BENCH_DESTINATION']} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n"
        f"Authorization: Bearer {os.environ['QSTASH_TOKEN']}\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(BODY)}\r\n\r\n"
    )
    request = head.encode() + BODY

    async def publish(order: Order, number: int) -> None:
        status, answer = await client.exchange(request)
        if status >= 300:
            raise RuntimeError(f"the server answered {status}: {answer[:200]!r}")

    await serve(publish)


if __name__ == "__main__":
    run(main)
