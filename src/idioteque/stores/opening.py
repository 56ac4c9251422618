"""The database under a store: opened at its first use, and once more in a process that was forked since."""

from __future__ import annotations

import os
import threading
from collections.abc import Awaitable, Callable
from typing import TypeVar

from idioteque.database import Database, SqliteDatabase, Transaction, check_database, migrate, open_database
from idioteque.errors import CommitUnknown, ConfigurationError

MIGRATIONS = "idioteque.stores.migrations"

T = TypeVar("T")


class OpenedDatabase:
    """A database that was given by its URL, or open already, with the tables of the runs in it."""

    def __init__(self, database: Database | str) -> None:
        self._url = database if isinstance(database, str) else None
        self._database = None if isinstance(database, str) else database
        self._process_id = os.getpid()
        self._opening = threading.Lock()
        self._migrated: Database | None = None
        self._of_the_parent: Database | None = None
        if self._url is not None:
            check_database(self._url)

    def write(self, operation: Callable[[Transaction], T], *, is_long: bool = False) -> Awaitable[T]:
        """Run an operation; once more when nobody knows whether it was done, since each may be repeated.

        Beside others that are under way, it may be begun before it is awaited.
        """
        database = self._at_hand()
        if isinstance(database, SqliteDatabase):  # which always knows
            return database.write(operation, is_long=is_long)
        return self._until_known(operation, is_long)

    async def _until_known(self, operation: Callable[[Transaction], T], is_long: bool) -> T:
        database = self._at_hand() or await self._ready()
        try:
            return await database.write(operation, is_long=is_long)
        except CommitUnknown:
            return await database.write(operation, is_long=is_long)

    async def read(self, operation: Callable[[Transaction], T]) -> T:
        return await (self._at_hand() or await self._ready()).read(operation)

    async def close(self) -> None:
        if self._database is not None:
            await self._database.close()

    def _at_hand(self) -> Database | None:
        """Return the database if nothing has to be done before it can be used, as is so but once."""
        return self._migrated if self._migrated is self._database and self._process_id == os.getpid() else None

    async def _ready(self) -> Database:
        database, is_forked = self._database, self._process_id != os.getpid()
        if is_forked and self._url is None:
            raise ConfigurationError("the database was opened before the process forked; give the store its URL")
        if database is None or is_forked:
            with self._opening:
                if self._database is database:
                    self._of_the_parent = database  # kept: SQLite forbids even closing it in another process
                    self._database = open_database(self._url or "")
                    self._process_id = os.getpid()
                    self._migrated = None
                database = self._database
        assert database is not None
        if self._migrated is not database:
            await migrate(database, "runs", MIGRATIONS)
            self._migrated = database
        return database
