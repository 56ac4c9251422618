"""Schedules, URL groups and keys from the command line, against the real server."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.processes import CURRENT_KEY, NEXT_KEY, ServerProcess, start_server

Command = Callable[..., str]


def run_command(*arguments: str, env: dict[str, str], exit_code: int = 0) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "idioteque", *arguments], env={**os.environ, **env}, capture_output=True, text=True
    )
    assert done.returncode == exit_code, done.stdout + done.stderr
    return done.stdout if exit_code == 0 else done.stderr


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    running = start_server(tmp_path_factory.mktemp("server"))
    yield running
    assert running.stop() == 0


@pytest.fixture
def command(server: ServerProcess) -> Command:
    """Run a command against the server; return what it printed: on stderr, when it is to fail."""

    def run(*arguments: str, exit_code: int = 0) -> str:
        env = {"QSTASH_URL": server.url, "QSTASH_TOKEN": server.token}
        return run_command(*arguments, env=env, exit_code=exit_code)

    return run


def test_a_schedule_is_made_shown_paused_resumed_and_deleted(command: Command) -> None:
    made = command(
        *("schedules", "create", "https://shop.test/a//b?x=1", "--cron", "CRON_TZ=Europe/Paris 0 4 * * *"),
        *("--id", "nightly", "--data", '{"a": 1}', "--retries", "0", "--label", "night", "--header", "X-A: 1"),
    )
    assert made == "nightly\n"
    shown = json.loads(command("schedules", "show", "nightly", "--json"))
    assert (shown["destination"], shown["cron"]) == ("https://shop.test/a//b?x=1", "CRON_TZ=Europe/Paris 0 4 * * *")
    assert (shown["retries"], shown["body"], shown["label"]) == (0, '{"a": 1}', "night")
    assert shown["header"] == {"Content-Type": ["application/json"], "X-A": ["1"]}
    assert command("schedules", "pause", "nightly") == "paused 1\n"
    (listed,) = json.loads(command("schedules", "list", "--json"))
    assert (listed["isPaused"], "nextScheduleTime" in listed) == (True, False)
    assert command("schedules", "resume", "nightly") == "resumed 1\n"
    row = command("schedules", "list").rstrip("\n").split("\t")
    assert row[:4] == ["nightly", "CRON_TZ=Europe/Paris 0 4 * * *", "https://shop.test/a//b?x=1", "False"]
    assert row[5].endswith("Z")
    assert command("schedules", "delete", "nightly") == "deleted 1\n"
    assert "answered 404: schedule nightly not found" in command("schedules", "delete", "nightly", exit_code=1)
    assert "answered 404: schedule nightly not found" in command("schedules", "show", "nightly", exit_code=1)


NIGHTLY = """
from typing import Any

from idioteque import Context, HttpDispatcher, QStashDispatcher, Tick, Worker

worker = Worker(
    events_schema=dict[str, Any],
    store="sqlite:///unused.db",
    dispatcher=QStashDispatcher(mount_url="https://shop.test/worker"),
)
elsewhere = Worker(
    events_schema=dict[str, Any], store="memory:", dispatcher=HttpDispatcher(mount_url="http://127.0.0.1:1/worker")
)


@worker.function("nightly-report", cron="0 4 * * *")
async def nightly_report(tick: Tick, ctx: Context) -> None: ...
"""


def test_schedules_are_synced_with_what_a_worker_declares(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "nightly.py").write_text(NIGHTLY)
    monkeypatch.chdir(tmp_path)
    assert command("schedules", "sync", "nightly:worker", "--dry-run") == "would be created\tnightly-report\n"
    assert command("schedules", "list") == ""
    assert command("schedules", "sync", "nightly:worker") == "created\tnightly-report\n"
    assert json.loads(command("schedules", "sync", "nightly:worker", "--json"))["unchanged"] == ["nightly-report"]
    (listed,) = json.loads(command("schedules", "list", "--json"))
    assert (listed["cron"], listed["destination"]) == ("0 4 * * *", "https://shop.test/worker")
    (tmp_path / "nightly.py").write_text(NIGHTLY.partition("@worker")[0])
    assert command("schedules", "sync", "nightly:worker") == "removed\tnightly-report\n"
    assert command("schedules", "sync", "nightly:worker").startswith("no function has cron=")
    assert not (tmp_path / "unused.db").exists()


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("nightly", "MODULE:WORKER"),
        ("nightly:elsewhere", "HttpDispatcher"),
        ("nightly:nobody", "cannot be loaded"),
        ("nightly:Any", "not a Worker"),
    ],
)
def test_what_has_no_schedules_to_sync_is_named(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, text: str
) -> None:
    (tmp_path / "nightly.py").write_text(NIGHTLY)
    monkeypatch.chdir(tmp_path)
    assert text in command("schedules", "sync", name, exit_code=2)


def test_a_bad_cron_is_answered_with_the_rule(command: Command) -> None:
    text = command("schedules", "create", "https://shop.test/", "--cron", "* * * * * *", exit_code=1)
    assert "must have five fields" in text


def test_a_url_group_is_filled_shown_emptied_and_deleted(command: Command) -> None:
    assert command("url-groups", "add", "news", "one=https://one.test/", "https://two.test/?a=b") == "added 2\n"
    endpoints = [{"name": "one", "url": "https://one.test/"}, {"url": "https://two.test/?a=b"}]
    assert json.loads(command("url-groups", "show", "news", "--json"))["endpoints"] == endpoints
    assert [group["name"] for group in json.loads(command("url-groups", "list", "--json"))] == ["news"]
    ids = command("publish", "news", "--delay", "1h").split()
    assert len(ids) == 2
    assert command("url-groups", "remove", "news", "one") == "removed 1\n"
    assert json.loads(command("url-groups", "show", "news", "--json"))["endpoints"] == endpoints[1:]
    assert command("url-groups", "delete", "news") == "deleted 1\n"
    assert "URL group news not found" in command("url-groups", "show", "news", exit_code=1)
    assert "URL or NAME=URL" in command("url-groups", "add", "news", "one", exit_code=2)


def test_keys_are_shown_and_rotated(command: Command) -> None:
    assert json.loads(command("keys", "show", "--json")) == {"current": CURRENT_KEY, "next": NEXT_KEY}
    rotated = json.loads(command("keys", "rotate", "--yes", "--json"))
    assert rotated["current"] == NEXT_KEY
    assert json.loads(command("keys", "show", "--json")) == rotated


def test_a_new_token_replaces_the_old_one_of_a_server_that_is_stopped(tmp_path: Path) -> None:
    env = {"QSTASH_TOKEN": ""}
    database = {"IDIOTEQUE_DATABASE": f"sqlite:///{tmp_path / 'server.db'}"}
    assert "there is no database" in run_command("keys", "new-token", env=database, exit_code=2)
    running = start_server(tmp_path, env=env)
    old = (tmp_path / "server.db.credentials").read_text().split("QSTASH_TOKEN=")[1].split("\n")[0]
    assert "in use by another server process" in run_command("keys", "new-token", env=database, exit_code=2)
    assert running.stop() == 0
    new = run_command("keys", "new-token", env=database).strip()
    running = start_server(tmp_path, env=env)
    try:
        url = {"QSTASH_URL": running.url}
        assert "sig_" in run_command("keys", "show", env={**url, "QSTASH_TOKEN": new})
        assert "answered 401" in run_command("keys", "show", env={**url, "QSTASH_TOKEN": old}, exit_code=1)
    finally:
        assert running.stop() == 0


def test_a_queue_is_set_shown_paused_resumed_and_deleted(command: Command) -> None:
    assert command("queues", "set", "orders", "--parallelism", "3", "--paused") == "set orders\n"
    shown = json.loads(command("queues", "show", "orders", "--json"))
    assert (shown["name"], shown["parallelism"], shown["paused"], shown["lag"]) == ("orders", 3, True, 0)
    assert command("queues", "resume", "orders") == "resumed 1\n"
    assert command("queues", "pause", "orders") == "paused 1\n"
    (listed,) = json.loads(command("queues", "list", "--json"))
    assert (listed["name"], listed["paused"]) == ("orders", True)
    assert command("queues", "list").split("\t")[:4] == ["orders", "3", "0", "True"]
    assert "Aborted" in command("queues", "delete", "orders", exit_code=1)
    assert command("queues", "delete", "orders", "--yes") == "deleted 1\n"
    assert "answered 404: queue orders not found" in command("queues", "pause", "orders", exit_code=1)


def test_a_flow_control_key_is_paused_pinned_shown_and_unpinned(command: Command) -> None:
    flow = ("--header", "Upstash-Flow-Control-Key: team/a", "--header", "Upstash-Flow-Control-Value: rate=5, period=1m")
    command("publish", "https://shop.test/", "--delay", "1h", *flow)
    assert command("flow-control", "pause", "team/a") == "paused team/a\n"
    assert command("flow-control", "pin", "team/a", "--parallelism", "7", "--period", "2m") == "pinned team/a\n"
    shown = json.loads(command("flow-control", "show", "team/a", "--json"))
    assert (shown["parallelismMax"], shown["ratePeriod"], shown["isPaused"]) == (7, 120, True)
    assert command("flow-control", "unpin", "team/a", "--rate") == "unpinned team/a\n"
    (listed,) = json.loads(command("flow-control", "list", "--search", "team", "--json"))
    assert (listed["isPinnedParallelism"], listed["isPinnedRate"]) == (True, False)
    assert command("flow-control", "reset-rate", "team/a") == "reset team/a\n"
    assert command("flow-control", "resume", "team/a") == "resumed team/a\n"
    assert json.loads(command("flow-control", "list", "--search", "none", "--json")) == []
    assert "give --parallelism" in command("flow-control", "pin", "team/a", exit_code=2)
    assert "answered 404: flow-control key none not found" in command("flow-control", "resume", "none", exit_code=1)
