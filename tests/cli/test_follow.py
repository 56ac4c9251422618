"""`logs --follow` in virtual time: every entry once, politely, through failures; and once on a real socket."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from urllib.parse import parse_qs, urlsplit

import pytest

from idioteque.cli.logs import POLL_EVERY_S, POLL_EVERY_S_MAX, Follower
from idioteque.client import ApiRefusal, Json, QStash
from idioteque.environment import Account
from idioteque.errors import ConnectFailed
from idioteque.testing import ManualClock, ScriptedTransport
from idioteque.transport import HttpRequest, HttpResponse
from tests.cli.conftest import TOKEN, Asked, FakeQStash


def entry(n: int, time_ms: int | None = None) -> Json:
    return {"time": time_ms if time_ms is not None else n * 100, "messageId": f"msg_{n}", "state": "CREATED"}


class Log:
    """A service's log: filters by `fromDate`, orders, and pages with a cursor, as the protocol says."""

    def __init__(self) -> None:
        self.entries: list[Json] = []
        self.failures: list[HttpResponse | Exception] = []
        self.transport = ScriptedTransport(self.answer)

    def answer(self, request: HttpRequest) -> HttpResponse | BaseException:
        if self.failures:
            return self.failures.pop(0)
        query = {name: values[0] for name, values in parse_qs(urlsplit(request.url).query).items()}
        rows = [e for e in self.entries if int(str(e["time"])) >= int(query.get("fromDate", "0"))]
        rows.sort(key=lambda e: int(str(e["time"])), reverse=query.get("order") != "earliestFirst")
        start, count = int(query.get("cursor", "0")), int(query["count"])
        more = {"cursor": str(start + count)} if start + count < len(rows) else {}
        return HttpResponse(200, (), json.dumps({"events": rows[start : start + count], **more}).encode())


@asynccontextmanager
async def following(log: Log, clock: ManualClock, limit: int = 50) -> AsyncIterator[Callable[[], list[str]]]:
    """Follow the log beside the test; the function given returns the ids of the messages shown so far."""
    shown: list[str] = []

    async def show() -> None:
        async for one in Follower(
            QStash(Account("http://q.test", TOKEN, None, None), log.transport), [], clock
        ).entries(limit):
            shown.append(str(one["messageId"]))  # noqa: PERF401 - each as it comes

    task = asyncio.create_task(show())
    await clock.settle()
    try:
        yield lambda: shown
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_following_shows_what_was_and_then_each_new_entry_once() -> None:
    log, clock = Log(), ManualClock()
    log.entries = [entry(1), entry(2)]
    async with following(log, clock) as shown:
        assert shown() == ["msg_1", "msg_2"]
        log.entries.append(entry(3))
        await clock.advance(POLL_EVERY_S)
        log.entries += [entry(4), entry(5)]
        await clock.advance(10 * POLL_EVERY_S)
        assert shown() == ["msg_1", "msg_2", "msg_3", "msg_4", "msg_5"]


async def test_an_entry_that_becomes_visible_late_is_shown_all_the_same() -> None:
    log, clock = Log(), ManualClock()
    log.entries = [entry(1, 10_000)]
    async with following(log, clock) as shown:
        log.entries += [entry(2, 13_000)]
        await clock.advance(POLL_EVERY_S)
        log.entries += [entry(3, 9_000)]
        await clock.advance(POLL_EVERY_S)
        assert shown() == ["msg_1", "msg_2", "msg_3"]


async def test_entries_left_out_by_the_limit_do_not_come_back_as_new() -> None:
    log, clock = Log(), ManualClock()
    log.entries = [entry(n) for n in range(1, 11)]
    async with following(log, clock, limit=3) as shown:
        await clock.advance(3 * POLL_EVERY_S)
        assert shown() == ["msg_8", "msg_9", "msg_10"]


async def test_an_empty_log_shows_its_first_entry() -> None:
    log, clock = Log(), ManualClock()
    async with following(log, clock) as shown:
        log.entries = [entry(1)]
        await clock.advance(POLL_EVERY_S)
        assert shown() == ["msg_1"]


async def test_a_burst_of_many_pages_is_shown_whole_and_in_order() -> None:
    log, clock = Log(), ManualClock()
    async with following(log, clock) as shown:
        log.entries = [entry(n) for n in range(1, 1001)]
        await clock.advance(2 * POLL_EVERY_S)
        assert shown() == [f"msg_{n}" for n in range(1, 1001)]


async def test_following_asks_once_a_period() -> None:
    log, clock = Log(), ManualClock()
    async with following(log, clock):
        await clock.advance(60)
    assert len(log.transport.requests) <= 1 + 60 / POLL_EVERY_S


async def test_following_waits_longer_while_nothing_answers_and_then_goes_on(
    capsys: pytest.CaptureFixture[str],
) -> None:
    log, clock = Log(), ManualClock()
    async with following(log, clock) as shown:
        log.failures = [ConnectFailed("no connection to http://q.test") for _ in range(8)]
        await clock.advance(2 * POLL_EVERY_S_MAX)
        assert len(log.transport.requests) <= 8
        log.entries = [entry(1)]
        await clock.advance(10 * POLL_EVERY_S_MAX)
        assert shown() == ["msg_1"]
    assert "no connection to http://q.test; trying again in 2 s" in capsys.readouterr().err


async def test_following_heeds_retry_after(capsys: pytest.CaptureFixture[str]) -> None:
    log, clock = Log(), ManualClock()
    async with following(log, clock):
        log.failures = [HttpResponse(429, [("Retry-After", "20")], b"{}")]
        await clock.advance(POLL_EVERY_S)
        asked = len(log.transport.requests)
        await clock.advance(19)
        assert len(log.transport.requests) == asked
        await clock.advance(1)
        assert len(log.transport.requests) == asked + 1
    assert "trying again in 20 s" in capsys.readouterr().err


async def test_following_ends_with_a_refusal_that_will_not_change() -> None:
    log, clock = Log(), ManualClock()
    log.failures = [HttpResponse(200, (), b'{"events": []}'), HttpResponse(401, (), b'{"error": "unauthorized"}')]
    entries = Follower(QStash(Account("http://q.test", TOKEN, None, None), log.transport), [], clock).entries(1)
    waiting = asyncio.create_task(anext(entries))
    await clock.advance(POLL_EVERY_S)
    with pytest.raises(ApiRefusal, match="401: unauthorized"):
        await waiting


def test_an_interrupt_ends_following_quietly(qstash: FakeQStash) -> None:
    def respond(_: Asked) -> tuple[int, object]:
        return 200, {"events": [entry(1)]}

    qstash.respond = respond
    process = subprocess.Popen(
        [sys.executable, "-m", "idioteque", "logs", "--follow", "--json"],
        env={"QSTASH_URL": qstash.url, "QSTASH_TOKEN": TOKEN, "PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with process:
        assert process.stdout is not None
        assert json.loads(process.stdout.readline())["messageId"] == "msg_1"
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=30) == 130
        assert process.stdout.read() == ""
        assert process.stderr is not None
        assert process.stderr.read() == ""
