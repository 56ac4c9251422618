"""Where messages stand: due, leased, ended. Every change of a lease is conditional on its token."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from idioteque.database import Transaction
from idioteque.server.model import Filter, Lease, Message
from idioteque.server.storage.filters import conditions
from idioteque.server.storage.messages import MESSAGE_COLUMNS, message_of

RESPREAD_MS = 1000  # messages that become due together because their destination is back are spread over this time


@dataclass(frozen=True, slots=True)
class Standing:
    """Where a new message begins: due at a time, or leased until then and with its deliverer already."""

    message: Message
    origin: str
    visible_at_ms: int
    leased: bool


def insert_deliveries(tx: Transaction, standings: Sequence[Standing]) -> None:
    """Store where new messages stand; those that are leased begin with token 1."""
    tx.execute_many(
        """INSERT INTO deliveries (message_id, origin, visible_at_ms, token, retried, leased, cancelled, unreached)
        VALUES (:id, :origin, :visible_at_ms, :leased, 0, :leased, 0, 0)""",
        [
            {"id": s.message.id, "origin": s.origin, "visible_at_ms": s.visible_at_ms, "leased": int(s.leased)}
            for s in standings
        ],
    )


def claim_due(tx: Transaction, origin: str, count_max: int, now_ms: int, until_ms: int) -> list[Lease]:
    """Lease messages of one destination that are due; a lease that ran out is due as well."""
    # Take what has been due for the longest; the token fences out whoever held it before.
    rows = tx.execute(
        f"""UPDATE deliveries SET visible_at_ms = :until_ms, token = token + 1, leased = 1 WHERE message_id IN (
            SELECT message_id FROM deliveries WHERE origin = :origin AND visible_at_ms <= :now_ms
            ORDER BY visible_at_ms LIMIT :count_max {tx.lock_rows})
        RETURNING message_id, token, retried""",  # noqa: S608 - a constant of the database
        {"origin": origin, "now_ms": now_ms, "until_ms": until_ms, "count_max": count_max},
    )
    leases: list[Lease] = []
    for message_id, token, retried in rows:
        # What is to be sent, by primary key.
        found = tx.execute(f"SELECT {MESSAGE_COLUMNS} FROM messages m WHERE m.id = :id", {"id": message_id})  # noqa: S608
        leases.append(Lease(message_of(found[0]), token, retried))
    return leases


def next_due_ms(tx: Transaction, origin: str) -> int | None:
    """Return when a destination's next message becomes visible, or None when it has none."""
    # The first entry of the destination in the index.
    rows = tx.execute(
        "SELECT visible_at_ms FROM deliveries WHERE origin = :origin ORDER BY visible_at_ms LIMIT 1", {"origin": origin}
    )
    return rows[0][0] if rows else None


def all_next_due_ms(tx: Transaction) -> list[tuple[str, int]]:
    """Return every destination that has messages, and when its next one becomes visible."""
    # A scan of one index, once at the start.
    rows = tx.execute("SELECT origin, MIN(visible_at_ms) FROM deliveries GROUP BY origin")
    return [(origin, due_ms) for origin, due_ms in rows]


def all_unreached(tx: Transaction) -> list[str]:
    """Return the destinations whose last attempts got no answer."""
    # A scan of the partial index.
    return [row[0] for row in tx.execute("SELECT DISTINCT origin FROM deliveries WHERE unreached = 1")]


def free_all(tx: Transaction, now_ms: int) -> None:
    """Make due what a process that is gone had leased; its attempts are not counted, since they did not finish."""
    # Only one process has the file, so whoever held these leases is dead.
    tx.execute("UPDATE deliveries SET leased = 0, visible_at_ms = :now_ms WHERE leased = 1", {"now_ms": now_ms})


def hand_back(tx: Transaction, leases: Iterable[Lease], now_ms: int) -> None:
    """Make due what is leased, without counting an attempt."""
    # Unless somebody else holds it by now.
    tx.execute_many(
        """UPDATE deliveries SET leased = 0, visible_at_ms = :now_ms WHERE message_id = :id AND token = :token""",
        [{"id": lease.message.id, "token": lease.token, "now_ms": now_ms} for lease in leases],
    )


def renew(tx: Transaction, leases: Iterable[Lease], until_ms: int) -> None:
    """Keep leases until a later time."""
    # A lease that somebody else holds by now stays theirs.
    tx.execute_many(
        "UPDATE deliveries SET visible_at_ms = :until_ms WHERE message_id = :id AND token = :token AND leased = 1",
        [{"id": lease.message.id, "token": lease.token, "until_ms": until_ms} for lease in leases],
    )


def end_delivered(tx: Transaction, message_id: str) -> bool:
    """End a message whose destination said yes; False when it has ended already.

    Whoever holds the lease: the destination did get it.
    """
    # The first end wins.
    return bool(tx.execute("DELETE FROM deliveries WHERE message_id = :id RETURNING 1", {"id": message_id}))


def put_off(tx: Transaction, lease: Lease, due_at_ms: int, *, unreached: bool) -> bool:
    """Count a failed attempt and make the message due again; False when the lease is lost or a cancel was asked for."""
    # Conditional on the token: a late failure of a former holder changes nothing.
    rows = tx.execute(
        """UPDATE deliveries SET visible_at_ms = :due_at_ms, leased = 0, retried = :retried, unreached = :unreached
        WHERE message_id = :id AND token = :token AND cancelled = 0 RETURNING 1""",
        {
            "id": lease.message.id,
            "token": lease.token,
            "due_at_ms": due_at_ms,
            "retried": lease.retried + 1,
            "unreached": int(unreached),
        },
    )
    return bool(rows)


def end_failed(tx: Transaction, lease: Lease) -> str | None:
    """End a message after its last failure: `failed` or `cancelled`, or None when the lease is lost."""
    # Conditional on the token, like every failure.
    rows = tx.execute(
        "DELETE FROM deliveries WHERE message_id = :id AND token = :token RETURNING cancelled",
        {"id": lease.message.id, "token": lease.token},
    )
    if not rows:
        return None
    return "cancelled" if rows[0][0] else "failed"


def hasten(tx: Transaction, origin: str, now_ms: int) -> int | None:
    """Make a destination's waiting retries due, spread over a second, because it accepts connections again.

    Return when the first of them is due, or None when there are none.
    """
    # Only those that failed for want of a connection, and only forward: nothing is put off by this.
    rows = tx.execute(
        """SELECT message_id FROM deliveries WHERE origin = :origin AND unreached = 1 AND leased = 0
        AND visible_at_ms > :now_ms ORDER BY visible_at_ms""",
        {"origin": origin, "now_ms": now_ms},
    )
    step_ms = RESPREAD_MS / max(len(rows), 1)
    # Each gets its own moment.
    tx.execute_many(
        "UPDATE deliveries SET visible_at_ms = :due_ms WHERE message_id = :id AND visible_at_ms > :due_ms",
        [{"id": row[0], "due_ms": now_ms + int(step_ms * place)} for place, row in enumerate(rows)],
    )
    return now_ms if rows else None


def pending_ids(tx: Transaction, chosen: Filter, count_max: int) -> list[str]:
    """Return the ids of messages that have not ended and agree with a filter, the oldest first."""
    if chosen.ids is not None:
        return list(chosen.ids)[:count_max]
    clauses, parameters = conditions(chosen, "m.created_at_ms")
    where = f"WHERE {' AND '.join(clauses)}" if clauses else ""
    # Ids sort by age.
    rows = tx.execute(
        f"""SELECT m.id FROM deliveries d JOIN messages m ON m.id = d.message_id {where}
        ORDER BY m.id LIMIT :count""",  # noqa: S608 - constants, see filters.py
        {**parameters, "count": count_max},
    )
    return [row[0] for row in rows]


def cancel(tx: Transaction, message_id: str) -> str | None:
    """Cancel a pending message: `ended` at once, `asked` while an attempt is under way, None when none is pending."""
    # Nobody is sending it: it ends here.
    if tx.execute("DELETE FROM deliveries WHERE message_id = :id AND leased = 0 RETURNING 1", {"id": message_id}):
        return "ended"
    # Somebody is: the attempt may still succeed; if it fails, it is the last.
    if tx.execute(
        "UPDATE deliveries SET cancelled = 1 WHERE message_id = :id AND cancelled = 0 RETURNING 1", {"id": message_id}
    ):
        return "asked"
    return None
