"""Fills a server's database while no server runs, through its own storage layer: a million publishes take minutes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from idioteque.clock import SystemClock
from idioteque.database import SqliteDatabase, Transaction, migrate
from idioteque.ids import new_id
from idioteque.server.app import MIGRATIONS
from idioteque.server.config import ServerConfig
from idioteque.server.core.admission import Admission
from idioteque.server.core.destinations import Destinations
from idioteque.server.model import Answer, DeadLetter, Draft, LogRow, Message, Options, States
from idioteque.server.storage.dead_letters import insert_dead_letters
from idioteque.server.storage.logs import insert_logs
from idioteque.server.storage.messages import insert_messages

BODY = b'{"v":"' + b"x" * 292 + b'"}'
PART = 10_000
DAY_MS = 86_400_000
BETWEEN_MS = 100  # one dead letter and the next

Progress = Callable[[int], None]
"""Told of every part how many rows it added."""


async def pending_messages(folder: Path, url: str, count: int, progress: Progress) -> None:
    """Add messages for a destination that are due tomorrow, as the server's own admission stores them."""
    config, clock = ServerConfig(), SystemClock()
    admission = Admission(config, clock, Destinations(config.in_flight_max, config.destination_share))
    options = Options(not_before_ms=clock.now_ms() + DAY_MS, headers=(("Content-Type", "application/json"),))
    draft = Draft(url, BODY, options)

    def store(tx: Transaction, size: int) -> None:
        admission.store(tx, [admission.admit(draft) for _ in range(size)])

    await _in_parts(folder, count, store, progress)


async def dead_letters(folder: Path, count: int, progress: Progress) -> None:
    """Add messages that have failed, as far apart as they would be in some days, each with its log."""
    now_ms = SystemClock().now_ms()
    times = iter(range(now_ms - count * BETWEEN_MS, now_ms, BETWEEN_MS))
    options, answer = Options(), Answer(500, (("content-type", "text/plain"),), b"no")

    def store(tx: Transaction, size: int) -> None:
        messages = [
            Message(new_id("msg", at_ms), f"https://shop{at_ms % 7}.test/hook", BODY, options, at_ms, at_ms)
            for _, at_ms in zip(range(size), times, strict=False)
        ]
        insert_messages(tx, [(message, States.CREATED | States.ACTIVE) for message in messages])
        insert_dead_letters(
            tx, [DeadLetter(new_id("dlq", m.created_at_ms), m, m.created_at_ms, answer) for m in messages]
        )
        insert_logs(tx, [LogRow(m.id, m.created_at_ms, States.ERROR | States.FAILED, answer) for m in messages])

    await _in_parts(folder, count, store, progress)


async def _in_parts(folder: Path, count: int, store: Callable[[Transaction, int], None], progress: Progress) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    database = SqliteDatabase(str(folder / "server.db"), durability="relaxed")
    try:
        await migrate(database, "server", MIGRATIONS)
        for size in _parts(count):
            await database.write(partial(_stored, store=store, size=size))
            progress(size)
    finally:
        await database.close()


def _stored(tx: Transaction, store: Callable[[Transaction, int], None], size: int) -> None:
    store(tx, size)


def _parts(count: int) -> Iterator[int]:
    yield from [PART] * (count // PART)
    if count % PART:
        yield count % PART
