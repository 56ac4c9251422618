"""What happened in the last day, in stretches of five minutes: read from memory, stored once a minute."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from idioteque.clock import Clock
from idioteque.database import Database
from idioteque.server.core.metrics import Metrics
from idioteque.server.model import Stretch
from idioteque.server.storage.activity import load_activity, save_activity

STRETCH_MS = 300_000
KEPT_MS = 86_400_000
STORED_EVERY_S = 60.0


class Activity:
    """Adds up what the metrics have counted since they were looked at last.

    A process that is killed takes the last minute with it. Whoever looks reads no table, and a server at rest writes
    nothing.
    """

    def __init__(self, metrics: Metrics, database: Database, clock: Clock) -> None:
        self._metrics = metrics
        self._database = database
        self._clock = clock
        self._stretches: list[Stretch] = []
        self._counted = self._so_far()  # what of the metrics is in the stretches
        self._unstored: dict[int, Stretch] = {}

    async def load(self) -> None:
        """Take over what earlier processes have stored."""
        since_ms = self._clock.now_ms() - KEPT_MS
        self._stretches = await self._database.read(lambda tx: load_activity(tx, since_ms))
        for one in self._stretches:
            if len(one.latency) != len(self._counted.latency):  # stored by a release with other bounds
                one.latency = ()

    async def run(self) -> None:
        """Store what is new every minute."""
        while True:
            await self._clock.sleep(STORED_EVERY_S)
            await self.tick()

    async def tick(self) -> int:
        """Store what is new; return how many stretches have changed."""
        self._count()
        if not self._unstored:
            return 0
        changed, self._unstored = self._unstored, {}
        stored, before_ms = [replace(one) for one in changed.values()], self._clock.now_ms() - KEPT_MS
        try:
            await self._database.write(lambda tx: save_activity(tx, stored, before_ms))
        except BaseException:
            self._unstored = {**changed, **self._unstored}
            raise
        return len(stored)

    def stretches(self) -> Sequence[Stretch]:
        """Return the stretches of the last day in which anything happened, the earliest first."""
        self._count()
        since_ms = self._clock.now_ms() - KEPT_MS
        self._stretches = [one for one in self._stretches if one.began_ms >= since_ms]
        return tuple(self._stretches)

    def _count(self) -> None:
        """Put what the metrics have counted since the last time into the stretch that runs."""
        now, before = self._so_far(), self._counted
        if now == before:
            return
        self._counted = now
        began_ms = self._clock.now_ms() // STRETCH_MS * STRETCH_MS
        if not self._stretches or self._stretches[-1].began_ms < began_ms:
            self._stretches.append(Stretch(began_ms))
        running = self._stretches[-1]
        running.accepted += now.accepted - before.accepted
        running.delivered += now.delivered - before.delivered
        running.retried += now.retried - before.retried
        running.dead_lettered += now.dead_lettered - before.dead_lettered
        grown = tuple(n - b for n, b in zip(now.latency, before.latency, strict=True))
        running.latency = added(running.latency, grown)
        self._unstored[running.began_ms] = running

    def _so_far(self) -> Stretch:
        """Return what the metrics have counted since the process began."""
        counted = self._metrics
        return Stretch(
            0, counted.accepted, counted.delivered, counted.retried, counted.dead_lettered, counted.latency_s.counts
        )


def added(counts: Sequence[int], more: Sequence[int]) -> tuple[int, ...]:
    """Return the counts of two histograms of the same bounds together; either may be empty."""
    if not counts or not more:
        return tuple(counts or more)
    return tuple(a + b for a, b in zip(counts, more, strict=True))
