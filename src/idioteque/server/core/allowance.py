"""How much may be asked for in a second or a day, by a setting; whoever asks for more is told when to come back."""

from __future__ import annotations

from idioteque.clock import Clock
from idioteque.server.errors import TooManyRequests

DAILY = "RateLimit"  # what the protocol's headers begin with: the SDKs tell the two kinds of refusal apart by them
BURST = "Burst-RateLimit"


class Allowance:
    """So many in each window of time; the count begins anew with the process. None for no limit."""

    def __init__(self, clock: Clock, what: str, limit: int | None, window_s: int, prefix: str) -> None:
        self._clock = clock
        self._what = what
        self._limit = limit
        self._window_s = window_s
        self._prefix = prefix
        self._window = 0
        self._taken = 0

    def take(self, count: int = 1) -> None:
        """Take so many, or raise `TooManyRequests` and take none."""
        if self._limit is None:
            return
        window = self._clock.now_ms() // (self._window_s * 1000)
        if window != self._window:
            self._window, self._taken = window, 0
        if self._taken + count > self._limit:
            raise TooManyRequests(
                f"rate limit exceeded: {self._what}, current limit: {self._limit} in {self._window_s} s",
                self._headers((window + 1) * self._window_s),
            )
        self._taken += count

    def _headers(self, reset_s: int) -> tuple[tuple[str, str], ...]:
        return (
            (f"{self._prefix}-Limit", str(self._limit)),
            (f"{self._prefix}-Remaining", str((self._limit or 0) - self._taken)),
            (f"{self._prefix}-Reset", str(reset_s)),
        )
