"""`idioteque logs`: what happened to messages, once or as it happens."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Sequence

import click

from idioteque.cli.client import connected
from idioteque.cli.filters import filtered, query_from
from idioteque.cli.output import show_line, show_rows
from idioteque.client import PAGE_COUNT_MAX, ApiRefusal, Json, QStash, Query
from idioteque.clock import Clock, SystemClock
from idioteque.errors import TransportError

COLUMNS = {
    "time": "time",
    "message": "messageId",
    "state": "state",
    "status": "responseStatus",
    "url": "url",
    "error": "error",
}
STATES = ("CREATED", "ACTIVE", "DELIVERED", "ERROR", "RETRY", "FAILED", "CANCEL_REQUESTED", "CANCELED", "IN_PROGRESS")

POLL_EVERY_S = 1.0
POLL_EVERY_S_MAX = 30.0  # while nothing answers
OVERLAP_MS = 5000  # an entry may become visible this long after the time it bears


@click.command()
@filtered
@click.option("--state", multiple=True, type=click.Choice(STATES, case_sensitive=False), help="Only in this state.")
@click.option("--limit", type=click.IntRange(1, 10_000), default=50, show_default=True, help="How many entries.")
@click.option("--follow", "-f", is_flag=True, help="Go on with what happens next, until interrupted.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON; with --follow one object a line.")
def logs(limit: int, follow: bool, as_json: bool, **filters: Sequence[str]) -> None:
    """Print log entries, the latest last."""
    query = query_from(filters)
    try:
        if follow:
            asyncio.run(_follow(query, limit, as_json))
        else:
            show_rows(asyncio.run(_recent(query, limit)), COLUMNS, as_json=as_json)
    except KeyboardInterrupt:
        raise click.exceptions.Exit(130) from None


async def _recent(query: Query, limit: int) -> list[Json]:
    async with connected(os.environ) as qstash:
        return [entry async for entry in latest(qstash, query, limit)][::-1]


async def _follow(query: Query, limit: int, as_json: bool) -> None:
    async with connected(os.environ) as qstash:
        async for entry in Follower(qstash, query, SystemClock()).entries(limit):
            show_line(entry, COLUMNS, as_json=as_json)


async def latest(qstash: QStash, query: Query, limit: int) -> AsyncIterator[Json]:
    """Yield at most so many log entries, the latest first."""
    cursor: str | None = None
    while limit > 0:
        page = await qstash.events(query, cursor, min(limit, PAGE_COUNT_MAX))
        for entry in page.entries[:limit]:
            yield entry
        limit -= len(page.entries)
        cursor = page.cursor
        if cursor is None:
            return


class Follower:
    """Reads a log as it grows: each entry once, in the order in which they can be seen."""

    def __init__(self, qstash: QStash, query: Query, clock: Clock) -> None:
        self._qstash = qstash
        self._query = query
        self._clock = clock
        self._seen: dict[tuple[int, str, str], None] = {}
        self._oldest_ms = 0  # what is older than the first entry shown was left out on purpose
        self._latest_ms = 0

    async def entries(self, limit: int) -> AsyncIterator[Json]:
        """Yield the last entries there are, and then, for ever, each new one."""
        begun = [entry async for entry in latest(self._qstash, self._query, limit)][::-1]
        if len(begun) == limit:
            self._oldest_ms = min(_time_ms(entry) for entry in begun)
        for entry in self._new(begun):
            yield entry
        pause_s = POLL_EVERY_S
        while True:
            await self._clock.sleep(pause_s)
            try:
                async for entry in self._poll():
                    yield entry
                pause_s = POLL_EVERY_S
            except (TransportError, ApiRefusal) as error:
                if isinstance(error, ApiRefusal) and 400 <= error.status < 500 and error.status != 429:
                    raise
                pause_s = _longer(pause_s, error)
                click.echo(f"{error}; trying again in {pause_s:g} s", err=True)

    async def _poll(self) -> AsyncIterator[Json]:
        from_ms = max(self._oldest_ms, self._latest_ms - OVERLAP_MS)
        query = [*self._query, ("fromDate", str(from_ms)), ("order", "earliestFirst")]
        cursor: str | None = None
        while True:
            page = await self._qstash.events(query, cursor)
            for entry in self._new(sorted(page.entries, key=_time_ms)):
                yield entry
            cursor = page.cursor
            if cursor is None:
                break
        self._seen = {key: None for key in self._seen if key[0] >= self._latest_ms - OVERLAP_MS}

    def _new(self, entries: list[Json]) -> list[Json]:
        fresh: list[Json] = []
        for entry in entries:
            key = (_time_ms(entry), str(entry.get("messageId")), str(entry.get("state")))
            if key in self._seen or key[0] < self._oldest_ms:
                continue
            self._seen[key] = None
            self._latest_ms = max(self._latest_ms, key[0])
            fresh.append(entry)
        return fresh


def _longer(pause_s: float, error: Exception) -> float:
    asked_s = error.retry_after_s if isinstance(error, ApiRefusal) else None
    return min(POLL_EVERY_S_MAX, max(pause_s * 2, asked_s or 0))


def _time_ms(entry: Json) -> int:
    time_ms = entry.get("time")
    return time_ms if isinstance(time_ms, int) else 0
