"""A run that goes on from the console: its message arrives at the mount, or nobody knows where that is."""

from __future__ import annotations

import json
from pathlib import Path

from tests.console.browse import Visitor, fill_store
from tests.destination import open_destination
from tests.processes import start_server


def test_a_retry_sends_the_runs_message_to_the_mount(tmp_path: Path) -> None:
    ids = fill_store(tmp_path / "runs.db")
    with open_destination() as mount:
        store = ["--store", f"sqlite:///{tmp_path / 'runs.db'}", "--mount-url", f"{mount.url}/api/worker"]
        server = start_server(tmp_path, args=store)
        try:
            visitor = Visitor(server.url)
            visitor.log_in(server.token)
            assert visitor.act("/runs", f"/runs/{ids['bad']}/retry").status == 303
            [first] = mount.wait_for(1)
            assert (first.target, json.loads(first.body)["function_id"]) == ("/api/worker", "break")
            assert json.loads(visitor.get(f"/runs/{ids['bad']}.json").text)["run"]["status"] == "waiting"
            edited = {"event": '{"type": "order", "id": "mended"}'}
            assert visitor.act("/runs", f"/runs/{ids['bad']}/again", edited).status == 303
            second = mount.wait_for(2)[1]
            assert json.loads(second.body)["event"] == {"type": "order", "id": "mended"}
            assert visitor.act("/runs", f"/runs/{ids['good']}/retry").status == 400, "a completed run stays completed"
        finally:
            assert server.stop() == 0


def test_a_retry_changes_nothing_when_nobody_knows_the_mount(tmp_path: Path) -> None:
    ids = fill_store(tmp_path / "runs.db")
    server = start_server(tmp_path, args=["--store", f"sqlite:///{tmp_path / 'runs.db'}"])
    try:
        visitor = Visitor(server.url)
        visitor.log_in(server.token)
        refused = visitor.act("/runs", f"/runs/{ids['bad']}/retry")
        assert refused.status == 409
        assert "--mount-url" in refused.text
        assert json.loads(visitor.get(f"/runs/{ids['bad']}.json").text)["run"]["status"] == "failed"
    finally:
        assert server.stop() == 0
