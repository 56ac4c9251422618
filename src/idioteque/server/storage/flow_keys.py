"""Flow-control keys: their limits, and how much of the rate is used. What runs is counted from the leases."""

from __future__ import annotations

from idioteque.database import Row, Transaction
from idioteque.server.model import FlowControl, FlowKey

_COLUMNS = (
    "f.name, f.parallelism, f.rate, f.period_s, f.pinned_parallelism, f.pinned_rate, f.paused, f.period_began_ms,"
    " f.rate_used"
)
_COUNTS = (
    "(SELECT COUNT(*) FROM deliveries d WHERE d.flow_key = f.name AND d.leased = 1 AND d.visible_at_ms > :now_ms),"
    " (SELECT COUNT(*) FROM deliveries d WHERE d.flow_key = f.name AND d.leased = 0 AND d.visible_at_ms <= :now_ms)"
)


def find_flow_key(tx: Transaction, key: str, now_ms: int) -> FlowKey | None:
    """Return a key, or None."""
    # By primary key; its deliveries are counted in an index.
    rows = tx.execute(
        f"SELECT {_COLUMNS}, {_COUNTS} FROM flow_keys f WHERE f.name = :name",  # noqa: S608 - constants
        {"name": key, "now_ms": now_ms},
    )
    return _flow_key_of(rows[0]) if rows else None


def list_flow_keys(tx: Transaction, search: str, count_max: int, now_ms: int) -> list[FlowKey]:
    """Return keys that contain a text, by name."""
    # Contains, without LIKE: its wildcards and its case differ between databases.
    rows = tx.execute(
        f"""SELECT {_COLUMNS}, {_COUNTS} FROM flow_keys f WHERE replace(f.name, :search, '') <> f.name OR :search = ''
        ORDER BY f.name LIMIT :count""",  # noqa: S608 - constants
        {"search": search, "count": count_max, "now_ms": now_ms},
    )
    return [_flow_key_of(row) for row in rows]


def note_limits(tx: Transaction, limits: FlowControl, now_ms: int) -> None:
    """Let a key have the limits of its latest message, except where they are pinned."""
    # Makes the key if need be.
    tx.execute(
        """INSERT INTO flow_keys (name, parallelism, rate, period_s, pinned_parallelism, pinned_rate, paused,
            period_began_ms, rate_used, used_at_ms)
        VALUES (:name, :parallelism, :rate, :period_s, 0, 0, 0, 0, 0, :now_ms)
        ON CONFLICT (name) DO UPDATE SET used_at_ms = :now_ms,
            parallelism = CASE WHEN flow_keys.pinned_parallelism = 1 THEN flow_keys.parallelism ELSE :parallelism END,
            rate = CASE WHEN flow_keys.pinned_rate = 1 THEN flow_keys.rate ELSE :rate END,
            period_s = CASE WHEN flow_keys.pinned_rate = 1 THEN flow_keys.period_s ELSE :period_s END""",
        {
            "name": limits.key,
            "parallelism": limits.parallelism,
            "rate": limits.rate,
            "period_s": limits.period_s,
            "now_ms": now_ms,
        },
    )


def make_flow_key(tx: Transaction, key: str, now_ms: int) -> None:
    """Make a key without limits, if there is none."""
    # An operator may pause or pin a key before anybody uses it.
    tx.execute(
        """INSERT INTO flow_keys (name, parallelism, rate, period_s, pinned_parallelism, pinned_rate, paused,
            period_began_ms, rate_used, used_at_ms)
        VALUES (:name, NULL, NULL, 1, 0, 0, 0, 0, 0, :now_ms) ON CONFLICT (name) DO NOTHING""",
        {"name": key, "now_ms": now_ms},
    )


def hold_flow_key(tx: Transaction, key: str) -> FlowKey | None:
    """Return a key, its deliveries not counted, and keep other nodes from it until the end of this transaction."""
    # An update that changes nothing is the lock that both databases know.
    rows = tx.execute(
        """UPDATE flow_keys SET rate_used = rate_used WHERE name = :name RETURNING name, parallelism, rate, period_s,
            pinned_parallelism, pinned_rate, paused, period_began_ms, rate_used, 0, 0""",
        {"name": key},
    )
    return _flow_key_of(rows[0]) if rows else None


def save_flow_key(tx: Transaction, flow: FlowKey, now_ms: int) -> None:
    """Store a key that was held in this transaction."""
    # By primary key.
    tx.execute(
        """UPDATE flow_keys SET parallelism = :parallelism, rate = :rate, period_s = :period_s,
            pinned_parallelism = :pinned_parallelism, pinned_rate = :pinned_rate, paused = :paused,
            period_began_ms = :period_began_ms, rate_used = :rate_used, used_at_ms = :now_ms WHERE name = :name""",
        {
            "name": flow.limits.key,
            "parallelism": flow.limits.parallelism,
            "rate": flow.limits.rate,
            "period_s": flow.limits.period_s,
            "pinned_parallelism": int(flow.pinned_parallelism),
            "pinned_rate": int(flow.pinned_rate),
            "paused": int(flow.paused),
            "period_began_ms": flow.period_began_ms,
            "rate_used": flow.rate_used,
            "now_ms": now_ms,
        },
    )


def count_running(tx: Transaction, key: str, now_ms: int) -> int:
    """Return how many deliveries of a key are leased; a dead node's are not, once their leases have run out."""
    # A range of the index.
    rows = tx.execute(
        "SELECT COUNT(*) FROM deliveries WHERE flow_key = :key AND leased = 1 AND visible_at_ms > :now_ms",
        {"key": key, "now_ms": now_ms},
    )
    return int(rows[0][0])


def first_lease_end_ms(tx: Transaction, key: str, now_ms: int) -> int | None:
    """Return when the first lease of a key runs out, unless it is renewed."""
    # The first entry of that range.
    rows = tx.execute(
        """SELECT visible_at_ms FROM deliveries WHERE flow_key = :key AND leased = 1 AND visible_at_ms > :now_ms
        ORDER BY visible_at_ms LIMIT 1""",
        {"key": key, "now_ms": now_ms},
    )
    return rows[0][0] if rows else None


def delete_idle_flow_keys(tx: Transaction, unused_since_ms: int, now_ms: int, count_max: int) -> int:
    """Forget keys that nobody used lately and no message waits for, unless pinned, paused or in a period; say how many.

    A rate's period may be longer than they are kept otherwise.
    """
    # A bounded bite from the beginning of the index by use.
    rows = tx.execute(
        """DELETE FROM flow_keys WHERE name IN (SELECT f.name FROM flow_keys f WHERE f.used_at_ms <= :unused_since_ms
            AND f.paused = 0 AND f.pinned_parallelism = 0 AND f.pinned_rate = 0
            AND f.period_began_ms + f.period_s * 1000 <= :now_ms
            AND NOT EXISTS (SELECT 1 FROM deliveries d WHERE d.flow_key = f.name)
            ORDER BY f.used_at_ms LIMIT :count_max) RETURNING 1""",
        {"unused_since_ms": unused_since_ms, "now_ms": now_ms, "count_max": count_max},
    )
    return len(rows)


def _flow_key_of(row: Row) -> FlowKey:
    name, parallelism, rate, period_s, pinned_parallelism, pinned_rate, paused, began_ms, used, running, waiting = row
    return FlowKey(
        FlowControl(name, parallelism, rate, period_s),
        bool(pinned_parallelism),
        bool(pinned_rate),
        bool(paused),
        began_ms,
        used,
        running,
        waiting,
    )
