"""Schedules as clients deal with them: made, overwritten, looked at, paused, resumed and deleted."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TypeVar

from idioteque.clock import Clock
from idioteque.cron import SEARCHED_YEARS, Cron, parse_cron
from idioteque.database import Database, Transaction
from idioteque.errors import DatabaseFull, InvalidValue
from idioteque.ids import new_id
from idioteque.server.config import ServerConfig
from idioteque.server.core.publisher import Publisher
from idioteque.server.core.url_groups import UrlGroups
from idioteque.server.errors import BadRequest, NotFound, QuotaExceeded, Refused, StorageFull
from idioteque.server.model import Options, Schedule
from idioteque.server.storage.schedules import (
    count_schedules,
    delete_schedule,
    find_schedule,
    list_schedules,
    message_fates,
    save_schedule,
    set_paused,
)
from idioteque.server.wire.headers import Pairs
from idioteque.server.wire.publish import Order, PublishReader
from idioteque.server.wire.target import checked_name

CRON = "upstash-cron"
SCHEDULE_ID = "upstash-schedule-id"
QUEUE_NAME = "upstash-queue-name"
NOT_BEFORE = "upstash-not-before"

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Shown:
    """A schedule, what its publish headers mean, and the fates of its last messages by their ids."""

    schedule: Schedule
    options: Options
    fates: dict[str, str]


class Schedules:
    """Keeps schedules; `changed` is called with the next tick of one that was made or resumed."""

    def __init__(
        self,
        config: ServerConfig,
        database: Database,
        clock: Clock,
        reader: PublishReader,
        url_groups: UrlGroups,
        publisher: Publisher,
    ) -> None:
        self._config = config
        self._database = database
        self._clock = clock
        self._reader = reader
        self._url_groups = url_groups
        self._publisher = publisher
        self.changed: Callable[[int], None] = _nobody

    async def create(self, order: Order) -> str:
        """Store the schedule that an order and its `Upstash-Cron` describe, in place of one of its id; return the id.

        What is replaced keeps its creation time, its pause and its past. Raise `Refused` for a bad one.
        """
        wanted, cron = await self._read(order)
        now_ms = self._clock.now_ms()

        def operation(tx: Transaction) -> Schedule:
            present = find_schedule(tx, wanted.id)
            if present is None and count_schedules(tx) >= self._config.schedules_max:
                raise QuotaExceeded(f"quota maxSchedules exceeded, current limit: {self._config.schedules_max}")
            schedule = wanted
            if present is not None:
                schedule = replace(wanted, created_at_ms=present.created_at_ms, paused=present.paused)
            next_at_ms = None if schedule.paused else _next_ms(cron, now_ms, present)
            schedule = replace(schedule, next_at_ms=next_at_ms)
            save_schedule(tx, schedule)
            return schedule

        self._note(await self._written(operation))
        return wanted.id

    async def schedule(self, schedule_id: str) -> Shown:
        """Return a schedule; raise `NotFound` when there is none."""

        def operation(tx: Transaction) -> Shown | None:
            schedule = find_schedule(tx, schedule_id)
            return None if schedule is None else self._shown(tx, schedule)

        shown = await self._database.read(operation)
        if shown is None:
            raise _unknown(schedule_id)
        return shown

    async def schedules(self) -> list[Shown]:
        """Return all schedules, the oldest first."""
        return await self._database.read(lambda tx: [self._shown(tx, each) for each in list_schedules(tx)])

    async def delete(self, schedule_id: str) -> None:
        """Delete a schedule, if there is one; messages that it has made go on."""
        await self._database.write(lambda tx: delete_schedule(tx, schedule_id))

    async def pause(self, schedule_id: str) -> None:
        """Let no tick fire; those that fall meanwhile are not made up for."""
        await self._written(lambda tx: set_paused(tx, _found(tx, schedule_id).id, None, paused=True))

    async def resume(self, schedule_id: str) -> None:
        """Let ticks fire again, from the next one on."""
        now_ms = self._clock.now_ms()

        def operation(tx: Transaction) -> Schedule:
            schedule = _found(tx, schedule_id)
            if not schedule.paused:
                return schedule
            next_at_ms = _next_ms(parse_cron(schedule.cron), now_ms, schedule)
            set_paused(tx, schedule_id, next_at_ms, paused=False)
            return replace(schedule, paused=False, next_at_ms=next_at_ms)

        self._note(await self._written(operation))

    def _note(self, schedule: Schedule) -> None:
        if schedule.next_at_ms is not None:
            self.changed(schedule.next_at_ms)

    async def _read(self, order: Order) -> tuple[Schedule, Cron]:
        now_ms = self._clock.now_ms()
        given = dict(order.headers)
        cron = _checked_cron(given.get(CRON, ""), now_ms)
        if given.get(NOT_BEFORE):
            raise BadRequest("Upstash-Not-Before has no meaning for a schedule; use Upstash-Delay")
        id_, queue = given.get(SCHEDULE_ID), given.get(QUEUE_NAME)
        headers = [pair for pair in order.headers if pair[0] not in (CRON, SCHEDULE_ID, QUEUE_NAME, NOT_BEFORE)]
        queue = checked_name("Upstash-Queue-Name", queue) if queue else None
        drafts, _ = await self._url_groups.address(replace(order, headers=headers, queue=queue))
        for draft in drafts:
            self._publisher.check(draft)
        schedule = Schedule(
            id=new_id("scd", now_ms) if id_ is None else checked_name("Upstash-Schedule-Id", id_.strip()),
            cron=given[CRON].strip(),
            destination=drafts[0].source.url_group or drafts[0].url,
            headers=tuple(self._reader.lasting(headers)),
            body=order.body,
            queue_name=queue,
            caller_ip=order.caller_ip,
            created_at_ms=now_ms,
        )
        return schedule, cron

    def _shown(self, tx: Transaction, schedule: Schedule) -> Shown:
        try:
            options = self._reader.options(schedule.headers)
        except Refused:
            options = Options()  # limits that were narrowed since; the next tick says so in `error`
        return Shown(schedule, options, message_fates(tx, schedule.message_ids))

    async def _written(self, operation: Callable[[Transaction], T]) -> T:
        try:
            return await self._database.write(operation)
        except DatabaseFull as error:
            raise StorageFull("there is no room left to store this; nothing was changed") from error


def order_of(schedule: Schedule) -> Order:
    """Return what a schedule publishes at each tick."""
    headers: Pairs = schedule.headers
    return Order(schedule.destination, headers, schedule.body, schedule.caller_ip, schedule.queue_name)


def asks_for_schedule(headers: Pairs) -> bool:
    """Whether a publish is meant as the making of a schedule."""
    return any(name == CRON for name, _ in headers)


def _checked_cron(text: str, now_ms: int) -> Cron:
    if not text.strip():
        raise BadRequest("invalid Upstash-Cron: a schedule needs one, like '*/5 * * * *'")
    try:
        cron = parse_cron(text)
    except InvalidValue as error:
        raise BadRequest(f"invalid Upstash-Cron: {error}") from None
    if cron.next_ms(now_ms) is None:
        raise BadRequest(f"invalid Upstash-Cron: {text.strip()!r} has no date within the next {SEARCHED_YEARS} years")
    return cron


def _next_ms(cron: Cron, now_ms: int, present: Schedule | None) -> int | None:
    """Return the tick to come: never one that was dealt with before, not even when the clock was set back."""
    last_ms = present.last_at_ms if present is not None else None
    return cron.next_ms(max(now_ms, last_ms or 0))


def _found(tx: Transaction, schedule_id: str) -> Schedule:
    schedule = find_schedule(tx, schedule_id)
    if schedule is None:
        raise _unknown(schedule_id)
    return schedule


def _unknown(schedule_id: str) -> NotFound:
    return NotFound(f"schedule {schedule_id[:100]} not found")


def _nobody(next_at_ms: int) -> None:
    return
