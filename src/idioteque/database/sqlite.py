"""SQLite through apsw: one writer thread with group commit, and a few readers beside it.

Operations that wait while a commit is on its way to the disk share the next one, each inside its own savepoint; their
callers go on with a single call into each event loop. That is where the speed of durable writes comes from.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import queue
import threading
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol, TypeVar, cast

import apsw

from idioteque.database.protocol import Row, SqlValue, Transaction
from idioteque.errors import DatabaseBroken, DatabaseError, DatabaseFull

GROUP_OPERATIONS_MAX = 1024
READERS = 2
BUSY_TIMEOUT_MS = 10_000
CHECKPOINT_PAGES = 4000

T = TypeVar("T")
_Waiting = tuple[Callable[[Transaction], Any], "asyncio.Future[Any]", asyncio.AbstractEventLoop]
_Settled = tuple["asyncio.Future[Any]", Any, BaseException | None]


class _Cursor(Protocol):
    def fetchall(self) -> list[Row]: ...


class _Connection(Protocol):
    """The part of `apsw.Connection` used here; its own stubs name types that Python 3.11 does not have."""

    in_transaction: bool

    def execute(self, statements: str, bindings: Mapping[str, SqlValue] | None = None) -> _Cursor: ...
    def executemany(self, statements: str, bindings: Iterable[Mapping[str, SqlValue]]) -> _Cursor: ...
    def close(self) -> None: ...


class SqliteTransaction:
    """The open transaction of one connection."""

    lock_rows = ""

    def __init__(self, connection: _Connection) -> None:
        self._connection = connection

    def execute(self, sql: str, parameters: Mapping[str, SqlValue] | None = None) -> list[Row]:
        return self._connection.execute(sql, parameters).fetchall()

    def execute_many(self, sql: str, parameters: Iterable[Mapping[str, SqlValue]]) -> None:
        self._connection.executemany(sql, parameters)

    def script(self, sql: str) -> None:
        self._connection.execute(sql).fetchall()


class SqliteDatabase:
    """One SQLite file (or `:memory:`, which lives as long as this object).

    `on_broken` is called once, from any thread, when the disk or the file fails: every operation from then on raises
    `DatabaseBroken`, since after a failed flush nobody can know what is stored.
    """

    def __init__(self, path: str, *, durability: str = "full", threads: bool = True) -> None:
        self.path = path
        self.on_broken: Callable[[DatabaseBroken], None] | None = None
        self._durability = durability
        self._broken: DatabaseBroken | None = None
        self._closed = False
        self._lock_file: int | None = None
        self._connection = self._open(apsw.SQLITE_OPEN_READWRITE | apsw.SQLITE_OPEN_CREATE)
        self._transaction = SqliteTransaction(self._connection)
        self._waiting: queue.SimpleQueue[_Waiting | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._readers: ThreadPoolExecutor | None = None
        self._reader_of_thread = threading.local()
        self._reader_connections: list[_Connection] = []
        if threads:
            self._thread = threading.Thread(target=self._run, name="idioteque-sqlite-writer", daemon=True)
            self._thread.start()
            if path != ":memory:":
                self._readers = ThreadPoolExecutor(READERS, "idioteque-sqlite-reader")

    async def write(self, operation: Callable[[Transaction], T]) -> T:
        if self._closed:
            raise DatabaseError(f"the database {self.path} is closed")
        if self._thread is None:
            return self._alone(operation)
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()
        self._waiting.put((operation, future, loop))
        return await future

    async def read(self, operation: Callable[[Transaction], T]) -> T:
        if self._readers is None:
            return await self.write(operation)
        if self._closed:
            raise DatabaseError(f"the database {self.path} is closed")
        return await asyncio.get_running_loop().run_in_executor(self._readers, self._read, operation)

    async def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        if self._thread is not None:
            self._waiting.put(None)
            await asyncio.get_running_loop().run_in_executor(None, self._thread.join)
        if self._readers is not None:
            self._readers.shutdown(wait=True)
        for connection in [*self._reader_connections, self._connection]:
            with contextlib.suppress(apsw.Error):
                connection.close()
        if self._lock_file is not None:
            os.close(self._lock_file)
            self._lock_file = None

    def lock_exclusively(self) -> None:
        """Keep other processes that ask the same from using this file; the lock dies with the process.

        Raise `DatabaseError` when another process holds it.
        """
        if self.path == ":memory:" or self._lock_file is not None:
            return
        try:
            import fcntl  # does not exist on Windows, where SQLite's own locks must do
        except ImportError:
            return
        handle = os.open(self.path + ".lock", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(handle)
            raise DatabaseError(f"the database {self.path} is in use by another server process") from None
        self._lock_file = handle

    # ---- the writer's thread

    def _run(self) -> None:
        while (group := self._next_group()) is not None:
            settled = self._settle(group)
            by_loop: dict[asyncio.AbstractEventLoop, list[_Settled]] = {}
            for (_, _, loop), outcome in zip(group, settled, strict=True):
                by_loop.setdefault(loop, []).append(outcome)
            for loop, outcomes in by_loop.items():
                with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
                    loop.call_soon_threadsafe(_resolve, outcomes)

    def _next_group(self) -> list[_Waiting] | None:
        first = self._waiting.get()
        if first is None:
            return None
        group = [first]
        with contextlib.suppress(queue.Empty):
            while len(group) < GROUP_OPERATIONS_MAX:
                following = self._waiting.get_nowait()
                if following is None:
                    self._waiting.put(None)
                    break
                group.append(following)
        return group

    def _settle(self, group: list[_Waiting]) -> list[_Settled]:
        """Run a group in one transaction; what fails alone is undone alone, what fails the commit fails all."""
        if self._broken is not None:
            return [(future, None, self._broken) for _, future, _ in group]
        execute = self._connection.execute
        settled: list[_Settled] = []
        try:
            execute("BEGIN IMMEDIATE")
            for operation, future, _ in group:
                execute("SAVEPOINT operation")
                try:
                    settled.append((future, operation(self._transaction), None))
                except BaseException as error:
                    if not self._connection.in_transaction:  # SQLite itself rolled everything back
                        raise
                    execute("ROLLBACK TO operation")
                    settled.append((future, None, self._translated(error)))
                execute("RELEASE operation")
            execute("COMMIT")
        except BaseException as error:
            self._roll_back()
            failure = self._translated(error)
            return [(future, None, failure) for _, future, _ in group]
        return settled

    def _alone(self, operation: Callable[[Transaction], T]) -> T:
        if self._broken is not None:
            raise self._broken
        try:
            self._connection.execute("BEGIN IMMEDIATE")
            result = operation(self._transaction)
            self._connection.execute("COMMIT")
        except BaseException as error:
            self._roll_back()
            translated = self._translated(error)
            if translated is error:
                raise
            raise translated from error
        return result

    def _roll_back(self) -> None:
        with contextlib.suppress(apsw.Error):
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")

    # ---- the readers' threads

    def _read(self, operation: Callable[[Transaction], T]) -> T:
        connection: _Connection | None = getattr(self._reader_of_thread, "connection", None)
        try:
            if connection is None:
                connection = self._open(apsw.SQLITE_OPEN_READONLY)
                self._reader_of_thread.connection = connection
                self._reader_connections.append(connection)
            connection.execute("BEGIN")
            try:
                return operation(SqliteTransaction(connection))
            finally:
                connection.execute("COMMIT")
        except apsw.Error as error:
            raise self._translated(error) from error

    # ---- opening and failing

    def _open(self, flags: int) -> _Connection:
        try:
            if self.path != ":memory:" and flags & apsw.SQLITE_OPEN_CREATE:
                _create_private(self.path)
            opened = apsw.Connection(self.path, flags=flags, statementcachesize=200)
            opened.set_busy_timeout(BUSY_TIMEOUT_MS)
            connection = cast(_Connection, opened)
            if flags & apsw.SQLITE_OPEN_CREATE:
                connection.execute("PRAGMA journal_mode = WAL").fetchall()
                connection.execute(f"PRAGMA synchronous = {'FULL' if self._durability == 'full' else 'NORMAL'}")
                connection.execute(f"PRAGMA wal_autocheckpoint = {CHECKPOINT_PAGES}").fetchall()
                connection.execute("PRAGMA temp_store = MEMORY")
            return connection
        except (apsw.Error, OSError) as error:
            raise DatabaseError(f"cannot open the database {self.path}: {error}") from error

    def _translated(self, error: BaseException) -> BaseException:
        if isinstance(error, apsw.FullError):
            return DatabaseFull(f"no room left for the database {self.path}")
        if isinstance(error, apsw.IOError | apsw.CorruptError | apsw.NotADBError):
            broken = DatabaseBroken(f"the database {self.path} failed: {error}; restart to recover")
            if self._broken is None:
                self._broken = broken
                if self.on_broken is not None:
                    self.on_broken(broken)
            return broken
        if isinstance(error, apsw.Error):
            return DatabaseError(f"the database {self.path}: {type(error).__name__}: {error}")
        return error


def _resolve(outcomes: list[_Settled]) -> None:
    for future, result, error in outcomes:
        if future.done():
            continue
        if error is None:
            future.set_result(result)
        else:
            future.set_exception(error)


def _create_private(path: str) -> None:
    """Create the file readable by its owner only; SQLite gives its companions the same mode."""
    if not Path(path).exists():
        os.close(os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600))
