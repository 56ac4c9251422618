"""The write-ahead log of one SQLite file: kept short by checkpoints, and its file long enough for quick commits."""

from __future__ import annotations

import os

import apsw

from idioteque.database.connection import BUSY_TIMEOUT_MS, MEMORY, Connection

CHECKPOINT_PAGES = 4000
CHECKPOINT_WAIT_PAGES = 4 * CHECKPOINT_PAGES
CHECKPOINT_WAIT_MS = 200  # how long a writer may stand still for readers that keep a long log from beginning anew

HEAD_BYTES = 32  # of the log, and of each page in it: https://www.sqlite.org/fileformat2.html#walformat
FRAME_HEAD_BYTES = 24
ROOM_FROM_PAGES = 64  # a process that writes less, like a command, has no use for room
ROOM_LEFT_PAGES = 32  # the least that is left before there is more: few commits need as much
ROOM_PAGES = 256


class Log:
    """Tends the log of a file after the commits of its one writer.

    Checkpoints, which copy the log into the database file, are not left to SQLite, which drops errors of this work:
    after a failed flush that nobody heard of, a second one that seems to succeed would throw the log away. Readers that
    overlap without a gap would keep the log growing for ever, so above `CHECKPOINT_WAIT_PAGES` the writer waits a
    moment for those that are in the way.

    With `has_room`, the file of the log is made longer before it is needed. A flush of bytes that lie within a file is
    one write; a flush that makes the file longer changes what the file system knows of it as well, and takes twice as
    long. SQLite does not look at what stands behind the last page that it wrote.
    """

    def __init__(self, connection: Connection, path: str, *, has_room: bool) -> None:
        self._connection = connection
        self._path = f"{path}-wal"
        self._has_room = has_room and path != MEMORY and hasattr(os, "pwrite")
        self._file: int | None = None
        self._frame_bytes = FRAME_HEAD_BYTES + int(connection.execute("PRAGMA page_size").fetchall()[0][0] or 0)
        self._room_pages = 0
        self._pages = 0
        self._due_pages = CHECKPOINT_PAGES
        connection.set_wal_hook(self._committed)

    def _committed(self, _connection: object, _schema: str, pages: int) -> int:
        if pages < self._pages:  # the log began anew
            self._due_pages = CHECKPOINT_PAGES
        self._pages = pages
        return apsw.SQLITE_OK

    @property
    def is_due(self) -> bool:
        """Whether there is anything to do."""
        return self._pages >= self._due_pages or self._needs_room

    @property
    def _needs_room(self) -> bool:
        return self._has_room and self._pages >= max(ROOM_FROM_PAGES, self._room_pages - ROOM_LEFT_PAGES)

    def tend(self) -> None:
        """Do what is due; an `apsw.Error` of any kind but "busy" reaches the caller."""
        if self._pages >= self._due_pages:
            self._check_point()
        elif self._needs_room:
            self._make_room()

    def close(self) -> None:
        """Let go of the file; the connection is closed already."""
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def _check_point(self) -> None:
        self._due_pages = self._pages + CHECKPOINT_PAGES
        execute = self._connection.execute
        execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
        if self._pages >= CHECKPOINT_WAIT_PAGES:
            self._connection.set_busy_timeout(CHECKPOINT_WAIT_MS)
            execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
            self._connection.set_busy_timeout(BUSY_TIMEOUT_MS)
            self._room_pages = 0

    def _make_room(self) -> None:
        """Write zeros behind the end of the file, while nobody else may write to it."""
        self._connection.set_busy_timeout(0)
        try:
            self._connection.execute("BEGIN IMMEDIATE")
        except apsw.BusyError:
            return  # after the next commit, then
        finally:
            self._connection.set_busy_timeout(BUSY_TIMEOUT_MS)
        try:
            if self._file is None:
                self._file = os.open(self._path, os.O_WRONLY | os.O_CLOEXEC)
            size = os.fstat(self._file).st_size
            if (size - HEAD_BYTES) // self._frame_bytes < self._pages + ROOM_LEFT_PAGES:
                os.pwrite(self._file, bytes(ROOM_PAGES * self._frame_bytes), size)
                os.fsync(self._file)
                size = os.fstat(self._file).st_size
            self._room_pages = (size - HEAD_BYTES) // self._frame_bytes
        except OSError:
            self._has_room = False  # it only saves time; if the disk is full or failing, the next commit says so
        finally:
            self._connection.execute("ROLLBACK")
