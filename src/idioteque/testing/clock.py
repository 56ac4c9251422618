"""A clock that stands still until a test moves it."""

from __future__ import annotations

import asyncio
import heapq
import itertools

TURNS_TO_SETTLE = 50


class ManualClock:
    """A `Clock` in virtual time: hours pass in microseconds, and in the same way on every run.

    `advance` wakes sleepers one by one in the order of their deadlines and lets the loop settle after each, so that
    whatever they start sees the time at which it was due.
    """

    def __init__(self, start_ms: int = 1_700_000_000_000) -> None:
        self._now_us = start_ms * 1000
        self._order = itertools.count()
        self._sleepers: list[tuple[int, int, asyncio.Future[None]]] = []

    def now_ms(self) -> int:
        return self._now_us // 1000

    def monotonic_s(self) -> float:
        return self._now_us / 1_000_000

    async def sleep(self, seconds: float) -> None:
        if seconds <= 0:
            await asyncio.sleep(0)
            return
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        heapq.heappush(self._sleepers, (self._now_us + _microseconds(seconds), next(self._order), future))
        await future

    @property
    def next_deadline_s(self) -> float | None:
        """Seconds until the next sleeper wakes, or None when nobody sleeps."""
        due_us = self._next_deadline_us()
        return None if due_us is None else max(0, due_us - self._now_us) / 1_000_000

    async def advance(self, seconds: float) -> None:
        """Let so much time pass, waking each sleeper at its moment."""
        end_us = self._now_us + _microseconds(seconds)
        await self.settle()
        while (due_us := self._next_deadline_us()) is not None and due_us <= end_us:
            _, _, future = heapq.heappop(self._sleepers)
            self._now_us = max(self._now_us, due_us)
            future.set_result(None)
            await self.settle()
        self._now_us = max(self._now_us, end_us)
        await self.settle()

    async def settle(self) -> None:
        """Let everything that can go on without the passing of time go on."""
        for _ in range(TURNS_TO_SETTLE):
            await asyncio.sleep(0)

    def _next_deadline_us(self) -> int | None:
        while self._sleepers and self._sleepers[0][2].done():
            heapq.heappop(self._sleepers)
        return self._sleepers[0][0] if self._sleepers else None


def _microseconds(seconds: float) -> int:
    """Count in whole microseconds, so that a second is ten tenths of a second."""
    return max(1, round(seconds * 1_000_000)) if seconds > 0 else 0
