"""What a worker tells its metrics, and how Prometheus sees it."""

from __future__ import annotations

import asyncio
import re
from typing import Literal

from prometheus_client import CollectorRegistry, generate_latest
from pydantic import BaseModel

from idioteque import Context, InlineDispatcher, NonRetryableError, Retry, Worker
from idioteque.prometheus import PrometheusMetrics
from idioteque.testing import ManualClock
from tests.house.source import ROOT


class Order(BaseModel):
    type: Literal["order"] = "order"


class Cancel(BaseModel):
    type: Literal["cancel"] = "cancel"


async def one() -> int:
    return 1


async def test_runs_steps_and_deliveries_are_counted() -> None:
    clock, registry = ManualClock(), CollectorRegistry()
    dispatcher = InlineDispatcher(clock=clock)
    worker = Worker(
        events_schema=Order | Cancel,
        store="memory:",
        dispatcher=dispatcher,
        clock=clock,
        metrics=PrometheusMetrics(registry),
    )
    tried: list[int] = []

    async def flaky() -> int:
        tried.append(1)
        if len(tried) == 1:
            raise ConnectionError("not yet")
        return 1

    @worker.function("good", on="order")
    async def good(event: Order, ctx: Context) -> None:
        await asyncio.gather(ctx.execute("a", one), ctx.execute("b", flaky, retry=Retry(initial_delay_s=60)))

    @worker.function("bad", on="order")
    async def bad(event: Order, ctx: Context) -> None:
        raise NonRetryableError("no")

    @worker.function("sleepy", on="order", cancel_on=[(Cancel, {})])
    async def sleepy(event: Order, ctx: Context) -> None:
        await ctx.sleep("long", "3d")

    dispatcher.mount(worker)
    published = await worker.publish(Order())
    await clock.advance(120)
    again = await worker.publish(Order(), deduplication_id="again")
    await clock.settle()
    await worker.runs.cancel(again.run_id("sleepy"))
    await worker.runs.cancel(again.run_id("sleepy"))
    await worker.publish(Cancel())
    await clock.settle()

    def value(name: str, **labels: str) -> float | None:
        return registry.get_sample_value(f"idioteque_{name}", labels)

    assert (await worker.runs.get(published.run_id("sleepy"))).status == "cancelled"  # type: ignore[union-attr]
    assert value("runs_started_total", function="good") == 2
    assert value("runs_replayed_total", function="good") == 1
    assert value("runs_ended_total", function="good", status="completed") == 2
    assert value("runs_ended_total", function="bad", status="failed") == 2
    assert value("runs_ended_total", function="sleepy", status="cancelled") == 2
    assert value("run_duration_seconds_count", function="good") == 2
    assert value("step_attempts_total", function="good", outcome="ok") == 4
    assert value("step_attempts_total", function="good", outcome="failed") == 1
    assert value("steps_ended_total", function="good", outcome="ok") == 4
    assert (value("deliveries_total", status="200") or 0) >= 8
    names = set(re.findall(r"^# TYPE (idioteque_\w+) ", generate_latest(registry).decode(), re.MULTILINE))
    guide = (ROOT / "docs" / "guides" / "monitoring.md").read_text(encoding="utf-8")
    documented = set(re.findall(r"^\| `(idioteque_\w+)", guide, re.MULTILINE))
    assert {name for name in names if not name.endswith("_created")} - documented == set()
