"""`idioteque queues`: messages that are delivered in their order."""

from __future__ import annotations

import os
from collections.abc import Sequence

import click

from idioteque.cli.client import ask, ask_each, connected
from idioteque.cli.output import show_done, show_record
from idioteque.cli.waiting import show_waiting
from idioteque.cli.watching import show_list, watchable
from idioteque.client import Json, QStash

COLUMNS = {
    "queue": "name",
    "parallelism": "parallelism",
    "lag": "lag",
    "paused": "paused",
    "created": "createdAt",
    "updated": "updatedAt",
}


@click.group()
def queues() -> None:
    """Deliver messages in their order, so many at once."""


@queues.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@watchable
def list_(as_json: bool, watch: bool) -> None:
    """List queues; `lag` is how many messages have not ended."""
    show_list(_all, COLUMNS, as_json=as_json, watch=watch)


@queues.command()
@click.argument("name")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def show(name: str, as_json: bool) -> None:
    """Print one queue."""
    show_record(ask(lambda qstash: qstash.queue(name)), as_json=as_json)


@queues.command()
@click.argument("name")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def waiting(name: str, as_json: bool) -> None:
    """List the first messages in a queue, in the order of their turns; only our own server tells them."""
    show_waiting([("queueName", name)], as_json=as_json)


@queues.command("set")
@click.argument("name")
@click.option("--parallelism", type=click.IntRange(min=1), default=1, show_default=True, help="How many at once.")
@click.option("--paused/--running", default=False, help="Whether it sends nothing.  [default: running]")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def set_(name: str, parallelism: int, paused: bool, as_json: bool) -> None:
    """Make a queue, or change it."""
    ask(lambda qstash: qstash.save_queue(name, parallelism, paused=paused))
    show_done("set", name, as_json=as_json)


@queues.command()
@click.argument("names", nargs=-1, required=True)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def pause(names: Sequence[str], as_json: bool) -> None:
    """Let queues send nothing more until they are resumed."""
    ask_each(names, QStash.pause_queue)
    show_done("paused", len(names), as_json=as_json)


@queues.command()
@click.argument("names", nargs=-1, required=True)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def resume(names: Sequence[str], as_json: bool) -> None:
    """Let paused queues go on where they stopped."""
    ask_each(names, QStash.resume_queue)
    show_done("resumed", len(names), as_json=as_json)


@queues.command()
@click.argument("names", nargs=-1, required=True)
@click.option("--yes", is_flag=True, help="Do not ask first.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def delete(names: Sequence[str], yes: bool, as_json: bool) -> None:
    """Delete queues, and cancel the messages in them."""
    if not yes:
        click.confirm(f"delete {', '.join(names)} and cancel what is in there?", abort=True, err=True)
    ask_each(names, QStash.queue, QStash.delete_queue)  # the protocol deletes what does not exist, too
    show_done("deleted", len(names), as_json=as_json)


async def _all() -> list[Json]:
    async with connected(os.environ) as qstash:
        return await qstash.queues()
