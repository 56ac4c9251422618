"""URL groups: one row each, read and replaced as a whole."""

from __future__ import annotations

import json
from typing import cast

from idioteque.database import Row, Transaction
from idioteque.server.model import Endpoint, UrlGroup

_COLUMNS = "name, created_at_ms, updated_at_ms, endpoints, headers"


def find_url_group(tx: Transaction, name: str) -> UrlGroup | None:
    """Return a group, or None."""
    # By primary key.
    rows = tx.execute(f"SELECT {_COLUMNS} FROM url_groups WHERE name = :name", {"name": name})  # noqa: S608 - a constant
    return _group_of(rows[0]) if rows else None


def list_url_groups(tx: Transaction) -> list[UrlGroup]:
    """Return all groups by name."""
    # They are bounded by a quota.
    return [_group_of(row) for row in tx.execute(f"SELECT {_COLUMNS} FROM url_groups ORDER BY name")]  # noqa: S608


def count_url_groups(tx: Transaction) -> int:
    """Return how many groups there are."""
    # A walk through the primary key.
    return int(tx.execute("SELECT COUNT(*) FROM url_groups")[0][0])


def save_url_group(tx: Transaction, group: UrlGroup) -> None:
    """Store a group in place of the one of its name."""
    # The time of creation stays that of the first.
    tx.execute(
        """INSERT INTO url_groups (name, created_at_ms, updated_at_ms, endpoints, headers)
        VALUES (:name, :created_at_ms, :updated_at_ms, :endpoints, :headers)
        ON CONFLICT (name) DO UPDATE SET updated_at_ms = excluded.updated_at_ms, endpoints = excluded.endpoints,
            headers = excluded.headers""",
        {
            "name": group.name,
            "created_at_ms": group.created_at_ms,
            "updated_at_ms": group.updated_at_ms,
            "endpoints": json.dumps([[endpoint.url, endpoint.name] for endpoint in group.endpoints]),
            "headers": json.dumps(list(group.headers)),
        },
    )


def delete_url_group(tx: Transaction, name: str) -> None:
    """Delete a group, if there is one."""
    # By primary key.
    tx.execute("DELETE FROM url_groups WHERE name = :name", {"name": name})


def _group_of(row: Row) -> UrlGroup:
    name, created_at_ms, updated_at_ms, endpoints, headers = row
    return UrlGroup(
        name,
        created_at_ms,
        updated_at_ms,
        tuple(Endpoint(url, its_name) for url, its_name in cast(list[tuple[str, str | None]], json.loads(endpoints))),
        tuple((header, value) for header, value in cast(list[tuple[str, str]], json.loads(headers))),
    )
