"""`idioteque status`: what our own server tells beyond the protocol, and nothing where nobody tells."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.cli.conftest import FakeQStash, Run
from tests.processes import start_server


def test_figures_stand_one_below_the_other(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    server = start_server(tmp_path)
    try:
        monkeypatch.setenv("QSTASH_URL", server.url)
        monkeypatch.setenv("QSTASH_TOKEN", server.token)
        shown = dict(line.split("\t") for line in run("status").stdout.splitlines())
        told = json.loads(run("status", "--json").stdout)
    finally:
        assert server.stop() == 0
    assert (shown["pending"], shown["deadLetters"], shown["durability"]) == ("0", "0", "full")
    assert shown["retention.logSeconds"] == str(told["retention"]["logSeconds"]) == "259200"
    assert "activity" not in shown
    assert told["activity"] == []
    assert shown["startedAt"].endswith("Z")


@pytest.mark.parametrize("status", [401, 403, 404, 405])
def test_a_qstash_that_tells_nothing_is_named_as_such(run: Run, qstash: FakeQStash, status: int) -> None:
    qstash.respond = lambda _: (status, {"error": "no such path"})
    result = run("status")
    assert (result.exit_code, result.stdout) == (1, "")
    assert "beyond the protocol" in result.stderr


def test_a_server_in_trouble_is_not_taken_for_one_that_tells_nothing(run: Run, qstash: FakeQStash) -> None:
    qstash.respond = lambda _: (503, {"error": "the database does not answer"})
    result = run("status")
    assert result.exit_code == 1
    assert "the database does not answer" in result.stderr
