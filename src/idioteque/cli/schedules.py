"""`idioteque schedules`: what is published again and again."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import asdict
from typing import Unpack

import click

from idioteque.cli.client import ask, ask_each
from idioteque.cli.message import MessageOptions, describing, headers_and_body
from idioteque.cli.output import show_done, show_record, show_rows
from idioteque.cli.stores import imported_worker
from idioteque.client import QStash
from idioteque.console.resending import of_schedule
from idioteque.dispatchers.qstash import QStashDispatcher
from idioteque.dispatchers.schedules import SyncedSchedules
from idioteque.errors import ConfigurationError

COLUMNS = {
    "schedule": "scheduleId",
    "cron": "cron",
    "destination": "destination",
    "paused": "isPaused",
    "last": "lastScheduleTime",
    "next": "nextScheduleTime",
    "error": "error",
}


@click.group()
def schedules() -> None:
    """Publish a message at every tick of a cron expression."""


@schedules.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def list_(as_json: bool) -> None:
    """List schedules."""
    show_rows(ask(lambda qstash: qstash.schedules()), COLUMNS, as_json=as_json)


@schedules.command()
@click.argument("schedule_id")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def show(schedule_id: str, as_json: bool) -> None:
    """Print one schedule."""
    show_record(ask(lambda qstash: qstash.schedule(schedule_id)), as_json=as_json)


@schedules.command()
@click.argument("destination", metavar="URL_OR_GROUP")
@click.option("--cron", required=True, help='Like "0 4 * * *" in UTC, or "CRON_TZ=Europe/Paris 0 4 * * *".')
@click.option("--id", "schedule_id", metavar="ID", help="An id of your own; a schedule that has it is overwritten.")
@click.option("--queue", metavar="NAME", help="The queue that its messages go through.")
@describing
@click.option("--json", "as_json", is_flag=True, help="Print the answer as JSON.")
def create(
    destination: str,
    cron: str,
    schedule_id: str | None,
    queue: str | None,
    as_json: bool,
    **options: Unpack[MessageOptions],
) -> None:
    """Make a schedule, or overwrite one, and print its id."""
    more = {"Upstash-Cron": cron, "Upstash-Schedule-Id": schedule_id, "Upstash-Queue-Name": queue}
    headers, body = headers_and_body(options, more)
    made = ask(lambda qstash: qstash.create_schedule(destination, headers, body))
    if as_json:
        show_record(made, as_json=True)
    else:
        click.echo(str(made.get("scheduleId", "")))


@schedules.command()
@click.argument("schedule_ids", nargs=-1, required=True)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def pause(schedule_ids: Sequence[str], as_json: bool) -> None:
    """Let schedules fire no more until they are resumed."""
    ask_each(schedule_ids, QStash.pause_schedule)
    show_done("paused", len(schedule_ids), as_json=as_json)


@schedules.command()
@click.argument("schedule_ids", nargs=-1, required=True)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def resume(schedule_ids: Sequence[str], as_json: bool) -> None:
    """Let paused schedules fire again, from their next tick on."""
    ask_each(schedule_ids, QStash.resume_schedule)
    show_done("resumed", len(schedule_ids), as_json=as_json)


@schedules.command()
@click.argument("schedule_ids", nargs=-1, required=True)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def delete(schedule_ids: Sequence[str], as_json: bool) -> None:
    """Delete schedules; messages that they have made go on."""
    ask_each(schedule_ids, QStash.schedule, QStash.delete_schedule)  # the protocol deletes what does not exist, too
    show_done("deleted", len(schedule_ids), as_json=as_json)


@schedules.command()
@click.argument("schedule_id")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def run(schedule_id: str, as_json: bool) -> None:
    """Send a schedule's message now, and print its id; the schedule goes on as it is."""

    async def act(qstash: QStash) -> str:
        return await of_schedule(await qstash.schedule(schedule_id)).send(qstash)

    message_id = ask(act)
    if as_json:
        show_record({"messageId": message_id}, as_json=True)
    else:
        click.echo(message_id)


@schedules.command()
@click.argument("app", metavar="MODULE:WORKER")
@click.option("--dry-run", is_flag=True, help="Say what would be done, and do nothing.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def sync(app: str, dry_run: bool, as_json: bool) -> None:
    """Make the schedules those of a worker's functions with cron=, when a new version is deployed."""
    worker = imported_worker(app)
    dispatcher = worker.dispatcher
    if not isinstance(dispatcher, QStashDispatcher):
        raise ConfigurationError(f"{app!r} has no schedules: its dispatcher is a {type(dispatcher).__name__}")

    async def synced() -> SyncedSchedules:
        try:
            return await dispatcher.sync_schedules(worker, dry_run=dry_run)
        finally:
            await worker.close()

    done = asyncio.run(synced())
    if as_json:
        show_record(asdict(done), as_json=True)
        return
    for word, ids in asdict(done).items():
        for function_id in ids:
            click.echo(f"{'would be ' if dry_run and word != 'unchanged' else ''}{word}\t{function_id}")
    if not any(asdict(done).values()):
        click.echo("no function has cron=, and there were no schedules of this mount")
