"""Publishes what schedules ask for, at their ticks: at most one message for each tick, whatever restarts come between.

A tick that was missed, because no server ran, is fired late if it is the latest one and young enough. All others are
noted on the schedule and in the log.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from idioteque.clock import Clock
from idioteque.cron import parse_cron
from idioteque.database import Database, Transaction
from idioteque.errors import InvalidValue
from idioteque.server.config import ServerConfig
from idioteque.server.core.loop import Alarm, logger
from idioteque.server.core.publisher import Publisher
from idioteque.server.core.schedules import order_of
from idioteque.server.core.url_groups import UrlGroups
from idioteque.server.errors import Refused
from idioteque.server.model import Draft, Schedule
from idioteque.server.storage.schedules import advance, due_schedules, next_schedule_ms

DUE_MAX = 200  # in one round
SLEEP_MAX_MS = 60_000  # then the time is looked at again: a clock that was set must not make a tick late by hours


@dataclass(frozen=True, slots=True)
class _Move:
    """What becomes of a due schedule: the tick it is moved behind, the next one, and why the tick does not fire."""

    schedule: Schedule
    tick_ms: int
    next_at_ms: int | None
    error: str | None = None


class Scheduler:
    """Fires the ticks of all schedules."""

    def __init__(
        self, config: ServerConfig, database: Database, clock: Clock, url_groups: UrlGroups, publisher: Publisher
    ) -> None:
        self._config = config
        self._database = database
        self._clock = clock
        self._url_groups = url_groups
        self._publisher = publisher
        self._alarm = Alarm(clock)

    async def run(self) -> None:
        """Fire whatever becomes due."""
        while True:
            next_at_ms = await self._database.read(next_schedule_ms)
            now_ms = self._clock.now_ms()
            await self._alarm.wait(None if next_at_ms is None else min(next_at_ms, now_ms + SLEEP_MAX_MS))
            await self.tick()

    def note(self, next_at_ms: int) -> None:
        """Learn that a schedule is due then."""
        self._alarm.ring()

    async def tick(self) -> int:
        """Fire every schedule that is due; return how many fired."""
        now_ms, fired = self._clock.now_ms(), 0
        while due := await self._database.read(lambda tx: due_schedules(tx, now_ms, DUE_MAX)):
            # Each is an operation of its own, so that one which fails leaves the others alone; they share commits.
            ended = await asyncio.gather(*(self._deal_with(each, now_ms) for each in due), return_exceptions=True)
            for each in ended:
                if isinstance(each, BaseException):
                    raise each
                fired += each
        return fired

    async def _deal_with(self, schedule: Schedule, now_ms: int) -> bool:
        move = self._move(schedule, now_ms)
        if move.error is None:
            try:
                return await self._fire(move, await self._drafts(schedule))
            except Refused as refusal:
                move = replace(move, error=str(refusal))
        logger.warning("schedule %s: %s", schedule.id, move.error)
        await self._database.write(lambda tx: _advance(tx, move, None))
        return False

    async def _drafts(self, schedule: Schedule) -> Sequence[Draft]:
        drafts, _ = await self._url_groups.address(order_of(schedule))
        return [replace(draft, source=replace(draft.source, schedule_id=schedule.id)) for draft in drafts]

    async def _fire(self, move: _Move, drafts: Sequence[Draft]) -> bool:
        return await self._publisher.publish_with(drafts, lambda tx, ids: _advance(tx, move, ids))

    def _move(self, schedule: Schedule, now_ms: int) -> _Move:
        """Decide which tick of a due schedule fires: the latest that is over, if it is young enough."""
        due_ms = schedule.next_at_ms
        assert due_ms is not None
        try:
            cron = parse_cron(schedule.cron)
        except InvalidValue as error:
            return _Move(schedule, due_ms, None, str(error))
        tick_ms = cron.latest_ms(due_ms, now_ms)
        if tick_ms > due_ms:
            logger.warning("schedule %s: ticks from %s on were missed", schedule.id, _instant(due_ms))
        missed = None
        if now_ms - tick_ms > self._config.schedule_catch_up_s * 1000:
            missed = f"the tick of {_instant(tick_ms)} was missed: no server ran, and it is too old to be made up for"
        return _Move(schedule, tick_ms, cron.next_ms(max(tick_ms, now_ms)), missed)


def _advance(tx: Transaction, move: _Move, message_ids: Sequence[str] | None) -> bool:
    return advance(tx, move.schedule, move.tick_ms, move.next_at_ms, message_ids, move.error)


def _instant(ms: int) -> str:
    return datetime.fromtimestamp(ms / 1000, tz=UTC).strftime("%Y-%m-%dT%H:%MZ")
