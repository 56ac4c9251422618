"""The end of old runs: deleted now and then at the end of a delivery, since nothing here runs by itself."""

from __future__ import annotations

import logging

from idioteque.clock import Clock
from idioteque.errors import first_line
from idioteque.store import Store
from idioteque.upkeep import upkeep_of

PURGE_EVERY_S = 3600.0
PURGE_AGAIN_S = 60.0
RUNS_AT_ONCE_MAX = 200

_log = logging.getLogger("idioteque")


class Retention:
    """Deletes runs that ended longer ago than `retention_s`, and dismissals of that age. None keeps all."""

    def __init__(self, store: Store, clock: Clock, retention_s: float | None) -> None:
        self._upkeep = None if retention_s is None else upkeep_of(store)
        self._clock = clock
        self._retention_ms = round((retention_s or 0.0) * 1000)
        self._next_s = clock.monotonic_s()

    async def tend(self) -> None:
        """Purge if it is time: once an hour, and sooner while there is more than one purge takes. Never raises."""
        if self._upkeep is None or self._clock.monotonic_s() < self._next_s:
            return
        self._next_s = self._clock.monotonic_s() + PURGE_EVERY_S
        try:
            count = await self._upkeep.purge(self._clock.now_ms() - self._retention_ms, RUNS_AT_ONCE_MAX)
        except Exception as error:  # the store is away: the next time will do
            _log.warning("old runs could not be deleted: %s", first_line(error))
            return
        if count:
            _log.info("%d old runs and dismissals were deleted", count)
        if count == RUNS_AT_ONCE_MAX:
            self._next_s = self._clock.monotonic_s() + PURGE_AGAIN_S
