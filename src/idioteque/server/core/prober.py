"""Notices that a destination is back: one that refuses or cuts connections is asked for a bare TCP connection twice a
second, and when it accepts one, the retries that wait for it become due.

So a restarted worker gets its messages within a second instead of after a back-off of minutes. Two rules keep that
from burning the retries of a destination that is merely broken: a return that was never preceded by an observed
absence counts once, until the destination answers something; and each return without an answer in between must be
twice as far from the last one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field

from idioteque.clock import Clock
from idioteque.database import Database
from idioteque.errors import DatabaseError
from idioteque.server.config import ServerConfig
from idioteque.server.core.destinations import Destinations
from idioteque.server.core.loop import logger
from idioteque.server.storage.deliveries import hasten
from idioteque.transport import HttpTransport

PROBE_TIMEOUT_S = 2.0
SLOWING = 0.02  # the longer a destination is away, the more rarely it is probed: at this part of its absence
GAP_MAX_S = 3600.0


@dataclass(slots=True)
class _Absence:
    """What is known of a destination that failed to take or keep a connection, until it answers something.

    `lines` are those in which messages for it wait: its own, or those of queues and flow-control keys.
    """

    returns: int = 0
    last_return_s: float = 0.0
    trusted: bool = True
    lines: set[str] = field(default_factory=set[str])
    task: asyncio.Task[None] | None = None


class Prober:
    """Watches destinations that are away; `woken` is told the lines of its retries, and when they are due."""

    def __init__(
        self,
        config: ServerConfig,
        database: Database,
        clock: Clock,
        transport: HttpTransport,
        destinations: Destinations,
    ) -> None:
        self._config = config
        self._database = database
        self._clock = clock
        self._transport = transport
        self._destinations = destinations
        self._absent: dict[str, _Absence] = {}
        self._places = asyncio.Semaphore(config.probes_max)
        self.woken: Callable[[str, int], None] = destinations.note_due

    def notice(self, origin: str, line: str, *, unreached: bool, answered: bool = False) -> None:
        """Learn how an attempt ended: an answer ends an absence, a refused or cut connection begins one.

        `line` is the one in which the message waits when it is tried again.
        """
        if answered:
            if self._absent:
                absence = self._absent.pop(origin, None)
                if absence is not None and absence.task is not None:
                    # It was answered while it was watched: what waits there may go at once.
                    absence.task.cancel()
                    self._absent[origin] = absence = _Absence()
                    absence.task = asyncio.get_running_loop().create_task(self._wake(origin, absence))
        elif unreached:
            absence = self._absent.setdefault(origin, _Absence())
            absence.lines.add(line)
            if absence.task is None:
                absence.task = asyncio.get_running_loop().create_task(self._watch(origin, absence))

    async def stop(self) -> None:
        """End every watch."""
        tasks = [absence.task for absence in self._absent.values() if absence.task is not None]
        self._absent.clear()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _watch(self, origin: str, absence: _Absence) -> None:
        try:
            seen_away = await self._wait_for_return(origin, absence)
            if seen_away is None or not (seen_away or absence.trusted):
                return
            await self._clock.sleep(absence.last_return_s + self._gap_s(absence) - self._clock.monotonic_s())
            absence.trusted = absence.trusted and seen_away
            absence.returns += 1
            absence.last_return_s = self._clock.monotonic_s()
            await self._hasten(origin)
        finally:
            absence.task = None

    async def _wake(self, origin: str, absence: _Absence) -> None:
        try:
            await self._hasten(origin)
        finally:
            absence.task = None
            if self._absent.get(origin) is absence:
                del self._absent[origin]

    async def _wait_for_return(self, origin: str, absence: _Absence) -> bool | None:
        """Probe until the destination accepts a connection.

        Return whether it was seen to refuse one before, or None when nothing waits for it any more.
        """
        begun_s, seen_away = self._clock.monotonic_s(), False
        while self._waits(absence):
            away_s = self._clock.monotonic_s() - begun_s
            await self._clock.sleep(max(self._config.probe_every_s, away_s * SLOWING))
            async with self._places:
                if await self._transport.probe(origin, timeout_s=PROBE_TIMEOUT_S):
                    return seen_away
            seen_away = True
        return None

    def _waits(self, absence: _Absence) -> bool:
        """Whether messages wait for a destination; lines without any are forgotten."""
        absence.lines = {line for line in absence.lines if self._destinations.has_messages(line)}
        return bool(absence.lines)

    async def _hasten(self, origin: str) -> None:
        now_ms = self._clock.now_ms()
        try:
            lines = await self._database.write(lambda tx: hasten(tx, origin, now_ms), is_long=True)
        except DatabaseError as error:
            logger.warning("the retries for %s keep their times: %s", origin, error)
            return
        for line in lines:
            self.woken(line, now_ms)

    def _gap_s(self, absence: _Absence) -> float:
        return min(self._config.probe_every_s * 2**absence.returns, GAP_MAX_S) if absence.returns else 0.0
