"""Who may send now: the slots for deliveries, shared among destinations, and when each destination has work.

A destination may hold at most a share of the slots that are still free. However many of them hang, some slots stay
free for the others, and a lone busy destination still gets a good part: the rule by which switches share their buffers.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator

BLOCKED_TRIES_MAX = 64  # how many destinations without room are looked at again in one pass


class _Destination:
    """One origin: how many of its messages are being sent, and when the next one that is stored becomes visible."""

    __slots__ = ("blocked", "due_ms", "in_flight", "origin")

    def __init__(self, origin: str) -> None:
        self.origin = origin
        self.in_flight = 0
        self.due_ms: int | None = None
        self.blocked = False


class Destinations:
    """The slots of one process, and the times at which its destinations have something due."""

    def __init__(self, in_flight_max: int, share: float) -> None:
        self.in_flight_max = in_flight_max
        self.in_flight = 0
        self._share = share
        self._known: dict[str, _Destination] = {}
        self._due: list[tuple[int, str]] = []
        self._blocked: dict[str, _Destination] = {}

    def reserve(self, origin: str, now_ms: int) -> bool:
        """Take a slot for a new message, unless there is no room, or older messages of its destination wait."""
        known = self._known.get(origin)
        if known is not None and known.due_ms is not None and known.due_ms <= now_ms:
            return False
        if self._room(known) < 1:
            return False
        self._take(known or self._new(origin), 1)
        return True

    def release(self, origin: str, count: int = 1) -> None:
        """Give slots back."""
        known = self._known[origin]
        known.in_flight -= count
        self.in_flight -= count
        assert known.in_flight >= 0
        assert self.in_flight >= 0
        self._forget_idle(known)

    def note_due(self, origin: str, due_ms: int) -> None:
        """Remember that a destination has a stored message that becomes visible then."""
        known = self._known.get(origin) or self._new(origin)
        if known.due_ms is None or due_ms < known.due_ms:
            self._schedule(known, due_ms)

    def set_due(self, origin: str, due_ms: int | None) -> None:
        """Replace what is remembered by what the database says."""
        known = self._known.get(origin)
        if due_ms is not None:
            self._schedule(known or self._new(origin), due_ms)
        elif known is not None:
            known.due_ms = None
            self._unblock(known)
            self._forget_idle(known)

    def has_messages(self, origin: str) -> bool:
        """Whether a destination has stored messages, as far as is known here."""
        known = self._known.get(origin)
        return known is not None and (known.due_ms is not None or known.in_flight > 0)

    def next_due_ms(self) -> int | None:
        """Return when the next destination has something due, or None; those that only wait for room do not count."""
        while self._due and not self._is_current(*self._due[0]):
            heapq.heappop(self._due)
        return self._due[0][0] if self._due else None

    def has_claimable(self) -> bool:
        """Whether a destination that waited for room may have some now."""
        return any(self._room(known) > 0 for known in self._first_blocked())

    def take_due(self, now_ms: int, count_max: int) -> list[tuple[str, int]]:
        """Reserve slots for destinations that have something due: (origin, slots), at most `count_max` in all."""
        taken: list[tuple[str, int]] = []
        for known in list(self._first_blocked()):
            if self._room(known) > 0:
                self._unblock(known)
                heapq.heappush(self._due, (known.due_ms or 0, known.origin))
        while count_max > 0 and (due_ms := self.next_due_ms()) is not None and due_ms <= now_ms:
            known = self._known[heapq.heappop(self._due)[1]]
            count = min(self._room(known), count_max)
            if count < 1:
                known.blocked = True
                self._blocked[known.origin] = known
                continue
            known.due_ms = None  # until the claim says what is left
            self._take(known, count)
            taken.append((known.origin, count))
            count_max -= count
        return taken

    def _room(self, known: _Destination | None) -> int:
        free = self.in_flight_max - self.in_flight
        if free < 1:
            return 0
        held = known.in_flight if known is not None else 0
        # n more slots are fair while held + n <= share * (free - n); an idle destination always gets one.
        return max(int((self._share * free - held) / (1 + self._share)), 1 if held == 0 else 0)

    def _take(self, known: _Destination, count: int) -> None:
        known.in_flight += count
        self.in_flight += count

    def _schedule(self, known: _Destination, due_ms: int) -> None:
        known.due_ms = due_ms
        if not known.blocked:
            heapq.heappush(self._due, (due_ms, known.origin))

    def _is_current(self, due_ms: int, origin: str) -> bool:
        known = self._known.get(origin)
        return known is not None and not known.blocked and known.due_ms == due_ms

    def _first_blocked(self) -> Iterator[_Destination]:
        for place, known in enumerate(self._blocked.values()):
            if place == BLOCKED_TRIES_MAX:
                return
            yield known

    def _unblock(self, known: _Destination) -> None:
        known.blocked = False
        self._blocked.pop(known.origin, None)

    def _new(self, origin: str) -> _Destination:
        known = self._known[origin] = _Destination(origin)
        return known

    def _forget_idle(self, known: _Destination) -> None:
        if known.in_flight == 0 and known.due_ms is None:
            self._known.pop(known.origin, None)
