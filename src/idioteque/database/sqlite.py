"""SQLite through apsw: one connection that writes, with group commit, and a few readers beside it.

Operations that wait while a commit is on its way to the disk share the next one; their callers go on with a single call
into each event loop. That is where the speed of durable writes comes from.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
from collections.abc import Awaitable, Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import apsw

from idioteque.database.connection import MEMORY, Connection, lock_file, open_reader
from idioteque.database.groups import Groups, answer
from idioteque.database.protocol import Transaction
from idioteque.database.turns import Turns
from idioteque.database.writer import SqliteTransaction, Writer
from idioteque.errors import DatabaseBroken, DatabaseError, DatabaseTooSlow
from idioteque.histogram import Histogram

GROUP_OPERATIONS_MAX = 1024
READERS = 2
READ_S = 5.0  # no list may keep a reader from the others for longer
STEPS_UNTIMED = 1_000_000  # of SQLite's machine, some ten milliseconds: only a read that takes more is timed

T = TypeVar("T")


class SqliteDatabase:
    """One SQLite file (or `:memory:`, which lives as long as this object).

    An operation runs in a turn of its caller's event loop, so it must not wait for anything; one that is long, and all
    that meets it, runs in a thread. Without `threads`, an operation is run and committed in its caller's own turn, or,
    if the database is `stepped`, waits until somebody calls `step`.
    """

    def __init__(self, path: str, *, durability: str = "full", threads: bool = True, stepped: bool = False) -> None:
        self.path = path
        self._door = threading.Lock()  # nothing is asked for once the end has been asked for, from whatever thread
        self._closed = False
        self._lock_file: int | None = None
        self._writer = Writer(path, durability)
        self._stepped = Groups(GROUP_OPERATIONS_MAX) if stepped else None
        self._turns: Turns | None = None
        self._readers: ThreadPoolExecutor | None = None
        self._reader_of_thread = threading.local()
        self._reader_connections: list[Connection] = []
        if threads and not stepped:
            self._turns = Turns(self._writer, GROUP_OPERATIONS_MAX, "idioteque-sqlite-writer")
            if path != MEMORY:
                self._readers = ThreadPoolExecutor(READERS, "idioteque-sqlite-reader")

    def on_broken(self, tell: Callable[[DatabaseBroken], None]) -> None:
        """Have a function called once, from any thread, when the disk or the file fails.

        Every operation from then on raises `DatabaseBroken`, since after a failed flush nobody can know what is stored.
        """
        self._writer.on_broken = tell

    @property
    def commit_s(self) -> Histogram:
        """How long commits took, which is mostly the wait for the disk."""
        return self._writer.commit_s

    @property
    def commit_operations(self) -> Histogram:
        """How many operations shared each of them."""
        return self._writer.commit_operations

    def write(self, operation: Callable[[Transaction], T], *, is_long: bool = False) -> Awaitable[T]:
        with self._door:
            self._check_usable()
            if self._turns is not None:
                return self._turns.put(operation, is_long=is_long)
            if self._stepped is not None:
                return self._stepped.put(operation)
        return self._in_this_turn(operation)

    async def _in_this_turn(self, operation: Callable[[Transaction], T]) -> T:
        return self._writer.alone(operation)

    async def read(self, operation: Callable[[Transaction], T]) -> T:
        if self._readers is None:
            return await self.write(operation)
        loop = asyncio.get_running_loop()
        with self._door:
            self._check_usable()
            reading = loop.run_in_executor(self._readers, self._read, operation, _Limit(loop))
        return await reading

    def step(self) -> None:
        """Store what waits in a `stepped` database, as one group."""
        group = self._stepped.next() if self._stepped is not None else None
        if group is not None:
            answer(self._writer.settle(group))

    def alone(self, operation: Callable[[Transaction], T]) -> T:
        """Run and commit an operation in the caller's own turn, where nobody else is at work."""
        return self._writer.alone(operation)

    async def close(self) -> None:
        with self._door:
            if self._closed:
                return
            self._closed = True
            if self._turns is not None:
                self._turns.end()
        if self._turns is None:
            self._end()
        else:
            # Shielded: a caller that is cancelled must not leave the file open and locked.
            await asyncio.shield(asyncio.get_running_loop().run_in_executor(None, self._end))

    def lock_exclusively(self) -> None:
        """Keep other processes that ask the same from using this file; the lock dies with the process.

        Raise `DatabaseError` when another process holds it.
        """
        if self.path != MEMORY and self._lock_file is None:
            self._lock_file = lock_file(self.path)

    def _check_usable(self) -> None:
        if self._closed:
            raise DatabaseError(f"the database {self.path} is closed")
        self._writer.check_usable()

    def _end(self) -> None:
        if self._turns is not None:
            self._turns.join()
        if self._readers is not None:
            self._readers.shutdown(wait=True)
        for connection in self._reader_connections:
            with contextlib.suppress(apsw.Error):
                connection.close()
        self._writer.close()
        if self._lock_file is not None:
            os.close(self._lock_file)
            self._lock_file = None

    # ---- the readers' threads

    def _read(self, operation: Callable[[Transaction], T], limit: _Limit) -> T:
        connection: Connection | None = getattr(self._reader_of_thread, "connection", None)
        try:
            if connection is None:
                connection = self._reader_of_thread.connection = open_reader(self.path)
                self._reader_connections.append(connection)
            connection.execute("BEGIN")
            try:
                with limit.of(connection):
                    return operation(SqliteTransaction(connection))
            finally:
                connection.execute("COMMIT")
        except apsw.InterruptError as error:
            raise DatabaseTooSlow(f"a read of the database {self.path} took longer than {READ_S:g} s") from error
        except (apsw.Error, StopIteration) as error:
            raise self._writer.translated(error) from error


class _Limit:
    """Ends one read, from the thread of its event loop, and never the one that follows on its connection."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._lock = threading.Lock()
        self._connection: Connection | None = None
        self._timed = False
        self._timer: asyncio.TimerHandle | None = None

    @contextlib.contextmanager
    def of(self, connection: Connection) -> Generator[None]:
        """Interrupt the block, which runs in a reader's thread, when it takes too long; a short one costs nothing."""
        self._connection = connection
        connection.set_progress_handler(self._go_on, STEPS_UNTIMED)
        try:
            yield
        finally:
            connection.set_progress_handler(None)
            with self._lock:
                self._connection = None
            if self._timed:
                self._tell_loop(self._cancel)

    def _go_on(self) -> bool:
        if not self._timed:
            self._timed = True
            self._tell_loop(self._begin)
        return False

    def _tell_loop(self, what: Callable[[], None]) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
            self._loop.call_soon_threadsafe(what)

    def _begin(self) -> None:
        self._timer = self._loop.call_later(READ_S, self._end)

    def _cancel(self) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def _end(self) -> None:
        with self._lock:
            if self._connection is not None:
                self._connection.interrupt()
