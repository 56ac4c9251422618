"""OpenTelemetry: a trace for each run, carried over every hop, in process and over a real server."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import pytest
import uvicorn
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from pydantic import BaseModel

from idioteque import Context, InlineDispatcher, NonRetryableError, QStashDispatcher, StepFailed, Worker, tracing
from idioteque.server.process import bound_socket
from idioteque.testing import ManualClock
from tests.processes import start_server


class Order(BaseModel):
    type: Literal["order"] = "order"


@pytest.fixture
def spans(monkeypatch: pytest.MonkeyPatch) -> Iterator[InMemorySpanExporter]:
    """The spans that have ended, of a provider that this test alone has."""
    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(trace, "_TRACER_PROVIDER", provider)
    tracing._tracer.cache_clear()
    yield exporter
    provider.shutdown()
    tracing._tracer.cache_clear()


def named(spans: InMemorySpanExporter, name: str) -> list[ReadableSpan]:
    return sorted((s for s in spans.get_finished_spans() if s.name == name), key=lambda s: s.start_time or 0)


def parent(span: ReadableSpan) -> int | None:
    return None if span.parent is None else span.parent.span_id


def trace_id(span: ReadableSpan) -> int:
    return span.context.trace_id


async def one() -> int:
    return 1


async def broken() -> int:
    raise NonRetryableError("the secret is 4711")


def local(clock: ManualClock) -> tuple[Worker, InlineDispatcher]:
    dispatcher = InlineDispatcher(clock=clock)
    return Worker(events_schema=Order, store="memory:", dispatcher=dispatcher, clock=clock), dispatcher


async def test_a_run_is_one_trace_from_the_publish_to_its_nested_steps(spans: InMemorySpanExporter) -> None:
    clock = ManualClock()
    worker, dispatcher = local(clock)

    @worker.function("buy", on="order")
    async def buy(event: Order, ctx: Context) -> int:
        async def outer() -> int:
            return await ctx.execute("inner", one)

        return await ctx.execute("outer", outer)

    dispatcher.mount(worker)
    published = await worker.publish(Order())
    await clock.settle()
    (publish,), (deliver,) = named(spans, "idioteque publish"), named(spans, "idioteque deliver")
    (run,), (outer,), (inner,) = named(spans, "run buy"), named(spans, "step outer"), named(spans, "step outer/inner")
    assert publish.parent is None
    assert [parent(s) for s in (deliver, run, outer, inner)] == [
        s.context.span_id for s in (publish, deliver, run, outer)
    ]
    assert len({trace_id(s) for s in (publish, deliver, run, outer, inner)}) == 1
    assert run.attributes is not None
    assert run.attributes["idioteque.run_id"] == published.run_id("buy")


async def test_a_run_that_slept_goes_on_in_a_trace_of_its_own_linked_to_the_former(spans: InMemorySpanExporter) -> None:
    clock = ManualClock()
    worker, dispatcher = local(clock)

    @worker.function("nap", on="order")
    async def nap(event: Order, ctx: Context) -> None:
        await ctx.sleep("night", "3d")

    dispatcher.mount(worker)
    await worker.publish(Order())
    await clock.advance(4 * 86_400)
    first, second = named(spans, "idioteque deliver")
    assert second.parent is None
    assert [link.context.span_id for link in second.links] == [first.context.span_id]
    assert trace_id(first) != trace_id(second)
    assert all((s.end_time or 0) - (s.start_time or 0) < 60e9 for s in spans.get_finished_spans())


async def test_a_failed_step_marks_its_span_and_tells_no_text(spans: InMemorySpanExporter) -> None:
    clock = ManualClock()
    worker, dispatcher = local(clock)

    @worker.function("buy", on="order")
    async def buy(event: Order, ctx: Context) -> None:
        try:
            await ctx.execute("broken", broken)
        except StepFailed:
            return

    dispatcher.mount(worker)
    await worker.publish(Order())
    await clock.settle()
    (step,), (run,) = named(spans, "step broken"), named(spans, "run buy")
    assert (step.status.is_ok, step.status.description) == (False, "NonRetryableError")
    assert run.status.is_ok
    assert "4711" not in "".join(s.to_json() for s in spans.get_finished_spans())


async def test_a_trace_goes_over_a_real_server_and_through_steps_of_their_own(
    spans: InMemorySpanExporter, tmp_path: Path
) -> None:
    server = await asyncio.to_thread(start_server, tmp_path)
    listener = bound_socket("127.0.0.1", 0)
    url = f"http://127.0.0.1:{listener.getsockname()[1]}/"
    dispatcher = QStashDispatcher(
        mount_url=url, url=server.url, token=server.token,
        current_signing_key=server.current_key, next_signing_key=server.next_key,
    )  # fmt: skip
    worker = Worker(events_schema=Order, store="memory:", dispatcher=dispatcher)
    logs: list[logging.LogRecord] = []
    handler = logging.Handler()
    handler.emit = logs.append  # type: ignore[method-assign]

    @worker.function("buy", on="order")
    async def buy(event: Order, ctx: Context) -> int:
        ctx.log.warning("bought", extra={"price": 3})
        return sum(await asyncio.gather(ctx.execute("a", one), ctx.execute("b", one)))

    app: Any = dispatcher.mount(worker, mode="isolated")
    web = uvicorn.Server(uvicorn.Config(app, lifespan="off", log_config=None, access_log=False))
    serving = asyncio.create_task(web._serve([listener]))
    logging.getLogger("idioteque.buy").addHandler(handler)
    try:
        with trace.get_tracer("app").start_as_current_span("request") as request:
            published = await worker.publish(Order())
        assert await worker.runs.result(published.run_id("buy"), timeout=30) == 2
    finally:
        logging.getLogger("idioteque.buy").removeHandler(handler)
        web.should_exit = True
        await serving
        await worker.close()
        assert await asyncio.to_thread(server.stop) == 0
    deliveries = named(spans, "idioteque deliver")
    assert len(deliveries) >= 3  # the event's, and those of two steps
    assert {trace_id(s) for s in spans.get_finished_spans()} == {request.get_span_context().trace_id}
    sent_by = {s.context.span_id for s in spans.get_finished_spans()}
    assert all(parent(delivery) in sent_by for delivery in deliveries)
    assert len(named(spans, "step a")) == len(named(spans, "step b")) == 1
    fields = vars(logs[0])
    assert (fields["run_id"], fields["function_id"], fields["price"]) == (published.run_id("buy"), "buy", 3)
    assert (fields["event_id"], fields["message_id"]) == (published.event_id, published.message_id)
