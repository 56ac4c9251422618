"""What a store keeps of a run for those who look at it: how long steps ran, and which deliveries were at work."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import pytest
from pydantic import BaseModel

from idioteque import Context, InlineDispatcher, Worker
from idioteque.database import Transaction, open_database
from idioteque.paths import BODY
from idioteque.stores import SqlStore
from idioteque.stores.insight import COUNT, COUNT_OF_ONE, FUNCTIONS, STARTED, WOKE
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


COLUMN = {"before": "created_at_ms"}

PAGES = pytest.mark.parametrize(
    ("asked", "index"),
    [
        ({}, "runs_by_age"),
        ({"status": "failed"}, "runs_by_status"),
        ({"function_id": "f"}, "runs_by_function"),
        ({"status": "failed", "function_id": "f"}, "runs_by_both"),
        ({"before": "run_1"}, "runs_by_age"),
        ({"status": "failed", "before": "run_1"}, "runs_by_status"),
        ({"function_id": "f", "before": "run_1"}, "runs_by_function"),
        ({"status": "failed", "function_id": "f", "before": "run_1"}, "runs_by_both"),
    ],
)


def page_of(asked: dict[str, str]) -> str:
    return listing(**{"status": None, "function_id": None, "before": None, **asked})


@PAGES
async def test_a_page_of_runs_is_read_from_an_index(asked: dict[str, str], index: str) -> None:
    database = open_database("sqlite://:memory:", threads=False)
    store = SqlStore(database)
    await store.list(status="running")
    sql = f"EXPLAIN QUERY PLAN {page_of(asked)}"
    plan = await database.read(lambda tx: tx.execute(sql, {**asked, "limit": 50}))
    steps = [str(row[3]) for row in plan]
    way = "SCAN" if not asked else "SEARCH"
    assert any(step.startswith(f"{way} runs USING INDEX {index}") for step in steps), steps
    assert not any("TEMP B-TREE" in step for step in steps), steps
    for column in asked:  # what narrows the page narrows the walk: nothing is read and left out
        assert any(f"{COLUMN.get(column, column)}{'<' if column == 'before' else '='}?" in s for s in steps), steps
    await store.close()


@PAGES
async def test_in_postgresql_too(postgres_url: str, asked: dict[str, str], index: str) -> None:
    database = open_database(postgres_url)
    store = SqlStore(database)
    await store.list(status="running")

    def explain(tx: Transaction) -> list[str]:
        for method in ("seqscan", "sort", "bitmapscan"):  # an empty table would be read as a whole
            tx.execute(f"SET LOCAL enable_{method} = off")
        return [str(row[0]) for row in tx.execute(f"EXPLAIN {page_of(asked)}", {**asked, "limit": 50})]

    plan = await database.read(explain)
    assert any(f"using {index} on" in line for line in plan), plan
    assert not any(word in line for line in plan for word in ("Sort", "Filter:", "Seq Scan")), plan
    await store.close()


LOOKS = pytest.mark.parametrize(
    ("query", "asked", "index"),
    [
        (COUNT, ["status", "limit"], "runs_by_status"),
        (COUNT_OF_ONE, ["function_id", "status", "limit"], "runs_by_both"),
        (FUNCTIONS, ["limit"], "runs_by_function"),
        (STARTED, ["event_id", "limit"], "runs_by_event"),
        (WOKE, ["event_id", "limit"], "steps_by_taken"),
    ],
)


@LOOKS
async def test_what_is_told_of_many_runs_is_searched_in_an_index(query: str, asked: list[str], index: str) -> None:
    database = open_database("sqlite://:memory:", threads=False)
    store = SqlStore(database)
    await store.list(limit=1)
    wanted = {name: 10 if name == "limit" else "x" for name in asked}
    plan = await database.read(lambda tx: tx.execute(f"EXPLAIN QUERY PLAN {query}", wanted))
    steps = [str(row[3]) for row in plan]
    assert any("SEARCH" in step and index in step for step in steps), steps
    tables = ("SCAN runs", "SCAN steps", "SCAN r ", "SCAN s ")
    assert not any(step.startswith(tables) and "USING" not in step for step in steps), steps
    await store.close()
