"""Databases behind one small protocol: open one by URL, write in transactions that share commits, read beside them."""

from __future__ import annotations

from idioteque.database.backup import back_up
from idioteque.database.connection import MEMORY, may_be_database
from idioteque.database.protocol import Database, Parameters, Row, SqlValue, Transaction, migrate, migrations
from idioteque.database.sqlite import SqliteDatabase
from idioteque.errors import ConfigurationError, MissingExtra

__all__ = [
    "Database",
    "Parameters",
    "Row",
    "SqlValue",
    "SqliteDatabase",
    "Transaction",
    "back_up",
    "check_database",
    "is_postgres",
    "migrate",
    "migrations",
    "open_database",
    "sqlite_path",
]

POSTGRES = ("postgresql://", "postgres://")


def open_database(url: str, *, durability: str = "full", threads: bool = True) -> Database:
    """Return the database that a URL names.

    These are `sqlite:///relative.db`, `sqlite:////absolute.db`, `sqlite://:memory:` and
    `postgresql://user:password@host:5432/name`. `durability="relaxed"` survives the kill of the process but may lose
    the last moments at power loss; PostgreSQL is never relaxed. `threads=False` runs each operation in the caller's own
    turn, which a simulation needs and only SQLite can do. Raise `ConfigurationError` for a URL of no known kind,
    `DatabaseError` when the file cannot be opened; PostgreSQL is connected to at the first use.
    """
    if durability not in ("full", "relaxed"):
        raise ConfigurationError(f"durability must be 'full' or 'relaxed', not {durability!r}")
    if not is_postgres(url):
        return SqliteDatabase(sqlite_path(url), durability=durability, threads=threads)
    if not threads:
        raise ConfigurationError("only SQLite can run without threads")
    return _postgres(url)


def check_database(url: str) -> None:
    """Raise `ConfigurationError` for a URL that `open_database` refuses, or of a file that is no database."""
    if is_postgres(url):
        _postgres(url)  # connects and starts nothing before its first use
        return
    path = sqlite_path(url)
    if path != MEMORY and not may_be_database(path):
        raise ConfigurationError(f"{path!r} is no SQLite database; it was left as it is")


def is_postgres(url: str) -> bool:
    """Whether a URL names a PostgreSQL database."""
    return url.startswith(POSTGRES)


def _postgres(url: str) -> Database:
    try:
        from idioteque.database.postgres import PostgresDatabase
    except ImportError as error:
        raise MissingExtra("a PostgreSQL database", "postgres") from error
    return PostgresDatabase(url)


def sqlite_path(url: str) -> str:
    """Return the file (or `:memory:`) that a SQLite URL names; raise `ConfigurationError` for any other URL."""
    if url in ("sqlite://:memory:", "sqlite:///:memory:", "sqlite://"):
        return MEMORY
    if url.startswith("sqlite:///") and len(url) > len("sqlite:///") and "?" not in url:
        return url.removeprefix("sqlite:///")
    raise ConfigurationError(
        f"{url!r} names no database; write sqlite:///file.db, sqlite:////absolute/file.db, sqlite://:memory:"
        " or postgresql://user:password@host:5432/name"
    )
