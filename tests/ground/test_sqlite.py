"""The SQLite database through its public door: transactions, group commit, snapshots, and the end of its life."""

from __future__ import annotations

import asyncio
import errno
import os
import shutil
import stat
import struct
import sys
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import apsw
import pytest

from idioteque.database import SqliteDatabase, Transaction, check_database, migrate, open_database
from idioteque.database.connection import Connection, open_writer
from idioteque.database.groups import Settled
from idioteque.database.log import Log
from idioteque.database.writer import QUICK_COMMITS, Writer
from idioteque.errors import ConfigurationError, DatabaseBroken, DatabaseError, DatabaseTooSlow, InvalidValue

CREATE = "CREATE TABLE notes (id INTEGER PRIMARY KEY, text TEXT NOT NULL UNIQUE)"


def insert(text: str) -> Callable[[Transaction], int]:
    def operation(tx: Transaction) -> int:
        rows = tx.execute("INSERT INTO notes (text) VALUES (:text) RETURNING id", {"text": text})
        return int(rows[0][0])

    return operation


def texts(tx: Transaction) -> list[str]:
    return [row[0] for row in tx.execute("SELECT text FROM notes ORDER BY id")]


def commits(path: Path) -> int:
    """Count the transactions in a write-ahead log: each ends in a frame that states the size of the database."""
    raw = Path(f"{path}-wal").read_bytes()
    page_bytes = struct.unpack(">I", raw[8:12])[0]
    frames = range(32, len(raw), 24 + page_bytes)
    return sum(1 for start in frames if struct.unpack(">I", raw[start + 4 : start + 8])[0])


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "test.db"


@pytest.fixture(params=["file", "memory", "file without threads", "memory without threads"])
async def database(request: pytest.FixtureRequest, path: Path) -> AsyncIterator[SqliteDatabase]:
    """Every way to have a database, with an empty table of notes."""
    where, threads = str(path) if "file" in request.param else ":memory:", "without" not in request.param
    opened = SqliteDatabase(where, threads=threads)
    await opened.write(lambda tx: tx.script(CREATE))
    yield opened
    await opened.close()


@pytest.fixture
async def file(path: Path) -> AsyncIterator[SqliteDatabase]:
    opened = SqliteDatabase(str(path))
    await opened.write(lambda tx: tx.script(CREATE))
    yield opened
    await opened.close()


class Held:
    """A write that keeps the writer busy until it is let go, so that a test knows who shares the next commit."""

    def __init__(self, database: SqliteDatabase) -> None:
        self._begun, self._go = threading.Event(), threading.Event()
        self._write = asyncio.ensure_future(database.write(self._wait, is_long=True))

    def _wait(self, tx: Transaction) -> None:
        self._begun.set()
        assert self._go.wait(30)

    async def begun(self) -> None:
        assert await asyncio.to_thread(self._begun.wait, 30)

    async def let_go(self) -> None:
        self._go.set()
        await self._write


# ---- transactions


async def test_a_write_returns_what_its_operation_returned(database: SqliteDatabase) -> None:
    assert await database.write(insert("a")) == 1
    assert await database.write(lambda tx: None) is None
    assert await database.read(texts) == ["a"]


async def test_a_read_sees_every_write_that_has_returned(database: SqliteDatabase) -> None:
    for n in range(50):
        await database.write(insert(f"note {n}"))
        assert len(await database.read(texts)) == n + 1


async def test_an_operation_that_fails_is_undone_whole_and_alone(database: SqliteDatabase) -> None:
    def fails(tx: Transaction) -> None:
        insert("half")(tx)
        raise InvalidValue("no")

    results = await asyncio.gather(
        database.write(insert("before")), database.write(fails), database.write(insert("after")), return_exceptions=True
    )
    assert isinstance(results[1], InvalidValue)
    assert await database.read(texts) == ["before", "after"]


async def test_a_broken_constraint_is_a_database_error_that_harms_no_other(database: SqliteDatabase) -> None:
    results = await asyncio.gather(*(database.write(insert(text)) for text in ("a", "a", "b")), return_exceptions=True)
    assert isinstance(results[1], DatabaseError)
    assert "UNIQUE" in str(results[1])
    assert await database.read(texts) == ["a", "b"]


async def test_wrong_sql_is_a_database_error(database: SqliteDatabase) -> None:
    with pytest.raises(DatabaseError, match="no such table"):
        await database.write(lambda tx: tx.execute("SELECT * FROM nowhere"))
    with pytest.raises(DatabaseError, match="no such table"):
        await database.read(lambda tx: tx.execute("SELECT * FROM nowhere"))


@pytest.mark.parametrize(
    "error", [StopIteration("over"), StopAsyncIteration(), GeneratorExit(), ExceptionGroup("g", [ValueError()])]
)
async def test_whatever_an_operation_raises_reaches_its_caller(database: SqliteDatabase, error: BaseException) -> None:
    def fails(tx: Transaction) -> None:
        raise error

    expected = (RuntimeError, type(error)) if isinstance(error, StopIteration) else type(error)
    for act in (database.write, database.read):
        with pytest.raises(expected):
            await asyncio.wait_for(act(fails), 10)
    assert await database.write(insert("goes on")) == 1


async def test_an_operation_that_runs_out_of_an_iterator_harms_no_other(database: SqliteDatabase) -> None:
    writes = [insert("a"), lambda tx: next(iter(())), insert("b")]
    results = await asyncio.wait_for(
        asyncio.gather(*(database.write(one) for one in writes), return_exceptions=True), 10
    )
    assert isinstance(results[1], RuntimeError)
    assert await database.read(texts) == ["a", "b"]


async def test_parameters_are_bound_and_never_part_of_the_sql(database: SqliteDatabase) -> None:
    evil = "'); DROP TABLE notes; --\0\n%_é"
    await database.write(insert(evil))
    found = await database.read(lambda tx: tx.execute("SELECT id FROM notes WHERE text = :text", {"text": evil}))
    assert found == [(1,)]


async def test_every_kind_of_value_comes_back_as_it_was(database: SqliteDatabase) -> None:
    values = {"a": 2**63 - 1, "b": 0.1, "c": "é\0😀", "d": bytes(range(256)), "e": None, "f": ""}
    sql = "SELECT :a, :b, :c, :d, :e, :f"
    assert await database.read(lambda tx: tx.execute(sql, values)) == [tuple(values.values())]


async def test_execute_many_runs_the_statement_for_each(database: SqliteDatabase) -> None:
    many = [{"text": f"note {n}"} for n in range(100)]
    sql = "INSERT INTO notes (text) VALUES (:text)"
    await database.write(lambda tx: tx.execute_many(sql, many))
    await database.write(
        lambda tx: tx.execute_many(f"{sql} RETURNING id", [{"text": "x"}, {"text": "y"}, {"text": "z"}])
    )
    assert len(await database.read(texts)) == 103


async def test_execute_many_takes_tuples_in_the_order_in_which_names_first_appear(database: SqliteDatabase) -> None:
    sql = "INSERT INTO notes (text, id) SELECT :text, :id WHERE :id > 0 AND :text <> ''"
    await database.write(lambda tx: tx.execute_many(sql, [("a", 11), ("b", 22), ("c", 0)]))
    rows = await database.read(lambda tx: tx.execute("SELECT id, text FROM notes ORDER BY id"))
    assert rows == [(11, "a"), (22, "b")]


async def test_writes_run_in_the_order_in_which_they_were_asked_for(database: SqliteDatabase) -> None:
    ids = await asyncio.gather(*(database.write(insert(f"note {n}")) for n in range(2000)))
    assert ids == list(range(1, 2001))


# ---- group commit


async def test_operations_that_meet_share_one_commit(file: SqliteDatabase, path: Path) -> None:
    held = Held(file)
    await held.begun()
    before = commits(path)
    writes = asyncio.gather(*(file.write(insert(f"note {n}")) for n in range(500)))
    await asyncio.sleep(0)
    await held.let_go()
    await writes
    assert commits(path) - before == 1
    assert len(await file.read(texts)) == 500


async def test_writes_come_from_several_event_loops(file: SqliteDatabase) -> None:
    async def write_many(name: str) -> list[int]:
        return await asyncio.gather(*(file.write(insert(f"{name} {n}")) for n in range(300)))

    threads = [asyncio.to_thread(lambda name=name: asyncio.run(write_many(name))) for name in ("one", "two", "three")]
    ids = [one for some in await asyncio.gather(write_many("here"), *threads) for one in some]
    assert sorted(ids) == list(range(1, 1201))


async def test_a_loop_that_is_gone_harms_nobody(file: SqliteDatabase) -> None:
    async def leave() -> None:
        task = asyncio.ensure_future(file.write(insert("left behind")))
        await asyncio.sleep(0)
        task.remove_done_callback(print)

    held = Held(file)
    await held.begun()
    await asyncio.to_thread(lambda: asyncio.run(leave()))
    await held.let_go()
    assert await asyncio.wait_for(file.write(insert("stays")), 10) > 0


async def test_a_loop_that_ends_before_its_turn_strands_nobody(file: SqliteDatabase) -> None:
    def end_at_once() -> None:
        loop = asyncio.new_event_loop()

        def begin() -> None:
            file.write(insert("left behind"))
            loop.stop()

        loop.call_soon(begin)
        loop.run_forever()
        loop.close()

    await asyncio.to_thread(end_at_once)
    assert await asyncio.wait_for(file.write(insert("stays")), 10) > 0
    await asyncio.to_thread(end_at_once)
    await asyncio.wait_for(file.close(), 10)


async def test_a_long_operation_leaves_the_loop_to_others(file: SqliteDatabase) -> None:
    held = Held(file)
    await held.begun()
    passes = 0
    for _ in range(100):
        await asyncio.sleep(0)
        passes += 1
    await held.let_go()
    assert passes == 100


async def test_an_operation_is_run_again_when_another_of_its_group_fails(file: SqliteDatabase) -> None:
    """Groups run without savepoints, so the failure of one undoes all, and each is run once more for itself."""
    held = Held(file)
    await held.begun()
    runs = 0

    def counted(tx: Transaction) -> int:
        nonlocal runs
        runs += 1
        return insert(f"kept {runs}")(tx)

    def fails(tx: Transaction) -> None:
        insert("undone")(tx)
        raise ValueError("its own")

    results = asyncio.gather(file.write(counted), file.write(fails), file.write(counted), return_exceptions=True)
    await asyncio.sleep(0)
    await held.let_go()
    first, failure, second = await results
    assert (first, second) == (1, 2)
    assert isinstance(failure, ValueError)
    assert runs == 3
    assert await file.read(texts) == ["kept 2", "kept 3"]


async def test_a_write_waits_for_another_process_without_stopping_the_loop(file: SqliteDatabase, path: Path) -> None:
    other = apsw.Connection(str(path))
    other.execute("BEGIN IMMEDIATE")
    write = asyncio.ensure_future(file.write(insert("a")))
    for _ in range(100):
        await asyncio.sleep(0)
    assert not write.done()
    other.execute("ROLLBACK")
    other.close()
    assert await asyncio.wait_for(write, 20) == 1


async def test_a_caller_that_is_cancelled_harms_nobody(file: SqliteDatabase) -> None:
    held = Held(file)
    await held.begun()
    writes = [asyncio.ensure_future(file.write(insert(f"note {n}"))) for n in range(10)]
    await asyncio.sleep(0)
    for write in writes[::2]:
        write.cancel()
    await asyncio.gather(*writes[::2], return_exceptions=True)
    await held.let_go()
    await asyncio.gather(*writes[1::2])
    assert await file.read(texts) == [f"note {n}" for n in range(1, 10, 2)]


async def test_a_read_waits_for_no_write(file: SqliteDatabase) -> None:
    await file.write(insert("a"))
    held = Held(file)
    await held.begun()
    assert await asyncio.wait_for(file.read(texts), 10) == ["a"]
    await held.let_go()


async def test_a_write_waits_for_no_read_and_the_read_keeps_its_snapshot(file: SqliteDatabase) -> None:
    begun, go = threading.Event(), threading.Event()

    def slow(tx: Transaction) -> tuple[list[str], list[str]]:
        first = texts(tx)
        begun.set()
        assert go.wait(30)
        return first, texts(tx)

    await file.write(insert("a"))
    reading = asyncio.create_task(file.read(slow))
    assert await asyncio.to_thread(begun.wait, 30)
    await asyncio.wait_for(file.write(insert("b")), 10)
    go.set()
    assert await reading == (["a"], ["a"])
    assert await file.read(texts) == ["a", "b"]


async def test_a_read_cannot_write(file: SqliteDatabase) -> None:
    with pytest.raises(DatabaseError, match="readonly"):
        await file.read(insert("a"))
    assert await file.read(texts) == []


async def test_the_log_does_not_grow_without_end_under_constant_reading(file: SqliteDatabase, path: Path) -> None:
    """Two readers take turns without a gap, so that by itself the log would never find the moment to begin anew."""
    begun = {"one": threading.Semaphore(0), "two": threading.Semaphore(0)}
    done = threading.Event()

    def overlapping(mine: str, other: str) -> Callable[[Transaction], None]:
        def read(tx: Transaction) -> None:
            tx.execute("SELECT id FROM notes LIMIT 1")
            begun[mine].release()
            while not begun[other].acquire(timeout=0.1) and not done.is_set():
                pass

        return read

    async def read_on(mine: str, other: str) -> int:
        turns = 0
        while not done.is_set():
            await file.read(overlapping(mine, other))
            turns += 1
        return turns

    first = asyncio.create_task(read_on("one", "two"))
    assert await asyncio.to_thread(begun["one"].acquire, timeout=30)
    readers = [first, asyncio.create_task(read_on("two", "one"))]
    for n in range(500):
        await file.write(lambda tx, n=n: tx.execute(f"INSERT INTO notes (text) SELECT '{n}' || hex(zeroblob(100000))"))
    size = Path(f"{path}-wal").stat().st_size
    done.set()
    assert min(await asyncio.gather(*readers)) > 10
    assert size < 100_000_000


async def committing_threads(file: SqliteDatabase, monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Return a list that is told of each commit from now on whether it was made in this very thread."""
    here, noted, commit = threading.current_thread(), list[bool](), Writer.commit

    def noting(writer: Writer, settled: list[Settled], *, tends: bool = True) -> list[Settled]:
        noted.append(threading.current_thread() is here)
        return commit(writer, settled, tends=tends)

    monkeypatch.setattr(Writer, "commit", noting)
    return noted


async def test_a_quick_disk_is_waited_for_by_the_loop_itself(
    file: SqliteDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("idioteque.database.writer.QUICK_S", 60.0)
    for n in range(QUICK_COMMITS):
        await file.write(insert(f"before {n}"))
    noted = await committing_threads(file, monkeypatch)
    assert await file.write(insert("alone")) == QUICK_COMMITS + 1
    assert noted == [True]
    await asyncio.gather(*(file.write(insert(f"together {n}")) for n in range(10)))
    await file.write(insert("alone again"))
    assert noted == [True, False, False]
    with pytest.raises(DatabaseError, match="UNIQUE"):
        await file.write(insert("alone"))
    assert await file.write(insert("after the failure")) > 0


async def test_one_slow_commit_gives_the_next_ones_to_the_thread(
    file: SqliteDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("idioteque.database.writer.QUICK_S", 60.0)
    for n in range(QUICK_COMMITS):
        await file.write(insert(f"before {n}"))
    noted = await committing_threads(file, monkeypatch)
    monkeypatch.setattr("idioteque.database.writer.QUICK_S", -1.0)
    for n in range(3):
        await file.write(insert(f"slow {n}"))
    assert noted == [True, False, False]


async def test_a_loop_that_commits_by_itself_leaves_checkpoints_to_the_thread(
    file: SqliteDatabase, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("idioteque.database.writer.QUICK_S", 60.0)
    here, tending, tend = threading.current_thread(), list[bool](), Log.tend

    def noting(log: Log) -> None:
        if log.is_due:
            tending.append(threading.current_thread() is here)
        tend(log)

    monkeypatch.setattr(Log, "tend", noting)
    noted = await committing_threads(file, monkeypatch)
    for n in range(600):
        await file.write(lambda tx, n=n: tx.execute(f"INSERT INTO notes (text) SELECT '{n}' || hex(zeroblob(20000))"))
    assert noted.count(True) > 400
    assert len(tending) > 10
    assert not any(tending)
    assert Path(f"{path}-wal").stat().st_size < 40_000_000


async def test_what_arrives_while_the_loop_commits_follows_and_the_end_comes(
    file: SqliteDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("idioteque.database.writer.QUICK_S", 60.0)
    for n in range(QUICK_COMMITS):
        await file.write(insert(f"before {n}"))
    commit, other = Writer.commit, list[Any]()

    def in_the_midst(writer: Writer, settled: list[Settled], *, tends: bool = True) -> list[Settled]:
        if not tends and not other:  # in the loop's own turn: another loop brings something, and somebody closes
            asked = threading.Event()

            async def elsewhere() -> int:
                writing = asyncio.ensure_future(file.write(insert("from elsewhere")))
                await asyncio.sleep(0)
                asked.set()
                return await writing

            other.append(ThreadPoolExecutor(1).submit(asyncio.run, elsewhere()))
            assert asked.wait(10)
        return commit(writer, settled, tends=tends)

    monkeypatch.setattr(Writer, "commit", in_the_midst)
    assert await file.write(insert("here")) == QUICK_COMMITS + 1
    assert await asyncio.wrap_future(other[0]) == QUICK_COMMITS + 2
    await asyncio.wait_for(file.close(), 10)


def logged(path: Path) -> tuple[Connection, Log]:
    """Return a writing connection with a table that has 100 pages in the log, and what tends that log."""
    connection = open_writer(str(path), "full")
    log = Log(connection, str(path), has_room=True)
    connection.execute("CREATE TABLE blobs (value)")
    connection.execute("INSERT INTO blobs VALUES (zeroblob(400000))")
    return connection, log


def test_the_log_is_made_longer_before_it_is_needed(path: Path) -> None:
    connection, log = logged(path)
    wal = Path(f"{path}-wal")
    written = wal.stat().st_size
    log.tend()
    sizes = {wal.stat().st_size}
    assert min(sizes) > written + 1_000_000
    for _ in range(40):
        connection.execute("INSERT INTO blobs VALUES (zeroblob(10000))")
        log.tend()
        sizes.add(wal.stat().st_size)
    assert len(sizes) == 1  # so no commit changed it
    connection.execute("INSERT INTO blobs VALUES (zeroblob(400000))")
    log.tend()
    assert wal.stat().st_size > max(sizes)
    connection.close()
    log.close()


def test_what_stands_behind_the_end_of_the_log_is_not_read(path: Path, tmp_path: Path) -> None:
    connection, log = logged(path)
    log.tend()
    connection.execute("INSERT INTO blobs VALUES ('the last')")
    copy = tmp_path / "copy.db"  # as a process that was killed leaves the files
    for ending in ("", "-wal"):
        shutil.copy(f"{path}{ending}", f"{copy}{ending}")
    reopened = open_writer(str(copy), "full")
    assert reopened.execute("SELECT length(value) FROM blobs").fetchall() == [(400000,), (8,)]
    assert reopened.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    for opened in (reopened, connection):
        opened.close()
    log.close()


def test_the_log_is_not_made_longer_while_another_process_writes(path: Path) -> None:
    connection, log = logged(path)
    other = open_writer(str(path), "full")
    other.execute("BEGIN IMMEDIATE")
    size = Path(f"{path}-wal").stat().st_size
    log.tend()
    assert Path(f"{path}-wal").stat().st_size == size
    other.execute("ROLLBACK")
    log.tend()
    assert Path(f"{path}-wal").stat().st_size > size
    for opened in (other, connection):
        opened.close()
    log.close()


async def test_a_log_that_cannot_be_made_longer_is_written_to_as_it_is(
    file: SqliteDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[int] = []

    def full(_file: int, data: bytes, _offset: int) -> int:
        calls.append(len(data))
        raise OSError(errno.ENOSPC, "no space left on device")

    monkeypatch.setattr(os, "pwrite", full)
    for n in range(3):
        await file.write(lambda tx, n=n: tx.execute(f"INSERT INTO notes (text) SELECT '{n}' || hex(zeroblob(200000))"))
    assert len(calls) == 1
    assert await file.read(lambda tx: tx.execute("SELECT COUNT(*) FROM notes")) == [(3,)]


# ---- opening


def test_a_memory_database_is_one_for_reads_and_writes() -> None:
    async def use() -> list[str]:
        database = open_database("sqlite://:memory:")
        await database.write(lambda tx: tx.script(CREATE))
        await database.write(insert("a"))
        try:
            return await database.read(texts)
        finally:
            await database.close()

    assert asyncio.run(use()) == ["a"]
    with pytest.raises(DatabaseError):  # another one knows nothing of it
        asyncio.run(open_and_read())


async def open_and_read() -> None:
    database = open_database("sqlite://:memory:")
    try:
        await database.read(texts)
    finally:
        await database.close()


@pytest.mark.parametrize(("durability", "level"), [("full", 2), ("relaxed", 1)])
async def test_durability_is_what_was_asked_for(path: Path, durability: str, level: int) -> None:
    database = open_database(f"sqlite:///{path}", durability=durability)
    assert await database.write(lambda tx: tx.execute("PRAGMA synchronous")) == [(level,)]
    assert await database.write(lambda tx: tx.execute("PRAGMA journal_mode")) == [("wal",)]
    await database.close()


async def test_the_files_are_readable_by_their_owner_only(file: SqliteDatabase, path: Path) -> None:
    await file.write(insert("a"))
    file.lock_exclusively()
    for name in (path, f"{path}-wal", f"{path}-shm", f"{path}.lock"):
        assert stat.S_IMODE(Path(name).stat().st_mode) == 0o600


@pytest.mark.parametrize("url", ["", "notes.db", "mysql://x/y", "sqlite:///", "sqlite:///a.db?mode=ro", "sqlite:/a"])
def test_a_url_that_names_no_database_is_refused(url: str) -> None:
    with pytest.raises(ConfigurationError, match="names no database"):
        open_database(url)


def test_an_unknown_durability_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="'full' or 'relaxed'"):
        open_database("sqlite://:memory:", durability="none")


def test_a_file_that_cannot_be_opened_is_named(tmp_path: Path) -> None:
    (tmp_path / "text.db").write_text("this is no database, however long it may be " * 100)
    (tmp_path / "folder.db").mkdir()
    for name in ("text.db", "folder.db", "no/such/folder.db"):
        with pytest.raises(DatabaseError, match=name):
            open_database(f"sqlite:///{tmp_path / name}")


async def test_a_second_owner_in_the_same_process_is_refused(path: Path) -> None:
    first, second = SqliteDatabase(str(path)), SqliteDatabase(str(path))
    first.lock_exclusively()
    first.lock_exclusively()
    with pytest.raises(DatabaseError, match="in use"):
        second.lock_exclusively()
    await first.close()
    second.lock_exclusively()
    await second.close()


async def test_a_link_to_the_file_is_the_same_file_to_the_lock(path: Path, tmp_path: Path) -> None:
    first = SqliteDatabase(str(path))
    (tmp_path / "link.db").symlink_to(path)
    second = SqliteDatabase(str(tmp_path / "link.db"))
    first.lock_exclusively()
    with pytest.raises(DatabaseError, match="in use"):
        second.lock_exclusively()
    await first.close()
    await second.close()


async def test_a_lock_that_cannot_be_made_is_a_database_error(path: Path) -> None:
    database = SqliteDatabase(str(path))
    Path(f"{path}.lock").mkdir()
    with pytest.raises(DatabaseError, match="lock"):
        database.lock_exclusively()
    await database.close()


# ---- closing


async def test_closing_finishes_the_writes_that_wait(file: SqliteDatabase, path: Path) -> None:
    held = Held(file)
    await held.begun()
    writes = [asyncio.ensure_future(file.write(insert(f"note {n}"))) for n in range(100)]
    await asyncio.sleep(0)
    closing = asyncio.create_task(file.close())
    await asyncio.sleep(0)
    await held.let_go()
    await closing
    assert await asyncio.wait_for(asyncio.gather(*writes), 10) == list(range(1, 101))
    assert not Path(f"{path}-wal").exists()


async def test_a_closed_database_refuses_at_once(database: SqliteDatabase) -> None:
    await database.close()
    await database.close()
    for act in (database.write, database.read):
        with pytest.raises(DatabaseError, match="closed"):
            await asyncio.wait_for(act(texts), 10)


async def test_closing_waits_for_a_read_without_stopping_the_loop(file: SqliteDatabase) -> None:
    begun, go = threading.Event(), threading.Event()

    def slow(tx: Transaction) -> str:
        begun.set()
        assert go.wait(30)
        return "read"

    reading = asyncio.create_task(file.read(slow))
    assert await asyncio.to_thread(begun.wait, 30)
    closing = asyncio.create_task(file.close())
    for _ in range(10):
        await asyncio.sleep(0)
    assert not closing.done()
    go.set()
    await asyncio.wait_for(closing, 10)
    assert await reading == "read"


async def test_writes_that_race_with_closing_end_one_way_or_the_other(path: Path) -> None:
    for _ in range(30):
        database = SqliteDatabase(str(path))
        await database.write(lambda tx: tx.script("CREATE TABLE IF NOT EXISTS t (n)"))
        started = threading.Barrier(2)

        async def write_on(database: SqliteDatabase = database, started: threading.Barrier = started) -> str:
            started.wait(30)
            while True:
                try:
                    await asyncio.wait_for(database.write(lambda tx: tx.execute("INSERT INTO t VALUES (1)")), 10)
                except DatabaseError as error:
                    return str(error)

        writing = asyncio.create_task(asyncio.to_thread(lambda run=write_on: asyncio.run(run())))
        await asyncio.to_thread(started.wait, 30)
        await database.close()
        assert "closed" in await writing


# ---- breaking


class FailingDisk(apsw.VFS):
    """A file system whose flushes fail once it is told so."""

    def __init__(self) -> None:
        self.fails = False
        self.below = apsw.vfs_names()[0]
        super().__init__("failing", self.below, makedefault=True)

    def xOpen(self, name: Any, flags: list[int]) -> FailingFile:  # noqa: N802
        return FailingFile(self, name, flags)


class FailingFile(apsw.VFSFile):
    def __init__(self, disk: FailingDisk, name: Any, flags: list[int]) -> None:
        self._disk = disk
        super().__init__(disk.below, name, flags)

    def xSync(self, flags: int) -> None:  # noqa: N802
        if self._disk.fails:
            raise apsw.IOError("the disk is gone")
        super().xSync(flags)


@pytest.fixture
def disk() -> Iterator[FailingDisk]:
    disk = FailingDisk()
    yield disk
    disk.unregister()


async def check_that_it_is_broken(database: SqliteDatabase) -> None:
    for act in (database.write, database.read):
        with pytest.raises(DatabaseBroken, match="restart"):
            await asyncio.wait_for(act(texts), 10)


async def test_a_failed_flush_ends_the_use_of_the_database(disk: FailingDisk, path: Path) -> None:
    database = SqliteDatabase(str(path))
    told: list[DatabaseBroken] = []
    database.on_broken(told.append)
    await database.write(lambda tx: tx.script(CREATE))
    await database.write(insert("safe"))
    disk.fails = True
    results = await asyncio.gather(*(database.write(insert(f"note {n}")) for n in range(5)), return_exceptions=True)
    assert [type(result) for result in results] == [DatabaseBroken] * 5
    assert len({id(result) for result in results}) == 5
    disk.fails = False
    await check_that_it_is_broken(database)
    assert len(told) == 1
    await database.close()
    reopened = SqliteDatabase(str(path))
    assert (await reopened.read(texts))[0] == "safe"
    await reopened.close()


async def test_a_listener_that_fails_leaves_no_caller_waiting(
    disk: FailingDisk, path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def listener(broken: DatabaseBroken) -> None:
        raise ValueError("a bug in the listener")

    database = SqliteDatabase(str(path))
    database.on_broken(listener)
    await database.write(lambda tx: tx.script(CREATE))
    disk.fails = True
    with pytest.raises(DatabaseBroken):
        await asyncio.wait_for(database.write(insert("a")), 10)
    await check_that_it_is_broken(database)
    assert "a bug in the listener" in caplog.text
    await database.close()


async def test_a_flush_that_fails_in_a_checkpoint_is_not_overlooked(
    disk: FailingDisk, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("idioteque.database.log.CHECKPOINT_PAGES", 10)
    database = open_database(f"sqlite:///{path}", durability="relaxed")  # flushes in checkpoints only
    await database.write(lambda tx: tx.script(CREATE))
    disk.fails = True
    await database.write(insert("x" * 100_000))
    with pytest.raises(DatabaseBroken):
        for n in range(100):
            await database.write(insert(f"note {n}"))
    await database.close()


async def test_an_operation_that_meets_a_failing_disk_takes_its_group_along(file: SqliteDatabase) -> None:
    """After an error of the disk nothing more is committed, not even what went well in the same group."""

    def fails(tx: Transaction) -> None:
        raise apsw.IOError("the disk is gone")

    results = await asyncio.gather(
        *(file.write(one) for one in (insert("a"), fails, insert("b"))), return_exceptions=True
    )
    assert [type(result) for result in results[1:]] == [DatabaseBroken] * 2


async def test_an_operation_that_ends_the_transaction_leaves_no_caller_waiting(file: SqliteDatabase) -> None:
    held = Held(file)
    await held.begun()
    writes = [insert("a"), lambda tx: tx.execute("ROLLBACK"), insert("b")]
    results = asyncio.gather(*(file.write(one) for one in writes), return_exceptions=True)
    await asyncio.sleep(0)
    await held.let_go()
    assert all(isinstance(result, DatabaseError) for result in await asyncio.wait_for(results, 10))
    assert await file.write(insert("goes on")) == 1


# ---- migrations


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package of migrations that can be imported as `migrations_here`."""
    folder = tmp_path / "migrations_here"
    folder.mkdir()
    (folder / "__init__.py").touch()
    (folder / "0001_first.sql").write_text("CREATE TABLE one (n);\nCREATE INDEX by_n ON one (n);\n")
    (folder / "README.sql").write_text("this is no migration")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "migrations_here", raising=False)
    return folder


async def test_a_migration_is_applied_once(database: SqliteDatabase, package: Path) -> None:
    assert await migrate(database, "server", "migrations_here") == 1
    assert await migrate(database, "server", "migrations_here") == 0
    (package / "0003_third.sql").write_text("INSERT INTO one VALUES (2);")
    (package / "0002_second.sql").write_text("INSERT INTO one VALUES (1);")
    assert await migrate(database, "server", "migrations_here") == 2
    assert await database.read(lambda tx: tx.execute("SELECT n FROM one ORDER BY rowid")) == [(1,), (2,)]


async def test_a_migration_of_a_newer_release_is_told_of(
    database: SqliteDatabase, package: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (package / "0002_second.sql").write_text("CREATE TABLE two (n);")
    assert await migrate(database, "server", "migrations_here") == 2
    assert caplog.messages == []
    (package / "0002_second.sql").unlink()
    assert await migrate(database, "server", "migrations_here") == 0
    (told,) = caplog.messages
    assert "migration 0002 is applied, this release knows 0001" in told


async def test_components_count_their_migrations_apart(database: SqliteDatabase, package: Path) -> None:
    assert await migrate(database, "server", "migrations_here") == 1
    (package / "0001_first.sql").write_text("CREATE TABLE another (n);")
    assert await migrate(database, "library", "migrations_here") == 1
    assert await database.read(lambda tx: tx.execute("SELECT * FROM another")) == []


async def test_a_migration_that_fails_leaves_nothing_behind(database: SqliteDatabase, package: Path) -> None:
    (package / "0002_second.sql").write_text("CREATE TABLE two (n);\nINSERT INTO nowhere VALUES (1);")
    with pytest.raises(DatabaseError, match="nowhere"):
        await migrate(database, "server", "migrations_here")
    (package / "0002_second.sql").write_text("CREATE TABLE two (n);")
    assert await migrate(database, "server", "migrations_here") == 2


async def test_two_that_migrate_at_once_apply_each_file_once(database: SqliteDatabase, package: Path) -> None:
    both = await asyncio.gather(*(migrate(database, "server", "migrations_here") for _ in range(2)))
    assert sorted(both) == [0, 1]


async def test_a_read_that_takes_too_long_is_stopped_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("idioteque.database.sqlite.READ_S", 0.2)
    counting = "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c WHERE x < :n) SELECT COUNT(*) FROM c"
    database = SqliteDatabase(str(tmp_path / "slow.db"))
    slow = [database.read(lambda tx: tx.execute(counting, {"n": 10**10})) for _ in range(3)]
    results = await asyncio.gather(
        *slow, database.read(lambda tx: tx.execute(counting, {"n": 9})), return_exceptions=True
    )
    assert [type(result) for result in results[:3]] == [DatabaseTooSlow] * 3
    assert results[3] == [(9,)]
    monkeypatch.setattr("idioteque.database.sqlite.READ_S", 60)  # timed, and not stopped
    assert await database.read(lambda tx: tx.execute(counting, {"n": 2_000_000})) == [(2_000_000,)]
    await database.close()


@pytest.mark.parametrize(
    ("content", "may_be"),
    [(None, True), (b"", True), (b"SQLite format 3\0and pages", True), (b"SQLite format 2", False), (b"{}", False)],
)
def test_a_file_with_something_else_in_it_is_no_database(tmp_path: Path, content: bytes | None, may_be: bool) -> None:
    path = tmp_path / "file"
    if content is not None:
        path.write_bytes(content)
    url = f"sqlite:///{path}"
    if may_be:
        check_database(url)
    else:
        with pytest.raises(ConfigurationError, match="no SQLite database"):
            check_database(url)


def test_a_directory_or_a_pipe_is_no_database_and_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for url in (f"sqlite:///{tmp_path}", f"sqlite:///{tmp_path / 'pipe'}"):
        with pytest.raises(ConfigurationError, match="no SQLite database"):
            check_database(url)
