"""What a store keeps of a run for those who look at it: how long steps ran, and which deliveries were at work."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import pytest
from pydantic import BaseModel

from idioteque import Context, InlineDispatcher, Worker
from idioteque.database import open_database
from idioteque.paths import BODY
from idioteque.stores import SqlStore
from idioteque.stores.tables import listing


class Job(BaseModel):
    type: Literal["job"] = "job"


async def test_a_step_tells_how_long_it_ran_and_a_run_which_deliveries_it_had(tmp_path: Path) -> None:
    dispatcher = InlineDispatcher()
    worker = Worker(events_schema=Job, store=f"sqlite:///{tmp_path / 'runs.db'}", dispatcher=dispatcher)

    async def work() -> str:
        await worker.clock.sleep(0.05)
        return "done"

    @worker.function("work", on="job")
    async def function(event: Job, ctx: Context) -> str:
        await ctx.sleep("rest", 0)
        return await ctx.execute("work", work)

    dispatcher.mount(worker)
    published = await worker.publish(Job())
    assert await worker.runs.result(published.run_id("work"), timeout="20s") == "done"
    record = await worker.store.get(published.run_id("work"))
    await worker.close()
    assert record is not None
    took = {step.path[0]: step.took_ms for step in record.steps}
    assert took["rest"] is None
    assert (took["work"] or 0) >= 50
    [delivery] = record.deliveries
    assert (delivery.path, delivery.message_id, delivery.retried) == (BODY, published.message_id, 0)
    assert delivery.at_ms >= record.created_at_ms


@pytest.mark.parametrize(
    ("asked", "index"),
    [
        ({}, "runs_by_age"),
        ({"status": "failed"}, "runs_by_status"),
        ({"function_id": "f"}, "runs_by_function"),
        ({"status": "failed", "before": "run_1"}, "runs_by_status"),
    ],
)
async def test_a_page_of_runs_is_read_from_an_index(asked: dict[str, str], index: str) -> None:
    database = open_database("sqlite://:memory:", threads=False)
    store = SqlStore(database)
    await store.list(status="running")
    query = listing(**{"status": None, "function_id": None, "before": None, **asked})
    plan = await database.read(lambda tx: tx.execute(f"EXPLAIN QUERY PLAN {query}", {**asked, "limit": 50}))
    steps = [str(row[3]) for row in plan]
    assert any(index in step for step in steps), steps
    assert not any("TEMP B-TREE" in step for step in steps), steps
    await store.close()
