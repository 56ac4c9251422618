"""What commands print when a person looks: tables, a question, a bar for long work."""

from __future__ import annotations

import io
import os
import pty
import re
import subprocess
import sys

import pytest
from rich.console import Console

from idioteque.cli.output import PROGRESS_AFTER_S, instant, progress
from idioteque.testing import ManualClock
from tests.cli.conftest import TOKEN, Asked, FakeQStash


def on_a_terminal(qstash: FakeQStash, *arguments: str, width: int = 100) -> str:
    """Run a command with all its streams on a terminal of so many columns and return what appeared there."""
    controller, terminal = pty.openpty()
    environment = {"QSTASH_URL": qstash.url, "QSTASH_TOKEN": TOKEN, "TERM": "xterm", "COLUMNS": str(width)}
    process = subprocess.Popen(
        [sys.executable, "-m", "idioteque", *arguments],
        env=environment,
        stdin=terminal,
        stdout=terminal,
        stderr=terminal,
    )
    os.close(terminal)
    shown = b""
    try:
        while chunk := os.read(controller, 65536):
            shown += chunk
    except OSError:  # the other end is closed
        pass
    finally:
        os.close(controller)
    assert process.wait(timeout=30) == 0, shown
    assert TOKEN.encode() not in shown
    return shown.decode()


def test_a_list_is_a_table_with_titles(qstash: FakeQStash) -> None:
    letter = {"dlqId": "dlq_1", "messageId": "msg_1", "createdAt": 0, "responseStatus": 500, "url": "https://a.test"}
    qstash.respond = lambda _: (200, {"messages": [letter]})
    shown = on_a_terminal(qstash, "dlq", "list")
    for text in ("dead letter", "status", "dlq_1", "1970-01-01", "https://a.test"):
        assert text in shown


@pytest.mark.parametrize("width", [60, 80, 97, 100, 200])
def test_ids_and_times_are_whole_in_a_terminal_of_any_width(qstash: FakeQStash, width: int) -> None:
    message_id, url = f"msg_{'0123456789abcdef' * 2}", f"https://shop.test/{'long/' * 20}end"
    events = [
        {"time": at_ms, "messageId": f"{message_id[:-1]}{at_ms}", "state": "CREATED", "url": url} for at_ms in (1, 2)
    ]
    qstash.respond = lambda _: (200, {"events": events})
    shown = on_a_terminal(qstash, "messages", "list", width=width)
    for at_ms in (1, 2):
        assert f"{message_id[:-1]}{at_ms}" in shown
        assert f"1970-01-01 00:00:00.00{at_ms}Z" in shown
    assert shown.count("CREATED") == 2
    plain = [re.sub(r"\x1b\[[0-9;]*m", "", line) for line in shown.splitlines()]
    assert max(len(line.rstrip()) for line in plain) <= width
    assert "".join("".join(plain).split()).count(url) == 2


def test_a_list_of_nothing_is_its_titles(qstash: FakeQStash) -> None:
    qstash.respond = lambda _: (200, {"events": []})
    assert "message" in on_a_terminal(qstash, "messages", "list")


def test_markup_and_escapes_of_others_stay_text(qstash: FakeQStash) -> None:
    evil = {
        "time": 1,
        "messageId": "[red]msg[/red]",
        "state": "ERROR",
        "url": "https://a.test",
        "error": "\x1b]0;owned\a",
    }
    qstash.respond = lambda _: (200, {"events": [evil]})
    shown = on_a_terminal(qstash, "logs")
    assert "[red]msg[/red]" in shown
    assert "\x1b]0;owned" not in shown


def test_a_record_is_shown_field_by_field(qstash: FakeQStash) -> None:
    qstash.respond = lambda _: (200, {"messageId": "msg_1", "header": {"A": ["b"]}})
    assert '{"A": ["b"]}' in on_a_terminal(qstash, "messages", "show", "msg_1")


def test_short_bulk_work_shows_no_bar(qstash: FakeQStash) -> None:
    def respond(asked: Asked) -> tuple[int, object]:
        return 200, {"messages": [{"dlqId": "dlq_1"}]} if asked.method == "GET" else {"deleted": 1}

    qstash.respond = respond
    shown = on_a_terminal(qstash, "dlq", "delete", "--all", "--yes")
    assert "deleted 1 of 1" in shown
    assert "━" not in shown


async def test_the_bar_appears_once_the_work_has_taken_a_while() -> None:
    clock, screen = ManualClock(), io.StringIO()
    with progress("deleted", 3, clock, Console(file=screen, force_terminal=True)) as advance:
        advance(1)
        assert "deleted" not in screen.getvalue()
        await clock.advance(PROGRESS_AFTER_S * 1.5)
        advance(1)
    assert "deleted" in screen.getvalue()


def test_times_beyond_the_calendar_are_shown_as_they_are() -> None:
    assert instant(1_700_000_000_123) == "2023-11-14 22:13:20.123Z"
    assert instant(10**30) == str(10**30)
