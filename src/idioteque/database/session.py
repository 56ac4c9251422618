"""One connection to PostgreSQL: how it is opened, and the statements around the operations that run on it."""

from __future__ import annotations

import contextlib
import logging
import re
import threading
from collections.abc import Iterable, Mapping
from typing import Any

import psycopg
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from psycopg.pq import TransactionStatus
from psycopg.types.numeric import Int8BinaryDumper
from psycopg.types.string import StrDumper

from idioteque.clock import SystemClock
from idioteque.database.placeholders import names_of, with_placeholders
from idioteque.database.protocol import Parameters, Row, SqlValue
from idioteque.errors import ConfigurationError, DatabaseError, first_line

CONNECT_S = 5
RECONNECT_S = 10.0
RECONNECT_EVERY_S = 0.1
WRITE_MS = 30_000  # for one statement
READ_MS = 5_000
IDLE_MS = 10_000  # a process that stops in the middle of a transaction gives its locks back after this
LOCK_WAIT_MS = 15  # how long a group waits for somebody else's rows; the server looks for deadlocks much later
LOCK_WAIT_SPREAD_MS = 25  # of two that wait for each other one must give up first
LOCK_GLANCE_MS = 1  # and how long for each further row, once it has waited
SCHEMA_LOCK = 0x6964696F  # any number that is the same in every version

# Nothing is left to the session, which a pooler may share out, nor to the server's defaults. What was answered is on
# the disk, also where the server has that switched off.
BEGIN_WRITE = f"""BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE;
    SELECT (extract(epoch FROM clock_timestamp()) * 1000)::bigint, set_config('statement_timeout', '{WRITE_MS}', true),
        set_config('lock_timeout', floor({LOCK_WAIT_MS} + random() * {LOCK_WAIT_SPREAD_MS})::text, true),
        set_config('idle_in_transaction_session_timeout', '{IDLE_MS}', true),
        CASE current_setting('synchronous_commit') WHEN 'off' THEN set_config('synchronous_commit', 'on', true) END;
    SAVEPOINT operation"""  # noqa: S608 - our own limits
KEEP = b"RELEASE operation; SAVEPOINT operation"
UNDO = b"ROLLBACK TO operation"
UNDO_AND_HURRY = f"""ROLLBACK TO operation; RELEASE operation; SET LOCAL lock_timeout = {LOCK_GLANCE_MS};
    SAVEPOINT operation"""
# A timeout would end the wait for a synchronous standby as if the standby had answered.
COMMIT = b"SET LOCAL statement_timeout = 0; COMMIT"

BEGIN_READ = f"""BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY;
    SELECT (extract(epoch FROM clock_timestamp()) * 1000)::bigint, set_config('statement_timeout', '{READ_MS}', true),
        set_config('idle_in_transaction_session_timeout', '{IDLE_MS}', true)"""  # noqa: S608 - our own limits

# Waits for whoever changes the schema at the moment, as long as that takes.
LOCK_SCHEMA = f"""SELECT set_config('statement_timeout', '0', true), set_config('lock_timeout', '0', true),
    pg_advisory_xact_lock({SCHEMA_LOCK})"""

_TEXT = re.compile(r"\bTEXT\b")
# The server ends the session, or can write no longer since another one took its place.
_ENDS = ("57P01", "57P02", "57P03", "57P04", "57P05", "25P03", "25P04", "25006")

_Connection = psycopg.Connection[tuple[Any, ...]]

_log = logging.getLogger(__name__)


class PostgresTransaction:
    """The open transaction of one connection."""

    def __init__(self, connection: _Connection, now_ms: int, *, can_lock: bool) -> None:
        self._connection = connection
        self._cursor = connection.cursor(binary=True)
        self.now_ms: int | None = now_ms
        self.writers_take_turns = False
        self.lock_rows = "FOR UPDATE SKIP LOCKED" if can_lock else ""
        self.lock_row = "FOR UPDATE" if can_lock else ""

    def execute(self, sql: str, parameters: Mapping[str, SqlValue] | None = None) -> list[Row]:
        self._cursor.execute(with_placeholders(sql), parameters or {})
        return self._cursor.fetchall() if self._cursor.description else []

    def changed(self, sql: str, parameters: Mapping[str, SqlValue]) -> int:
        self._cursor.execute(with_placeholders(sql), parameters)
        return self._cursor.rowcount

    def execute_many(self, sql: str, parameters: Iterable[Parameters]) -> None:
        names = names_of(sql)
        named = [dict(zip(names, each, strict=True)) if isinstance(each, tuple) else each for each in parameters]
        self._cursor.executemany(with_placeholders(sql), named)

    def script(self, sql: str) -> None:
        self._connection.execute(LOCK_SCHEMA.encode())
        # Keys compare as bytes, as they do in SQLite, and not by the rules of a language that an upgrade may change.
        self._connection.execute(_TEXT.sub('TEXT COLLATE "C"', sql).encode())


class Session:
    """One connection, opened when it is first used and again after it was lost. It belongs to one thread.

    Whatever it is asked raises `psycopg.Error` when the database refuses or is gone.
    """

    def __init__(self, conninfo: str, name: str, closing: threading.Event) -> None:
        self._conninfo = conninfo
        self._name = name
        self._closing = closing
        self._clock = SystemClock()
        self._connection: _Connection | None = None

    def open(self) -> _Connection:
        """Return the connection; raise `DatabaseError` when there has been none for `RECONNECT_S`."""
        if self._connection is not None and not self._connection.closed:
            return self._connection
        deadline_s = self._clock.monotonic_s() + RECONNECT_S
        while True:
            try:
                self._connection = _connect(self._conninfo, self._name)
                return self._connection
            except psycopg.Error as error:
                is_late = self._clock.monotonic_s() >= deadline_s
                if is_late or self._closing.wait(RECONNECT_EVERY_S):
                    raise DatabaseError(f"cannot connect to the database {self._name}: {first_line(error)}") from error

    def begin_write(self) -> PostgresTransaction:
        """Begin a transaction, and in it the first operation."""
        return self._begin(BEGIN_WRITE, can_lock=True)

    def begin_read(self) -> PostgresTransaction:
        """Begin a transaction that sees one snapshot."""
        return self._begin(BEGIN_READ, can_lock=False)

    def keep(self) -> None:
        """Begin another operation behind one that succeeded."""
        self._control(KEEP)

    def undo(self, *, hurry: bool) -> None:
        """Undo an operation and begin another one; in a hurry if there was enough waiting for locks."""
        self._control(UNDO_AND_HURRY.encode() if hurry else UNDO)

    def commit(self) -> None:
        self._control(COMMIT)

    def roll_back(self) -> None:
        """End a transaction without an effect, or else the connection."""
        try:
            self._control(b"ROLLBACK")
        except psycopg.Error:
            self.drop()

    def drop(self) -> None:
        """Close the connection; the next use opens another one."""
        connection, self._connection = self._connection, None
        if connection is not None:
            with contextlib.suppress(psycopg.Error):
                connection.close()

    def stop_preparing(self) -> None:
        """Send statements whole from now on."""
        if self._connection is not None:
            self._connection.prepare_threshold = None

    @property
    def has_failed(self) -> bool:
        """Whether the transaction can only be undone."""
        connection = self._connection
        return connection is None or connection.info.transaction_status is not TransactionStatus.INTRANS

    def is_lost(self, error: BaseException) -> bool:
        """Whether an error means that the connection has ended."""
        if self._connection is None or self._connection.closed:
            return True
        state = sqlstate(error)
        return state is not None and (state in _ENDS or state.startswith("08"))

    def _begin(self, sql: str, *, can_lock: bool) -> PostgresTransaction:
        connection = self.open()
        begun = connection.execute(sql.encode())
        begun.nextset()
        row = begun.fetchone()
        assert row is not None
        return PostgresTransaction(connection, row[0], can_lock=can_lock)

    def _control(self, sql: bytes) -> None:
        if self._connection is None:  # not opened here: what was begun is gone, and to commit nothing would succeed
            raise psycopg.OperationalError("the connection was lost")
        self._connection.execute(sql)


def sqlstate(error: BaseException) -> str | None:
    """Return PostgreSQL's code of an error, or None."""
    return error.sqlstate if isinstance(error, psycopg.Error) else None


def address(url: str) -> tuple[str, str]:
    """Return how to connect to the primary that a URL names, and a name for messages, which has no password."""
    try:
        given = conninfo_to_dict(url)
    except psycopg.Error:
        raise ConfigurationError(  # without its cause, which may quote a part of the password
            "the PostgreSQL URL cannot be read; write postgresql://user:password@host:5432/name,"
            " with special characters as %XX"
        ) from None
    defaults: dict[str, Any] = {
        "application_name": "idioteque",
        "connect_timeout": CONNECT_S,
        "keepalives_idle": 10,
        "keepalives_interval": 5,
        "keepalives_count": 3,
        "tcp_user_timeout": 20_000,
    }
    fixed: dict[str, Any] = {"target_session_attrs": "read-write", "client_encoding": "utf8"}
    name = f"{given.get('host') or 'localhost'}:{given.get('port') or 5432}/{given.get('dbname') or ''}"
    return make_conninfo("", **{**defaults, **given, **fixed}), name


def _connect(conninfo: str, name: str) -> _Connection:
    connection = psycopg.connect(conninfo, autocommit=True)
    encoding = connection.info.parameter_status("server_encoding")
    if encoding != "UTF8":
        connection.close()
        raise DatabaseError(f"the database {name} has the encoding {encoding}; create one with UTF8")
    if connection.execute(b"SHOW fsync").fetchone() == ("off",):
        _log.warning("the database %s runs with fsync off: it loses what was accepted when its host fails", name)
    connection.adapters.register_dumper(str, StrDumper)  # as TEXT, and
    for kind in (int, bool):
        connection.adapters.register_dumper(kind, Int8BinaryDumper)  # as BIGINT, whatever the value: one plan for all
    return connection
