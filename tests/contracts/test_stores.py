"""Every store keeps the whole contract; a new store adds one class here."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from idioteque.store import Store
from idioteque.stores import MemoryStore, SqlStore
from idioteque.testing import ManualClock
from idioteque.testing.contracts import StoreContract


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


class TestMemoryStore(StoreContract):
    @pytest.fixture
    def store(self, clock: ManualClock) -> Store:
        return MemoryStore(clock)


class TestSqliteStore(StoreContract):
    @pytest.fixture
    async def store(self, clock: ManualClock, tmp_path: Path) -> AsyncIterator[Store]:
        store = SqlStore(f"sqlite:///{tmp_path}/runs.db", clock)
        yield store
        await store.close()


class TestPostgresStore(StoreContract):
    @pytest.fixture
    async def store(self, clock: ManualClock, postgres_url: str) -> AsyncIterator[Store]:
        store = SqlStore(postgres_url, clock)
        yield store
        await store.close()
