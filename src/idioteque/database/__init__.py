"""Databases behind one small protocol: open one by URL, write in transactions that share commits, read beside them."""

from __future__ import annotations

from idioteque.database.protocol import Database, Row, SqlValue, Transaction, migrate
from idioteque.database.sqlite import SqliteDatabase
from idioteque.errors import ConfigurationError

__all__ = ["Database", "Row", "SqlValue", "SqliteDatabase", "Transaction", "migrate", "open_database", "sqlite_path"]


def open_database(url: str, *, durability: str = "full", threads: bool = True) -> Database:
    """Return the database that a URL names: `sqlite:///relative.db`, `sqlite:////absolute.db` or `sqlite://:memory:`.

    `durability="relaxed"` survives the kill of the process but may lose the last moments at power loss. `threads=False`
    runs each operation in the caller's own turn, which a simulation needs. Raise `ConfigurationError` for a URL of no
    known kind, `DatabaseError` when the file cannot be opened.
    """
    if durability not in ("full", "relaxed"):
        raise ConfigurationError(f"durability must be 'full' or 'relaxed', not {durability!r}")
    return SqliteDatabase(sqlite_path(url), durability=durability, threads=threads)


def sqlite_path(url: str) -> str:
    """Return the file (or `:memory:`) that a SQLite URL names; raise `ConfigurationError` for any other URL."""
    if url in ("sqlite://:memory:", "sqlite:///:memory:", "sqlite://"):
        return ":memory:"
    if url.startswith("sqlite:///") and len(url) > len("sqlite:///") and "?" not in url:
        return url.removeprefix("sqlite:///")
    raise ConfigurationError(
        f"{url!r} names no database; write sqlite:///file.db, sqlite:////absolute/file.db or sqlite://:memory:"
    )
