"""Sends what is due: claims it in batches, keeps its leases, and records how the attempts ended.

New messages come here leased already. What was put off, or left by another process, is found by a claim; a claim is
made when its time comes or a slot gets free, never to look whether there is something.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from idioteque.clock import Clock
from idioteque.database import Database, Transaction
from idioteque.errors import DatabaseBroken, DatabaseError
from idioteque.server.config import ServerConfig
from idioteque.server.core.admission import Admitted
from idioteque.server.core.courier import Attempted, Courier
from idioteque.server.core.destinations import Destinations
from idioteque.server.core.lines import Turn, Waits, claim_in_line, is_line
from idioteque.server.core.loop import RETRY_AFTER_FAULT_S, Alarm, Gathering, logger
from idioteque.server.core.metrics import Metrics
from idioteque.server.core.outcomes import Retried
from idioteque.server.core.prober import Prober
from idioteque.server.core.settlement import Finished, Outcome, Settlement, reports
from idioteque.server.model import Accepted, Lease, LogRow, States
from idioteque.server.network import split_url
from idioteque.server.storage.deliveries import (
    Standing,
    all_next_due_ms,
    all_unreached,
    claim_due,
    count_waiting,
    free_all,
    free_lost,
    hand_back,
    next_due_ms,
    queue_line,
    renew,
)
from idioteque.server.storage.logs import insert_logs


@dataclass(slots=True)
class _Flight:
    """A message on its way: its lease, the end of the lease, when its attempt began, and what breaks that off."""

    lease: Lease
    origin: str
    until_ms: int
    begun_s: float
    break_off: Callable[[], object] | None = None
    """None when no attempt is under way: it has ended, or never began because the server stops."""


class Deliverer:
    """Owns every message that this process holds a lease on."""

    def __init__(
        self,
        config: ServerConfig,
        database: Database,
        clock: Clock,
        courier: Courier,
        destinations: Destinations,
        settlement: Settlement,
        prober: Prober,
        metrics: Metrics,
    ) -> None:
        self._config = config
        self._database = database
        self._clock = clock
        self._courier = courier
        self._destinations = destinations
        self._settlement = settlement
        self._prober = prober
        self._metrics = metrics
        self._alarm = Alarm(clock)
        self._finished: Gathering[Finished, None] = Gathering(self._settle)
        self._flights: dict[str, _Flight] = {}
        self._waits = Waits()
        self._draining = False
        self._still = asyncio.Event()
        """Set when no attempt is under way, looked at by `drain` alone."""

    async def recover(self) -> None:
        """Free what the process before had leased, and learn what is due when. Called once, before anything else."""
        now_ms = self._clock.now_ms()

        def operation(tx: Transaction) -> tuple[list[tuple[str, int]], list[tuple[str, str]], int]:
            free_all(tx, now_ms)
            return all_next_due_ms(tx), all_unreached(tx), count_waiting(tx)

        due, unreached, count = await self._database.write(operation, is_long=True)
        self._metrics.found(count)
        for origin, due_ms in due:
            self._destinations.note_due(origin, now_ms if is_line(origin) else due_ms)
        for origin, line in unreached:
            self._prober.notice(origin, line, unreached=True)

    async def run(self) -> None:
        """Claim whatever becomes due."""
        while True:
            await self._alarm.wait(self._destinations.next_due_ms())
            await self.tick()

    async def tick(self) -> int:
        """Claim what is due, as far as there is room, and begin to send it; return how many messages."""
        begun = 0
        while taken := self._destinations.take_due(self._clock.now_ms(), self._config.claim_max):
            begun += await self._claim(taken)
        return begun

    async def keep_leases(self) -> None:
        """Renew, in one statement each time, the leases that have less than two thirds of their life left."""
        while True:
            await self._clock.sleep(self._config.renew_every_s)
            await self.renew()

    async def renew(self) -> int:
        """Renew the leases that grow old, and free those that nobody has renewed; return how many were renewed."""
        now_ms = self._clock.now_ms()
        until_ms = now_ms + self._config.lease_ms
        old = [flight for flight in self._flights.values() if flight.until_ms - now_ms <= self._config.lease_ms * 2 / 3]
        leases = [flight.lease for flight in old]

        def operation(tx: Transaction) -> set[str]:
            renew(tx, leases, until_ms)
            return free_lost(tx, now_ms)

        lost = await self._database.write(operation)
        for flight in old:
            flight.until_ms = until_ms
        for origin in lost:
            self.note_due(origin, now_ms)
        return len(old)

    def admitted(self, admitted: Sequence[Admitted], accepted: Sequence[Accepted]) -> None:
        """Take over messages that have just been stored."""
        self._metrics.stored(accepted)
        for each, result in zip(admitted, accepted, strict=True):
            standing = each.standing
            if not standing.leased:
                if not result.deduplicated:
                    self.note_stored(standing)
            elif result.deduplicated:
                self._release(standing.origin)
            else:
                lease = Lease(standing.message, 1, 0, standing.slot)
                self._begin(lease, standing.origin, standing.visible_at_ms)

    def abandoned(self, admitted: Sequence[Admitted]) -> None:
        """Give back the slots of messages that could not be stored."""
        for each in admitted:
            if each.standing.leased:
                self._release(each.standing.origin)

    def note_due(self, origin: str, due_ms: int) -> None:
        """Learn that a destination has a stored message that becomes visible then."""
        self._destinations.note_due(origin, due_ms)
        self._alarm.ring()

    def note_stored(self, standing: Standing) -> None:
        """Learn that a message was stored that is due at its time; the limits of its key may be others than before."""
        self.note_due(standing.origin, standing.visible_at_ms)
        if standing.message.options.flow is not None:
            self.note_room(standing.message.options.flow.key)

    def note_room(self, key: str) -> None:
        """Learn that a flow-control key may admit more."""
        now_ms = self._clock.now_ms()
        for line in self._waits.waiting_for(key):
            self.note_due(line, now_ms)

    async def drain(self) -> None:
        """Let attempts that are under way end within the grace, and hand the rest back uncounted."""
        self._draining = True
        if any(flight.break_off for flight in self._flights.values()):
            timer = asyncio.ensure_future(self._clock.sleep(self._config.drain_s))
            ended = asyncio.ensure_future(self._still.wait())
            await asyncio.wait({timer, ended}, return_when=asyncio.FIRST_COMPLETED)
            timer.cancel()
            ended.cancel()
            for flight in self._flights.values():
                if flight.break_off is not None:
                    flight.break_off()
            await self._courier.close()
        await self._finished.idle()
        left = [flight.lease for flight in self._flights.values()]
        self._flights.clear()
        if left:
            now_ms = self._clock.now_ms()
            await self._database.write(lambda tx: hand_back(tx, left, now_ms))

    @property
    def parallelism(self) -> tuple[int, int]:
        """How many messages may be under way at once, and how many are."""
        return self._config.in_flight_max, self._destinations.in_flight

    @property
    def oldest_due_ms(self) -> int | None:
        """Since when the message has waited that has been due for the longest; None when none is due."""
        due_ms = self._destinations.oldest_due_ms()
        return due_ms if due_ms is not None and due_ms <= self._clock.now_ms() else None

    @property
    def oldest_due_s(self) -> float:
        """How long the message has waited that has been due for the longest; 0 when none is."""
        due_ms = self.oldest_due_ms
        return 0.0 if due_ms is None else (self._clock.now_ms() - due_ms) / 1000

    @property
    def lines_held(self) -> int:
        """How many lines wait for a flow-control key to admit more."""
        return len(self._waits)

    @property
    def in_flight(self) -> int:
        """How many messages this process holds."""
        return len(self._flights)

    async def _claim(self, taken: Sequence[tuple[str, int]]) -> int:
        now_ms = self._clock.now_ms()
        until_ms = now_ms + self._config.lease_ms

        try:
            turns = await self._database.write(lambda tx: _turns(tx, taken, now_ms, until_ms))
        except DatabaseError:
            for origin, count in taken:
                self._destinations.note_due(origin, now_ms)
                self._destinations.release(origin, count)
            raise
        self._begin_turns(taken, turns, until_ms)
        return sum(len(turn.leases) for turn in turns)

    def _begin_turns(self, taken: Sequence[tuple[str, int]], turns: Sequence[Turn], until_ms: int) -> None:
        """Send what was claimed for slots that are taken, and give the others back."""
        for (origin, count), turn in zip(taken, turns, strict=True):
            self._destinations.set_due(origin, turn.next_at_ms)
            self._waits.replace(origin, turn.awaited)
            begun = sum(self._begin(lease, origin, until_ms) for lease in turn.leases)
            if begun < count:
                self._destinations.release(origin, count - begun)

    def _begin(self, lease: Lease, origin: str, until_ms: int) -> bool:
        """Send a message whose slot is taken; False when it is on its way already, under a lease that ran out."""
        flight = self._flights.get(lease.message.id)
        if flight is not None:
            flight.lease, flight.until_ms = lease, until_ms
            return False
        flight = self._flights[lease.message.id] = _Flight(lease, origin, until_ms, self._clock.monotonic_s())
        if not self._draining:
            flight.break_off = self._courier.begin(lease, partial(self._attempted, flight))
        return True

    def _attempted(self, flight: _Flight, attempted: Attempted) -> None:
        flight.break_off = None
        answer, origin, now_ms = attempted.answer, flight.origin, self._clock.now_ms()
        self._metrics.attempted(answer.status, self._clock.monotonic_s() - flight.begun_s)
        reached = split_url(flight.lease.message.url).origin if is_line(origin) else origin
        self._prober.notice(reached, origin, unreached=attempted.unreached, answered=answer.status > 0)
        self._finished.put(Finished(flight.lease, origin, answer, attempted.unreached, now_ms))
        if self._draining and not any(each.break_off for each in self._flights.values()):
            self._still.set()

    async def _settle(self, finished: list[Finished]) -> list[None]:
        """Record outcomes in one transaction, as often as it takes: an outcome is never given up while we live.

        Those whose turn is next, in the lines of queues and flow-control keys, are leased in the same transaction.
        """
        outcomes = [self._settlement.decide(each) for each in finished]
        taken = self._next_turns(finished)
        while True:
            now_ms = self._clock.now_ms()
            try:
                begun, turns = await self._database.write(partial(self._apply, outcomes, taken, now_ms))
                break
            except DatabaseBroken:
                raise
            except DatabaseError as error:
                logger.error("outcomes of %d attempts wait for the database: %s", len(outcomes), error)
                await self._clock.sleep(RETRY_AFTER_FAULT_S)
        for outcome, states in zip(outcomes, begun, strict=True):
            self._after(outcome, states)
        self._begin_turns(taken, turns, now_ms + self._config.lease_ms)
        self._alarm.ring()
        return [None] * len(finished)

    def _next_turns(self, finished: Sequence[Finished]) -> list[tuple[str, int]]:
        """Return lines in which attempts ended, with the slots that they may have again."""
        ended = Counter(each.origin for each in finished if is_line(each.origin))
        if self._draining:
            for line, count in ended.items():
                self._destinations.release(line, count)
            return []
        again = [(line, self._destinations.retake(line, count)) for line, count in sorted(ended.items())]
        return [(line, count) for line, count in again if count]

    def _apply(
        self, outcomes: Sequence[Outcome], taken: Sequence[tuple[str, int]], now_ms: int, tx: Transaction
    ) -> tuple[list[States | None], list[Turn]]:
        begun = self._settlement.apply(tx, outcomes)
        return begun, _turns(tx, taken, now_ms, now_ms + self._config.lease_ms) if taken else []

    def _after(self, outcome: Outcome, states: States | None) -> None:
        """Let go of a message whose outcome is stored, and begin what follows from it."""
        finished = outcome.finished
        del self._flights[finished.lease.message.id]
        self._metrics.settled(finished.lease.message, states, finished.time_ms)
        if isinstance(outcome.verdict, Retried) and states is not None and states & States.RETRY:
            self._destinations.note_due(finished.origin, outcome.verdict.due_at_ms)
            self._alarm.ring()
        if is_line(finished.origin):
            self._after_turn(finished.lease)  # its slot was given back already, or taken by the next
        else:
            self._release(finished.origin)
            self._after_slot(finished.lease)
        if outcome.callbacks:
            if reports(states):
                results = [Accepted(c.standing.message.id, c.standing.message.url) for c in outcome.callbacks]
                self.admitted(outcome.callbacks, results)
            else:
                self.abandoned(outcome.callbacks)

    def _after_turn(self, lease: Lease) -> None:
        """Let others have their turn, whom a queue or a flow-control key kept waiting for this message."""
        self._after_slot(lease)
        if lease.message.options.flow is not None:
            self.note_room(lease.message.options.flow.key)

    def _after_slot(self, lease: Lease) -> None:
        if lease.slot is not None:
            self.note_due(queue_line(lease.slot.queue), self._clock.now_ms())

    def _release(self, origin: str) -> None:
        self._destinations.release(origin)
        if self._destinations.has_claimable():
            self._alarm.ring()


def _turns(tx: Transaction, taken: Sequence[tuple[str, int]], now_ms: int, until_ms: int) -> list[Turn]:
    """Lease what is due, for each destination or line at most as many as it has slots."""
    turns = [
        claim_in_line(tx, origin, count, now_ms, until_ms)
        if is_line(origin)
        else Turn(claim_due(tx, origin, count, now_ms, until_ms), next_due_ms(tx, origin))
        for origin, count in taken
    ]
    leases = [lease for turn in turns for lease in turn.leases]
    insert_logs(tx, [LogRow(lease.message.id, now_ms, States.ACTIVE) for lease in leases])
    return turns
