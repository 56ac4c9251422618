"""Where runs are kept: stores, and how a URL names one."""

from __future__ import annotations

from idioteque.clock import Clock
from idioteque.database import is_postgres
from idioteque.errors import ConfigurationError
from idioteque.store import Store
from idioteque.stores.memory import MemoryStore
from idioteque.stores.sql import SqlStore

__all__ = ["MemoryStore", "SqlStore", "open_store"]


def open_store(url: str, clock: Clock | None = None) -> Store:
    """Return the store that a URL names: `memory:`, `sqlite:///path` or `postgresql://user:password@host:5432/name`.

    Raise `ConfigurationError` for any other.
    """
    if url in ("memory:", "memory://"):
        return MemoryStore(clock)
    if url.startswith("sqlite:") or is_postgres(url):
        return SqlStore(url, clock)
    raise ConfigurationError(
        f"{url!r} names no store; write memory:, sqlite:///runs.db or postgresql://user:password@host:5432/name"
    )
