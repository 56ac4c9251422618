"""The only file that reads the time or waits for it to pass."""

from __future__ import annotations

import asyncio
import time
from typing import Protocol


class Clock(Protocol):
    """What the rest of the package knows of time; a simulation brings its own."""

    def now_ms(self) -> int:
        """Return wall-clock time in whole milliseconds since the epoch."""
        ...

    def monotonic_s(self) -> float:
        """Return seconds of a clock that never goes back; only differences mean something."""
        ...

    async def sleep(self, seconds: float) -> None:
        """Return after so many seconds; at once, but after a turn of the loop, for zero or less."""
        ...


class SystemClock:
    """The host's own time."""

    def now_ms(self) -> int:
        return time.time_ns() // 1_000_000

    def monotonic_s(self) -> float:
        return time.monotonic()

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(max(0, seconds))
