"""What operators do with stored messages: look at them, cancel them, and deal with dead letters."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from idioteque.clock import Clock
from idioteque.database import Database, Transaction
from idioteque.errors import DatabaseFull
from idioteque.ids import new_id
from idioteque.server.config import ServerConfig
from idioteque.server.core.deliverer import Deliverer
from idioteque.server.core.metrics import Metrics
from idioteque.server.errors import NotFound, StorageFull
from idioteque.server.model import DeadLetter, Filter, LogEntry, LogRow, Message, Page, States
from idioteque.server.storage.dead_letters import delete_dead_letters, list_dead_letters
from idioteque.server.storage.deliveries import Standing, cancel, insert_deliveries, pending_ids, queue_line, waiting
from idioteque.server.storage.log_pages import list_logs
from idioteque.server.storage.logs import insert_logs
from idioteque.server.storage.messages import find_message, insert_messages

PENDING_MAX = 10_000_000
BITE_MESSAGES = 500

CANCEL_REQUESTED_AND_CANCELED = States.CANCEL_REQUESTED | States.CANCELED

T = TypeVar("T")


class Operations:
    """Reads go to the storage; whatever changes a message goes through one transaction."""

    def __init__(
        self, config: ServerConfig, database: Database, clock: Clock, deliverer: Deliverer, metrics: Metrics
    ) -> None:
        self._config = config
        self._database = database
        self._clock = clock
        self._deliverer = deliverer
        self._metrics = metrics

    async def message(self, message_id: str) -> Message:
        """Return a message that is pending or was delivered lately; raise `NotFound` for any other."""
        since_ms = self._clock.now_ms() - self._config.delivered_readable_s * 1000
        found = await self._database.read(lambda tx: find_message(tx, message_id, since_ms, int(States.DELIVERED)))
        if found is None:
            raise NotFound(f"message {message_id[:100]} not found")
        return found

    async def cancel(self, chosen: Filter, page: Page) -> int:
        """Cancel pending messages that are chosen now, all of them unless a count was given; return how many.

        They are found by a reader and cancelled in bites, so that no publish waits long.
        """
        counts = page.has_count and self._config.cancel_honours_count
        count_max = page.count if counts else PENDING_MAX
        found = await self._database.read(lambda tx: pending_ids(tx, chosen, count_max))
        bites = [found[begin : begin + BITE_MESSAGES] for begin in range(0, len(found), BITE_MESSAGES)]
        return sum([await self._cancel(bite) for bite in bites])

    async def pending(self, chosen: Filter, count_max: int) -> list[str]:
        """Return the ids of pending messages that `cancel` would find, the oldest first."""
        return await self._database.read(lambda tx: pending_ids(tx, chosen, count_max))

    async def _cancel(self, message_ids: Sequence[str]) -> int:
        now_ms = self._clock.now_ms()
        cancelled = await self._written(lambda tx: cancel_all(tx, message_ids, now_ms))
        self._metrics.ended_by_cancel(cancelled.ended)
        for queue in cancelled.queues:
            self._deliverer.note_due(queue_line(queue), now_ms)
        return cancelled.count

    async def logs(self, chosen: Filter, page: Page) -> tuple[list[LogEntry], str | None]:
        """Return a page of the log, and the cursor of the next one."""
        since_ms = self._clock.now_ms() - self._config.log_retention_s * 1000
        return await self._database.read(lambda tx: list_logs(tx, chosen, page, since_ms))

    async def dead_letters(self, chosen: Filter, page: Page) -> tuple[list[DeadLetter], str | None]:
        """Return a page of dead letters, and the cursor of the next one."""
        return await self._database.read(lambda tx: list_dead_letters(tx, chosen, page))

    async def delete_dead_letters(self, chosen: Filter, page: Page) -> tuple[int, str | None]:
        """Delete a page of dead letters; return how many, and a cursor when more are left."""
        letters, cursor = await self.dead_letters(chosen, page)
        return len(await self._written(lambda tx: delete_dead_letters(tx, letters))), cursor

    async def retry_dead_letters(self, chosen: Filter, page: Page) -> tuple[list[str], str | None]:
        """Publish a page of dead letters as new messages, and remove them; return the new ids, and a cursor."""
        letters, cursor = await self.dead_letters(chosen, page)
        now_ms = self._clock.now_ms()

        def operation(tx: Transaction) -> list[Standing]:
            deleted = delete_dead_letters(tx, letters)
            standings = [_again(letter.message, now_ms) for letter in deleted]
            insert_messages(tx, [(standing.message, States.CREATED) for standing in standings])
            insert_deliveries(tx, standings)
            return standings

        standings = await self._written(operation)
        self._metrics.stored_new(len(standings))
        for standing in standings:
            self._deliverer.note_stored(standing)
        return [standing.message.id for standing in standings], cursor

    async def _written(self, operation: Callable[[Transaction], T]) -> T:
        try:
            return await self._database.write(operation, is_long=True)
        except DatabaseFull as error:
            raise StorageFull("there is no room left to store this; nothing was changed") from error


def _again(message: Message, now_ms: int) -> Standing:
    """Return a new message like a dead one, due now, with all its retries before it."""
    fresh = replace(message, id=new_id("msg", now_ms), created_at_ms=now_ms, not_before_ms=now_ms)
    return waiting(fresh, now_ms)


@dataclass(frozen=True, slots=True)
class Cancellation:
    """How many messages were cancelled, how many of them `ended` at once, and the queues that may have a free slot."""

    count: int
    ended: int
    queues: frozenset[str]


def cancel_all(tx: Transaction, message_ids: Sequence[str], now_ms: int) -> Cancellation:
    """Cancel pending messages."""
    rows: list[LogRow] = []
    queues: set[str] = set()
    ended = 0
    for message_id in message_ids:
        cancelled = cancel(tx, message_id)
        if cancelled is None:
            continue
        states = CANCEL_REQUESTED_AND_CANCELED if cancelled.ended else States.CANCEL_REQUESTED
        rows.append(LogRow(message_id, now_ms, states))
        ended += cancelled.ended
        if cancelled.queue is not None:
            queues.add(cancelled.queue)
    insert_logs(tx, rows)
    return Cancellation(len(rows), ended, frozenset(queues))


def only_ids(ids: Sequence[str]) -> Filter:
    """Return the filter that names ids."""
    return Filter(ids=tuple(ids))
