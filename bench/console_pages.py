"""`python -m bench.console_pages`: how long a page of the console takes with so many runs behind it.

A SQLite store is filled through its own tables, then each page is asked for again and again inside this process: time
and CPU are those of the console and the store alone, and the log is a scripted one.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import json
import tempfile
import time
from collections.abc import Mapping, MutableMapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console as Terminal
from rich.table import Table

from bench.figures import percentile
from idioteque.console.app import Console
from idioteque.console.sessions import Role
from idioteque.console.settings import ConsoleSettings
from idioteque.database import SqliteDatabase, Transaction
from idioteque.dispatcher import EventEnvelope
from idioteque.stores import SqlStore
from idioteque.transport import HttpRequest, HttpResponse

FUNCTIONS = 20
STEPS = 3
PART = 100_000
BEGIN_MS = 1_790_000_000_000
ONE_RARE_OF = 1000
PAGE_MS_MAX = 100

# Runs, a second apart: of every thousand one failed and one waits, the rest are completed; each event starts one run.
FILL_EVENTS = """INSERT INTO run_events (event_id, event)
    WITH RECURSIVE n (i) AS (SELECT :first UNION ALL SELECT i + 1 FROM n WHERE i + 1 < :beyond)
    SELECT printf('evt_%08d', i), CAST(printf('{"type":"order.placed","order":"%d"}', i) AS BLOB) FROM n"""
FILL_RUNS = """INSERT INTO runs (run_id, event_id, function_id, options, created_at_ms, status, finished_at_ms,
        outcome_ok, outcome, attempts, strikes, due_at_ms, last_error, epoch, seq, tokens, token, lease_until_ms,
        alive_at_ms, owner, message_id, retried, dirty, gen)
    WITH RECURSIVE n (i) AS (SELECT :first UNION ALL SELECT i + 1 FROM n WHERE i + 1 < :beyond)
    SELECT printf('run_%08d', i), printf('evt_%08d', i), printf('function-%02d', i % :functions), CAST('{}' AS BLOB),
        :begin_ms + i * 1000,
        CASE i % :rare WHEN 0 THEN 'failed' WHEN 1 THEN 'waiting' ELSE 'completed' END,
        CASE i % :rare WHEN 1 THEN NULL ELSE :begin_ms + i * 1000 + 40 END,
        CASE i % :rare WHEN 0 THEN 0 WHEN 1 THEN NULL ELSE 1 END,
        CASE i % :rare WHEN 0 THEN CAST('{"kind":"failed","type":"ValueError","message":"no","traceback":""}' AS BLOB)
            WHEN 1 THEN NULL ELSE CAST('"done"' AS BLOB) END,
        0, 0, 0, NULL, 0, :steps, 1, 0, 0, :begin_ms + i * 1000, '', printf('msg_%08d', i), 0, 0, 0 FROM n"""
FILL_STEPS = """INSERT INTO steps (run_id, path, outcome_ok, outcome, seq, attempts, strikes, begun, due_at_ms,
        committed_at_ms, took_ms, taken)
    WITH RECURSIVE n (i) AS (SELECT :first UNION ALL SELECT i + 1 FROM n WHERE i + 1 < :beyond)
    SELECT printf('run_%08d', i), printf('step-%d', s.value), 1, CAST('"done"' AS BLOB), s.value, 0, 0, 0, 0,
        :begin_ms + i * 1000 + s.value * 10, 9, CASE WHEN s.value = 1 AND i % 10 = 0 THEN printf('evt_%08d', i + 1) END
    FROM n, json_each('[1,2,3]') AS s"""
FILL_DELIVERIES = """INSERT INTO run_deliveries (run_id, token, path, message_id, retried, at_ms)
    WITH RECURSIVE n (i) AS (SELECT :first UNION ALL SELECT i + 1 FROM n WHERE i + 1 < :beyond)
    SELECT printf('run_%08d', i), 1, '', printf('msg_%08d', i), 0, :begin_ms + i * 1000 FROM n"""
FILLS = (FILL_EVENTS, FILL_RUNS, FILL_STEPS, FILL_DELIVERIES)


@dataclass(frozen=True, slots=True)
class Timed:
    """How long one page took, in milliseconds, and of that the CPU of this process; `bytes` of HTML."""

    page: str
    p50_ms: float
    p99_ms: float
    cpu_ms: float
    bytes: int


class Log:
    """`HttpTransport` to a QStash whose log is one page of delivered events."""

    def __init__(self, count: int) -> None:
        self._rows = [_row(number) for number in range(count - 100, count)][::-1]

    async def send(self, request: HttpRequest, *, timeout_s: float = 0.0, response_bytes_max: int = 0) -> HttpResponse:
        for path, answer in (("/v2/dlq", b'{"messages": []}'), ("/v2/queues", b"[]")):
            if path in request.url:
                return HttpResponse(200, (), answer)
        if "/v2/events" not in request.url:
            return HttpResponse(404, (), b"{}")
        one = request.url.partition("messageId=")[2].partition("&")[0]
        rows = [row for row in self._rows if one in ("", row["messageId"])]
        return HttpResponse(200, (), json.dumps({"events": rows, "cursor": ""}).encode())

    async def probe(self, url: str, *, timeout_s: float = 2.0) -> bool:
        return True

    async def close(self) -> None:
        return


def _row(number: int) -> dict[str, Any]:
    event = json.dumps({"type": "order.placed", "order": str(number)}).encode()
    body = EventEnvelope(f"evt_{number:08d}", event).encode()
    return {
        "time": BEGIN_MS + number * 1000,
        "messageId": f"msg_{number:08d}",
        "state": "DELIVERED",
        "url": "https://app.example.com/api/worker",
        "body": base64.b64encode(body).decode(),
        "responseStatus": 200,
    }


async def filled(path: Path, runs: int) -> None:
    """Fill a store's file with runs."""
    database = SqliteDatabase(str(path), durability="relaxed")
    store = SqlStore(database)
    await store.list(limit=1)  # which makes the tables
    for first in range(0, runs, PART):
        numbers = {"first": first, "beyond": min(runs, first + PART), "begin_ms": BEGIN_MS}
        more = {"functions": FUNCTIONS, "rare": ONE_RARE_OF, "steps": STEPS}

        def fill(tx: Transaction, numbers: Mapping[str, int] = numbers, more: Mapping[str, int] = more) -> None:
            for statement in FILLS:
                wanted = more if statement is FILL_RUNS else {}
                tx.execute(statement, {**numbers, **wanted})

        await database.write(fill, is_long=True)
    await store.close()


def pages(runs: int) -> Sequence[str]:
    """Return the addresses to ask for: newest and oldest pages, every filter, one run, and events."""
    deep, rare = f"run_{runs // 100:08d}", "function-00"
    return (
        "/", "/runs", f"/runs?cursor={deep}", "/runs?status=completed", "/runs?status=failed", "/runs?status=cancelled",
        f"/runs?status=failed&cursor={deep}", "/runs?function=function-07", f"/runs?function=function-07&cursor={deep}",
        f"/runs?function={rare}&status=failed", "/runs?function=function-07&status=failed", "/runs?function=no-such",
        f"/runs?id=evt_{runs // 2:08d}", f"/runs/run_{runs // 2:08d}", f"/runs/run_{runs // 2:08d}?tab=attempts",
        f"/runs/run_{runs - 1:08d}?tab=logs", "/events", f"/events/msg_{runs - 1:08d}",
    )  # fmt: skip


async def timed(path: Path, runs: int, repeats: int) -> list[Timed]:
    """Ask for each page so many times."""
    settings = ConsoleSettings("http://127.0.0.1:8080", f"sqlite:///{path}", dev=True)
    app = Console(settings, _anybody, transport=Log(runs))
    try:
        return [await _timed(app, page, repeats) for page in pages(runs)]
    finally:
        await app.close()


async def _timed(app: Console, page: str, repeats: int) -> Timed:
    size = await _get(app, page)
    times_ms: list[float] = []
    cpu_s = time.process_time()
    for _ in range(repeats):
        began_s = time.perf_counter()
        await _get(app, page)
        times_ms.append((time.perf_counter() - began_s) * 1000)
    cpu_ms = (time.process_time() - cpu_s) * 1000 / repeats
    return Timed(page, percentile(times_ms, 0.5), percentile(times_ms, 0.99), cpu_ms, size)


async def _get(app: Console, page: str) -> int:
    path, _, query = page.partition("?")
    scope: MutableMapping[str, Any] = {
        "type": "http", "method": "GET", "path": path, "raw_path": path.encode(), "query_string": query.encode(),
        "headers": [(b"host", b"127.0.0.1:8080"), (b"accept", b"text/html")], "client": ("127.0.0.1", 1),
        "http_version": "1.1", "scheme": "http", "server": ("127.0.0.1", 8080), "root_path": "",
    }  # fmt: skip
    sent: list[MutableMapping[str, Any]] = []

    async def receive() -> MutableMapping[str, Any]:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: MutableMapping[str, Any]) -> None:
        sent.append(message)

    await app(scope, receive, send)
    assert sent[0]["status"] == 200, (page, sent)
    return sum(len(message.get("body", b"")) for message in sent[1:])


def _anybody(token: str) -> Role:
    return "admin"


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table; return 1 when a page takes longer than it may."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=1_000_000)
    parser.add_argument("--repeats", type=int, default=100)
    parser.add_argument("--store", type=Path, help="Keep the filled store in this file, or use it as it is.")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        path: Path = options.store or Path(folder) / "runs.db"
        if not path.exists():
            asyncio.run(filled(path, options.runs))
        found = asyncio.run(timed(path, options.runs, options.repeats))
    table = Table("page", "p50 ms", "p99 ms", "CPU ms", "KiB", title=f"{options.runs:,} runs")
    for one in found:
        figures = (f"{value:.1f}" for value in (one.p50_ms, one.p99_ms, one.cpu_ms, one.bytes / 1024))
        table.add_row(one.page, *figures)
    Terminal(width=120).print(table)
    return int(any(one.p50_ms > PAGE_MS_MAX for one in found))


if __name__ == "__main__":
    raise SystemExit(main())
