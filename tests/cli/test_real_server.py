"""The client commands against the real server, as a process of its own, with a destination that listens."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tests.processes import ServerProcess, start_server

DEADLINE_S = 20.0


class Destination:
    """Answers with the status that is set, and keeps the bodies it was sent."""

    def __init__(self) -> None:
        self.status = 200
        self.bodies: list[bytes] = []
        self.url = ""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    running = start_server(tmp_path_factory.mktemp("server"))
    yield running
    assert running.stop() == 0


@pytest.fixture
def destination() -> Iterator[Destination]:
    kept = Destination()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            kept.bodies.append(self.rfile.read(int(self.headers.get("Content-Length", 0))))
            self.send_response(kept.status)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *args: object) -> None:
            return

    listening = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    listening.daemon_threads = True
    kept.url = f"http://127.0.0.1:{listening.server_port}/hook"
    thread = threading.Thread(target=listening.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield kept
    listening.shutdown()
    thread.join()
    listening.server_close()


Command = Callable[..., str]


@pytest.fixture
def command(server: ServerProcess) -> Command:
    """Run a command against the server; return what it printed, after checking its exit code."""

    def run(*arguments: str, stdin: str = "", exit_code: int = 0) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "idioteque", *arguments],
            env={"QSTASH_URL": server.url, "QSTASH_TOKEN": server.token},
            input=stdin, capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
        assert done.returncode == exit_code, done
        assert server.token not in done.stdout + done.stderr
        return done.stdout if exit_code == 0 else done.stderr

    return run


def eventually(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline, "it did not come to pass"


def test_a_message_is_published_delivered_and_found_in_the_log(command: Command, destination: Destination) -> None:
    message_id = command("publish", destination.url, "--data", "-", "--label", "cli", stdin='{"n": 1}').strip()

    def states() -> list[str]:
        return [entry["state"] for entry in json.loads(command("logs", "--message-id", message_id, "--json"))]

    eventually(lambda: "DELIVERED" in states())
    assert destination.bodies == [b'{"n": 1}']
    assert states() == ["CREATED", "ACTIVE", "DELIVERED"]
    assert message_id in command("messages", "list", "--label", "cli")
    assert message_id in command("logs", "--state", "delivered", "--url", destination.url)


def test_a_message_is_shown_and_cancelled_before_it_is_due(command: Command, destination: Destination) -> None:
    message_id = command("publish", destination.url, "--delay", "1h", "--data", "later").strip()
    shown = json.loads(command("messages", "show", message_id, "--json"))
    assert (shown["messageId"], shown["url"], shown["body"]) == (message_id, destination.url, "later")
    assert shown["notBefore"] - shown["createdAt"] == 3_600_000
    assert command("messages", "cancel", message_id) == "cancelled 1 of 1\n"
    assert "CANCELED" in command("logs", "--message-id", message_id)
    assert "msg_unknown" in command("messages", "cancel", "msg_unknown", exit_code=1)


def test_a_duplicate_is_the_same_message(command: Command, destination: Destination) -> None:
    once = command("publish", destination.url, "--deduplication-id", "cli-1", "--delay", "1h")
    assert command("publish", destination.url, "--deduplication-id", "cli-1", "--delay", "1h") == once


def test_dead_letters_are_listed_shown_sent_again_and_deleted(command: Command, destination: Destination) -> None:
    def letters() -> list[dict[str, object]]:
        listed: list[dict[str, object]] = json.loads(command("dlq", "list", "--url", destination.url, "--json"))
        return listed

    destination.status = 500
    for n in range(3):
        command("publish", destination.url, "--retries", "0", "--data", f"order {n}", "--label", "dead")
    eventually(lambda: len(letters()) == 3)
    first, second, third = (str(letter["dlqId"]) for letter in letters())
    shown = json.loads(command("dlq", "show", first, "--json"))
    assert (shown["dlqId"], shown["responseStatus"]) == (first, 500)
    assert first in command("dlq", "list", "--label", "dead", "--status", "500")

    destination.status = 200
    destination.bodies.clear()
    assert command("dlq", "retry", first) == "retried 1 of 1\n"
    eventually(lambda: len(destination.bodies) == 1)
    assert command("dlq", "delete", second) == "deleted 1 of 1\n"
    assert "404" in command("dlq", "show", second, exit_code=1)
    assert [letter["dlqId"] for letter in letters()] == [third]
    assert command("dlq", "delete", "--all", "--label", "dead", stdin="y\n") == "deleted 1 of 1\n"
    assert letters() == []


def test_a_log_is_followed(command: Command, server: ServerProcess, destination: Destination) -> None:
    following = subprocess.Popen(
        [sys.executable, "-m", "idioteque", "logs", "--follow", "--json", "--url", destination.url],
        env={"QSTASH_URL": server.url, "QSTASH_TOKEN": server.token, "PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    with following:
        try:
            message_id = command("publish", destination.url).strip()
            assert following.stdout is not None
            seen = [json.loads(following.stdout.readline()) for _ in range(3)]
            assert [entry["state"] for entry in seen] == ["CREATED", "ACTIVE", "DELIVERED"]
            assert {entry["messageId"] for entry in seen} == {message_id}
        finally:
            following.terminate()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["publish", "http://169.254.169.254/latest"], "answered 400"),
        (["publish", "unknown-group"], "answered 4"),
        (["dlq", "show", "dlq_unknown"], "answered 404"),
        (["messages", "show", "msg_unknown"], "answered 404"),
    ],
)
def test_a_refusal_of_the_server_is_told_in_one_line(command: Command, arguments: list[str], said: str) -> None:
    told = command(*arguments, exit_code=1)
    assert said in told
    assert len(told.splitlines()) == 1


def test_a_wrong_token_is_refused(server: ServerProcess, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "idioteque", "dlq", "list"],
        env={"QSTASH_URL": server.url, "QSTASH_TOKEN": "wrong-token"},
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert "answered 401" in done.stderr
    assert "wrong-token" not in done.stderr
