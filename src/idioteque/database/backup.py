"""A copy of a SQLite database that is in use: as it is at one moment, checked, private, and in the place of nothing."""

from __future__ import annotations

import os
import tempfile
from contextlib import closing, suppress
from pathlib import Path

import apsw

from idioteque.database.connection import open_reader
from idioteque.errors import ConfigurationError, DatabaseError

STEPS_UNINTERRUPTED = 100_000  # of SQLite's machine, between two looks for a Ctrl-C


def back_up(path: str, target: str) -> int:
    """Copy a database into a new file that its owner alone may read; return the size in bytes, once it is on the disk.

    Others write to it meanwhile as ever; the copy is what was committed when it was begun. It appears under its name
    when it is whole. Raise `ConfigurationError` when there is no such database, or something has the name of the copy;
    `DatabaseError` when it cannot be read or written.
    """
    if not Path(path).is_file():
        raise ConfigurationError(f"there is no database {path!r}")
    if os.path.lexists(target):
        raise ConfigurationError(f"{target!r} exists, and nothing is written over")
    try:
        handle, part = tempfile.mkstemp(dir=Path(target).absolute().parent, prefix=f".{Path(target).name}.")
        try:
            _copy(path, part)
            os.fsync(handle)
            _name(part, target)
            return os.fstat(handle).st_size
        finally:
            os.close(handle)
            for name in (part, f"{part}-journal"):  # SQLite leaves its journal behind when the disk is full
                with suppress(FileNotFoundError):
                    os.unlink(name)
    except FileExistsError:
        raise ConfigurationError(f"{target!r} exists, and nothing is written over") from None
    except (apsw.Error, OSError) as error:
        raise DatabaseError(f"cannot copy the database {path} to {target}: {error}") from error


def _copy(path: str, part: str) -> None:
    with closing(open_reader(path)) as connection:
        connection.set_progress_handler(lambda: False, STEPS_UNINTERRUPTED)
        connection.execute("VACUUM INTO :file", {"file": part}).fetchall()
    with closing(open_reader(part)) as connection:
        connection.set_progress_handler(lambda: False, STEPS_UNINTERRUPTED)
        found = connection.execute("PRAGMA quick_check(1)").fetchall()
    if found != [("ok",)]:
        raise DatabaseError(f"the copy of the database {path} is damaged: {found[0][0]}")


def _name(part: str, target: str) -> None:
    """Give the copy its name, unless somebody has taken it meanwhile, and put the name on the disk."""
    try:
        os.link(part, target)
    except FileExistsError:
        raise
    except OSError:  # no links here
        os.rename(part, target)
    with suppress(OSError):  # where a folder cannot be opened, its names cannot be flushed
        folder = os.open(Path(target).absolute().parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
