"""`idioteque migrate`, on real databases."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from idioteque.cli import main
from tests.processes import start_server


def migrate(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["migrate", *arguments])


def states(*arguments: str) -> dict[str, set[str]]:
    """Run it and return which states the migrations of each component are in."""
    result = migrate("--json", *arguments)
    assert result.exit_code == 0, result.output
    rows = json.loads(result.stdout)
    return {component: {r["state"] for r in rows if r["component"] == component} for component in ("server", "runs")}


def tables(path: Path) -> set[str]:
    connection = sqlite3.connect(path)
    try:
        return {row[0] for row in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    finally:
        connection.close()


def test_a_dry_run_makes_no_file(tmp_path: Path) -> None:
    both = ("--database", f"sqlite:///{tmp_path / 'a.db'}", "--store", f"sqlite:///{tmp_path / 'b.db'}")
    assert states("--dry-run", *both) == {"server": {"pending"}, "runs": {"pending"}}
    assert list(tmp_path.iterdir()) == []


def test_a_dry_run_changes_nothing_in_a_database_that_is_there(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    sqlite3.connect(path).close()
    assert states("--dry-run", "--database", f"sqlite:///{path}")["server"] == {"pending"}
    assert tables(path) == set()


def test_a_second_time_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    both = ("--database", f"sqlite:///{path}", "--store", f"sqlite:///{path}")
    assert states(*both) == {"server": {"applied now"}, "runs": {"applied now"}}
    made = tables(path)
    assert {"messages", "idioteque_migrations"} <= made
    assert states(*both) == states("--dry-run", *both) == {"server": {"applied"}, "runs": {"applied"}}
    assert tables(path) == made


def test_the_variables_name_the_databases(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IDIOTEQUE_STORE", f"sqlite:///{tmp_path / 'runs.db'}")
    assert states() == {"server": set(), "runs": {"applied now"}}


def test_runs_in_postgres_are_migrated(postgres_url: str) -> None:
    assert states("--dry-run", "--store", postgres_url)["runs"] == {"pending"}
    assert states("--store", postgres_url)["runs"] == {"applied now"}
    assert states("--store", postgres_url)["runs"] == {"applied"}


def test_a_migration_of_a_newer_release_is_shown_by_its_number(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    assert migrate("--store", f"sqlite:///{path}").exit_code == 0
    with sqlite3.connect(path) as connection:
        connection.execute("INSERT INTO idioteque_migrations VALUES ('runs', 4711)")
    connection.close()
    assert migrate("--store", f"sqlite:///{path}").stdout.splitlines()[-1] == "runs\t4711\tapplied"


def test_a_store_without_tables_has_nothing_to_migrate() -> None:
    result = migrate("--store", "redis://127.0.0.1:1/0")
    assert (result.exit_code, result.stdout) == (0, "")
    assert "nothing to migrate" in result.stderr


@pytest.mark.parametrize("arguments", [(), ("--database", "postgresql://u@h/x"), ("--store", "mysql://h/x")])
def test_what_names_no_database_is_refused(arguments: tuple[str, ...]) -> None:
    result = migrate(*arguments)
    assert (result.exit_code, result.stdout) == (2, "")


def test_the_database_of_a_running_server_is_left_alone(tmp_path: Path) -> None:
    server = start_server(tmp_path)
    url = f"sqlite:///{tmp_path / 'server.db'}"
    try:
        refused = migrate("--database", url)
        assert states("--dry-run", "--database", url)["server"] == {"applied"}
    finally:
        assert server.stop() == 0
    assert (refused.exit_code, refused.stdout) == (1, "")
    assert "in use" in refused.stderr
