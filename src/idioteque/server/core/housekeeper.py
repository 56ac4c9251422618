"""Throws away what is too old: logs and the messages they are about, dead letters, deduplication ids."""

from __future__ import annotations

from idioteque.clock import Clock
from idioteque.database import Database
from idioteque.server.config import ServerConfig
from idioteque.server.storage.dead_letters import delete_dead_letters_before
from idioteque.server.storage.logs import delete_logs_before
from idioteque.server.storage.messages import delete_deduplications_before

BITE_ROWS = 500  # in one transaction, so that no publish waits long


class Housekeeper:
    """Keeps the database at the size that its retention times give."""

    def __init__(self, config: ServerConfig, database: Database, clock: Clock) -> None:
        self._config = config
        self._database = database
        self._clock = clock

    async def run(self) -> None:
        """Tidy up every minute."""
        while True:
            await self._clock.sleep(self._config.housekeeping_every_s)
            await self.tick()

    async def tick(self) -> int:
        """Delete everything whose time is over, in bites; return how many rows of it there were."""
        now_ms, config = self._clock.now_ms(), self._config
        duties = (
            (delete_logs_before, now_ms - config.log_retention_s * 1000),
            (delete_dead_letters_before, now_ms - config.dead_letter_retention_s * 1000),
            (delete_deduplications_before, now_ms),
        )
        deleted = 0
        for delete, before_ms in duties:
            count = BITE_ROWS
            while count == BITE_ROWS:
                count = await self._database.write(lambda tx, d=delete, b=before_ms: d(tx, b, BITE_ROWS))
                deleted += count
        return deleted
