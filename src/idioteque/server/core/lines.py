"""Whose turn it is, in the lines of queues and of flow-control keys.

A queue gives slots in the order in which its messages were accepted; a message keeps its slot over all its retries, and
until the callbacks that report on it have ended. A flow-control key admits attempts while fewer than `parallelism` are
under way and fewer than `rate` have begun in the period. Both decide inside the transaction that takes the lease, so
the limits are exact in one database.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from idioteque.database import Transaction
from idioteque.server.model import FlowKey, Lease
from idioteque.server.storage.deliveries import queue_line
from idioteque.server.storage.flow_keys import count_running, first_lease_end_ms, hold_flow_key, save_flow_key
from idioteque.server.storage.lines import (
    count_slots_held,
    due_in_line,
    due_in_queue,
    give_slots,
    has_delayed,
    lease_all,
    next_for_slots,
    next_in_line_ms,
)
from idioteque.server.storage.queues import hold_queue

NOTHING: frozenset[str] = frozenset()
UNLIMITED = 2**62


@dataclass(frozen=True, slots=True)
class Turn:
    """What a claim brought: leases, when to claim again (None: when told), and the flow-control keys to wait for."""

    leases: list[Lease]
    next_at_ms: int | None
    awaited: frozenset[str] = NOTHING


def is_line(origin: str) -> bool:
    """Whether an origin is a line: a destination's has a scheme and two slashes."""
    return "://" not in origin


def claim_in_line(tx: Transaction, line: str, count_max: int, now_ms: int, until_ms: int) -> Turn:
    """Lease those of a line whose turn it is, at most so many."""
    kind, _, name = line.partition(":")
    if kind == "queue":
        return _claim_in_queue(tx, name, count_max, now_ms, until_ms)
    return _claim_by_key(tx, line, name, count_max, now_ms, until_ms)


class Waits:
    """Remembers which lines wait for a flow-control key to admit more."""

    def __init__(self) -> None:
        self._lines: dict[str, set[str]] = {}
        self._keys: dict[str, frozenset[str]] = {}

    def replace(self, line: str, keys: frozenset[str]) -> None:
        """Learn which keys a line waits for from now on."""
        for key in self._keys.pop(line, NOTHING) - keys:
            self._drop(key, line)
        if keys:
            self._keys[line] = keys
            for key in keys:
                self._lines.setdefault(key, set()).add(line)

    def __len__(self) -> int:
        """How many lines wait."""
        return len(self._keys)

    def waiting_for(self, key: str) -> Iterable[str]:
        """Return the lines that wait for a key."""
        return tuple(self._lines.get(key, ()))

    def _drop(self, key: str, line: str) -> None:
        lines = self._lines[key]
        lines.discard(line)
        if not lines:
            del self._lines[key]


class _Admittance:
    """One flow-control key in one transaction: how many more it admits, and those it has."""

    def __init__(self, tx: Transaction, key: str, now_ms: int) -> None:
        self._now_ms = now_ms
        self._flow = hold_flow_key(tx, key)
        self._running = (
            count_running(tx, key, now_ms) if self._flow is not None and self._flow.limits.parallelism else 0
        )
        self._admitted = 0

    @property
    def room(self) -> int:
        """How many may still begin now."""
        flow = self._flow
        if flow is None:
            return UNLIMITED
        return 0 if flow.paused else max(min(self._parallel_room(flow), self._rate_room(flow)), 0)

    def take(self, count: int = 1) -> None:
        """Count attempts that begin now."""
        self._admitted += count

    def save(self, tx: Transaction) -> None:
        """Store what is used of the rate."""
        flow = self._flow
        if flow is None or flow.limits.rate is None or not self._admitted:
            return
        if flow.is_in_period(self._now_ms):
            began_ms, used = flow.period_began_ms, flow.rate_used
        else:
            began_ms, used = self._now_ms, 0
        saved = replace(flow, period_began_ms=began_ms, rate_used=used + self._admitted)
        save_flow_key(tx, saved, self._now_ms)

    def opens_at_ms(self, tx: Transaction) -> int | None:
        """Return when a key that has no room may have some without anybody telling, or None."""
        flow = self._flow
        if flow is None or flow.paused:
            return None
        if self._rate_room(flow) < 1:
            return flow.period_end_ms if flow.is_in_period(self._now_ms) else self._now_ms + flow.limits.period_s * 1000
        return first_lease_end_ms(tx, flow.limits.key, self._now_ms)

    def _parallel_room(self, flow: FlowKey) -> int:
        most = flow.limits.parallelism
        return UNLIMITED if most is None else most - self._running - self._admitted

    def _rate_room(self, flow: FlowKey) -> int:
        most = flow.limits.rate
        if most is None:
            return UNLIMITED
        return most - self._admitted - (flow.rate_used if flow.is_in_period(self._now_ms) else 0)


def _claim_by_key(tx: Transaction, line: str, key: str, count_max: int, now_ms: int, until_ms: int) -> Turn:
    """Lease what only a flow-control key orders, those first that have been due for the longest."""
    admittance = _Admittance(tx, key, now_ms)
    wanted = min(count_max, admittance.room)
    due = due_in_line(tx, line, now_ms, wanted + 1) if wanted else []
    chosen = due[:wanted]
    admittance.take(len(chosen))
    admittance.save(tx)
    leases = lease_all(tx, chosen, until_ms)
    if admittance.room < 1:
        return Turn(leases, admittance.opens_at_ms(tx), frozenset((key,)))
    if len(due) > wanted:
        return Turn(leases, now_ms)
    return Turn(leases, next_in_line_ms(tx, line, now_ms))


def _claim_in_queue(tx: Transaction, name: str, count_max: int, now_ms: int, until_ms: int) -> Turn:
    """Give the free slots of a queue away, and lease what holds one and is due, in the order of the queue."""
    line, queue = queue_line(name), hold_queue(tx, name)
    if queue is not None and queue.paused:
        return Turn([], None)  # whoever resumes it will tell
    if queue is not None:
        _fill_slots(tx, name, queue.parallelism, now_ms)
    keys: dict[str, _Admittance] = {}
    chosen: list[str] = []
    awaited: set[str] = set()
    more = False
    for waiting in due_in_queue(tx, line, now_ms):
        if len(chosen) == count_max:
            more = True
            break
        if (key := waiting.flow_key) is not None:
            admittance = keys.get(key) or keys.setdefault(key, _Admittance(tx, key, now_ms))
            if admittance.room < 1:
                awaited.add(key)
                if waiting.token:
                    continue
                break  # nobody starts before it
            admittance.take()
        chosen.append(waiting.message_id)
    for _, admittance in sorted(keys.items()):
        admittance.save(tx)
    leases = lease_all(tx, chosen, until_ms)
    if more:
        return Turn(leases, now_ms, frozenset(awaited))
    times = [next_in_line_ms(tx, line, now_ms), *(keys[key].opens_at_ms(tx) for key in sorted(awaited))]
    return Turn(leases, min((each for each in times if each is not None), default=None), frozenset(awaited))


def _fill_slots(tx: Transaction, name: str, parallelism: int, now_ms: int) -> None:
    """Give free slots to the next messages, up to the first whose time has not come: those behind it wait as well."""
    free = parallelism - count_slots_held(tx, name)
    if free < 1 or has_delayed(tx, queue_line(name), now_ms):
        return
    given: list[tuple[str, int]] = []
    for message_id, not_before_ms in next_for_slots(tx, name, free):
        given.append((message_id, max(not_before_ms, now_ms)))
        if not_before_ms > now_ms:
            break
    give_slots(tx, given)
