"""Deliveries that stand in the line of a queue or of a flow-control key: who holds a slot, who comes next."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from idioteque.database import Row, Transaction
from idioteque.server.model import Lease, Slot, Waiting
from idioteque.server.storage.messages import MESSAGE_COLUMNS, message_of

NEVER_MS = 2**62
"""When a message that waits for a slot of its queue is visible."""

DUE_MAX = 10_000  # slots of one queue that are looked at in one transaction


class Due(NamedTuple):
    """A delivery that is due; `token` is 0 when it was never leased before."""

    message_id: str
    token: int
    flow_key: str | None


def due_in_line(tx: Transaction, line: str, now_ms: int, count_max: int) -> list[str]:
    """Return deliveries of a line that are due, those first that have been for the longest."""
    # From the line's beginning in the index.
    rows = tx.execute(
        """SELECT message_id FROM deliveries WHERE leased = 0 AND origin = :line AND visible_at_ms <= :now_ms
        ORDER BY visible_at_ms, message_id LIMIT :count""",
        {"line": line, "now_ms": now_ms, "count": count_max},
    )
    return [row[0] for row in rows]


def due_in_queue(tx: Transaction, line: str, now_ms: int) -> list[Due]:
    """Return deliveries that hold a slot and are due, in the order of their places."""
    # Those that wait for a slot are visible never, so these are no more than the queue has slots.
    rows = tx.execute(
        """SELECT message_id, token, flow_key FROM deliveries
        WHERE leased = 0 AND origin = :line AND visible_at_ms <= :now_ms ORDER BY place LIMIT :count""",
        {"line": line, "now_ms": now_ms, "count": DUE_MAX},
    )
    return [Due(*row) for row in rows]


def next_in_line_ms(tx: Transaction, line: str, now_ms: int) -> int | None:
    """Return when the next delivery of a line becomes visible that is not yet, or None."""
    # The first entry of the line behind now.
    rows = tx.execute(
        """SELECT visible_at_ms FROM deliveries WHERE leased = 0 AND origin = :line AND visible_at_ms > :now_ms
        ORDER BY visible_at_ms LIMIT 1""",
        {"line": line, "now_ms": now_ms},
    )
    return rows[0][0] if rows and rows[0][0] < NEVER_MS else None


def count_slots_held(tx: Transaction, queue: str) -> int:
    """Return how many slots of a queue are taken."""
    # A message and its callbacks hold one together.
    rows = tx.execute(
        "SELECT COUNT(DISTINCT place) FROM deliveries WHERE queue_name = :queue AND holds = 1", {"queue": queue}
    )
    return int(rows[0][0])


def has_delayed(tx: Transaction, line: str, now_ms: int) -> bool:
    """Whether a message of a queue has a slot, but its time has not come: nobody starts before it."""
    # Those that were leased before have started; those that wait for a slot are behind the range that is read.
    rows = tx.execute(
        """SELECT 1 FROM deliveries WHERE leased = 0 AND origin = :line AND visible_at_ms > :now_ms
        AND visible_at_ms < :never_ms AND token = 0 LIMIT 1""",
        {"line": line, "now_ms": now_ms, "never_ms": NEVER_MS},
    )
    return bool(rows)


def next_for_slots(tx: Transaction, queue: str, count_max: int) -> list[tuple[str, int]]:
    """Return the messages that get the next slots of a queue, and when they may be sent."""
    # By their places in the index.
    rows = tx.execute(
        """SELECT d.message_id, m.not_before_ms FROM deliveries d JOIN messages m ON m.id = d.message_id
        WHERE d.queue_name = :queue AND d.holds = 0 ORDER BY d.place LIMIT :count""",
        {"queue": queue, "count": count_max},
    )
    return [(message_id, not_before_ms) for message_id, not_before_ms in rows]


def give_slots(tx: Transaction, due: Iterable[tuple[str, int]]) -> None:
    """Give messages a slot of their queue, from which on they are due at their times."""
    # They become visible.
    tx.execute_many(
        "UPDATE deliveries SET holds = 1, visible_at_ms = :due_ms WHERE leased = 0 AND message_id = :id",
        [{"id": message_id, "due_ms": due_ms} for message_id, due_ms in due],
    )


def lease_all(tx: Transaction, message_ids: Iterable[str], until_ms: int) -> list[Lease]:
    """Lease deliveries that were chosen in this transaction."""
    leases: list[Lease] = []
    for message_id in message_ids:
        # The token fences out whoever held it before.
        rows = tx.execute(
            """UPDATE deliveries SET visible_at_ms = :until_ms, token = token + 1, leased = 1
            WHERE leased = 0 AND message_id = :id RETURNING token, retried, queue_name, place""",
            {"id": message_id, "until_ms": until_ms},
        )
        token, retried, queue, place = rows[0]
        # What is to be sent, by primary key.
        found = tx.execute(f"SELECT {MESSAGE_COLUMNS} FROM messages m WHERE m.id = :id", {"id": message_id})  # noqa: S608
        leases.append(Lease(message_of(found[0]), token, retried, slot_of(queue, place)))
    return leases


def slot_of(queue: str | None, place: int | None) -> Slot | None:
    """Return the slot that a delivery which is under way holds, or None."""
    return Slot(queue, place) if queue is not None and place is not None else None


def waiting_for_key(tx: Transaction, key: str, now_ms: int, count_max: int) -> list[Waiting]:
    """Return the deliveries of a flow-control key that are due and not under way, those first that wait longest."""
    # The key's own part of the index, in its order.
    rows = tx.execute(
        """SELECT d.message_id, m.url, m.created_at_ms, d.visible_at_ms, d.retried, d.leased
        FROM deliveries d JOIN messages m ON m.id = d.message_id
        WHERE d.flow_key = :key AND d.leased = 0 AND d.visible_at_ms <= :now_ms
        ORDER BY d.visible_at_ms, d.message_id LIMIT :count""",
        {"key": key, "now_ms": now_ms, "count": count_max},
    )
    return [_waiting_of(place, row) for place, row in enumerate(rows, 1)]


def waiting_in_queue(tx: Transaction, queue: str, count_max: int) -> list[Waiting]:
    """Return the deliveries in a queue: those that hold its slots, then those that wait for one, by their places."""
    found: list[Row] = []
    for holds in (1, 0):
        # The queue's own part of the index, in its order.
        found += tx.execute(
            """SELECT d.message_id, m.url, m.created_at_ms, d.visible_at_ms, d.retried, d.leased
            FROM deliveries d JOIN messages m ON m.id = d.message_id
            WHERE d.queue_name = :queue AND d.holds = :holds ORDER BY d.place LIMIT :count""",
            {"queue": queue, "holds": holds, "count": count_max - len(found)},
        )
    return [_waiting_of(place, row) for place, row in enumerate(found, 1)]


def _waiting_of(place: int, row: Row) -> Waiting:
    message_id, url, created_at_ms, visible_at_ms, retried, leased = row
    due_ms = None if visible_at_ms == NEVER_MS else visible_at_ms
    return Waiting(place, message_id, url, created_at_ms, due_ms, retried, bool(leased))
