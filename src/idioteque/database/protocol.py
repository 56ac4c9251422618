"""What a database offers: transactions that plain functions run in. One SQL text serves every implementation."""

from __future__ import annotations

import logging
import re
from collections.abc import Awaitable, Callable, Iterable, Mapping
from importlib import resources
from typing import Any, Protocol, TypeVar

SqlValue = str | int | float | bytes | None
Row = tuple[Any, ...]
"""A row as the database hands it out: whoever wrote the SELECT knows its columns."""

Parameters = Mapping[str, SqlValue] | tuple[SqlValue, ...]

T = TypeVar("T")

logger = logging.getLogger("idioteque.database")


class Transaction(Protocol):
    """Runs SQL with `:name` parameters inside the transaction of one operation."""

    lock_rows: str
    """What to put behind a SELECT that claims rows: `FOR UPDATE SKIP LOCKED`, or nothing where writers take turns."""

    lock_row: str
    """What to put behind a SELECT of a row that is going to change: `FOR UPDATE`, or nothing where writers take turns.

    Whoever has the row is waited for, and what a later statement reads is what that one left behind."""

    writers_take_turns: bool
    """Whether no other transaction writes between what this one reads and what it writes."""

    now_ms: int | None
    """The database's time when the transaction began, or None where that is the time of this host."""

    def execute(self, sql: str, parameters: Mapping[str, SqlValue] | None = None) -> list[Row]:
        """Run one statement and return its rows."""
        ...

    def changed(self, sql: str, parameters: Mapping[str, SqlValue]) -> int:
        """Run one INSERT, UPDATE or DELETE and return how many rows it wrote or deleted."""
        ...

    def execute_many(self, sql: str, parameters: Iterable[Parameters]) -> None:
        """Run one statement once for each set of parameters, which may be tuples here.

        A tuple has the values in the order in which the names first appear, which is quicker where there are many.
        """
        ...

    def script(self, sql: str) -> None:
        """Run statements without parameters that change the schema; one transaction at a time gets beyond this."""
        ...


class Database(Protocol):
    """Operations are plain functions of a transaction: all of one is stored, or nothing.

    Errors raised by an operation roll it back and reach its caller; the database's own are `DatabaseError`s. An
    operation may be undone and run again before its caller hears of it, so it changes nothing but the database.
    """

    def write(self, operation: Callable[[Transaction], T], *, is_long: bool = False) -> Awaitable[T]:
        """Run an operation and return its result once it is durable; operations that meet share one commit.

        `is_long`: its SQL may take more than a moment, for which no event loop may stand still. What is returned may
        be a future of an operation that is under way already, awaited or not.
        """
        ...

    async def read(self, operation: Callable[[Transaction], T]) -> T:
        """Run an operation that only reads, on a snapshot that sees every write that has returned."""
        ...

    async def close(self) -> None:
        """Finish what was begun and let go of the database."""
        ...


_NUMBERED = re.compile(r"(\d{4})_\w+\.sql")


async def migrate(database: Database, component: str, package: str) -> int:
    """Apply the package's `0001_name.sql` files that this database has not seen; return how many.

    Components count separately, so the library and the server may live in one database. What a newer release applied
    is no error, since both work side by side while one takes the place of the other; a warning tells of it.
    """
    scripts = _scripts(package)

    def operation(tx: Transaction) -> tuple[int, set[int]]:
        applied = _applied(tx, component)
        missing = [(version, script) for version, (_, script) in scripts.items() if version not in applied]
        for version, script in missing:
            tx.script(script)
            tx.execute(
                "INSERT INTO idioteque_migrations (component, version) VALUES (:component, :version)",
                {"component": component, "version": version},
            )
        return len(missing), applied - scripts.keys()

    count, newer = await database.write(operation, is_long=True)
    if newer:
        logger.warning(
            "a newer release has changed the tables of the %s: migration %04d is applied, this release knows %04d",
            component, max(newer), max(scripts, default=0),
        )  # fmt: skip
    return count


async def migrations(database: Database | None, component: str, package: str) -> dict[str, bool]:
    """Return the name of each migration and whether it is applied, changing nothing; None is a database that is to be.

    One that a newer release applied has its number for a name.
    """
    scripts = _scripts(package)

    def operation(tx: Transaction) -> None:
        raise _Told(_applied(tx, component))

    applied: set[int] = set()
    try:
        if database is not None:
            await database.write(operation)
    except _Told as told:
        applied = told.applied
    known = {version: name for version, (name, _) in scripts.items()}
    return {known.get(version, f"{version:04}"): version in applied for version in sorted(known.keys() | applied)}


class _Told(Exception):
    """Carries what was read out of a transaction, and undoes the table that was made for reading it."""

    def __init__(self, applied: set[int]) -> None:
        self.applied = applied


def _scripts(package: str) -> dict[int, tuple[str, str]]:
    """Return the name and the text of each script, by its version, in their order."""
    files = sorted((f for f in resources.files(package).iterdir() if _NUMBERED.fullmatch(f.name)), key=lambda f: f.name)
    return {int(f.name[:4]): (f.name.removesuffix(".sql"), f.read_text(encoding="utf-8")) for f in files}


def _applied(tx: Transaction, component: str) -> set[int]:
    tx.script(
        "CREATE TABLE IF NOT EXISTS idioteque_migrations"
        " (component TEXT NOT NULL, version BIGINT NOT NULL, PRIMARY KEY (component, version))"
    )
    # What this component has applied; the others of the database count for themselves.
    rows = tx.execute("SELECT version FROM idioteque_migrations WHERE component = :component", {"component": component})
    return {int(row[0]) for row in rows}
