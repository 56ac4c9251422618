"""When to try again: a retry policy as data, and the delays it gives."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

from idioteque.errors import InvalidValue, NonRetryableError, RetryAfter, StepFailed
from idioteque.ids import jittered

DELAY_MAX_S = 366 * 86_400.0


@dataclass(frozen=True, slots=True)
class Retry:
    """How often, and after which pauses, a step or a function that raises is run again.

    `max_attempts` counts the first attempt too. The pause after attempt n is `initial_delay_s * factor ** (n - 1)`, at
    most `max_delay_s`, moved at random by up to ± `jitter` of itself. Only exceptions of `retry_on` are tried again.
    """

    max_attempts: int = 4
    initial_delay_s: float = 1.0
    factor: float = 2.0
    max_delay_s: float = 3600.0
    jitter: float = 0.1
    retry_on: tuple[type[Exception], ...] = (Exception,)

    def __post_init__(self) -> None:
        if self.max_attempts < 1:
            raise InvalidValue(f"max_attempts must be at least 1, not {self.max_attempts}")
        delays = (self.initial_delay_s, self.max_delay_s)
        if not (all(0 <= delay <= DELAY_MAX_S for delay in delays) and self.factor >= 1 and 0 <= self.jitter <= 1):
            raise InvalidValue(
                f"{self!r}: delays must be from 0 to {DELAY_MAX_S:.0f} s, factor at least 1, jitter from 0 to 1"
            )
        if not _are_exceptions(self.retry_on):
            raise InvalidValue(f"{self!r}: retry_on must be a tuple of exception classes")

    def delay_s(self, attempts: int) -> float:
        """Return the pause after so many failed attempts, without jitter."""
        if attempts < 1 or self.initial_delay_s == 0:
            return 0.0
        try:
            return min(self.max_delay_s, self.initial_delay_s * self.factor ** (attempts - 1))
        except OverflowError:
            return self.max_delay_s

    def after(
        self, error: BaseException, attempts: int, move: Callable[[float, float], float] = jittered
    ) -> float | None:
        """Return the pause before the next attempt once `attempts` have failed, or None when there is none.

        `NonRetryableError` and the recorded failure of another step end it at once; `RetryAfter` sets the pause. A
        `CancelledError` that comes out though nobody cancelled the step counts as an `Exception`.
        """
        if attempts >= self.max_attempts or isinstance(error, NonRetryableError | StepFailed):
            return None
        if isinstance(error, RetryAfter):
            return min(max(0.0, error.seconds), DELAY_MAX_S)
        is_leak = isinstance(error, asyncio.CancelledError) and Exception in self.retry_on
        if not (is_leak or isinstance(error, self.retry_on)):
            return None
        return min(self.max_delay_s, move(self.delay_s(attempts), self.jitter))


def _are_exceptions(kinds: object) -> bool:
    if not isinstance(kinds, tuple):
        return False
    return all(isinstance(kind, type) and issubclass(kind, Exception) for kind in cast(tuple[object, ...], kinds))
