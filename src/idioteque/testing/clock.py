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
        self._now_s = start_ms / 1000
        self._order = itertools.count()
        self._sleepers: list[tuple[float, int, asyncio.Future[None]]] = []

    def now_ms(self) -> int:
        return round(self._now_s * 1000)

    def monotonic_s(self) -> float:
        return self._now_s

    async def sleep(self, seconds: float) -> None:
        if seconds <= 0:
            await asyncio.sleep(0)
            return
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        heapq.heappush(self._sleepers, (self._now_s + seconds, next(self._order), future))
        await future

    @property
    def next_deadline_s(self) -> float | None:
        """Seconds until the next sleeper wakes, or None when nobody sleeps."""
        while self._sleepers and self._sleepers[0][2].done():
            heapq.heappop(self._sleepers)
        return max(0.0, self._sleepers[0][0] - self._now_s) if self._sleepers else None

    async def advance(self, seconds: float) -> None:
        """Let so much time pass, waking each sleeper at its moment."""
        end_s = self._now_s + seconds
        await self.settle()
        while (wait_s := self.next_deadline_s) is not None and self._now_s + wait_s <= end_s:
            due_s, _, future = heapq.heappop(self._sleepers)
            self._now_s = max(self._now_s, due_s)
            future.set_result(None)
            await self.settle()
        self._now_s = end_s
        await self.settle()

    async def settle(self) -> None:
        """Let everything that can go on without the passing of time go on."""
        for _ in range(TURNS_TO_SETTLE):
            await asyncio.sleep(0)
