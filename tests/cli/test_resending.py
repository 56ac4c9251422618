"""Messages, dead letters and schedules that a command sends at once, against the real server."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.cli.test_resources import run_command
from tests.destination import Destination, open_destination, until
from tests.processes import ServerProcess, start_server

Command = Callable[..., str]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    running = start_server(tmp_path_factory.mktemp("server"))
    yield running
    assert running.stop() == 0


@pytest.fixture(scope="module")
def destination() -> Iterator[Destination]:
    with open_destination(lambda request: 400 if "bad" in request.target else 200) as opened:
        yield opened


@pytest.fixture
def command(server: ServerProcess) -> Command:
    def run(*arguments: str, exit_code: int = 0) -> str:
        env = {"QSTASH_URL": server.url, "QSTASH_TOKEN": server.token}
        return run_command(*arguments, env=env, exit_code=exit_code)

    return run


def states(command: Command, message_id: str) -> list[str]:
    return [row["state"] for row in json.loads(command("logs", "--message-id", message_id, "--json"))]


def dead_letter(command: Command, *arguments: str) -> str:
    """Publish something that is refused; return the id of the dead letter that it becomes."""
    message_id = command("publish", *arguments, "--retries", "0").strip()
    found: list[str] = []

    def is_there() -> bool:
        found[:] = [row["dlqId"] for row in json.loads(command("dlq", "list", "--message-id", message_id, "--json"))]
        return bool(found)

    until(is_there)
    return found[0]


def test_a_message_that_waits_is_sent_now_and_once(command: Command, destination: Destination) -> None:
    url = f"{destination.url}/now"
    waiting = command("publish", url, "--delay", "1h", "--data", "{}", "--header", "X-A: 1", "--label", "l").strip()
    old, new = command("messages", "retry-now", waiting).split()
    assert old == waiting
    assert new != waiting
    until(lambda: "DELIVERED" in states(command, new))
    [arrived] = [one for one in destination.received if one.target == "/now"]
    assert (arrived.message_id, arrived.body, arrived.headers["x-a"]) == (new, b"{}", "1")
    assert "CANCELED" in states(command, waiting)


def test_messages_that_cannot_be_sent_now_are_named_and_the_others_are_sent(
    command: Command, destination: Destination
) -> None:
    over = command("publish", f"{destination.url}/over").strip()
    until(lambda: "DELIVERED" in states(command, over))
    waiting = command("publish", f"{destination.url}/open", "--delay", "1h").strip()
    told = command("messages", "retry-now", over, waiting, "msg_unknown", "--json", exit_code=1)
    assert f"{over} (the message is over" in told
    assert "msg_unknown (nothing is known of it)" in told
    assert waiting not in told
    until(lambda: any(one.target == "/open" for one in destination.received))


def test_a_dead_letter_is_edited_sent_again_and_gone(command: Command, destination: Destination) -> None:
    letter = dead_letter(
        command, f"{destination.url}/bad", "--data", '{"n": 1}', "--header", "X-Keep: 1", "--header", "X-Drop: 2",
        "--header", "X-Turn: 3", "--label", "mine",
    )  # fmt: skip
    edits = ["--url", f"{destination.url}/mended", "--data", '{"n": 2}', "--header", "x-turn: 4", "--method", "put"]
    edits += ["--without-header", "x-drop"]
    shown = json.loads(command("dlq", "edit", letter, *edits, "--dry-run", "--json"))
    assert (shown["url"], shown["body"]) == (f"{destination.url}/mended", '{"n": 2}')
    assert "Upstash-Forward-x-turn: 4" in shown["headers"]
    assert json.loads(command("dlq", "show", letter, "--json"))["dlqId"] == letter

    sent = command("dlq", "edit", letter, *edits).strip()
    until(lambda: "DELIVERED" in states(command, sent))
    [arrived] = [one for one in destination.received if one.target == "/mended"]
    assert (arrived.method, arrived.body, arrived.message_id) == ("PUT", b'{"n": 2}', sent)
    assert {name: arrived.headers.get(f"x-{name}") for name in ("keep", "drop", "turn")} == {
        "keep": "1", "drop": None, "turn": "4",
    }  # fmt: skip
    assert arrived.headers["content-type"] == "application/json"
    assert json.loads(command("messages", "list", "--message-id", sent, "--json"))[0]["label"] == "mine"
    assert "404" in command("dlq", "show", letter, exit_code=1)


def test_a_dead_letter_that_is_not_accepted_stays(command: Command, destination: Destination) -> None:
    letter = dead_letter(command, f"{destination.url}/bad-stays")
    assert "answered 400" in command("dlq", "edit", letter, "--url", "http://169.254.169.254/", exit_code=1)
    assert json.loads(command("dlq", "show", letter, "--json"))["dlqId"] == letter
    assert "say what is to change" in command("dlq", "edit", letter, exit_code=2)
    assert "must be like" in command("dlq", "edit", letter, "--header", "nothing", exit_code=2)
    assert "cannot read" in command("dlq", "edit", letter, "--data", "@/no/such/file", exit_code=2)


def test_a_binary_body_is_kept_to_the_byte(command: Command, destination: Destination, tmp_path: Path) -> None:
    (tmp_path / "body").write_bytes(bytes(range(256)))
    letter = dead_letter(command, f"{destination.url}/bad-binary", "--data", f"@{tmp_path / 'body'}")
    edit = ("dlq", "edit", letter, "--url", f"{destination.url}/binary")
    shown = json.loads(command(*edit, "--dry-run", "--json"))
    assert base64.b64decode(shown["bodyBase64"]) == bytes(range(256))
    assert "body" not in shown
    command(*edit)
    until(lambda: any(one.target == "/binary" for one in destination.received))
    assert [one.body for one in destination.received if one.target == "/binary"] == [bytes(range(256))]


def test_a_schedule_sends_its_message_now(command: Command, destination: Destination) -> None:
    url = f"{destination.url}/report"
    command("schedules", "create", url, "--cron", "0 4 1 1 *", "--id", "yearly", "--data", '{"of": "the year"}')
    sent = command("schedules", "run", "yearly").strip()
    until(lambda: "DELIVERED" in states(command, sent))
    [arrived] = [one for one in destination.received if one.target == "/report"]
    assert (arrived.body, arrived.headers["content-type"]) == (b'{"of": "the year"}', "application/json")
    assert "404" in command("schedules", "run", "none", exit_code=1)


def test_who_waits_in_a_queue_and_for_a_key_is_listed_in_order(command: Command) -> None:
    command("queues", "set", "still", "--paused")
    assert json.loads(command("queues", "waiting", "still", "--json")) == []
    command("schedules", "create", "https://shop.test/hook", "--cron", "0 4 1 1 *", "--id", "q", "--queue", "still")
    sent = [command("schedules", "run", "q").strip() for _ in range(2)]
    rows = json.loads(command("queues", "waiting", "still", "--json"))
    assert [row["messageId"] for row in rows] == sent
    assert command("queues", "waiting", "still").split("\n")[0].split("\t")[:2] == [str(rows[0]["place"]), sent[0]]
    assert command("flow-control", "waiting", "nobody") == ""
