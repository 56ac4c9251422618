"""The real stores as the world keeps them: in memory, or in SQLite with the writer stepped by the world."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from contextvars import ContextVar
from typing import Any, Protocol, TypeVar

from idioteque.clock import Clock
from idioteque.database import SqliteDatabase, Transaction
from idioteque.store import RunRecord, Store
from idioteque.stores import MemoryStore, SqlStore

STORES = ("memory", "sqlite")
LIST_MAX = 1000

told_here: ContextVar[Callable[[object], None] | None] = ContextVar("simulation-told", default=None)
"""Who is to be told of the answer to the operation at hand once it is stored, even if its caller never hears of it."""

T = TypeVar("T")


class Storage(Protocol):
    """A store, what of its work is still to be done, and a look into it that takes no time."""

    store: Store
    look: Store
    """The same store, answering at once and without anybody's knowledge."""

    tells_itself: bool
    """Whether it tells `told_here` of what it has stored."""

    @property
    def has_work(self) -> bool:
        """Whether operations wait for a step."""
        ...

    def step(self) -> None:
        """Do what waits."""
        ...


class Memory:
    """The store in memory, which never has anything to do later."""

    has_work = False
    tells_itself = False

    def __init__(self, clock: Clock) -> None:
        self.store: Store = MemoryStore(clock)
        self.look = self.store

    def step(self) -> None:
        return


class Sqlite:
    """One database for all worlds, emptied for each of them: to open one and make its tables costs more than a run."""

    tells_itself = True

    def __init__(self) -> None:
        self.clock: Clock | None = None
        self._database = SqliteDatabase(":memory:", stepped=True)
        self._waiting = 0
        self._stored: list[tuple[Callable[[object], None], object]] = []
        self.store: Store = SqlStore(self, self)
        self.look: Store = SqlStore(_OwnTurn(self._database), self)
        at_once(self.look.get("run_none"))
        at_once(_OwnTurn(self._database).write(self._name_tables))

    def begin(self, clock: Clock) -> Sqlite:
        """Forget everything, and live by this clock."""
        self.clock = clock
        self._waiting = 0
        self._stored.clear()
        at_once(_OwnTurn(self._database).write(self._empty))
        return self

    def _name_tables(self, tx: Transaction) -> None:
        # Every table of the store but the list of its migrations.
        rows = tx.execute("SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE '%migrations%'")
        self._tables = [str(row[0]) for row in rows if not str(row[0]).startswith("sqlite_")]

    def _empty(self, tx: Transaction) -> None:
        for table in self._tables:
            tx.execute(f"DELETE FROM {table}")  # names of our own tables, which take no parameters

    # ---- a clock, for the store

    def now_ms(self) -> int:
        assert self.clock is not None
        return self.clock.now_ms()

    def monotonic_s(self) -> float:
        return self.now_ms() / 1000

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

    # ---- a database, for the store

    async def write(self, operation: Callable[[Transaction], T], *, is_long: bool = False) -> T:
        told = told_here.get()

        def watched(tx: Transaction) -> T:
            result = operation(tx)
            if told is not None:
                self._stored.append((told, result))
            return result

        self._waiting += 1
        return await self._database.write(watched)

    async def read(self, operation: Callable[[Transaction], T]) -> T:
        return await self.write(operation)

    async def close(self) -> None:
        return

    @property
    def has_work(self) -> bool:
        return self._waiting > 0

    def step(self) -> None:
        self._waiting = 0
        self._database.step()
        for told, result in self._stored:
            told(result)
        self._stored.clear()


class _OwnTurn:
    """The same database, its operations run in the caller's own turn."""

    def __init__(self, database: SqliteDatabase) -> None:
        self._database = database

    async def write(self, operation: Callable[[Transaction], T], *, is_long: bool = False) -> T:
        return self._database.alone(operation)

    async def read(self, operation: Callable[[Transaction], T]) -> T:
        return self._database.alone(operation)

    async def close(self) -> None:
        return


_sqlite: list[Sqlite] = []


def storage(kind: str, clock: Clock) -> Storage:
    """Return an empty store of a kind of `STORES`."""
    if kind == "memory":
        return Memory(clock)
    if not _sqlite:
        _sqlite.append(Sqlite())
    return _sqlite[0].begin(clock)


def at_once(coroutine: Coroutine[Any, Any, T]) -> T:
    """Return what a coroutine returns that never waits for anything."""
    try:
        coroutine.send(None)
    except StopIteration as done:
        result: T = done.value
        return result
    coroutine.close()
    raise AssertionError("it waits")


def all_runs(store: Store) -> list[RunRecord]:
    """Return all runs with their steps, the oldest first, from a store that answers at once."""
    listed = at_once(store.list(limit=LIST_MAX))
    records = [at_once(store.get(record.run_id)) for record in reversed(listed)]
    return [record for record in records if record is not None]
