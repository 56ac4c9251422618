"""`idioteque messages`: what is under way."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence

import click

from idioteque.cli import Failed
from idioteque.cli.client import connected
from idioteque.cli.filters import filtered, query_from
from idioteque.cli.logs import latest
from idioteque.cli.output import show_done, show_line, show_record, show_rows
from idioteque.cli.watching import show_list, watchable
from idioteque.client import ApiRefusal, Json, QStash, Query
from idioteque.console.resending import last_entry, retry_now
from idioteque.errors import InvalidValue

COLUMNS = {"last": "time", "message": "messageId", "state": "state", "status": "responseStatus", "url": "url"}
RETRIED = {"message": "messageId", "sent as": "sentAs"}
ENTRIES_READ_MAX = 5000


@click.group()
def messages() -> None:
    """Look at messages, cancel them, or send those that wait at once."""


@messages.command("list")
@filtered
@click.option("--limit", type=click.IntRange(1, 1000), default=50, show_default=True, help="How many messages.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@watchable
def list_(limit: int, as_json: bool, watch: bool, **filters: Sequence[str]) -> None:
    """List recent messages and where they stand, the latest first, as the log tells it."""
    query = query_from(filters)
    show_list(lambda: _recent(query, limit), COLUMNS, as_json=as_json, watch=watch)


@messages.command()
@click.argument("message_id")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def show(message_id: str, as_json: bool) -> None:
    """Print one message."""
    show_record(asyncio.run(_get(message_id)), as_json=as_json)


@messages.command()
@click.argument("message_ids", nargs=-1, required=True)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def cancel(message_ids: Sequence[str], as_json: bool) -> None:
    """Cancel messages; those that are unknown or over are named, and make the exit code 1."""
    missing = asyncio.run(_cancel(message_ids))
    done, asked = len(message_ids) - len(missing), len(message_ids)
    if as_json:
        show_done("cancelled", done, as_json=True, asked=asked, missing=missing)
    else:
        click.echo(f"cancelled {done} of {asked}")
    if missing:
        raise Failed(f"not under way: {', '.join(missing)}")


@messages.command("retry-now")
@click.argument("message_ids", nargs=-1, required=True)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def retry_now_(message_ids: Sequence[str], as_json: bool) -> None:
    """Send messages that wait for their next attempt now.

    Each is sent as a new message and then cancelled, so nothing is lost in between; an attempt that is under way
    meanwhile may arrive as well. Prints each message and the new one; those that are unknown or over are named, and
    make the exit code 1.
    """
    rows = asyncio.run(_retry_now(message_ids, as_json))
    if as_json:
        show_rows(rows, RETRIED, as_json=True)
    if failed := [f"{row['messageId']} ({row['error']})" for row in rows if "error" in row]:
        raise Failed(f"not sent: {', '.join(failed)}")


async def _recent(query: Query, limit: int) -> list[Json]:
    async with connected(os.environ) as qstash:
        last_entries: dict[str, Json] = {}
        async for entry in latest(qstash, query, ENTRIES_READ_MAX):
            last_entries.setdefault(str(entry.get("messageId")), entry)
            if len(last_entries) == limit:
                break
        return list(last_entries.values())


async def _get(message_id: str) -> Json:
    async with connected(os.environ) as qstash:
        return await qstash.message(message_id)


async def _cancel(message_ids: Sequence[str]) -> list[str]:
    missing: list[str] = []
    async with connected(os.environ) as qstash:
        for message_id in message_ids:
            try:
                await qstash.cancel(message_id)
            except ApiRefusal as refusal:
                if refusal.status != 404:
                    raise
                missing.append(message_id)
    return missing


async def _retry_now(message_ids: Sequence[str], as_json: bool) -> list[Json]:
    """Return for each message what it was sent as, or why it was not; printed as it happens unless as JSON."""
    rows: list[Json] = []
    async with connected(os.environ) as qstash:
        for message_id in dict.fromkeys(message_ids):
            rows.append(await _retried(qstash, message_id))
            if not as_json and "error" not in rows[-1]:
                show_line(rows[-1], RETRIED)
    return rows


async def _retried(qstash: QStash, message_id: str) -> Json:
    try:
        entry = await last_entry(qstash, message_id)
        if entry is None:
            return {"messageId": message_id, "error": "nothing is known of it"}
        return {"messageId": message_id, "sentAs": await retry_now(qstash, entry)}
    except (ApiRefusal, InvalidValue) as refusal:
        return {"messageId": message_id, "error": str(refusal)}
