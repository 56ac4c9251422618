"""PostgreSQL through psycopg: one connection that writes, with group commit, and a few that read.

One writer in each process, as with SQLite: the operations of one run, which come in crowds, are then never in each
other's way, and share a flush. Several processes write at once and meet at the locks of rows. A group holds rows of
many runs, so it must not stand still for a row that another process has: after a moment that operation is undone and
put back, and the others go on. Hence groups cannot block one another for good, in whatever order they lock, and a row
that is kept for long holds up only those who need it.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import psycopg

from idioteque.clock import SystemClock
from idioteque.database.groups import Groups, Settled, Waiting, answer
from idioteque.database.protocol import Transaction
from idioteque.database.session import PostgresTransaction, Session, address, sqlstate
from idioteque.errors import CommitUnknown, DatabaseError, DatabaseFull, DatabaseTooSlow, first_line

GROUP_OPERATIONS_MAX = 64  # each in a subtransaction: with more of them, everybody's snapshots become expensive
AGAIN_MAX = GROUP_OPERATIONS_MAX // 2  # leaves room for others while many wait for the same row
READERS = 2
TRIES_MAX = 10
LOCKED_S = 10.0  # after this an operation that never gets its rows has failed

LOCKED = "55P03"
CONFLICTS = {"40001", "40P01"}
# A pooler gave us a session without our prepared statements or with somebody else's, or a table has changed since.
UNPREPARED = {"26000", "42P05", "0A000"}

T = TypeVar("T")


class PostgresDatabase:
    """One PostgreSQL database, on its primary. Nothing is connected to before the first use.

    An operation whose connection is lost before its commit is run again; when the answer to the commit itself is lost
    it raises `CommitUnknown`.
    """

    def __init__(self, url: str) -> None:
        self._conninfo, self.name = address(url)
        self._door = threading.Lock()  # nothing is asked for once the end has been asked for, from whatever thread
        self._clock = SystemClock()
        self._closed = False
        self._closing = threading.Event()
        self._groups = Groups(GROUP_OPERATIONS_MAX)
        self._writer = self._session()
        self._thread: threading.Thread | None = None
        self._readers = ThreadPoolExecutor(READERS, "idioteque-postgres-reader")
        self._reader_of_thread = threading.local()
        self._reader_sessions: list[Session] = []

    async def write(self, operation: Callable[[Transaction], T], *, is_long: bool = False) -> T:
        with self._door:
            self._check_open()
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="idioteque-postgres-writer", daemon=True)
                self._thread.start()
            future: asyncio.Future[T] = self._groups.put(operation)
        return await future

    async def read(self, operation: Callable[[Transaction], T]) -> T:
        with self._door:
            self._check_open()
            reading = asyncio.get_running_loop().run_in_executor(self._readers, self._read, operation)
        return await reading

    async def close(self) -> None:
        with self._door:
            if self._closed:
                return
            self._closed = True
            self._groups.end()
        self._closing.set()
        # Shielded: a caller that is cancelled must not leave connections open.
        await asyncio.shield(asyncio.get_running_loop().run_in_executor(None, self._end))

    def _check_open(self) -> None:
        if self._closed:
            raise DatabaseError(f"the database {self.name} is closed")

    def _end(self) -> None:
        if self._thread is not None:
            self._thread.join()
        self._readers.shutdown(wait=True)
        for session in [*self._reader_sessions, self._writer]:
            session.drop()

    def _session(self) -> Session:
        return Session(self._conninfo, self.name, self._closing)

    # ---- the writer's thread

    def _run(self) -> None:
        again: list[Waiting] = []
        while (group := self._groups.next(again[:AGAIN_MAX])) is not None:
            settled, undone = self._settle(group)
            again = [*again[AGAIN_MAX:], *undone]
            answer(settled)

    def _settle(self, group: Sequence[Waiting]) -> tuple[list[Settled], list[Waiting]]:
        """Run a group in one transaction; return what became of it, and what is to be run again."""
        session = self._writer
        try:
            tx = session.begin_write()
            settled, again = self._run_each(tx, group)
        except BaseException as error:  # nothing is stored
            session.drop()
            return self._undone(group, error)
        try:
            session.commit()
        except BaseException as error:
            is_lost = session.is_lost(error)
            session.drop()
            if is_lost:
                return [self._unknown(one) for one in settled], again
            return self._undone(group, error)
        return settled, again

    def _run_each(self, tx: PostgresTransaction, group: Sequence[Waiting]) -> tuple[list[Settled], list[Waiting]]:
        session = self._writer
        settled: list[Settled] = []
        passed: list[Waiting] = []
        again: list[Waiting] = []
        has_changes = is_late = False
        for waiting in group:
            if waiting.future.cancelled():  # nobody waits for it, and nobody was told that it was done
                continue
            if is_late and waiting.locked_since_s is not None:
                passed.append(waiting)
                continue
            if has_changes:
                session.keep()
            try:
                result = waiting.operation(tx)
                if session.has_failed:
                    raise DatabaseError(f"the database {self.name}: an operation went on after a statement that failed")
                settled.append((waiting, result, None))
                has_changes = True
            except BaseException as error:
                if session.is_lost(error):
                    raise psycopg.OperationalError("the connection was lost") from error
                has_changes, is_late = False, is_late or sqlstate(error) == LOCKED
                session.undo(hurry=is_late)
                if self._may_repeat(waiting, error):
                    again.append(waiting)
                else:
                    settled.append((waiting, None, self._translated(error)))
        return settled, [*passed, *again]

    def _may_repeat(self, waiting: Waiting, error: BaseException) -> bool:
        """Count a try that failed alone; return whether one more may help."""
        state = sqlstate(error)
        if state == LOCKED:
            now_s = self._clock.monotonic_s()
            waiting.locked_since_s = waiting.locked_since_s or now_s
            return now_s < waiting.locked_since_s + LOCKED_S
        if state in UNPREPARED:
            self._writer.stop_preparing()
        elif state not in CONFLICTS:
            return False
        waiting.tries += 1
        return waiting.tries < TRIES_MAX

    def _undone(self, group: Sequence[Waiting], error: BaseException) -> tuple[list[Settled], list[Waiting]]:
        """Count a try that failed as a whole; what was tried often enough, or in vain for sure, has failed."""
        settled: list[Settled] = []
        again: list[Waiting] = []
        for waiting in group:
            waiting.tries += 1
            if isinstance(error, psycopg.Error) and waiting.tries < TRIES_MAX:
                again.append(waiting)
            elif isinstance(error, psycopg.Error):
                settled.append((waiting, None, self._translated(error)))
            else:
                settled.append((waiting, None, DatabaseError(str(error))))
        return settled, again

    def _unknown(self, one: Settled) -> Settled:
        """Return what to tell about an operation whose commit was not answered; one that had failed has failed."""
        waiting, _, failure = one
        lost = CommitUnknown(f"the database {self.name} was lost during a commit, which it may have made; ask again")
        return (waiting, None, failure or lost)

    # ---- the readers' threads

    def _read(self, operation: Callable[[Transaction], T]) -> T:
        session: Session | None = getattr(self._reader_of_thread, "session", None)
        if session is None:
            session = self._reader_of_thread.session = self._session()
            self._reader_sessions.append(session)
        tries = 0
        while True:
            tries += 1
            try:
                return operation(session.begin_read())
            except BaseException as error:
                if tries < TRIES_MAX and self._may_read_again(session, error):
                    continue
                failure = self._translated(error)
                if failure is error:
                    raise
                raise failure from error
            finally:
                session.roll_back()

    def _may_read_again(self, session: Session, error: BaseException) -> bool:
        if sqlstate(error) in UNPREPARED:
            session.stop_preparing()
            return True
        return isinstance(error, psycopg.Error) and session.is_lost(error)

    # ---- failing

    def _translated(self, error: BaseException) -> BaseException:
        if isinstance(error, psycopg.errors.DiskFull):
            return DatabaseFull(f"no room left for the database {self.name}")
        if isinstance(error, psycopg.errors.QueryCanceled):
            return DatabaseTooSlow(f"a statement took the database {self.name} too long")
        if isinstance(error, psycopg.errors.LockNotAvailable):
            return DatabaseError(f"another process keeps a row of the database {self.name} for too long")
        if isinstance(error, psycopg.Error):
            return DatabaseError(f"the database {self.name}: {first_line(error)}")
        if isinstance(error, StopIteration):  # no future can carry it, and a coroutine turns it into the same
            return RuntimeError("an operation raised StopIteration")
        return error
