"""Where runs are kept: stores, and how a URL names one."""

from __future__ import annotations

from idioteque.clock import Clock
from idioteque.errors import ConfigurationError
from idioteque.store import Store
from idioteque.stores.memory import MemoryStore
from idioteque.stores.sql import SqlStore

__all__ = ["MemoryStore", "SqlStore", "open_store"]


def open_store(url: str, clock: Clock | None = None) -> Store:
    """Return the store that a URL names: `memory:` or `sqlite:///path`; raise `ConfigurationError` for any other."""
    if url in ("memory:", "memory://"):
        return MemoryStore(clock)
    if url.startswith("sqlite:"):
        return SqlStore(url, clock)
    raise ConfigurationError(f"{url!r} names no store; write memory: or sqlite:///runs.db")
