"""SQLite through apsw: one writer thread with group commit, and a few readers beside it.

Operations that wait while a commit is on its way to the disk share the next one, each inside its own savepoint; their
callers go on with a single call into each event loop. That is where the speed of durable writes comes from.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import threading
from collections.abc import Callable, Generator, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import apsw

from idioteque.clock import SystemClock
from idioteque.database.connection import MEMORY, Checkpoints, Connection, lock_file, open_reader, open_writer
from idioteque.database.groups import Groups, Settled, Waiting, answer
from idioteque.database.protocol import Row, SqlValue, Transaction
from idioteque.errors import DatabaseBroken, DatabaseError, DatabaseFull, DatabaseTooSlow, first_line
from idioteque.histogram import DURATIONS_S, GROUP_SIZES, Histogram

GROUP_OPERATIONS_MAX = 1024
READERS = 2
READ_S = 5.0  # no list may keep a reader from the others for longer
STEPS_UNTIMED = 1_000_000  # of SQLite's machine, some ten milliseconds: only a read that takes more is timed

T = TypeVar("T")

_log = logging.getLogger(__name__)


class SqliteTransaction:
    """The open transaction of one connection."""

    lock_rows = ""
    lock_row = ""
    writers_take_turns = True
    now_ms: int | None = None

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def execute(self, sql: str, parameters: Mapping[str, SqlValue] | None = None) -> list[Row]:
        return self._connection.execute(sql, parameters).fetchall()

    def changed(self, sql: str, parameters: Mapping[str, SqlValue]) -> int:
        self._connection.execute(sql, parameters)
        return self._connection.changes()

    def execute_many(self, sql: str, parameters: Iterable[Mapping[str, SqlValue]]) -> None:
        self._connection.executemany(sql, parameters).fetchall()

    def script(self, sql: str) -> None:
        self._connection.execute(sql).fetchall()


class SqliteDatabase:
    """One SQLite file (or `:memory:`, which lives as long as this object).

    `on_broken` is called once, from any thread, when the disk or the file fails: every operation from then on raises
    `DatabaseBroken`, since after a failed flush nobody can know what is stored.

    Without `threads`, an operation is run in its caller's own turn, or, if the database is `stepped`, waits until
    somebody calls `step`, which is all that the writer's thread ever does.
    """

    def __init__(self, path: str, *, durability: str = "full", threads: bool = True, stepped: bool = False) -> None:
        self.path = path
        self.on_broken: Callable[[DatabaseBroken], None] | None = None
        self.commit_s = Histogram(DURATIONS_S)
        """How long commits took, which is mostly the wait for the disk."""
        self.commit_operations = Histogram(GROUP_SIZES)
        """How many operations shared each of them."""
        self._clock = SystemClock()
        self._door = threading.Lock()  # nothing is asked for once the end has been asked for, from whatever thread
        self._broken: str | None = None
        self._closed = False
        self._lock_file: int | None = None
        self._connection = open_writer(path, durability)
        self._transaction = SqliteTransaction(self._connection)
        self._checkpoints = Checkpoints(self._connection)
        self._groups = Groups(GROUP_OPERATIONS_MAX)
        self._is_queued = threads or stepped
        self._thread: threading.Thread | None = None
        self._readers: ThreadPoolExecutor | None = None
        self._reader_of_thread = threading.local()
        self._reader_connections: list[Connection] = []
        if threads and not stepped:
            self._thread = threading.Thread(target=self._run, name="idioteque-sqlite-writer", daemon=True)
            self._thread.start()
            if path != MEMORY:
                self._readers = ThreadPoolExecutor(READERS, "idioteque-sqlite-reader")

    async def write(self, operation: Callable[[Transaction], T]) -> T:
        if not self._is_queued:
            self._check_usable()
            return self._alone(operation)
        with self._door:
            self._check_usable()
            future: asyncio.Future[T] = self._groups.put(operation)
        return await future

    async def read(self, operation: Callable[[Transaction], T]) -> T:
        if self._readers is None:
            return await self.write(operation)
        loop = asyncio.get_running_loop()
        with self._door:
            self._check_usable()
            reading = loop.run_in_executor(self._readers, self._read, operation, _Limit(loop))
        return await reading

    async def close(self) -> None:
        with self._door:
            if self._closed:
                return
            self._closed = True
            self._groups.end()
        if self._thread is None:
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
        if self._broken is not None:
            raise DatabaseBroken(self._broken)

    def _end(self) -> None:
        if self._thread is not None:
            self._thread.join()
        if self._readers is not None:
            self._readers.shutdown(wait=True)
        for connection in [*self._reader_connections, self._connection]:
            with contextlib.suppress(apsw.Error):
                connection.close()
        if self._lock_file is not None:
            os.close(self._lock_file)
            self._lock_file = None

    # ---- the writer

    def _run(self) -> None:
        while self.step():
            pass

    def step(self) -> bool:
        """Store what waits as one group, waiting for something if nothing does; return False once it was closed.

        One thread at a time may call this: the writer's own, or that of whoever opened the database as `stepped`.
        """
        group = self._groups.next()
        if group is None:
            return False
        answer(self._settle(group))
        self._checkpoint()
        return True

    def _settle(self, group: list[Waiting]) -> list[Settled]:
        """Run a group in one transaction; what fails alone is undone alone, what fails the commit fails all."""
        if self._broken is not None:
            return [(waiting, None, DatabaseBroken(self._broken)) for waiting in group]
        execute = self._connection.execute
        settled: list[Settled] = []
        try:
            execute("BEGIN IMMEDIATE")
            for waiting in group:
                if waiting.future.cancelled():  # nobody waits for it, and nobody was told that it was done
                    continue
                execute("SAVEPOINT operation")
                try:
                    settled.append((waiting, waiting.operation(self._transaction), None))
                except BaseException as error:
                    failure = self._translated(error)
                    if self._broken is not None or not self._connection.in_transaction:  # it cannot be undone alone
                        raise
                    execute("ROLLBACK TO operation")
                    settled.append((waiting, None, failure))
                execute("RELEASE operation")
            self._commit(len(settled))
        except BaseException as error:
            self._roll_back()
            return [(waiting, None, self._undone(error)) for waiting in group]
        return settled

    def _alone(self, operation: Callable[[Transaction], T]) -> T:
        try:
            self._connection.execute("BEGIN IMMEDIATE")
            result = operation(self._transaction)
            self._commit(1)
        except BaseException as error:
            self._roll_back()
            translated = self._translated(error)
            if translated is error:
                raise
            raise translated from error
        self._checkpoint()
        return result

    def _commit(self, operations: int) -> None:
        begun_s = self._clock.monotonic_s()
        self._connection.execute("COMMIT")
        self.commit_s.observe(self._clock.monotonic_s() - begun_s)
        self.commit_operations.observe(operations)

    def _roll_back(self) -> None:
        with contextlib.suppress(apsw.Error):
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")

    def _checkpoint(self) -> None:
        try:
            self._checkpoints.take()
        except apsw.Error as error:  # the log still holds everything, so only a failing disk matters
            self._translated(error)

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
            raise self._translated(error) from error

    # ---- failing

    def _translated(self, error: BaseException) -> BaseException:
        if isinstance(error, apsw.FullError):
            return DatabaseFull(f"no room left for the database {self.path}")
        if isinstance(error, apsw.IOError | apsw.CorruptError | apsw.NotADBError):
            broken = DatabaseBroken(f"the database {self.path} failed: {error}; restart to recover")
            self._break(broken)
            return broken
        if isinstance(error, apsw.Error):
            return DatabaseError(f"the database {self.path}: {type(error).__name__}: {error}")
        if isinstance(error, StopIteration):  # no future can carry it, and a coroutine turns it into the same
            return RuntimeError("an operation raised StopIteration")
        return error

    def _undone(self, error: BaseException) -> BaseException:
        """Return what each caller of a group is told when the whole of it was undone: an error of its own."""
        if isinstance(error, apsw.Error):
            return self._translated(error)
        return DatabaseError(f"the database {self.path}: undone with an operation beside it: {first_line(error)}")

    def _break(self, broken: DatabaseBroken) -> None:
        with self._door:
            if self._broken is not None:
                return
            self._broken = str(broken)
        if self.on_broken is not None:
            try:
                self.on_broken(broken)
            except Exception:  # the callers must still be told, and this thread must go on
                _log.exception("on_broken failed")


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
