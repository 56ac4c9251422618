"""The console under a prefix, behind a proxy, without a login under --dev, and on its own."""

from __future__ import annotations

import re
import subprocess
import sys
import threading
from pathlib import Path

from idioteque.console.app import Console
from idioteque.console.sessions import Role
from idioteque.console.settings import ConsoleSettings
from idioteque.testing import ManualClock, ScriptedTransport
from tests.console.browse import Visitor
from tests.processes import TOKEN, server_environment, start_server
from tests.server.house import Reply, call_app

EMPTY = ConsoleSettings("https://qstash.example.com")


def verify(token: str) -> Role | None:
    return "admin" if token == "right" else None


def console(settings: ConsoleSettings = EMPTY, clock: ManualClock | None = None) -> Console:
    return Console(settings, verify, transport=ScriptedTransport([200]), clock=clock or ManualClock())


async def get(app: Console, path: str, **headers: str) -> Reply:
    pairs = [(name.replace("_", "-"), value) for name, value in {"Host": "127.0.0.1:8080", **headers}.items()]
    return await call_app(app, "GET", path, pairs, b"")


async def log_in(app: Console, path: str = "/login", **headers: str) -> Reply:
    pairs = [("Content-Type", "application/x-www-form-urlencoded"), *headers.items()]
    return await call_app(app, "POST", path, [(n.replace("_", "-"), v) for n, v in pairs], b"token=right")


async def test_under_a_prefix_every_link_and_the_cookie_have_it() -> None:
    app = console(ConsoleSettings("https://qstash.example.com", prefix="/ops"))
    for path in ("/ops/login", "/login"):  # a proxy may take the prefix away, or leave it
        shown = await get(app, path)
        links = re.findall(r'(?:href|src|action)="([^"]+)"', shown.text)
        assert links
        assert all(link.startswith("/ops/") for link in links), links
    assert (await get(app, "/ops/runs")).headers["location"] == "/ops/login?next=%2Fruns"
    assert "Path=/ops" in (await log_in(app, "/ops/login")).headers["set-cookie"]


async def test_a_proxy_is_believed_only_when_it_is_to_be_trusted() -> None:
    given = {"X_Forwarded_Prefix": "/far", "X_Forwarded_Proto": "https"}
    doubting, trusting = console(), console(ConsoleSettings("https://qstash.example.com", trust_forwarded=True))
    assert "/far/" not in (await get(doubting, "/login", **given)).text
    assert "/far/static" in (await get(trusting, "/login", **given)).text
    assert "Secure" not in (await log_in(doubting, **given)).headers["set-cookie"]
    assert "Secure" in (await log_in(trusting, **given)).headers["set-cookie"]
    odd = await get(trusting, "/login", X_Forwarded_Prefix='/"><script>')
    assert "<script>" not in odd.text


async def test_a_cookie_is_kept_from_scripts_and_from_other_sites() -> None:
    cookie = (await log_in(console())).headers["set-cookie"].lower()
    assert "httponly" in cookie
    assert "samesite=strict" in cookie


async def test_a_session_ends_when_its_time_is_over() -> None:
    clock = ManualClock()
    app = console(clock=clock)
    cookie = (await log_in(app)).headers["set-cookie"].partition(";")[0]
    assert (await get(app, "/system", Cookie=cookie)).status == 200
    await clock.advance(12 * 3600 + 1)
    assert (await get(app, "/system", Cookie=cookie)).status == 303


async def test_a_session_ends_with_its_process() -> None:
    cookie = (await log_in(console())).headers["set-cookie"].partition(";")[0]
    assert (await get(console(), "/system", Cookie=cookie)).status == 303


async def test_a_wrong_guess_is_forgiven_after_a_minute() -> None:
    clock = ManualClock()
    app = console(clock=clock)

    async def guess() -> int:
        form = [("Content-Type", "application/x-www-form-urlencoded")]
        return (await call_app(app, "POST", "/login", form, b"token=wrong")).status

    assert [await guess() for _ in range(6)] == [403] * 5 + [429]
    await clock.advance(61)
    assert await guess() == 403


async def test_under_dev_there_is_no_login_and_loopback_names_only() -> None:
    app = console(ConsoleSettings("http://127.0.0.1:8080", dev=True))
    assert (await get(app, "/system")).status == 200
    for host in ("evil.example", "127.0.0.1.nip.io", "192.0.2.1"):
        assert (await get(app, "/system", Host=host)).status == 421


def test_the_console_runs_alone_over_any_qstash(tmp_path: Path) -> None:
    server = start_server(tmp_path, args=["--no-console"])
    command = [sys.executable, "-m", "idioteque", "console", "--port", "0"]
    environment = server_environment({"QSTASH_URL": server.url})
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    watch = threading.Timer(60, process.kill)
    watch.start()
    try:
        assert Visitor(server.url).get("/").status == 404
        assert process.stdout is not None
        line = process.stdout.readline()
        found = re.search(r"http://[\d.:]+", line)
        assert found, line
        visitor = Visitor(found[0])
        assert visitor.log_in("wrong").status == 403
        assert visitor.log_in(TOKEN).status == 303
        assert visitor.get("/queues").status == 200
        assert "--store" in visitor.get("/runs").text
    finally:
        watch.cancel()
        process.terminate()
        process.communicate(timeout=30)
        assert server.stop() == 0
