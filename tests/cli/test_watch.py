"""Lists that are looked at again and again, on a real terminal."""

from __future__ import annotations

import os
import pty
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from idioteque import InlineDispatcher, Worker
from tests.cli.conftest import TOKEN, Answer, Asked, FakeQStash, Run

DEADLINE_S = 60.0


class Watched:
    """A command on a terminal of 100 columns; `shown` is all that appeared there so far."""

    def __init__(self, environment: dict[str, str], *arguments: str) -> None:
        self._controller, terminal = pty.openpty()
        self.shown = ""
        self.process = subprocess.Popen(
            [sys.executable, "-m", "idioteque", *arguments, "--watch"],
            env={"TERM": "xterm", "COLUMNS": "100", "LINES": "40", **environment},
            stdin=terminal,
            stdout=terminal,
            stderr=terminal,
        )
        os.close(terminal)

    def until(self, text: str) -> None:
        deadline_s = time.monotonic() + DEADLINE_S
        while text not in self.shown:
            assert time.monotonic() < deadline_s, self.shown
            if select.select([self._controller], [], [], 0.1)[0]:
                self.shown += os.read(self._controller, 65536).decode(errors="replace")

    def interrupt(self) -> int:
        self.process.send_signal(signal.SIGINT)
        return self.process.wait(DEADLINE_S)

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        os.close(self._controller)


@pytest.fixture
def watched(request: pytest.FixtureRequest, qstash: FakeQStash) -> Iterator[Watched]:
    qstash.respond = lambda asked: (200, [] if "/queues" in asked.target else {"events": []})
    running = Watched({"QSTASH_URL": qstash.url, "QSTASH_TOKEN": TOKEN}, *request.param)
    yield running
    running.close()
    assert TOKEN not in running.shown


@pytest.mark.parametrize("watched", [("queues", "list")], indirect=True)
def test_a_list_follows_what_changes_until_ctrl_c(qstash: FakeQStash, watched: Watched) -> None:
    watched.until("lag")
    qstash.respond = lambda _: (200, [{"name": "mail", "lag": 4711}])
    watched.until("4711")
    assert watched.interrupt() == 0
    assert "Traceback" not in watched.shown


@pytest.mark.parametrize("watched", [("messages", "list")], indirect=True)
def test_an_answer_that_fails_is_told_and_the_list_goes_on(qstash: FakeQStash, watched: Watched) -> None:
    def entry(message_id: str) -> Answer:
        return 200, {"events": [{"time": 1, "messageId": message_id, "state": "ACTIVE", "url": "https://a.test"}]}

    qstash.respond = lambda _: entry("msg_first")
    watched.until("msg_first")
    qstash.respond = lambda _: (503, {"error": "away for a moment"})
    watched.until("away for a moment")
    qstash.respond = lambda _: entry("msg_second")
    watched.until("msg_second")
    assert watched.interrupt() == 0


async def test_runs_are_watched_in_their_store(tmp_path: Path) -> None:
    store = f"sqlite:///{tmp_path / 'runs.db'}"
    worker = Worker(events_schema=dict[str, str], store=store, dispatcher=InlineDispatcher())
    assert (await worker.runs.list()).runs == []
    await worker.close()
    running = Watched({}, "runs", "list", "--store", store)
    try:
        running.until("function")
        assert running.interrupt() == 0
    finally:
        running.close()


@pytest.mark.parametrize("options", [(), ("--json",)])
def test_without_a_terminal_it_is_refused(run: Run, qstash: FakeQStash, options: tuple[str, ...]) -> None:
    asked: list[Asked] = qstash.asked
    result = run("queues", "list", "--watch", *options)
    assert (result.exit_code, result.stdout, asked) == (2, "", [])
