"""Where runs are kept: stores, and how a URL names one."""

from __future__ import annotations

from idioteque.clock import Clock
from idioteque.database import is_postgres
from idioteque.errors import ConfigurationError, MissingExtra
from idioteque.store import Store
from idioteque.stores.memory import MemoryStore
from idioteque.stores.sql import SqlStore

__all__ = ["MemoryStore", "SqlStore", "open_store"]

REDIS = ("redis://", "rediss://")


def open_store(url: str, clock: Clock | None = None) -> Store:
    """Return the store that a URL names.

    These are `memory:`, `sqlite:///path`, `postgresql://user:password@host:5432/name` and
    `redis://user:password@host:6379/0` (`rediss://` with TLS). Raise `ConfigurationError` for any other.
    """
    if url in ("memory:", "memory://"):
        return MemoryStore(clock)
    if url.startswith("sqlite:") or is_postgres(url):
        return SqlStore(url, clock)
    if url.startswith(REDIS):
        return _redis(url, clock)
    raise ConfigurationError(
        f"{url!r} names no store; write memory:, sqlite:///runs.db, postgresql://user:password@host:5432/name"
        " or redis://user:password@host:6379/0"
    )


def _redis(url: str, clock: Clock | None) -> Store:
    try:
        from idioteque.stores.redis import RedisStore
    except ImportError as error:
        raise MissingExtra("a Redis store", "redis") from error
    return RedisStore(url, clock)
