"""Queues: how many of their messages are under way at most, and which place in them is taken next."""

from __future__ import annotations

from idioteque.database import Row, Transaction
from idioteque.server.model import Queue

PLACES_PER_MS = 1024  # a queue that is made anew goes on behind the places of the one that was deleted

_QUEUES = """SELECT q.name, q.parallelism, q.paused, q.created_at_ms, q.updated_at_ms, COALESCE(u.count, 0)
    + (SELECT COUNT(*) FROM deliveries d WHERE d.leased = 0 AND d.origin = 'queue:' || q.name)
    FROM queues q LEFT JOIN (SELECT origin, COUNT(*) AS count FROM deliveries WHERE leased = 1 GROUP BY origin) u
    ON u.origin = 'queue:' || q.name"""


def find_queue(tx: Transaction, name: str) -> Queue | None:
    """Return a queue, or None."""
    # By primary key; its line is counted in an index, and those of all that are under way in the table.
    rows = tx.execute(f"{_QUEUES} WHERE q.name = :name", {"name": name})
    return _queue_of(rows[0]) if rows else None


def list_queues(tx: Transaction) -> list[Queue]:
    """Return all queues by name."""
    # They are bounded by a quota.
    return [_queue_of(row) for row in tx.execute(f"{_QUEUES} ORDER BY q.name")]


def has_queue(tx: Transaction, name: str) -> bool:
    """Whether there is such a queue."""
    # By primary key.
    return bool(tx.execute("SELECT 1 FROM queues WHERE name = :name", {"name": name}))


def count_queues(tx: Transaction) -> int:
    """Return how many queues there are."""
    # A walk through the primary key.
    return int(tx.execute("SELECT COUNT(*) FROM queues")[0][0])


def save_queue(tx: Transaction, name: str, parallelism: int | None, paused: bool | None, now_ms: int) -> None:
    """Make a queue, or change it; None leaves what is there, at first 1 and not paused."""
    # Its places go on.
    tx.execute(
        """INSERT INTO queues (name, parallelism, paused, created_at_ms, updated_at_ms, last_place)
        VALUES (:name, COALESCE(:parallelism, 1), COALESCE(:paused, 0), :now_ms, :now_ms, :first_place)
        ON CONFLICT (name) DO UPDATE SET parallelism = COALESCE(:parallelism, queues.parallelism),
            paused = COALESCE(:paused, queues.paused), updated_at_ms = :now_ms""",
        {
            "name": name,
            "parallelism": parallelism,
            "paused": None if paused is None else int(paused),
            "now_ms": now_ms,
            "first_place": now_ms * PLACES_PER_MS,
        },
    )


def set_queue_paused(tx: Transaction, name: str, now_ms: int, *, paused: bool) -> bool:
    """Pause or resume a queue; False when there is none."""
    # By primary key.
    rows = tx.execute(
        "UPDATE queues SET paused = :paused, updated_at_ms = :now_ms WHERE name = :name RETURNING 1",
        {"name": name, "paused": int(paused), "now_ms": now_ms},
    )
    return bool(rows)


def delete_queue(tx: Transaction, name: str) -> None:
    """Delete a queue, if there is one; what is still under way holds no slot any more."""
    # By primary key.
    tx.execute("DELETE FROM queues WHERE name = :name", {"name": name})
    # Attempts that were asked to stop, and callbacks.
    tx.execute("UPDATE deliveries SET queue_name = NULL, holds = 1 WHERE queue_name = :name", {"name": name})


def take_places(tx: Transaction, name: str, count: int, now_ms: int) -> int:
    """Take so many places at the end of a queue, which is made if need be; return the first."""
    # The order in which transactions do this is the order of their commits.
    rows = tx.execute(
        """INSERT INTO queues (name, parallelism, paused, created_at_ms, updated_at_ms, last_place)
        VALUES (:name, 1, 0, :now_ms, :now_ms, :first_place + :count)
        ON CONFLICT (name) DO UPDATE SET last_place = queues.last_place + :count RETURNING last_place""",
        {"name": name, "count": count, "now_ms": now_ms, "first_place": now_ms * PLACES_PER_MS},
    )
    return int(rows[0][0]) - count + 1


def hold_queue(tx: Transaction, name: str) -> Queue | None:
    """Return a queue, and keep other nodes from filling its slots until the end of this transaction."""
    # An update that changes nothing is the lock that both databases know.
    rows = tx.execute(
        """UPDATE queues SET last_place = last_place WHERE name = :name
        RETURNING name, parallelism, paused, created_at_ms, updated_at_ms, 0""",
        {"name": name},
    )
    return _queue_of(rows[0]) if rows else None


def _queue_of(row: Row) -> Queue:
    name, parallelism, paused, created_at_ms, updated_at_ms, lag = row
    return Queue(name, parallelism, bool(paused), created_at_ms, updated_at_ms, lag)
