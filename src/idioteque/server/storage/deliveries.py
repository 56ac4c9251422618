"""Where messages stand: due, leased, ended. Every change of a lease is conditional on its token.

What is leased stands by itself, in no index by time: the one process that has the file knows what it holds.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from idioteque.database import SqlValue, Transaction
from idioteque.server.model import Filter, FlowControl, Lease, Message, Slot
from idioteque.server.network import split_url
from idioteque.server.storage.filters import conditions
from idioteque.server.storage.flow_keys import note_limits
from idioteque.server.storage.lines import NEVER_MS, slot_of
from idioteque.server.storage.messages import MESSAGE_COLUMNS, message_of
from idioteque.server.storage.queues import take_places

RESPREAD_MS = 1000  # messages that become due together because their destination is back are spread over this time


@dataclass(slots=True, unsafe_hash=True)
class Standing:
    """Where a new message begins: due at a time, or leased until then and with its deliverer already.

    `origin` is its destination's or, if a queue or a flow-control key orders it, the name of their line; `reaches` is
    the destination's origin then. A callback takes over the `slot` of the message that it reports on.
    """

    message: Message
    origin: str
    visible_at_ms: int
    leased: bool
    reaches: str | None = None
    slot: Slot | None = None


def queue_line(name: str) -> str:
    """Return the line of a queue."""
    return f"queue:{name}"


def flow_line(key: str) -> str:
    """Return the line of what only a flow-control key orders."""
    return f"flow:{key}"


def waiting(message: Message, due_ms: int, slot: Slot | None = None) -> Standing:
    """Return where a message waits until it is due and its turn comes."""
    origin, flow = split_url(message.url).origin, message.options.flow
    if message.queue is not None:
        return Standing(message, queue_line(message.queue), due_ms, leased=False, reaches=origin)
    if flow is not None:
        return Standing(message, flow_line(flow.key), due_ms, leased=False, reaches=origin, slot=slot)
    return Standing(message, origin, due_ms, leased=False, slot=slot)


def insert_deliveries(tx: Transaction, standings: Sequence[Standing]) -> None:
    """Store where new messages stand; those that are leased begin with token 1."""
    plain = [s for s in standings if s.reaches is None and s.slot is None]
    if len(plain) < len(standings):
        _insert_ordered(tx, [s for s in standings if s.reaches is not None or s.slot is not None])
    tx.execute_many(
        """INSERT INTO deliveries (message_id, origin, visible_at_ms, token, retried, leased, cancelled, unreached)
        VALUES (:id, :origin, :visible_at_ms, :leased, 0, :leased, 0, 0)""",
        [(s.message.id, s.origin, s.visible_at_ms, int(s.leased)) for s in plain],
    )


def _insert_ordered(tx: Transaction, standings: Sequence[Standing]) -> None:
    """Store where messages stand that a queue or a flow-control key orders, or that hold a queue's slot."""
    limits: dict[str, FlowControl] = {}
    members: dict[str, list[Standing]] = {}
    for standing in standings:
        if (flow := standing.message.options.flow) is not None:
            limits[flow.key] = flow  # the latest counts
        if (queue := standing.message.queue) is not None:
            members.setdefault(queue, []).append(standing)
    # In the order of their names, so that two nodes never wait for each other.
    for _, flow in sorted(limits.items()):
        note_limits(tx, flow, standings[-1].message.created_at_ms)
    places: dict[str, int] = {}
    for queue, inside in sorted(members.items()):
        first = take_places(tx, queue, len(inside), inside[0].message.created_at_ms)
        places.update((standing.message.id, first + offset) for offset, standing in enumerate(inside))
    # What waits for a slot is visible never: it gets its time with the slot.
    tx.execute_many(
        """INSERT INTO deliveries (message_id, origin, visible_at_ms, token, retried, leased, cancelled, unreached,
            reaches, flow_key, queue_name, place, holds)
        VALUES (:id, :origin, :visible_at_ms, :leased, 0, :leased, 0, 0, :reaches, :flow_key, :queue_name, :place,
            :holds)""",
        [_ordered_parameters(standing, places.get(standing.message.id)) for standing in standings],
    )


def _ordered_parameters(standing: Standing, place: int | None) -> dict[str, SqlValue]:
    message, slot = standing.message, standing.slot
    return {
        "id": message.id,
        "origin": standing.origin,
        "visible_at_ms": standing.visible_at_ms if message.queue is None else NEVER_MS,
        "leased": int(standing.leased),
        "reaches": standing.reaches,
        "flow_key": None if message.options.flow is None else message.options.flow.key,
        "queue_name": message.queue if slot is None else slot.queue,
        "place": place if slot is None else slot.place,
        "holds": int(message.queue is None),
    }


def claim_due(tx: Transaction, origin: str, count_max: int, now_ms: int, until_ms: int) -> list[Lease]:
    """Lease messages of one destination that are due."""
    # Take what has been due for the longest; the token fences out whoever held it before.
    rows = tx.execute(
        f"""UPDATE deliveries SET visible_at_ms = :until_ms, token = token + 1, leased = 1
        WHERE leased = 0 AND message_id IN (
            SELECT message_id FROM deliveries WHERE leased = 0 AND origin = :origin AND visible_at_ms <= :now_ms
            ORDER BY visible_at_ms LIMIT :count_max {tx.lock_rows})
        RETURNING message_id, token, retried, queue_name, place""",  # noqa: S608 - a constant of the database
        {"origin": origin, "now_ms": now_ms, "until_ms": until_ms, "count_max": count_max},
    )
    leases: list[Lease] = []
    for message_id, token, retried, queue, place in rows:
        # What is to be sent, by primary key.
        found = tx.execute(f"SELECT {MESSAGE_COLUMNS} FROM messages m WHERE m.id = :id", {"id": message_id})  # noqa: S608
        leases.append(Lease(message_of(found[0]), token, retried, slot_of(queue, place)))
    return leases


def next_due_ms(tx: Transaction, origin: str) -> int | None:
    """Return when a destination's next message becomes visible, or None when it has none."""
    # The first entry of the destination in the index.
    rows = tx.execute(
        "SELECT visible_at_ms FROM deliveries WHERE leased = 0 AND origin = :origin ORDER BY visible_at_ms LIMIT 1",
        {"origin": origin},
    )
    return rows[0][0] if rows else None


def all_next_due_ms(tx: Transaction) -> list[tuple[str, int]]:
    """Return every destination and line that has messages which wait, and when its next one becomes visible."""
    # From one destination to the next in the index: what waits for each is not walked through.
    rows = tx.execute(
        """WITH RECURSIVE origins (origin) AS (
            SELECT MIN(origin) FROM deliveries WHERE leased = 0
            UNION ALL SELECT (SELECT MIN(d.origin) FROM deliveries d WHERE d.leased = 0 AND d.origin > o.origin)
            FROM origins o WHERE o.origin IS NOT NULL)
        SELECT o.origin, (SELECT MIN(d.visible_at_ms) FROM deliveries d WHERE d.leased = 0 AND d.origin = o.origin)
        FROM origins o WHERE o.origin IS NOT NULL"""
    )
    return [(origin, due_ms) for origin, due_ms in rows]


def count_waiting(tx: Transaction) -> int:
    """Return how many messages have not ended and are not leased."""
    # A walk through the index by time.
    return int(tx.execute("SELECT COUNT(*) FROM deliveries WHERE leased = 0")[0][0])


def all_unreached(tx: Transaction) -> list[tuple[str, str]]:
    """Return the destinations whose last attempts got no answer, each with a line in which messages for it wait."""
    # A scan of the partial index, once at the start.
    rows = tx.execute("SELECT DISTINCT COALESCE(reaches, origin), origin FROM deliveries WHERE unreached = 1")
    return [(origin, line) for origin, line in rows]


def free_all(tx: Transaction, now_ms: int) -> None:
    """Make due what a process that is gone had leased; its attempts are not counted, since they did not finish."""
    # Only one process has the file, so whoever held these leases is dead; they stand at one end of the table.
    tx.execute("UPDATE deliveries SET leased = 0, visible_at_ms = :now_ms WHERE leased = 1", {"now_ms": now_ms})


def free_lost(tx: Transaction, now_ms: int) -> set[str]:
    """Make due what is leased beyond its time, which nobody holds any more; return the destinations and lines."""
    # What is leased is no more than can be under way.
    rows = tx.execute(
        """UPDATE deliveries SET leased = 0, visible_at_ms = :now_ms WHERE leased = 1 AND visible_at_ms <= :now_ms
        RETURNING origin""",
        {"now_ms": now_ms},
    )
    return {row[0] for row in rows}


def hand_back(tx: Transaction, leases: Iterable[Lease], now_ms: int) -> None:
    """Make due what is leased, without counting an attempt."""
    # Unless somebody else holds it by now.
    tx.execute_many(
        """UPDATE deliveries SET leased = 0, visible_at_ms = :now_ms
        WHERE leased = 1 AND message_id = :id AND token = :token""",
        [{"id": lease.message.id, "token": lease.token, "now_ms": now_ms} for lease in leases],
    )


def renew(tx: Transaction, leases: Iterable[Lease], until_ms: int) -> None:
    """Keep leases until a later time."""
    # A lease that somebody else holds by now stays theirs.
    tx.execute_many(
        "UPDATE deliveries SET visible_at_ms = :until_ms WHERE leased = 1 AND message_id = :id AND token = :token",
        [{"id": lease.message.id, "token": lease.token, "until_ms": until_ms} for lease in leases],
    )


def end_delivered(tx: Transaction, message_id: str) -> bool:
    """End a message whose destination said yes; False when it has ended already.

    Whoever holds the lease: the destination did get it.
    """
    # The first end wins; a lease that was lost is rare.
    key = {"id": message_id}
    if tx.changed("DELETE FROM deliveries WHERE leased = 1 AND message_id = :id", key):
        return True
    return tx.changed("DELETE FROM deliveries WHERE leased = 0 AND message_id = :id", key) > 0


def put_off(tx: Transaction, lease: Lease, due_at_ms: int, *, unreached: bool) -> bool:
    """Count a failed attempt and make the message due again; False when the lease is lost or a cancel was asked for."""
    # Conditional on the token: a late failure of a former holder changes nothing.
    changed = tx.changed(
        """UPDATE deliveries SET visible_at_ms = :due_at_ms, leased = 0, retried = :retried, unreached = :unreached
        WHERE leased IN (0, 1) AND message_id = :id AND token = :token AND cancelled = 0""",
        {
            "id": lease.message.id,
            "token": lease.token,
            "due_at_ms": due_at_ms,
            "retried": lease.retried + 1,
            "unreached": int(unreached),
        },
    )
    return changed > 0


def end_failed(tx: Transaction, lease: Lease) -> str | None:
    """End a message after its last failure: `failed` or `cancelled`, or None when the lease is lost."""
    # Conditional on the token, like every failure.
    rows = tx.execute(
        """DELETE FROM deliveries WHERE leased IN (0, 1) AND message_id = :id AND token = :token
        RETURNING cancelled""",
        {"id": lease.message.id, "token": lease.token},
    )
    if not rows:
        return None
    return "cancelled" if rows[0][0] else "failed"


def hasten(tx: Transaction, origin: str, now_ms: int) -> set[str]:
    """Make a destination's waiting retries due, spread over a second, because it accepts connections again.

    Return the lines in which they wait; the first is due now.
    """
    # Only those that failed for want of a connection, and only forward: nothing is put off by this.
    rows = tx.execute(
        """SELECT message_id, visible_at_ms, origin FROM deliveries WHERE origin = :origin AND unreached = 1
            AND leased = 0 AND visible_at_ms > :now_ms
        UNION ALL SELECT message_id, visible_at_ms, origin FROM deliveries WHERE reaches = :origin AND unreached = 1
            AND leased = 0 AND visible_at_ms > :now_ms
        ORDER BY 2""",
        {"origin": origin, "now_ms": now_ms},
    )
    step_ms = RESPREAD_MS / max(len(rows), 1)
    # Each gets its own moment.
    tx.execute_many(
        """UPDATE deliveries SET visible_at_ms = :due_ms
        WHERE leased = 0 AND message_id = :id AND visible_at_ms > :due_ms""",
        [{"id": row[0], "due_ms": now_ms + int(step_ms * place)} for place, row in enumerate(rows)],
    )
    return {row[2] for row in rows}


def pending_ids(tx: Transaction, chosen: Filter, count_max: int) -> list[str]:
    """Return the ids of messages that have not ended and agree with a filter, the oldest first."""
    if chosen.ids is not None:
        return list(chosen.ids)[:count_max]
    clauses, parameters = conditions(chosen, "m.created_at_ms")
    where = " AND ".join(["d.leased IN (0, 1)", *clauses])
    # Ids sort by age.
    rows = tx.execute(
        f"""SELECT m.id FROM deliveries d JOIN messages m ON m.id = d.message_id WHERE {where}
        ORDER BY m.id LIMIT :count""",  # noqa: S608 - constants, see filters.py
        {**parameters, "count": count_max},
    )
    return [row[0] for row in rows]


@dataclass(frozen=True, slots=True)
class Cancelled:
    """A message that was cancelled: `ended` at once, or asked to while an attempt is under way.

    `queue` is the one whose slot it held or waited for, if it ended.
    """

    ended: bool
    queue: str | None = None


def cancel(tx: Transaction, message_id: str) -> Cancelled | None:
    """Cancel a pending message; None when none is pending."""
    # Nobody is sending it: it ends here.
    rows = tx.execute(
        "DELETE FROM deliveries WHERE leased = 0 AND message_id = :id RETURNING queue_name", {"id": message_id}
    )
    if rows:
        return Cancelled(ended=True, queue=rows[0][0])
    # Somebody is: the attempt may still succeed; if it fails, it is the last.
    if tx.execute(
        "UPDATE deliveries SET cancelled = 1 WHERE leased = 1 AND message_id = :id AND cancelled = 0 RETURNING 1",
        {"id": message_id},
    ):
        return Cancelled(ended=False)
    return None
