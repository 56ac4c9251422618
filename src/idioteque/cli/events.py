"""`idioteque events`: what arrived at mounts, what each event set going, and sending one again."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import click

from idioteque.cli import Failed
from idioteque.cli.client import connected
from idioteque.cli.output import instant, show_done, show_record, show_rows
from idioteque.cli.stores import Place
from idioteque.client import Json, printable
from idioteque.clock import SystemClock
from idioteque.console.arrivals import Arrivals, EventLine
from idioteque.dispatchers import QStashDispatcher
from idioteque.engine import Outbox
from idioteque.events import EventsSchema
from idioteque.ids import new_id
from idioteque.insight import insight_of

COLUMNS = {"at": "at", "type": "type", "event": "event_id", "message": "message_id", "state": "state", "did": "did"}
CHARS_MAX = 1_000_000
SCHEMA = EventsSchema(dict[str, Any])

store_option = click.option("--store", metavar="URL", help="Where the runs are kept; IDIOTEQUE_STORE by default.")
mount_option = click.option("--mount-url", metavar="URL", help="The mount, so that bare events are known as such.")


@click.group()
def events() -> None:
    """Look at the events that mounts were sent, and send one again."""


@events.command("list")
@store_option
@mount_option
@click.option("--type", "type_name", default="", help="Only of this type.")
@click.option("--limit", type=click.IntRange(1, 1000), default=50, show_default=True, help="How many.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def list_(store: str | None, mount_url: str | None, type_name: str, limit: int, as_json: bool) -> None:
    """List events with what they did, the latest first, as far back as the log goes."""

    async def found() -> list[EventLine]:
        lines: list[EventLine] = []
        cursor: str | None = None
        async with _arrivals(store, mount_url) as arrivals:
            while len(lines) < limit:
                some, _, cursor = await arrivals.page(type_name, cursor, limit - len(lines))
                lines += some
                if cursor is None:
                    break
        return lines[:limit]

    show_rows([_record(line) for line in asyncio.run(found())], COLUMNS, as_json=as_json)


@events.command()
@store_option
@mount_option
@click.argument("message_id")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def show(store: str | None, mount_url: str | None, message_id: str, as_json: bool) -> None:
    """Print one event by its message: what it is, the runs it started, the waits it ended, and if none, why."""
    line, _ = asyncio.run(_of(store, mount_url, message_id))
    show_record({**_record(line), "event": line.event.text}, as_json=as_json)


@events.command()
@mount_option
@click.argument("message_id")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def again(mount_url: str | None, message_id: str, as_json: bool) -> None:
    """Send an event again, to where it went, under a new id: under the same one it would start nothing."""

    async def send() -> str:
        line, event = await _of(None, mount_url, message_id)
        dispatcher, clock = QStashDispatcher(mount_url=line.url), SystemClock()
        try:
            event_id = new_id("evt", clock.now_ms())
            return (await Outbox(dispatcher, SCHEMA, clock).publish(event_id, event)).event_id
        finally:
            await dispatcher.close()

    show_done("sent", asyncio.run(send()), as_json=as_json)


async def _of(store: str | None, mount_url: str | None, message_id: str) -> tuple[EventLine, bytes]:
    async with _arrivals(store, mount_url) as arrivals:
        found = await arrivals.of(message_id)
    if found is None:
        raise Failed(f"message {message_id} carries no event, or its time in the log is over")
    return found[:2]


@asynccontextmanager
async def _arrivals(store: str | None, mount_url: str | None) -> AsyncGenerator[Arrivals, None]:
    """Yield what looks for events; without a store nobody tells what they did but the mounts' answers."""
    is_known = store is not None or bool(os.environ.get("IDIOTEQUE_STORE", "").strip())
    worker = Place(store, None).worker() if is_known else None
    try:
        async with connected(os.environ) as qstash:
            look = None if worker is None else insight_of(worker.store)
            yield Arrivals(qstash, look, mount_url, CHARS_MAX)
    finally:
        if worker is not None:
            await worker.close()


def _record(line: EventLine) -> Json:
    did = [f"started {one.function_id} ({one.status})" for one in line.started]
    did += [f"woke {one.run_id} at {one.step}" for one in line.woke]
    return {
        "at": instant(line.at_ms),
        "type": line.type,
        "event_id": line.event_id,
        "message_id": line.message_id,
        "url": line.url,
        "state": line.state,
        "did": printable(", ".join(did) or line.why),
        "started": [{"run_id": one.id, "function_id": one.function_id, "status": one.status} for one in line.started],
        "woke": [{"run_id": one.run_id, "step": one.step} for one in line.woke],
        "why": line.why,
    }
