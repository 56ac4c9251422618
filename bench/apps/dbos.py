"""DBOS's application: it starts the workflows and runs them."""

from __future__ import annotations

import asyncio
import os

from dbos import DBOS, DBOSConfig

from bench.journal import BEGAN, ENDED, Journal
from bench.orders import Order, run, serve

RESULT = {"v": "x" * 91}
SLOW_STEP_S = 0.02

journal = Journal(os.environ["BENCH_JOURNAL"])
config: DBOSConfig = {
    "name": "bench",
    "system_database_url": os.environ["BENCH_DATABASE"],
    "log_level": "WARNING",
    "application_version": "v1",
    "executor_id": "local",
    "enable_otlp": False,
}
DBOS(config=config)


@DBOS.step()
async def nothing() -> None:
    """The step of W1."""


@DBOS.step()
async def result() -> dict[str, str]:
    return RESULT


@DBOS.step()
async def slow_step(number: int, place: int) -> dict[str, str]:
    journal.note(number, place)
    await asyncio.sleep(SLOW_STEP_S)
    return RESULT


@DBOS.workflow()
async def one(number: int, steps: int) -> None:
    journal.note(number, BEGAN)
    await nothing()
    journal.note(number, ENDED)


@DBOS.workflow()
async def seq(number: int, steps: int) -> None:
    journal.note(number, BEGAN)
    for _ in range(steps):
        await result()
    journal.note(number, ENDED)


@DBOS.workflow()
async def par(number: int, steps: int) -> None:
    journal.note(number, BEGAN)
    await asyncio.gather(*[result() for _ in range(steps)])
    journal.note(number, ENDED)


@DBOS.workflow()
async def slow(number: int, steps: int) -> None:
    journal.note(number, BEGAN)
    for place in range(steps):
        await slow_step(number, place)
    journal.note(number, ENDED)


FUNCTIONS = {"one": one, "seq": seq, "par": par, "slow": slow}
kept = []


async def publish(order: Order, number: int) -> None:
    handle = await DBOS.start_workflow_async(FUNCTIONS[order.function], number, order.steps)
    if order.waits:
        await handle.get_result()
    else:
        kept.append(handle)


async def main() -> None:
    DBOS.launch()
    await serve(publish)


if __name__ == "__main__":
    run(main)
