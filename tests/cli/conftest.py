"""A QStash that answers what a test writes down and keeps what it was asked, and a way to run commands against it."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from click.testing import CliRunner, Result

from idioteque.cli import main
from idioteque.clock import SystemClock

TOKEN = "token-that-must-never-be-seen"

Answer = tuple[int, object]
"""A status and what becomes its JSON body; bytes are sent as they are."""


@dataclass(frozen=True)
class Asked:
    """One request as it arrived; `target` is the raw target of the request line."""

    method: str
    target: str
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> object:
        return json.loads(self.body)


@dataclass
class FakeQStash:
    """Answers on a real socket; `respond` may be replaced by a test, `asked` is every request so far."""

    url: str = ""
    asked: list[Asked] = field(default_factory=list)
    respond: Callable[[Asked], Answer] = lambda _: (200, {})
    clock_ahead_s: float = 0.0


@pytest.fixture
def qstash() -> Iterator[FakeQStash]:
    fake = FakeQStash()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def handle_any(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            asked = Asked(self.command, self.path, {k.lower(): v for k, v in self.headers.items()}, body)
            fake.asked.append(asked)
            status, answer = fake.respond(asked)
            raw = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(raw)))
            self.end_headers()
            self.wfile.write(raw)

        def date_time_string(self, timestamp: float | None = None) -> str:
            return super().date_time_string(SystemClock().now_ms() / 1000 + fake.clock_ahead_s)

        do_GET = do_POST = do_PATCH = do_DELETE = handle_any  # noqa: N815

        def log_message(self, *args: object) -> None:
            return

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    fake.url = f"http://127.0.0.1:{server.server_port}"
    try:
        yield fake
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


Run = Callable[..., Result]


@pytest.fixture
def run(qstash: FakeQStash, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run a command against the fake and return what came of it; its token never shows."""
    monkeypatch.setenv("QSTASH_URL", qstash.url)
    monkeypatch.setenv("QSTASH_TOKEN", TOKEN)

    def run(*arguments: str, stdin: bytes | None = None) -> Result:
        result = CliRunner().invoke(main, arguments, input=stdin)
        assert TOKEN not in result.output
        assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
        return result

    return run
