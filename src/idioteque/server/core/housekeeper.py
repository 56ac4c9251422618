"""Throws away what is too old: logs and the messages they are about, dead letters, deduplication ids."""

from __future__ import annotations

import sys
from functools import partial

from idioteque.clock import Clock
from idioteque.database import Database
from idioteque.server.config import ServerConfig
from idioteque.server.core.loop import logger
from idioteque.server.storage.dead_letters import count_dead_letters_before, delete_dead_letters_before
from idioteque.server.storage.flow_keys import delete_idle_flow_keys
from idioteque.server.storage.logs import count_ended, delete_logs_before, delete_oldest_logs
from idioteque.server.storage.messages import delete_deduplications_before

BITE_ROWS = 500  # in one transaction, so that no publish waits long
DAY_S = 86_400
WARNED_EVERY_MS = DAY_S * 1000


class Housekeeper:
    """Keeps the database at the size that its retention times give."""

    def __init__(self, config: ServerConfig, database: Database, clock: Clock) -> None:
        self._config = config
        self._database = database
        self._clock = clock
        self._warned_at_ms: int | None = None

    async def run(self) -> None:
        """Tidy up every minute."""
        while True:
            await self._clock.sleep(self._config.housekeeping_every_s)
            await self.tick()

    async def tick(self) -> int:
        """Delete everything whose time is over, in bites; return how many rows of it there were."""
        now_ms, config = self._clock.now_ms(), self._config
        await self._warn(now_ms)
        deleted = 0
        for delete in (
            partial(delete_logs_before, time_ms=now_ms - config.log_retention_s * 1000),
            partial(delete_dead_letters_before, time_ms=now_ms - config.dead_letter_retention_s * 1000),
            partial(delete_deduplications_before, time_ms=now_ms),
            partial(delete_idle_flow_keys, unused_since_ms=now_ms - config.flow_key_idle_s * 1000, now_ms=now_ms),
        ):
            deleted += await self._in_bites(delete, sys.maxsize)
        excess = await self._database.read(count_ended) - config.log_messages_max
        return deleted + await self._in_bites(partial(delete_oldest_logs), excess)

    async def _in_bites(self, delete: partial[int], count_max: int) -> int:
        """Delete until nothing is left, or so many are deleted; return how many."""
        deleted = 0
        while (wanted := min(BITE_ROWS, count_max - deleted)) > 0:
            count = await self._database.write(partial(delete, count_max=wanted), is_long=True)
            deleted += count
            if count < wanted:
                break
        return deleted

    async def _warn(self, now_ms: int) -> None:
        """Tell the operator, once a day, of dead letters that are deleted soon."""
        if self._warned_at_ms is not None and now_ms - self._warned_at_ms < WARNED_EVERY_MS:
            return
        config = self._config
        before_ms = now_ms - (config.dead_letter_retention_s - config.dead_letter_warning_s) * 1000
        count = await self._database.read(lambda tx: count_dead_letters_before(tx, before_ms))
        if count:
            self._warned_at_ms = now_ms
            logger.warning(
                "%d dead letters are deleted within the next %g days; retry or delete them, or keep them for longer "
                "with dead_letter_retention_s",
                count,
                config.dead_letter_warning_s / DAY_S,
            )
