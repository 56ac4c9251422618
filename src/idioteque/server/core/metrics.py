"""What has happened in this process, in plain numbers: counting costs next to nothing, and a scrape reads no table."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from idioteque.histogram import DELAYS_S, DURATIONS_S, Histogram
from idioteque.server.model import Accepted, Message, States

DELIVERED, RETRY, FAILED = int(States.DELIVERED), int(States.RETRY), int(States.FAILED)


class Metrics:
    """Counters since the start, and `pending`, which begins with what was found in the database."""

    def __init__(self) -> None:
        self.accepted = 0
        self.deduplicated = 0
        self.delivered = 0
        self.retried = 0
        self.dead_lettered = 0
        self.cancelled = 0
        self.pending = 0
        self.answers: Counter[int] = Counter()
        """How many attempts were answered with a status of these hundreds; 0 is no answer."""
        self.refusals: Counter[int] = Counter()
        self.attempt_s = Histogram(DURATIONS_S)
        self.latency_s = Histogram(DELAYS_S)

    def found(self, count: int) -> None:
        """Count messages that an earlier process left."""
        self.pending += count

    def stored(self, accepted: Sequence[Accepted]) -> None:
        """Count what was accepted, by the outcome of each."""
        duplicates = [each.deduplicated for each in accepted].count(True)
        self.stored_new(len(accepted) - duplicates)
        self.deduplicated += duplicates

    def stored_new(self, count: int) -> None:
        """Count new messages."""
        self.accepted += count
        self.pending += count

    def attempted(self, status: int, duration_s: float) -> None:
        """Count an attempt by its answer; status 0 is none."""
        self.answers[status // 100] += 1
        self.attempt_s.observe(duration_s)

    def settled(self, message: Message, states: States | None, now_ms: int) -> None:
        """Count what became of a message by an attempt; None for nothing."""
        if states is None:
            return
        begun = int(states)  # a flag of an enum costs ten times as much to test as an integer
        if begun & RETRY:
            self.retried += 1
            return
        self.pending -= 1
        if begun & DELIVERED:
            self.delivered += 1
            self.latency_s.observe(max(0, now_ms - message.not_before_ms) / 1000)
        elif begun & FAILED:
            self.dead_lettered += 1
        else:
            self.cancelled += 1

    def ended_by_cancel(self, count: int) -> None:
        """Count messages that were cancelled while nobody was sending them."""
        self.cancelled += count
        self.pending -= count
