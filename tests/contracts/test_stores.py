"""Every store keeps the whole contract; a new store adds one class here."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from idioteque.paths import BODY
from idioteque.store import Store
from idioteque.stores import MemoryStore, SqlStore
from idioteque.stores.redis import RedisStore
from idioteque.testing import ManualClock
from idioteque.testing.contracts import StoreContract
from idioteque.testing.insight import InsightContract
from idioteque.testing.leases import OK, RUN, held
from idioteque.testing.runlog import RunLogContract
from idioteque.testing.upkeep import LIMIT, UpkeepContract, upkeep


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


class ForgetsDismissals:
    """Of stores that keep dismissals until a purge; elsewhere they expire."""

    async def test_dismissals_go_with_old_runs_and_no_more_at_once_than_asked_for(
        self, store: Store, clock: ManualClock
    ) -> None:
        await store.commit(await held(store, "a"), BODY, OK)
        assert await store.occupy("n", "run_x0", until_end=True) == "run_x0"
        for n in range(1, 5):
            assert await store.occupy("n", f"run_x{n}", until_end=True) == "run_x0"
        assert await upkeep(store).purge(clock.now_ms(), LIMIT) == 0
        await clock.advance(1)
        assert await store.occupy("n", "run_x9", until_end=True) == "run_x0"
        assert [await upkeep(store).purge(clock.now_ms(), 2) for _ in range(4)] == [2, 2, 1, 0]
        await store.cancel((await held(store, "b", run="run_x0")).run_id)
        assert await store.occupy("n", "run_x9", until_end=True) == "run_x0"
        assert await store.occupy("n", "run_x1", until_end=True) == "run_x1"

    async def test_what_was_dismissed_holds_no_name_when_that_is_forgotten(
        self, store: Store, clock: ManualClock
    ) -> None:
        assert await store.occupy("first", "run_2", until_end=False) == "run_2"
        assert await store.occupy("n", RUN, until_end=True) == RUN
        assert await store.occupy("n", "run_2", until_end=True) == RUN
        await clock.advance(1)
        assert await upkeep(store).purge(clock.now_ms(), LIMIT) == 1
        assert await store.occupy("first", "run_3", until_end=False) == "run_3"


class TestMemoryStore(StoreContract, UpkeepContract, InsightContract, RunLogContract, ForgetsDismissals):
    @pytest.fixture
    def store(self, clock: ManualClock) -> Store:
        return MemoryStore(clock)


class TestSqliteStore(StoreContract, UpkeepContract, InsightContract, RunLogContract, ForgetsDismissals):
    @pytest.fixture
    async def store(self, clock: ManualClock, tmp_path: Path) -> AsyncIterator[Store]:
        store = SqlStore(f"sqlite:///{tmp_path}/runs.db", clock)
        yield store
        await store.close()


class TestPostgresStore(StoreContract, UpkeepContract, InsightContract, RunLogContract, ForgetsDismissals):
    @pytest.fixture
    async def store(self, clock: ManualClock, postgres_url: str) -> AsyncIterator[Store]:
        nodes = Nodes([SqlStore(postgres_url, clock) for _ in range(2)])
        yield nodes
        await asyncio.gather(*(store.close() for store in nodes.stores))


class TestRedisStore(StoreContract, UpkeepContract, InsightContract, RunLogContract):
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
