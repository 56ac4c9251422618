"""Every store keeps the whole contract; a new store adds one class here."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from idioteque.store import Store
from idioteque.stores import MemoryStore, SqlStore
from idioteque.stores.redis import RedisStore
from idioteque.testing import ManualClock
from idioteque.testing.contracts import StoreContract
from idioteque.testing.insight import InsightContract
from idioteque.testing.upkeep import UpkeepContract


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


class TestMemoryStore(StoreContract, UpkeepContract, InsightContract):
    @pytest.fixture
    def store(self, clock: ManualClock) -> Store:
        return MemoryStore(clock)


class TestSqliteStore(StoreContract, UpkeepContract, InsightContract):
    @pytest.fixture
    async def store(self, clock: ManualClock, tmp_path: Path) -> AsyncIterator[Store]:
        store = SqlStore(f"sqlite:///{tmp_path}/runs.db", clock)
        yield store
        await store.close()


class TestPostgresStore(StoreContract, UpkeepContract, InsightContract):
    @pytest.fixture
    async def store(self, clock: ManualClock, postgres_url: str) -> AsyncIterator[Store]:
        nodes = Nodes([SqlStore(postgres_url, clock) for _ in range(2)])
        yield nodes
        await asyncio.gather(*(store.close() for store in nodes.stores))


class TestRedisStore(StoreContract, UpkeepContract, InsightContract):
    @pytest.fixture
    async def store(self, clock: ManualClock, redis_url: str) -> AsyncIterator[Store]:
        nodes = Nodes([RedisStore(redis_url, clock) for _ in range(2)])
        yield nodes
        await asyncio.gather(*(store.close() for store in nodes.stores))


class Nodes:
    """The stores of several workers, of which each call takes the next one."""

    def __init__(self, stores: Sequence[Store]) -> None:
        self.stores = stores
        self._next = itertools.cycle(stores)

    def __getattr__(self, name: str) -> Any:
        return getattr(next(self._next), name)
