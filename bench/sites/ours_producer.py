"""Our producer: `worker.publish`, from a process of its own."""

from __future__ import annotations

import os
from pathlib import Path

from bench.orders import Order, run, serve
from bench.sites.ours_app import EVENTS, MODES, dispatcher_for, make_worker
from idioteque import Worker


async def main() -> None:
    folder, base_url = Path(os.environ["BENCH_FOLDER"]), os.environ["BENCH_WORKER_URL"]
    workers: dict[str, Worker] = {}
    for mode in MODES:
        workers[mode] = make_worker(folder / "unused", dispatcher_for(mode, base_url))

    async def publish(order: Order, number: int) -> None:
        await workers[order.mode].publish(EVENTS[order.function](number=number, steps=order.steps))

    await serve(publish)


if __name__ == "__main__":
    run(main)
