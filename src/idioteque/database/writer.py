"""The one connection that writes a SQLite file: groups of operations in one transaction each, and what fails."""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Callable, Iterable, Mapping
from typing import TypeVar

import apsw

from idioteque.clock import SystemClock
from idioteque.database.connection import BUSY_TIMEOUT_MS, Connection, open_writer
from idioteque.database.groups import Settled, Waiting
from idioteque.database.log import Log
from idioteque.database.protocol import Parameters, Row, SqlValue, Transaction
from idioteque.errors import DatabaseBroken, DatabaseError, DatabaseFull, first_line
from idioteque.histogram import DURATIONS_S, GROUP_SIZES, Histogram

QUICK_S = 0.001
QUICK_COMMITS = 32
"""How many commits in a row must have taken no longer than that before the next is expected not to."""

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

    def execute_many(self, sql: str, parameters: Iterable[Parameters]) -> None:
        self._connection.executemany(sql, parameters).fetchall()

    def script(self, sql: str) -> None:
        self._connection.execute(sql).fetchall()


class Writer:
    """Runs what it is given, one group at a time; whoever calls it sees to that.

    `on_broken` is called once, from any thread, when the disk or the file fails.
    """

    def __init__(self, path: str, durability: str) -> None:
        self.on_broken: Callable[[DatabaseBroken], None] | None = None
        self.commit_s = Histogram(DURATIONS_S)
        self.commit_operations = Histogram(GROUP_SIZES)
        self._path = path
        self._clock = SystemClock()
        self._door = threading.Lock()
        self._broken: str | None = None
        self._quick_commits = 0
        self._connection = open_writer(path, durability)
        self._transaction = SqliteTransaction(self._connection)
        self._log = Log(self._connection, path, has_room=durability == "full")

    def check_usable(self) -> None:
        """Raise `DatabaseBroken` once the disk or the file has failed."""
        if self._broken is not None:
            raise DatabaseBroken(self._broken)

    def close(self) -> None:
        """Close the connection."""
        with contextlib.suppress(apsw.Error):
            self._connection.close()
        self._log.close()

    # ---- groups of operations

    def run(self, group: list[Waiting]) -> list[Settled] | None:
        """Run a group up to its commit; None, and nothing done, when another process is writing."""
        self._connection.set_busy_timeout(0)
        try:
            return self._run(group)
        except apsw.BusyError:
            self._roll_back()
            return None
        except BaseException as error:
            return self._failed(group, error)
        finally:
            self._connection.set_busy_timeout(BUSY_TIMEOUT_MS)

    @property
    def is_quick(self) -> bool:
        """Whether the latest commits were all quick, and the log needs no work after the next."""
        return self._quick_commits >= QUICK_COMMITS and not self._log.is_due

    def commit(self, settled: list[Settled], *, tends: bool = True) -> list[Settled]:
        """Commit what was run; what fails the commit fails all of it."""
        if all(error is not None for _, _, error in settled) and not self._connection.in_transaction:
            return settled  # it failed before
        try:
            self._commit(len(settled))
        except BaseException as error:
            return self._failed([waiting for waiting, _, _ in settled], error)
        if tends:
            self._tend_log()
        return settled

    def settle(self, group: list[Waiting]) -> list[Settled]:
        """Run and commit a group, waiting for other processes as long as it takes."""
        self._roll_back()  # what a turn that was interrupted left behind
        try:
            return self.commit(self._run(group)) if group else []
        except BaseException as error:
            return self._failed(group, error)

    def alone(self, operation: Callable[[Transaction], T]) -> T:
        """Run and commit one operation in the caller's own turn."""
        self.check_usable()
        try:
            self._connection.execute("BEGIN IMMEDIATE")
            result = operation(self._transaction)
            self._commit(1)
        except BaseException as error:
            self._roll_back()
            translated = self.translated(error)
            if translated is error:
                raise
            raise translated from error
        self._tend_log()
        return result

    def _run(self, group: list[Waiting]) -> list[Settled]:
        """Run a group in a transaction without a net; if one of it fails, begin anew, each with a savepoint."""
        self.check_usable()
        self._connection.execute("BEGIN IMMEDIATE")
        group = [waiting for waiting in group if not waiting.future.cancelled()]  # nobody was told that it was done
        settled: list[Settled] = []
        try:
            for waiting in group:
                settled.append((waiting, waiting.operation(self._transaction), None))
                if not self._connection.in_transaction:
                    raise DatabaseError("an operation ended the transaction")
            return settled
        except BaseException as error:
            failure = self.translated(error)
            if self._broken is not None:
                raise
            self._roll_back()
            if len(group) == 1:
                return [(group[0], None, failure)]
        self._connection.execute("BEGIN IMMEDIATE")
        return self._run_apart(group)

    def _run_apart(self, group: list[Waiting]) -> list[Settled]:
        execute = self._connection.execute
        settled: list[Settled] = []
        for waiting in group:
            execute("SAVEPOINT operation")
            try:
                settled.append((waiting, waiting.operation(self._transaction), None))
            except BaseException as error:
                failure = self.translated(error)
                if self._broken is not None or not self._connection.in_transaction:  # it cannot be undone alone
                    raise
                execute("ROLLBACK TO operation")
                settled.append((waiting, None, failure))
            execute("RELEASE operation")
        return settled

    def _commit(self, operations: int) -> None:
        begun_s = self._clock.monotonic_s()
        self._connection.execute("COMMIT")
        took_s = self._clock.monotonic_s() - begun_s
        self._quick_commits = self._quick_commits + 1 if took_s <= QUICK_S else 0
        self.commit_s.observe(took_s)
        self.commit_operations.observe(operations)

    def _failed(self, group: list[Waiting], error: BaseException) -> list[Settled]:
        self._roll_back()
        return [(waiting, None, self._undone(error)) for waiting in group]

    def _roll_back(self) -> None:
        with contextlib.suppress(apsw.Error):
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")

    def _tend_log(self) -> None:
        try:
            self._log.tend()
        except apsw.Error as error:  # the log still holds everything, so only a failing disk matters
            self.translated(error)

    # ---- failing

    def translated(self, error: BaseException) -> BaseException:
        """Return what a caller is told of an error; one of the disk or the file ends the use of the database."""
        if isinstance(error, apsw.FullError):
            return DatabaseFull(f"no room left for the database {self._path}")
        if isinstance(error, apsw.IOError | apsw.CorruptError | apsw.NotADBError):
            broken = DatabaseBroken(f"the database {self._path} failed: {error}; restart to recover")
            self._break(broken)
            return broken
        if isinstance(error, apsw.Error):
            return DatabaseError(f"the database {self._path}: {type(error).__name__}: {error}")
        if isinstance(error, StopIteration):  # no future can carry it, and a coroutine turns it into the same
            return RuntimeError("an operation raised StopIteration")
        return error

    def _undone(self, error: BaseException) -> BaseException:
        """Return what each caller of a group is told when the whole of it was undone: an error of its own."""
        if isinstance(error, apsw.Error):
            return self.translated(error)
        if isinstance(error, DatabaseBroken):
            return DatabaseBroken(str(error))
        return DatabaseError(f"the database {self._path}: undone with an operation beside it: {first_line(error)}")

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
