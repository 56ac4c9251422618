"""What commands print of what they did, for people and for scripts; and that every promised command is there."""

from __future__ import annotations

import json

import click
import pytest

from idioteque.cli import main
from tests.cli.conftest import FakeQStash, Run
from tests.cli.test_completion import commands

PROMISED = (
    "serve --host --port --database --dev --allow-private --rewrite --durability",
    "dev", "demo", "publish --data --delay --retries", "console --store", "migrate", "backup", "doctor",
    "version", "status",
    "messages list", "messages show", "messages cancel", "messages retry-now",
    "dlq list", "dlq show", "dlq retry", "dlq delete", "dlq edit --url --data --header --method --dry-run",
    "schedules run", "queues waiting", "flow-control waiting",
    "schedules list", "schedules show", "schedules create", "schedules pause", "schedules resume", "schedules delete",
    "queues list", "queues show", "queues set", "queues pause", "queues resume", "queues delete",
    "url-groups list", "url-groups show", "url-groups add", "url-groups remove", "url-groups delete",
    "flow-control list", "flow-control show", "flow-control pause", "flow-control resume", "flow-control pin",
    "flow-control unpin", "flow-control reset-rate", "keys show", "keys rotate", "keys new-token", "logs --follow",
    "runs list --store", "runs show --store", "runs why --store", "runs cancel --store", "runs retry --store",
)  # fmt: skip

DONE: dict[str, dict[str, object]] = {
    "schedules pause a b": {"paused": 2},
    "schedules resume a": {"resumed": 1},
    "schedules delete a": {"deleted": 1},
    "queues set q --parallelism 3": {"set": "q"},
    "queues pause q": {"paused": 1},
    "queues resume q": {"resumed": 1},
    "queues delete q --yes": {"deleted": 1},
    "flow-control pause k": {"paused": "k"},
    "flow-control resume k": {"resumed": "k"},
    "flow-control pin k --rate 3": {"pinned": "k"},
    "flow-control unpin k": {"unpinned": "k"},
    "flow-control reset-rate k": {"reset": "k"},
    "url-groups add g https://a.test https://b.test": {"added": 2},
    "url-groups remove g name": {"removed": 1},
    "url-groups delete g": {"deleted": 1},
    "messages cancel a b": {"cancelled": 2, "asked": 2, "missing": []},
    "dlq delete a b c": {"deleted": 3, "asked": 3},
}


def test_every_promised_command_is_there_with_its_options() -> None:
    there: dict[str, click.Command] = {" ".join(path): command for path, command in commands(main)}
    for line in PROMISED:
        name, *options = line.replace(" --", "\0--").split("\0")
        assert name in there, name
        has = [opt for param in there[name].params for opt in param.opts]
        assert [option for option in options if option not in has] == [], name


@pytest.mark.parametrize("line", DONE)
def test_a_script_reads_what_was_done(run: Run, qstash: FakeQStash, line: str) -> None:
    qstash.respond = lambda asked: (200, {"deleted": asked.target.count("dlqIds")} if "dlq" in asked.target else {})
    result = run(*line.split(), "--json")
    assert result.exit_code == 0, result.stderr
    assert json.loads(result.stdout) == DONE[line]
    spoken = run(*line.split()).stdout
    what, done = next(iter(DONE[line].items()))
    assert spoken.startswith(f"{what} {done}")
    assert "{" not in spoken


def test_a_cancel_of_what_is_over_names_it_in_json_and_ends_with_1(run: Run, qstash: FakeQStash) -> None:
    qstash.respond = lambda asked: (404, {"error": "not found"}) if "gone" in asked.target else (200, {})
    result = run("messages", "cancel", "here", "gone", "--json")
    assert result.exit_code == 1
    assert json.loads(result.stdout) == {"cancelled": 1, "asked": 2, "missing": ["gone"]}
    assert "gone" in result.stderr
