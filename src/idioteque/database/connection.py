"""Connections to one SQLite file: how they open, and who may own the file."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Protocol, cast

import apsw

from idioteque.database.protocol import Parameters, Row, SqlValue
from idioteque.errors import DatabaseError

BUSY_TIMEOUT_MS = 10_000
STATEMENTS_CACHED = 200

MEMORY = ":memory:"
MAGIC = (
    b"SQLite format 3\0"  # how every database file begins, https://www.sqlite.org/fileformat2.html#magic_header_string
)


class Cursor(Protocol):
    def fetchall(self) -> list[Row]: ...


class Connection(Protocol):
    """The part of `apsw.Connection` used here; its own stubs name types that Python 3.11 does not have."""

    in_transaction: bool

    def execute(self, statements: str, bindings: Mapping[str, SqlValue] | None = None) -> Cursor: ...
    def executemany(self, statements: str, bindings: Iterable[Parameters]) -> Cursor: ...
    def set_busy_timeout(self, milliseconds: int) -> None: ...
    def changes(self) -> int: ...
    def set_wal_hook(self, callable: Callable[[object, str, int], int]) -> None: ...  # noqa: A002
    def interrupt(self) -> None: ...
    def set_progress_handler(self, callable: Callable[[], bool] | None, nsteps: int = ...) -> None: ...  # noqa: A002
    def close(self) -> None: ...


def may_be_database(path: str) -> bool:
    """Whether a path is free, or that of an empty file or of a SQLite database, by its first bytes."""
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):
            return False  # a directory, or a pipe, which would be waited for
        with Path(path).open("rb") as file:
            return file.read(len(MAGIC)) in (b"", MAGIC)
    except OSError:  # it does not exist yet, or opening it will tell why it cannot be read
        return True


def open_writer(path: str, durability: str) -> Connection:
    """Open the file, made readable by its owner only if it is new, for the one connection that writes.

    Raise `DatabaseError` when it cannot be opened, is no database, or cannot have a write-ahead log.
    """
    try:
        if path != MEMORY:
            _create_private(path)
        connection = _open(path, apsw.SQLITE_OPEN_READWRITE | apsw.SQLITE_OPEN_CREATE)
        mode = connection.execute("PRAGMA journal_mode = WAL").fetchall()[0][0]
        if mode not in ("wal", "memory"):
            raise DatabaseError(f"cannot open the database {path}: its file system allows no write-ahead log ({mode})")
        connection.execute(f"PRAGMA synchronous = {'FULL' if durability == 'full' else 'NORMAL'}")
        # On macOS a plain fsync leaves the data in the drive's cache.
        connection.execute(f"PRAGMA fullfsync = {'ON' if durability == 'full' else 'OFF'}")
        connection.execute("PRAGMA temp_store = MEMORY")
        return connection
    except (apsw.Error, OSError) as error:
        raise DatabaseError(f"cannot open the database {path}: {error}") from error


def open_reader(path: str) -> Connection:
    """Open one more connection to an open file, one that can only read."""
    return _open(path, apsw.SQLITE_OPEN_READONLY)


def lock_file(path: str) -> int | None:
    """Return an open file that holds the lock of this database, or None where there are no such locks.

    Raise `DatabaseError` when another process holds it. The lock dies with the process.
    """
    try:
        import fcntl  # does not exist on Windows, where SQLite's own locks must do
    except ImportError:
        return None
    try:
        handle = os.open(os.path.realpath(path) + ".lock", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise DatabaseError(f"cannot make the lock file of the database {path}: {error.strerror}") from error
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(handle)
        raise DatabaseError(f"the database {path} is in use by another server process; stop that first") from None
    return handle


def _open(path: str, flags: int) -> Connection:
    opened = apsw.Connection(path, flags=flags, statementcachesize=STATEMENTS_CACHED)
    opened.set_busy_timeout(BUSY_TIMEOUT_MS)
    return cast(Connection, opened)


def _create_private(path: str) -> None:
    """Create the file readable by its owner only; SQLite gives its companions the same mode."""
    if not Path(path).exists():
        os.close(os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600))
