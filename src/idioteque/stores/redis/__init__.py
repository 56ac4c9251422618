"""Runs in Redis; `store.py` holds the operations, `lua/` the scripts that they are."""

from __future__ import annotations

from idioteque.stores.redis.store import RedisStore

__all__ = ["RedisStore"]
