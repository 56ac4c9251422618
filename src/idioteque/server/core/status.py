"""What an operator sees of a server: what it has, what it did lately, and what it keeps.

Nothing here scans a table, but for the count of rows, which is made once a minute at most.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib import metadata

from idioteque.clock import Clock
from idioteque.database import Database, SqliteDatabase, Transaction
from idioteque.histogram import DELAYS_S, quantile
from idioteque.server.config import ServerConfig
from idioteque.server.core.activity import Activity, added
from idioteque.server.core.deliverer import Deliverer
from idioteque.server.core.metrics import Metrics
from idioteque.server.model import Stretch, Waiting
from idioteque.server.storage.activity import count_dead_letters, count_retrying, count_rows
from idioteque.server.storage.lines import waiting_for_key, waiting_in_queue

COUNTED_MAX = 10_000
ROWS_COUNTED_EVERY_MS = 60_000
LATENCY_MS = 3_600_000  # percentiles are those of the last hour


@dataclass(frozen=True, slots=True)
class Latency:
    """From when a message was due to its delivery, in seconds; None where nothing was delivered."""

    p50_s: float | None
    p95_s: float | None


@dataclass(frozen=True, slots=True)
class Facts:
    """A server at a moment; `retrying` and `dead_letters` stop at `COUNTED_MAX`, `rows` are of the last minute."""

    version: str
    started_at_ms: int
    pending: int
    in_flight: int
    in_flight_max: int
    retrying: int
    dead_letters: int
    lines_held: int
    oldest_due_ms: int | None
    latency: Latency
    activity: Sequence[Stretch]
    file_bytes: int
    wal_bytes: int
    rows: Mapping[str, int]


class Status:
    """Tells the facts of one server, and who waits for a queue or a flow-control key."""

    def __init__(
        self,
        config: ServerConfig,
        database: Database,
        clock: Clock,
        deliverer: Deliverer,
        metrics: Metrics,
        activity: Activity,
    ) -> None:
        self.config = config
        self._database = database
        self._clock = clock
        self._deliverer = deliverer
        self._metrics = metrics
        self._activity = activity
        self._started_at_ms = clock.now_ms()
        self._rows: dict[str, int] = {}
        self._rows_counted_at_ms = 0

    async def facts(self) -> Facts:
        """Return what there is now."""

        def operation(tx: Transaction) -> tuple[int, int]:
            return count_retrying(tx, COUNTED_MAX), count_dead_letters(tx, COUNTED_MAX)

        retrying, dead_letters = await self._database.read(operation)
        rows = await self._counted_rows()
        stretches = self._activity.stretches()
        since_ms = self._clock.now_ms() - LATENCY_MS
        most, now = self._deliverer.parallelism
        file_bytes, wal_bytes = sizes(self._database)
        return Facts(
            version=metadata.version("idioteque"),
            started_at_ms=self._started_at_ms,
            pending=self._metrics.pending,
            in_flight=now,
            in_flight_max=most,
            retrying=retrying,
            dead_letters=dead_letters,
            lines_held=self._deliverer.lines_held,
            oldest_due_ms=self._deliverer.oldest_due_ms,
            latency=latency_of([one for one in stretches if one.began_ms >= since_ms]),
            activity=stretches,
            file_bytes=file_bytes,
            wal_bytes=wal_bytes,
            rows=rows,
        )

    async def _counted_rows(self) -> Mapping[str, int]:
        now_ms = self._clock.now_ms()
        if now_ms - self._rows_counted_at_ms >= ROWS_COUNTED_EVERY_MS:
            self._rows_counted_at_ms = now_ms
            self._rows = await self._database.read(count_rows)
        return self._rows

    async def waiting_for_key(self, key: str, count_max: int) -> list[Waiting]:
        """Return the messages that are due and wait for a flow-control key, in their order."""
        now_ms = self._clock.now_ms()
        return await self._database.read(lambda tx: waiting_for_key(tx, key, now_ms, count_max))

    async def waiting_in_queue(self, name: str, count_max: int) -> list[Waiting]:
        """Return the messages in a queue, in its order."""
        return await self._database.read(lambda tx: waiting_in_queue(tx, name, count_max))


def latency_of(stretches: Sequence[Stretch]) -> Latency:
    """Return the percentiles of some stretches together."""
    counts: tuple[int, ...] = ()
    for one in stretches:
        counts = added(counts, one.latency)
    return _percentiles(counts)


@lru_cache(maxsize=1024)  # the stretches of a day are asked for again and again, and all but one have ended
def _percentiles(counts: tuple[int, ...]) -> Latency:
    return Latency(quantile(DELAYS_S, counts, 0.5), quantile(DELAYS_S, counts, 0.95))


def sizes(database: Database) -> tuple[int, int]:
    """Return how many bytes a database file and its write-ahead log have; 0 for what is in memory."""
    if not isinstance(database, SqliteDatabase):
        return 0, 0
    return _size_bytes(database.path), _size_bytes(database.path + "-wal")


def _size_bytes(path: str) -> int:
    try:
        return os.stat(path).st_size
    except OSError:  # in memory
        return 0
