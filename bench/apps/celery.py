"""Celery's task and, run as a program, its producer."""

from __future__ import annotations

import os
import warnings

from celery import Celery

from bench.journal import BEGAN, ENDED, Journal
from bench.orders import Order, run, serve

warnings.filterwarnings("ignore", message="You're running the worker with superuser privileges")

journal = Journal(os.environ["BENCH_JOURNAL"])
app = Celery("bench", broker=os.environ["BENCH_REDIS"])
app.conf.update(
    task_ignore_result=True,
    task_acks_late=True,
    worker_send_task_events=False,
    worker_prefetch_multiplier=4,
    broker_connection_retry_on_startup=True,
)


@app.task(name="one")
def one(number: int) -> None:
    journal.note(number, BEGAN)
    journal.note(number, ENDED)


async def publish(order: Order, number: int) -> None:
    one.delay(number)


async def main() -> None:
    await serve(publish)


if __name__ == "__main__":
    run(main)
