"""Queues as clients deal with them: made, looked at, paused, resumed, deleted. How they move stands in `lines.py`."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from idioteque.clock import Clock
from idioteque.database import Database, Transaction
from idioteque.errors import DatabaseFull
from idioteque.server.config import ServerConfig
from idioteque.server.core.deliverer import Deliverer
from idioteque.server.core.metrics import Metrics
from idioteque.server.core.operations import PENDING_MAX, Cancellation, Operations, cancel_all
from idioteque.server.errors import NotFound, QuotaExceeded, StorageFull
from idioteque.server.model import Filter, Page, Queue
from idioteque.server.storage.deliveries import pending_ids, queue_line
from idioteque.server.storage.queues import (
    count_queues,
    delete_queue,
    find_queue,
    has_queue,
    list_queues,
    save_queue,
    set_queue_paused,
)
from idioteque.server.wire.queues import QueueSettings
from idioteque.server.wire.target import checked_name

KNOWN_MAX = 100_000

T = TypeVar("T")


class Queues:
    """Keeps queues; a message that is put into one that does not exist makes it."""

    def __init__(
        self,
        config: ServerConfig,
        database: Database,
        clock: Clock,
        deliverer: Deliverer,
        operations: Operations,
        metrics: Metrics,
    ) -> None:
        self._metrics = metrics
        self._config = config
        self._database = database
        self._clock = clock
        self._deliverer = deliverer
        self._operations = operations
        self._known: set[str] = set()

    def is_known(self, name: str) -> bool:
        """Whether a queue was checked before."""
        return name in self._known

    async def check(self, name: str) -> None:
        """Raise `BadRequest` for a name that no queue may have, `QuotaExceeded` for one too many.

        A queue that is put into often is not looked up again.
        """
        if name in self._known:
            return
        checked_name("queue name", name)
        await self._database.read(lambda tx: self._check_quota(tx, name))
        if len(self._known) < KNOWN_MAX:
            self._known.add(name)

    async def queue(self, name: str) -> Queue:
        """Return a queue; raise `NotFound` when there is none."""
        queue = await self._database.read(lambda tx: find_queue(tx, name))
        if queue is None:
            raise _unknown(name)
        return queue

    async def queues(self) -> list[Queue]:
        """Return all queues."""
        return await self._database.read(list_queues)

    async def save(self, settings: QueueSettings) -> None:
        """Make a queue or change it; raise `QuotaExceeded` for one too many, or too much parallelism."""
        limit, now_ms = self._config.queue_parallelism_max, self._clock.now_ms()
        if settings.parallelism is not None and settings.parallelism > limit:
            raise QuotaExceeded(f"quota maxQueueParallelism exceeded, current limit: {limit}")

        def operation(tx: Transaction) -> None:
            self._check_quota(tx, settings.name)
            save_queue(tx, settings.name, settings.parallelism, settings.paused, now_ms)

        await self._written(operation)
        self._deliverer.note_due(queue_line(settings.name), now_ms)

    async def pause(self, name: str) -> None:
        """Let no attempt begin; those under way end, and callbacks are sent."""
        await self._set_paused(name, paused=True)

    async def resume(self, name: str) -> None:
        """Let messages be sent again, beginning where it stopped."""
        await self._set_paused(name, paused=False)

    async def delete(self, name: str) -> None:
        """Delete a queue, if there is one, and cancel what is in it."""
        inside = Filter(fields={"queue_name": (name,)})
        await self._operations.cancel(inside, Page())
        now_ms = self._clock.now_ms()

        def operation(tx: Transaction) -> Cancellation:
            # What came in since.
            cancelled = cancel_all(tx, pending_ids(tx, inside, PENDING_MAX), now_ms)
            delete_queue(tx, name)
            return cancelled

        self._metrics.ended_by_cancel((await self._written(operation)).ended)
        self._known.discard(name)

    async def _set_paused(self, name: str, *, paused: bool) -> None:
        now_ms = self._clock.now_ms()
        if not await self._written(lambda tx: set_queue_paused(tx, name, now_ms, paused=paused)):
            raise _unknown(name)
        self._deliverer.note_due(queue_line(name), now_ms)

    def _check_quota(self, tx: Transaction, name: str) -> None:
        limit = self._config.queues_max
        if not has_queue(tx, name) and count_queues(tx) >= limit:
            raise QuotaExceeded(f"quota maxQueues exceeded, current limit: {limit}")

    async def _written(self, operation: Callable[[Transaction], T]) -> T:
        try:
            return await self._database.write(operation)
        except DatabaseFull as error:
            raise StorageFull("there is no room left to store this; nothing was changed") from error


def _unknown(name: str) -> NotFound:
    return NotFound(f"queue {name[:100]} not found")
