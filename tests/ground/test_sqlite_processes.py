"""The SQLite database across real processes: its lock, a kill while it writes, a disk without room."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from idioteque.database import SqliteDatabase
from idioteque.errors import DatabaseError

WRITER = """
import asyncio, sys
from idioteque.database import SqliteDatabase

async def main():
    database = SqliteDatabase(sys.argv[1])
    await database.write(lambda tx: tx.script("CREATE TABLE IF NOT EXISTS notes (n INTEGER PRIMARY KEY, text)"))
    async def write(first):
        for n in range(first, 10**9, 20):
            await database.write(lambda tx: tx.execute("INSERT INTO notes VALUES (:n, hex(randomblob(200)))", {"n": n}))
            sys.stdout.write(f"{n}\\n")
            sys.stdout.flush()
    start = int(sys.argv[2])
    await asyncio.gather(*(write(start + n) for n in range(20)))

asyncio.run(main())
"""

OWNER = """
import sys
from idioteque.database import SqliteDatabase
database = SqliteDatabase(sys.argv[1])
database.lock_exclusively()
print("owned", flush=True)
sys.stdin.read()
"""

FILLER = """
import asyncio, resource, sys
from idioteque.database import SqliteDatabase
from idioteque.errors import DatabaseBroken, DatabaseFull

INSERT = "INSERT INTO notes (text) VALUES (hex(zeroblob(5000)))"

async def main():
    database = SqliteDatabase(sys.argv[1])
    await database.write(lambda tx: tx.script("CREATE TABLE IF NOT EXISTS notes (n INTEGER PRIMARY KEY, text)"))
    if sys.argv[2] == "pages":
        await database.write(lambda tx: tx.execute("PRAGMA max_page_count = 200"))
    else:
        resource.setrlimit(resource.RLIMIT_FSIZE, (2_000_000, 2_000_000))
    stored = 0
    try:
        while True:
            await database.write(lambda tx: tx.execute(INSERT))
            stored += 1
    except (DatabaseFull, DatabaseBroken) as error:
        print(type(error).__name__, stored)
    if sys.argv[2] == "pages":  # room again: the same database goes on
        await database.write(lambda tx: tx.execute("PRAGMA max_page_count = 100000"))
        await database.write(lambda tx: tx.execute(INSERT))
        print("recovered", stored + 1)

asyncio.run(main())
"""


@contextmanager
def python(code: str, *arguments: object) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-c", code, *map(str, arguments)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    with process:
        try:
            yield process
        finally:
            process.kill()


async def rows(path: Path) -> set[int]:
    database = SqliteDatabase(str(path))
    try:
        assert await database.read(lambda tx: tx.execute("PRAGMA integrity_check")) == [("ok",)]
        return {row[0] for row in await database.read(lambda tx: tx.execute("SELECT n FROM notes"))}
    finally:
        await database.close()


def test_only_one_process_owns_a_file_and_its_death_frees_it(tmp_path: Path) -> None:
    path = tmp_path / "owned.db"
    mine = SqliteDatabase(str(path), threads=False)
    with python(OWNER, path) as owner:
        assert owner.stdout is not None
        assert owner.stdout.readline() == "owned\n"
        with pytest.raises(DatabaseError, match="in use by another server process"):
            mine.lock_exclusively()
        owner.send_signal(signal.SIGKILL)
        owner.wait(30)
        mine.lock_exclusively()
    assert (tmp_path / "owned.db.lock").exists()


async def test_a_killed_process_loses_nothing_that_was_acknowledged(tmp_path: Path) -> None:
    path = tmp_path / "killed.db"
    acknowledged: set[int] = set()
    for start in range(0, 5_000_000, 1_000_000):
        with python(WRITER, path, start) as writer:
            assert writer.stdout is not None
            for _ in range(300 + start // 10_000):
                acknowledged.add(int(writer.stdout.readline()))
            os.kill(writer.pid, signal.SIGKILL)
            acknowledged |= {int(line) for line in writer.stdout if line.endswith("\n")}
        assert acknowledged <= await rows(path)


@pytest.mark.parametrize("limit", ["pages", "file size"])
async def test_a_disk_without_room_is_reported_and_keeps_what_was_stored(tmp_path: Path, limit: str) -> None:
    path = tmp_path / "full.db"
    with python(FILLER, path, limit) as filler:
        output, _ = filler.communicate(timeout=60)
    lines = [line.split() for line in output.splitlines()]
    assert lines[0][0] == ("DatabaseFull" if limit == "pages" else "DatabaseBroken")
    stored = int(lines[-1][1])
    assert stored > 10
    assert lines[-1][0] == ("recovered" if limit == "pages" else "DatabaseBroken")
    assert len(await rows(path)) == stored
