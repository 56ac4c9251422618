"""`idioteque dlq`: dead letters, the messages that were given up."""

from __future__ import annotations

import asyncio
import base64
import os
from collections.abc import Awaitable, Callable, Sequence

import click

from idioteque.cli import Failed
from idioteque.cli.client import ask, connected, dead_letter_ids
from idioteque.cli.filters import filtered, query_from
from idioteque.cli.message import METHODS, body_from, header_from
from idioteque.cli.output import progress, show_done, show_record, show_rows
from idioteque.client import BULK_COUNT_MAX, PAGE_COUNT_MAX, Json, QStash, Query
from idioteque.clock import SystemClock
from idioteque.console.entries import headers_of
from idioteque.console.resending import Edits, Resending, edited, replace_letter
from idioteque.errors import InvalidValue

COLUMNS = {
    "dead letter": "dlqId",
    "message": "messageId",
    "created": "createdAt",
    "status": "responseStatus",
    "url": "url",
    "label": "label",
}


@click.group()
def dlq() -> None:
    """Look at dead letters, send them again, as they are or edited, or delete them."""


@dlq.command("list")
@filtered
@click.option("--status", multiple=True, type=int, help="Only with this last response status.")
@click.option("--limit", type=click.IntRange(1, 100_000), default=50, show_default=True, help="How many.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def list_(limit: int, as_json: bool, **filters: Sequence[object]) -> None:
    """List dead letters, the oldest first."""
    show_rows(asyncio.run(_list(query_from(filters), limit)), COLUMNS, as_json=as_json)


@dlq.command()
@click.argument("dlq_id")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def show(dlq_id: str, as_json: bool) -> None:
    """Print one dead letter with the last response to it."""
    show_record(asyncio.run(_show(dlq_id)), as_json=as_json)


@dlq.command()
@filtered
@click.argument("dlq_ids", nargs=-1)
@click.option("--all", "all_", is_flag=True, help="All that fit the filters, without any all there are.")
@click.option("--yes", is_flag=True, help="Do not ask first.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def retry(dlq_ids: Sequence[str], all_: bool, yes: bool, as_json: bool, **filters: Sequence[object]) -> None:
    """Send dead letters again, each as a new message."""
    asyncio.run(
        _bulk(("retry", "retried"), QStash.retry_dead_letters, dlq_ids, all_, yes, query_from(filters), as_json)
    )


@dlq.command()
@filtered
@click.argument("dlq_ids", nargs=-1)
@click.option("--all", "all_", is_flag=True, help="All that fit the filters, without any all there are.")
@click.option("--yes", is_flag=True, help="Do not ask first.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def delete(dlq_ids: Sequence[str], all_: bool, yes: bool, as_json: bool, **filters: Sequence[object]) -> None:
    """Delete dead letters for good."""
    asyncio.run(
        _bulk(("delete", "deleted"), QStash.delete_dead_letters, dlq_ids, all_, yes, query_from(filters), as_json)
    )


@dlq.command()
@click.argument("dlq_id")
@click.option("--url", metavar="URL", help="Where it goes instead.")
@click.option("--data", help="The body instead: text, @FILE, or - for what comes in on stdin.")
@click.option("--method", type=click.Choice(METHODS, case_sensitive=False), help="The method instead.")
@click.option("--header", "headers", multiple=True, metavar="NAME:VALUE", help="A header, added or instead.")
@click.option("--without-header", "without", multiple=True, metavar="NAME", help="A header to leave out.")
@click.option("--dry-run", is_flag=True, help="Print what would be sent, and send nothing.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def edit(
    dlq_id: str,
    url: str | None,
    data: str | None,
    method: str | None,
    headers: Sequence[str],
    without: Sequence[str],
    dry_run: bool,
    as_json: bool,
) -> None:
    """Send a dead letter again with another URL, other headers or another body, then delete it.

    What is not named stays as it was, limits and callbacks too. Prints the new message's id.
    """
    if url is data is method is None and not headers and not without:
        raise InvalidValue("say what is to change: --url, --data, --method, --header or --without-header")
    given = [header_from(text) for text in headers]
    gone = {name.strip().lower() for name in (*without, *(name for name, _ in given))}
    body = None if data is None else body_from(data)

    async def act(qstash: QStash) -> tuple[Resending, str]:
        letter = await qstash.dead_letter(dlq_id)
        kept = [one for one in headers_of(letter, "header") if one[0].lower() not in gone]
        instead = await edited(qstash, letter, Edits(url, method, [*kept, *given], body))
        return instead, "" if dry_run else await replace_letter(qstash, dlq_id, instead)

    instead, message_id = ask(act)
    if dry_run:
        sent = [f"{name}: {value}" for name, value in instead.headers]
        show_record({"url": instead.destination, "headers": sent, **_body(instead.body)}, as_json=as_json)
    elif as_json:
        show_record({"messageId": message_id, "deleted": dlq_id}, as_json=True)
    else:
        click.echo(message_id)


def _body(body: bytes) -> Json:
    """Name a body as the API does: a text, or base64 of what is none."""
    try:
        return {"body": body.decode()}
    except UnicodeDecodeError:
        return {"bodyBase64": base64.b64encode(body).decode()}


async def _list(query: Query, limit: int) -> list[Json]:
    rows: list[Json] = []
    cursor: str | None = None
    async with connected(os.environ) as qstash:
        while len(rows) < limit:
            page = await qstash.dead_letters(query, cursor, min(limit - len(rows), PAGE_COUNT_MAX))
            rows += page.entries
            cursor = page.cursor
            if cursor is None:
                break
    return rows[:limit]


async def _show(dlq_id: str) -> Json:
    async with connected(os.environ) as qstash:
        return await qstash.dead_letter(dlq_id)


async def _bulk(
    verb: tuple[str, str],
    act: Callable[[QStash, Sequence[str]], Awaitable[int]],
    dlq_ids: Sequence[str],
    all_: bool,
    yes: bool,
    query: Query,
    as_json: bool,
) -> None:
    """Act on the letters named, or on all there are now: those that fail again meanwhile are not taken twice."""
    if bool(dlq_ids) == all_:
        raise InvalidValue(f"name the dead letters to {verb[0]}, or give --all")
    if dlq_ids and query:
        raise InvalidValue("filters go with --all, not with ids")
    async with connected(os.environ) as qstash:
        chosen = list(dict.fromkeys(dlq_ids)) or await dead_letter_ids(qstash, query)
        if all_ and chosen and not yes:
            click.confirm(f"{verb[0]} {len(chosen)} dead letters?", abort=True, err=True)
        done = 0
        with progress(verb[1], len(chosen), SystemClock()) as advance:
            for start in range(0, len(chosen), BULK_COUNT_MAX):
                some = chosen[start : start + BULK_COUNT_MAX]
                done += await act(qstash, some)
                advance(len(some))
    if as_json:
        show_done(verb[1], done, as_json=True, asked=len(chosen))
    else:
        click.echo(f"{verb[1]} {done} of {len(chosen)}")
    if dlq_ids and done < len(chosen):
        raise Failed(f"{len(chosen) - done} of these dead letters are gone")
