"""Who may send now: the slots for deliveries, shared among destinations, and when each destination has work.

A destination may hold at most a share of the slots that are still free, the rule by which switches share their
buffers, and a tenth of all slots is kept for destinations that hold none. However many of them hang, others go on.
"""

from __future__ import annotations

import heapq

LOOKED_AT_MAX = 16  # how many destinations without room are looked at again when a slot gets free
RESERVED_PART = 0.1


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
        self._reserved = int(in_flight_max * RESERVED_PART)
        self._known: dict[str, _Destination] = {}
        self._due: list[tuple[int, str]] = []
        self._blocked_idle: dict[str, _Destination] = {}  # hold no slot: the first to get one
        self._blocked_busy: dict[str, _Destination] = {}  # in the order in which they were last looked at

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
        if known.blocked and known.in_flight == 0:
            self._blocked_idle[origin] = self._blocked_busy.pop(origin, known)
        self._forget_idle(known)

    def retake(self, origin: str, count: int) -> int:
        """Give slots back, and take as many of them again as are this origin's fair share now; return how many."""
        known = self._known[origin]
        known.in_flight -= count
        self.in_flight -= count
        again = 0 if self._blocked_idle else min(self._room(known), count)
        self._take(known, again)
        self.release(origin, 0)
        return again

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

    def oldest_due_ms(self) -> int | None:
        """Return since when, or from when on, the first of all stored messages is due; None when none is known."""
        waiting = (*self._blocked_idle.values(), *self._blocked_busy.values())
        times = [self.next_due_ms(), *(known.due_ms for known in waiting)]
        return min((due_ms for due_ms in times if due_ms is not None), default=None)

    def has_claimable(self) -> bool:
        """Whether a destination that waited for room has some now."""
        return self._first_with_room() is not None

    def take_due(self, now_ms: int, count_max: int) -> list[tuple[str, int]]:
        """Reserve slots for destinations that have something due: (origin, slots), at most `count_max` in all."""
        taken: list[tuple[str, int]] = []
        while count_max > 0 and (waiting := self._first_with_room()) is not None:
            self._unblock(waiting)
            count_max -= self._take_room(waiting, count_max, taken)
        while count_max > 0 and (due_ms := self.next_due_ms()) is not None and due_ms <= now_ms:
            known = self._known[heapq.heappop(self._due)[1]]
            count_max -= self._take_room(known, count_max, taken)
        return taken

    def _take_room(self, known: _Destination, count_max: int, taken: list[tuple[str, int]]) -> int:
        """Take what room there is for a destination that has something due, or set it aside until there is some."""
        count = min(self._room(known), count_max)
        if count < 1:
            known.blocked = True
            (self._blocked_busy if known.in_flight else self._blocked_idle)[known.origin] = known
            return 0
        known.due_ms = None  # until the claim says what is left
        self._take(known, count)
        taken.append((known.origin, count))
        return count

    def _first_with_room(self) -> _Destination | None:
        """Return a destination set aside that has room now; those looked at in vain go to the end of the line."""
        if self.in_flight >= self.in_flight_max:
            return None
        for known in self._blocked_idle.values():
            return known
        for _ in range(min(LOOKED_AT_MAX, len(self._blocked_busy))):
            origin, known = next(iter(self._blocked_busy.items()))
            if self._room(known) > 0:
                return known
            self._blocked_busy[origin] = self._blocked_busy.pop(origin)
        return None

    def _room(self, known: _Destination | None) -> int:
        free = self.in_flight_max - self.in_flight
        if free < 1:
            return 0
        held = known.in_flight if known is not None else 0
        shared = free - self._reserved
        # n more slots are fair while held + n <= share * (shared - n); one that holds none always gets one.
        return max(int((self._share * shared - held) / (1 + self._share)), 1 if held == 0 else 0)

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

    def _unblock(self, known: _Destination) -> None:
        known.blocked = False
        self._blocked_idle.pop(known.origin, None)
        self._blocked_busy.pop(known.origin, None)

    def _new(self, origin: str) -> _Destination:
        known = self._known[origin] = _Destination(origin)
        return known

    def _forget_idle(self, known: _Destination) -> None:
        if known.in_flight == 0 and known.due_ms is None:
            self._known.pop(known.origin, None)
