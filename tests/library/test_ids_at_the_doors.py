"""Ids of events, runs and functions are of one alphabet: nothing else gets through any door to a store."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from idioteque import Context, HttpRequest, InlineDispatcher, InvalidValue, Worker
from idioteque.cli import main
from idioteque.ids import is_id
from idioteque.runs import Runs

BAD = ("", "a b", "ü", "x" * 129, "a/b", "..%2f", "a\n", "a\x00b", "'; DROP TABLE runs; --", "${7*7}")
ASKED: dict[str, Callable[[Runs, str], Awaitable[object]]] = {
    "get": lambda runs, run_id: runs.get(run_id),
    "why": lambda runs, run_id: runs.why(run_id),
    "result": lambda runs, run_id: runs.result(run_id, timeout=0),
    "cancel": lambda runs, run_id: runs.cancel(run_id),
    "retry": lambda runs, run_id: runs.retry(run_id),
    "list": lambda runs, run_id: runs.list(cursor=run_id or "\n"),
}
ENVELOPES: dict[str, Callable[[str], dict[str, Any]]] = {
    "event": lambda bad: {"kind": "event", "event_id": bad, "event": {"type": "order"}},
    "run": lambda bad: {"kind": "run", "event_id": bad, "function_id": "f", "not_after_ms": 2**50},
    "function": lambda bad: {"kind": "run", "event_id": "evt-1", "function_id": bad, "not_after_ms": 2**50},
    "parent": lambda bad: {
        "kind": "run",
        "event_id": "evt-1",
        "function_id": "f",
        "not_after_ms": 2**50,
        "parent": [bad, ["step"], []],
    },
    "tick": lambda bad: {"kind": "tick", "function_id": bad},
}


class Closed:
    """A store that nothing may come to."""

    def __getattr__(self, name: str) -> Any:
        def called(*_: object, **__: object) -> None:
            raise AssertionError(f"{name} of the store was called")

        return called


@pytest.fixture
def worker() -> Worker:
    worker = Worker(events_schema=dict[str, Any], store="memory:", dispatcher=InlineDispatcher())

    @worker.function("f", on="order")
    async def f(event: dict[str, Any], ctx: Context) -> None: ...

    return worker


@pytest.mark.parametrize("bad", BAD)
@pytest.mark.parametrize("kind", ENVELOPES)
async def test_an_envelope_with_a_bad_id_is_refused_for_good(worker: Worker, kind: str, bad: str) -> None:
    worker.configure(store=Closed())  # type: ignore[arg-type]
    mount = worker.dispatcher.mount(worker)  # type: ignore[attr-defined]
    body = json.dumps({"idioteque": 1, **ENVELOPES[kind](bad)}).encode()
    response = await mount.handle(HttpRequest("POST", "/", [("Upstash-Message-Id", "msg_1")], body))
    assert (response.status, response.header("Upstash-NonRetryable-Error")) == (489, "true"), response.body


@pytest.mark.parametrize("bad", BAD)
@pytest.mark.parametrize("asked", ASKED)
async def test_runs_are_asked_for_by_ids_only(worker: Worker, asked: str, bad: str) -> None:
    worker.configure(store=Closed())  # type: ignore[arg-type]
    with pytest.raises(InvalidValue, match="must match"):
        await ASKED[asked](worker.runs, bad)


@pytest.mark.parametrize("bad", BAD)
async def test_a_bare_event_gets_an_id_whatever_its_message_is_called(worker: Worker, bad: str) -> None:
    mount = worker.dispatcher.mount(worker)  # type: ignore[attr-defined]
    headers = [("Upstash-Message-Id", bad)] if bad else []
    assert (await mount.handle(HttpRequest("POST", "/", headers, b'{"type": "order"}'))).status == 200
    [run] = (await worker.runs.list()).runs
    assert is_id(run.event_id)
    assert is_id(run.id)


@pytest.mark.parametrize("bad", BAD[1:])
async def test_any_deduplication_id_makes_one_id(worker: Worker, bad: str) -> None:
    worker.dispatcher.mount(worker)  # type: ignore[attr-defined]
    ids = {(await worker.publish({"type": "order"}, deduplication_id=bad)).event_id for _ in range(2)}
    assert len(ids) == 1
    assert is_id(*ids)


@pytest.mark.parametrize("bad", BAD)
@pytest.mark.parametrize("command", ["show", "why", "cancel", "retry"])
def test_a_command_says_what_an_id_is_and_exits_with_2(tmp_path: Path, command: str, bad: str) -> None:
    (tmp_path / "runs.db").touch()
    options = ["--store", f"sqlite:///{tmp_path / 'runs.db'}"]
    if command == "retry":
        options += ["--mount-url", "https://app.example.com/worker"]
    result = CliRunner().invoke(main, ["runs", command, *options, "--", bad], env={"QSTASH_TOKEN": "token"})
    assert result.exit_code == 2, result.output
    assert "must match" in result.output
