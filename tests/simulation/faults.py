"""What can go wrong, and the plans that say where it does."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol

CRASH_BEFORE = "crash before"  # the process is gone, and the call was never made
CRASH_AFTER = "crash after"  # the call took effect, and the process is gone
ERROR = "error"  # the call is refused
LOST = "reply lost"  # the call took effect, and fails
FREEZE_BEFORE = "frozen before"  # it stands still for longer than a lease, is given up on, then makes the call
FREEZE_AFTER = "frozen after"  # the call took effect, the reply comes when the lease is over
DUPLICATE = "duplicate"  # the message at work is delivered once more, now
DUPLICATE_LATE = "late duplicate"  # the message at work is delivered once more, after it was acknowledged
KILL_ALL = "kill all"  # every worker process is gone; the store stays
AWAY = "store away"  # every call to the store is refused for a while
RESTART = "transport restart"  # the answers to all deliveries in progress are lost: they come again with the same count
CANCEL = "cancel"  # the run at work is cancelled
DELAY = "delay"  # the delivery comes much later

SINGLES = (
    CRASH_BEFORE, CRASH_AFTER, ERROR, LOST, FREEZE_BEFORE, FREEZE_AFTER, DUPLICATE, DUPLICATE_LATE, KILL_ALL, AWAY,
    RESTART, CANCEL,
)  # fmt: skip
"""Each of these is tried at every call of every program by `make simulate EXHAUSTIVE=1`."""
TESTED_SINGLES = (CRASH_BEFORE, CRASH_AFTER, ERROR, LOST, FREEZE_BEFORE, DUPLICATE_LATE, RESTART)
"""Each of these is tried at calls of every program by the tests."""
PAIRS = (CRASH_BEFORE, CRASH_AFTER, LOST, FREEZE_BEFORE, DUPLICATE_LATE)
"""Any two of these are tried at any two calls of the small programs."""
DELIVERY = "deliver"
"""The name under which a delivery as a whole is a call: the transport's, to the worker."""


@dataclass(frozen=True, slots=True)
class Point:
    """A call that is about to be made: its number in the world, by which process, to what, and about what."""

    number: int
    process: int
    name: str
    about: str


class Plan(Protocol):
    """Says what happens at a call, and how long everything takes."""

    def fault(self, point: Point) -> str | None:
        """Return the fault to inject at this call, if any."""
        ...

    def latency_s(self) -> float:
        """Return how long the next thing takes that takes time."""
        ...

    def choose(self, count: int) -> int:
        """Return which of so many things that could go on goes on."""
        ...

    def stop(self) -> None:
        """Inject nothing more."""
        ...

    @property
    def is_slow(self) -> bool:
        """Whether signs of life may be so late that a message which comes again finds no sign of its first delivery."""
        ...


class Scheduled:
    """Faults at calls of certain numbers; time passes only where it must, and everything has its fixed order."""

    is_slow = False

    def __init__(self, faults: Sequence[tuple[int, str]] = ()) -> None:
        self._faults = dict(faults)
        self._turn = 0

    def fault(self, point: Point) -> str | None:
        return self._faults.pop(point.number, None)

    def latency_s(self) -> float:
        return 0.0

    def choose(self, count: int) -> int:
        self._turn += 1
        return self._turn % count

    def stop(self) -> None:
        """Inject nothing more."""
        self._faults.clear()


class Random:
    """Faults, order and latencies as a seed has them; over after so many faults, or when it is stopped."""

    WEIGHTS: ClassVar[dict[str, int]] = {
        CRASH_BEFORE: 10, CRASH_AFTER: 10, ERROR: 10, LOST: 10, FREEZE_BEFORE: 4, FREEZE_AFTER: 4, DUPLICATE: 6,
        DUPLICATE_LATE: 6, KILL_ALL: 3, AWAY: 3, RESTART: 4, DELAY: 4,
    }  # fmt: skip

    def __init__(self, chance: random.Random) -> None:
        self.chance = chance
        self._rate = chance.choice((0.002, 0.01, 0.03, 0.08, 0.2))
        kinds = list(self.WEIGHTS)
        if chance.random() < 0.5:  # some worlds know a few kinds of faults only, and those more often
            kinds = chance.sample(kinds, chance.randint(1, 4))
        if chance.random() < 0.06:
            kinds.append(CANCEL)
        self._kinds = kinds
        self._weights = [self.WEIGHTS.get(kind, 3) for kind in kinds]
        self._left = chance.choice((1, 2, 3, 5, 11, 20))
        self._pace_s = chance.choice((0.0, 0.0, 0.005, 0.2, 2.0))

    def fault(self, point: Point) -> str | None:
        if self._left <= 0 or self.chance.random() >= self._rate:
            return None
        self._left -= 1
        return self.chance.choices(self._kinds, self._weights)[0]

    def latency_s(self) -> float:
        if not self._pace_s or self.chance.random() < 0.5:
            return 0.0
        return self.chance.random() * self._pace_s

    def choose(self, count: int) -> int:
        return self.chance.randrange(count)

    @property
    def is_slow(self) -> bool:
        return self._pace_s > 1

    def stop(self) -> None:
        """Inject nothing more."""
        self._left = 0


def total(injected: Counter[str], kinds: Collection[str] = ()) -> int:
    """Return how many faults of these kinds there were, of any kind by default."""
    return sum(count for kind, count in injected.items() if not kinds or kind in kinds)
