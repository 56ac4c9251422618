"""`idioteque backup`: what is copied, what is refused, and what is left behind."""

from __future__ import annotations

import json
import os
import resource
import signal
import sqlite3
import stat
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from idioteque.cli import main
from tests.destination import until

COMMAND = [sys.executable, "-m", "idioteque", "backup"]


def backup(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["backup", *map(str, arguments)])


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A database with a write-ahead log that a connection keeps open."""
    path = tmp_path / "a name with spaces.db"
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("CREATE TABLE one (n)")
        connection.executemany("INSERT INTO one VALUES (?)", [(n,) for n in range(1000)])
        connection.commit()
    return path


def numbers(path: Path) -> list[int]:
    with closing(sqlite3.connect(path)) as connection:
        return [n for (n,) in connection.execute("SELECT n FROM one ORDER BY n")]


def test_a_copy_is_what_was_committed_when_it_was_begun(source: Path, tmp_path: Path) -> None:
    target = tmp_path / "copy.db"
    with closing(sqlite3.connect(source, isolation_level=None)) as writer:
        writer.execute("INSERT INTO one VALUES (1000)")  # in the log alone
        writer.execute("BEGIN IMMEDIATE")
        writer.execute("INSERT INTO one VALUES (1001)")  # not committed
        result = backup("--json", f"sqlite:///{source}", target)
        assert result.exit_code == 0, result.stderr
        writer.execute("COMMIT")
    assert json.loads(result.stdout) == {"file": str(target), "bytes": target.stat().st_size}
    assert numbers(target) == list(range(1001))
    assert numbers(source) == list(range(1002))
    assert stat.S_IMODE(target.stat().st_mode) == 0o600
    assert {path.name for path in tmp_path.iterdir()} == {source.name, target.name}


def test_nothing_is_written_over(source: Path, tmp_path: Path) -> None:
    target = tmp_path / "copy.db"
    target.symlink_to(tmp_path / "nowhere")
    for _ in range(2):
        result = backup(f"sqlite:///{source}", target)
        assert result.exit_code == 2
        assert "exists, and nothing is written over" in result.stderr
        target.unlink()
        target.write_text("precious")
    assert target.read_text() == "precious"
    assert {path.name for path in tmp_path.iterdir()} == {source.name, target.name}


def test_a_damaged_database_is_found_out(source: Path, tmp_path: Path) -> None:
    with source.open("r+b") as file:
        file.seek(4096)
        file.write(os.urandom(4096))
    result = backup(f"sqlite:///{source}", tmp_path / "copy.db")
    assert result.exit_code == 1
    assert "malformed" in result.stderr or "damaged" in result.stderr
    assert [path.name for path in tmp_path.iterdir() if path.name.endswith(".db")] == [source.name]


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("sqlite:///missing.db", "there is no database"),
        ("sqlite://:memory:", "there is no database"),
        ("postgresql://u@h/x", "pg_dump"),
        ("mysql://h/x", "names no database"),
        ("sqlite:///junk.db", "not a database"),
    ],
)
def test_what_cannot_be_copied_leaves_nothing(
    url: str, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("junk.db").write_text("no database at all " * 100)
    result = backup(url, "copy.db")
    assert result.exit_code in (1, 2)
    assert says in result.stderr
    assert len(result.stderr.splitlines()) == 1
    assert {path.name for path in tmp_path.iterdir()} == {"junk.db"}


def test_a_folder_that_is_not_there_is_told(source: Path, tmp_path: Path) -> None:
    result = backup(f"sqlite:///{source}", tmp_path / "no such folder" / "copy.db")
    assert result.exit_code == 1
    assert "cannot copy" in result.stderr


def test_a_full_disk_leaves_nothing_beside_the_database(source: Path, tmp_path: Path) -> None:
    with closing(sqlite3.connect(source)) as writer:  # more than SQLite keeps in memory before it writes
        writer.executemany("INSERT INTO one VALUES (?)", [(bytes(100_000),) for _ in range(80)])
        writer.commit()
    ended = subprocess.run(
        [*COMMAND, f"sqlite:///{source}", tmp_path / "copy.db"],
        capture_output=True,
        text=True,
        timeout=60,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, 1_000_000)),
    )
    assert ended.returncode == 1
    assert ended.stderr.startswith("Error: cannot copy the database ")
    assert [path.name for path in tmp_path.iterdir() if "copy.db" in path.name] == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_copy_that_is_told_to_end_leaves_nothing(number: signal.Signals, tmp_path: Path) -> None:
    source = tmp_path / "source.db"
    with closing(sqlite3.connect(source, isolation_level=None)) as owner:
        owner.execute("CREATE TABLE one (n)")
        owner.execute("BEGIN EXCLUSIVE")  # without a write-ahead log this keeps readers waiting
        copying = subprocess.Popen([*COMMAND, f"sqlite:///{source}", tmp_path / "copy.db"], stderr=subprocess.PIPE)
        try:
            until(lambda: any(tmp_path.glob(".copy.db.*")))
            copying.send_signal(number)
            owner.execute("COMMIT")
            _, said = copying.communicate(timeout=60)
        finally:
            copying.kill()
            copying.wait()
    assert copying.returncode == 1
    assert b"Aborted!" in said
    assert [path.name for path in tmp_path.iterdir() if "copy.db" in path.name] == []
