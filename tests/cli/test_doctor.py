"""`idioteque doctor`, against a QStash that answers what each test writes down, and against real stores."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path

import pytest
from click.testing import CliRunner

from idioteque.cli import main
from idioteque.cli.checkup import network_file_system
from tests.cli.conftest import TOKEN, FakeQStash, Run
from tests.processes import start_server
from tests.redis_server import PrivateRedis

CURRENT, NEXT = "sig_current_key_of_a_server", "sig_next_key_of_a_server"


@pytest.fixture
def store(tmp_path: Path) -> str:
    sqlite3.connect(tmp_path / "runs.db").close()
    return f"sqlite:///{tmp_path / 'runs.db'}"


@pytest.fixture(autouse=True)
def healthy(qstash: FakeQStash, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    qstash.respond = lambda _: (200, {"current": CURRENT, "next": NEXT})
    monkeypatch.setenv("QSTASH_CURRENT_SIGNING_KEY", CURRENT)
    monkeypatch.setenv("QSTASH_NEXT_SIGNING_KEY", NEXT)


def looked(run: Run, *arguments: str) -> tuple[int, dict[str, dict[str, str]]]:
    """Run the doctor; return the exit code and each line by what it is about."""
    result = run("doctor", "--json", *arguments)
    return result.exit_code, {line["check"]: line for line in json.loads(result.stdout)}


def test_where_all_is_well_every_line_is_ok(run: Run, store: str) -> None:
    code, lines = looked(run, "--store", store)
    assert code == 0
    assert {name: line["verdict"] for name, line in lines.items()} == dict.fromkeys(
        ("versions", "sqlite", "environment", "server", "clock", "signing keys", "store"), "ok"
    )


def test_a_line_shows_verdict_check_and_what_to_do(run: Run, store: str, qstash: FakeQStash) -> None:
    qstash.respond = lambda _: (401, {"error": "unauthorized"})
    result = run("doctor", "--store", store)
    [line] = [line for line in result.stdout.splitlines() if line.startswith("fail")]
    assert line.split()[:2] == ["fail", "server"]
    assert line.endswith("- correct QSTASH_TOKEN")
    assert result.exit_code == 1


def test_a_server_that_is_not_there_fails(run: Run, monkeypatch: pytest.MonkeyPatch, unused_port: int) -> None:
    monkeypatch.setenv("QSTASH_URL", f"http://127.0.0.1:{unused_port}")
    code, lines = looked(run)
    assert (code, lines["server"]["verdict"]) == (1, "fail")
    assert "clock" not in lines


def test_a_missing_token_fails(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("QSTASH_TOKEN")
    code, lines = looked(run)
    assert (code, lines["environment"]["verdict"]) == (1, "fail")
    assert "QSTASH_TOKEN" in lines["environment"]["seen"]


def test_a_variable_that_the_dev_mode_overrules_is_told(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QSTASH_DEV", "true")
    _, lines = looked(run)
    assert lines["environment"]["verdict"] == "warn"


@pytest.mark.parametrize(("ahead_s", "verdict"), [(12.0, "warn"), (-12.0, "warn"), (90.0, "fail"), (-90.0, "fail")])
def test_a_clock_that_differs_is_told(run: Run, qstash: FakeQStash, store: str, ahead_s: float, verdict: str) -> None:
    qstash.clock_ahead_s = ahead_s
    code, lines = looked(run, "--store", store)
    assert (lines["clock"]["verdict"], code) == (verdict, int(verdict == "fail"))
    assert ("behind" if ahead_s > 0 else "ahead of") in lines["clock"]["seen"]


@pytest.mark.parametrize(
    ("keys", "verdict"),
    [((CURRENT, ""), "ok"), (("sig_old_key", CURRENT), "warn"), (("", ""), "warn"), (("sig_a", "sig_b"), "fail")],
)
def test_signing_keys_are_compared(
    run: Run, monkeypatch: pytest.MonkeyPatch, store: str, keys: tuple[str, str], verdict: str
) -> None:
    monkeypatch.setenv("QSTASH_CURRENT_SIGNING_KEY", keys[0])
    monkeypatch.setenv("QSTASH_NEXT_SIGNING_KEY", keys[1])
    code, lines = looked(run, "--store", store)
    assert (lines["signing keys"]["verdict"], code) == (verdict, int(verdict == "fail"))


@pytest.mark.parametrize("answer", [b"<html>", {"keys": []}, [1]])
def test_what_is_no_qstash_fails(run: Run, qstash: FakeQStash, answer: object) -> None:
    qstash.respond = lambda _: (200, answer)
    assert looked(run)[1]["signing keys"]["verdict"] == "fail"


def test_a_store_is_tried_and_left_as_it_was(run: Run, store: str, tmp_path: Path) -> None:
    assert looked(run, "--store", store)[1]["store"]["verdict"] == "ok"
    with sqlite3.connect(tmp_path / "runs.db") as connection:
        tables = connection.execute("SELECT name FROM sqlite_master").fetchall()
    connection.close()
    assert tables == []


def test_a_store_that_is_no_database_fails(run: Run, tmp_path: Path) -> None:
    (tmp_path / "runs.db").write_text("this is no database, and long enough to be seen as none" * 50)
    code, lines = looked(run, "--store", f"sqlite:///{tmp_path / 'runs.db'}")
    assert (code, lines["store"]["verdict"]) == (1, "fail")


def test_a_store_without_a_file_or_a_folder_is_told_apart(run: Run, tmp_path: Path) -> None:
    assert looked(run, "--store", f"sqlite:///{tmp_path / 'new.db'}")[1]["store"]["verdict"] == "warn"
    assert looked(run, "--store", f"sqlite:///{tmp_path / 'none' / 'new.db'}")[1]["store"]["verdict"] == "fail"
    assert list(tmp_path.iterdir()) == []


def test_a_postgres_store_is_tried(run: Run, postgres_url: str) -> None:
    assert looked(run, "--store", postgres_url)[1]["store"]["verdict"] == "ok"


def test_a_redis_that_evicts_fails(run: Run, private_redis: PrivateRedis) -> None:
    assert looked(run, "--store", private_redis.room())[1]["store"]["verdict"] == "ok"
    private_redis.execute("CONFIG", "SET", "maxmemory-policy", "allkeys-lru")
    code, lines = looked(run, "--store", private_redis.room())
    assert (code, lines["store"]["verdict"]) == (1, "fail")
    assert "noeviction" in lines["store"]["seen"]


def test_no_password_of_a_store_is_shown(run: Run, unused_port: int) -> None:
    result = run("doctor", "--store", f"postgresql://u:hidden-word@127.0.0.1:{unused_port}/x")
    assert "hidden-word" not in result.output
    assert result.exit_code == 1


def test_a_folder_on_a_network_file_system_is_known() -> None:
    table = "/dev/sda1 / ext4 rw 0 0\nnas:/x /srv/my\\040data nfs4 rw 0 0\n/dev/sdb1 /srv/my\\040data/disk xfs rw 0 0\n"
    assert network_file_system(Path("/srv/my data/app"), table) == "nfs4"
    assert network_file_system(Path("/srv/my data/disk/app"), table) is None
    assert network_file_system(Path("/srv"), table) is None


def test_the_real_server_is_well(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    server = start_server(tmp_path)
    try:
        monkeypatch.setenv("QSTASH_URL", server.url)
        monkeypatch.setenv("QSTASH_TOKEN", server.token)
        monkeypatch.setenv("QSTASH_CURRENT_SIGNING_KEY", server.current_key)
        monkeypatch.setenv("IDIOTEQUE_DATABASE", f"sqlite:///{tmp_path / 'server.db'}")
        result = CliRunner().invoke(main, ["doctor", "--json"])
    finally:
        assert server.stop() == 0
    assert TOKEN not in result.output
    verdicts = {line["check"]: line["verdict"] for line in json.loads(result.stdout)}
    assert set(verdicts.items()) >= {("server", "ok"), ("clock", "ok"), ("signing keys", "ok"), ("database", "ok")}
