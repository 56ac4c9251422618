"""What the server did in the last day, and how much it has: in few rows, and mostly in counts that stop at a bound."""

from __future__ import annotations

import json
from collections.abc import Iterable

from idioteque.database import Transaction
from idioteque.server.model import Stretch


def load_activity(tx: Transaction, since_ms: int) -> list[Stretch]:
    """Return the stretches that began since a moment, the earliest first."""
    # There are no more than a day has.
    rows = tx.execute(
        """SELECT began_ms, accepted, delivered, retried, dead_lettered, latency FROM activity
        WHERE began_ms >= :since_ms ORDER BY began_ms""",
        {"since_ms": since_ms},
    )
    return [
        Stretch(began_ms, accepted, delivered, retried, dead_lettered, tuple(json.loads(latency)))
        for began_ms, accepted, delivered, retried, dead_lettered, latency in rows
    ]


def save_activity(tx: Transaction, stretches: Iterable[Stretch], before_ms: int) -> None:
    """Store stretches in place of what is stored of them, and delete those that began before a moment."""
    # By primary key.
    tx.execute_many(
        """INSERT INTO activity (began_ms, accepted, delivered, retried, dead_lettered, latency)
        VALUES (:began_ms, :accepted, :delivered, :retried, :dead_lettered, :latency)
        ON CONFLICT (began_ms) DO UPDATE SET accepted = excluded.accepted, delivered = excluded.delivered,
            retried = excluded.retried, dead_lettered = excluded.dead_lettered, latency = excluded.latency""",
        [
            {
                "began_ms": one.began_ms,
                "accepted": one.accepted,
                "delivered": one.delivered,
                "retried": one.retried,
                "dead_lettered": one.dead_lettered,
                "latency": json.dumps(one.latency),
            }
            for one in stretches
        ],
    )
    # The beginning of the primary key.
    tx.execute("DELETE FROM activity WHERE began_ms < :before_ms", {"before_ms": before_ms})


def count_retrying(tx: Transaction, count_max: int) -> int:
    """Return how many messages wait for another attempt after one that failed, or have it; at most `count_max`."""
    # A walk through an index that holds only these, and not to its end.
    rows = tx.execute(
        "SELECT COUNT(*) FROM (SELECT 1 FROM deliveries WHERE retried > 0 LIMIT :count) AS some", {"count": count_max}
    )
    return int(rows[0][0])


def count_dead_letters(tx: Transaction, count_max: int) -> int:
    """Return how many dead letters there are, at most `count_max`."""
    # A walk through one index, not to its end.
    rows = tx.execute("SELECT COUNT(*) FROM (SELECT 1 FROM dead_letters LIMIT :count) AS some", {"count": count_max})
    return int(rows[0][0])


def count_rows(tx: Transaction) -> dict[str, int]:
    """Return how many rows the large tables have."""
    # A walk through the smallest index of each, some 30 ms for a million rows: not for every request.
    rows = tx.execute(
        "SELECT (SELECT COUNT(*) FROM messages), (SELECT COUNT(*) FROM logs), (SELECT COUNT(*) FROM dead_letters)"
    )
    return dict(zip(("messages", "logs", "deadLetters"), rows[0], strict=True))
