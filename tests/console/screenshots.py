"""`make screenshots`: the console's screens over a filled server, light and dark, wide and narrow, into the docs."""

from __future__ import annotations

import asyncio
import json
import math
import os
import sys
import tempfile
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from playwright.sync_api import sync_playwright

from idioteque.clock import SystemClock
from idioteque.database import migrate, open_database
from idioteque.histogram import DELAYS_S
from idioteque.server.app import MIGRATIONS
from idioteque.server.core.activity import KEPT_MS, STRETCH_MS
from idioteque.server.model import Stretch
from idioteque.server.storage.activity import save_activity
from tests.console import shop
from tests.console.browse import Visitor
from tests.console.conftest import browser_path
from tests.destination import Received, open_destination, until
from tests.processes import ServerProcess, start_server
from tests.workers import environment_for, free_port, start_app

SIZES = {"wide": (1600, 900), "narrow": (400, 800)}
SCREENS = {"overview": "/", "runs": "/runs", "messages": "/messages", "dead-letters": "/dead-letters",
           "schedules": "/schedules", "queues": "/queues", "url-groups": "/url-groups", "publish": "/messages/publish",
           "schedule": "/schedules/daily-report/edit",
           "flow-control": "/flow-control", "flow-key": "/flow-control/supplier", "queue": "/queues/mails",
           "doctor": "/system/doctor", "keys": "/keys", "system": "/system", "events": "/events"}  # fmt: skip

ROOT = Path(__file__).resolve().parents[2]
ELSEWHERE = """([from, to]) => {
    const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
    while (texts.nextNode()) texts.currentNode.data = texts.currentNode.data.replaceAll(from, to);
}"""
"""Names in a traceback another folder than the one in which the pictures happen to be made."""


def call(server: ServerProcess, path: str, body: bytes = b"", **headers: str) -> None:
    named = {f"Upstash-{name.replace('_', '-')}": value for name, value in headers.items()}
    sent = {"Authorization": f"Bearer {server.token}", "Content-Type": "application/json", **named}
    urllib.request.urlopen(urllib.request.Request(server.url + path, body, sent, method="POST"), timeout=30).close()


def fill(server: ServerProcess, to: str) -> None:
    for number in range(40):
        body = json.dumps({"order": number}).encode()
        call(server, f"/v2/publish/{to}/orders", body, Retries="0", Label="orders", Flow_Control_Key="shop",
             Flow_Control_Value="parallelism=5")  # fmt: skip
    for name in ("bad-invoice", "bad-stock"):
        for number in range(3):
            call(server, f"/v2/publish/{to}/{name}", json.dumps({"invoice": number}).encode(), Retries="0")
    call(server, "/v2/queues", json.dumps({"queueName": "mails", "parallelism": 3, "paused": True}).encode())
    for number in range(4):
        call(server, f"/v2/enqueue/mails/{to}/mail?to={number}", b"{}")
    call(server, "/v2/flowControl/supplier/pause")
    for number in range(6):
        call(server, f"/v2/publish/{to}/supplier?order={number}", b"{}", Flow_Control_Key="supplier",
             Flow_Control_Value="rate=20, period=1m")  # fmt: skip
    call(server, f"/v2/publish/{to}/bad-later", b"{}", Retries="5", Retry_Delay="3600000")
    call(server, f"/v2/schedules/{to}/cleanup", b"{}", Cron="*/15 * * * *", Schedule_Id="cleanup")
    call(server, f"/v2/schedules/{to}/report", b"{}", Cron="CRON_TZ=Europe/Paris 0 4 * * *", Schedule_Id="daily-report")
    ends = [{"name": "stock", "url": f"{to}/stock"}, {"name": "mail", "url": f"{to}/mail"}]
    call(server, "/v2/topics/orders/endpoints", json.dumps({"endpoints": ends}).encode())


async def remember(path: Path) -> None:
    """Give a server that has not started yet a day behind it: calm at night, busy at noon, an outage at four."""
    database = open_database(f"sqlite:///{path}")
    await migrate(database, "server", MIGRATIONS)
    now_ms, day = SystemClock().now_ms(), KEPT_MS // STRETCH_MS
    stretches = [a_stretch((now_ms // STRETCH_MS - day + place) * STRETCH_MS, place) for place in range(day)]
    await database.write(lambda tx: save_activity(tx, stretches, 0))
    await database.close()


def a_stretch(began_ms: int, place: int) -> Stretch:
    hour = began_ms / 3_600_000 % 24
    busy = round(400 * (1.3 + math.sin((hour - 6) * math.pi / 12)) + 60 * math.sin(place * 2.3))
    bad = busy // 3 if 15.8 < hour < 16.6 else busy // 90
    latency = [0] * (len(DELAYS_S) + 1)
    latency[4], latency[5] = busy // 2, busy // (3 + place % 3)
    latency[11 if bad > busy // 5 else 7 + place % 2] = busy // (6 + place % 5)
    return Stretch(began_ms, busy, busy - bad // 4, bad, bad // 8, tuple(latency))


def answer(request: Received) -> tuple[int, dict[str, str], bytes]:
    bad = "bad" in request.target
    return (422, {}, b'{"error": "no such invoice"}') if bad else (200, {}, b"ok")


def main(target: Path) -> None:
    target.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder, open_destination(answer) as destination, sync_playwright() as driver:
        directory = Path(folder)
        with ThreadPoolExecutor(1) as thread:  # a loop of its own: the driver has one in this
            thread.submit(lambda: asyncio.run(remember(directory / "server.db"))).result()
            server = start_server(directory, args=["--store", f"sqlite:///{directory / 'runs.db'}"])
            port = free_port()
            own = {"SHOP_FOLDER": folder, "SHOP_PORT": str(port), "PYTHONPATH": str(ROOT)}
            os.environ.update(environment_for(server, own))
            starting = start_app("tests.console.shop:make_app", port, os.environ, directory / "app.log")
            app = thread.submit(lambda: asyncio.run(starting)).result()
            ids = thread.submit(lambda: asyncio.run(shop.fill())).result()
        browser = driver.chromium.launch(executable_path=browser_path(), args=["--no-sandbox"])
        try:
            fill(server, destination.url)
            visitor = Visitor(server.url)
            visitor.log_in(server.token)
            until(lambda: visitor.get("/dead-letters").text.count("bad-") >= 2)
            screens = {**SCREENS, "run": f"/runs/{ids['good']}", "run-failed": f"/runs/{ids['bad']}?tab=error",
                       "run-waiting": f"/runs/{ids['later']}"}  # fmt: skip
            for scheme in ("light", "dark"):
                for size, (width, height) in SIZES.items():
                    context = browser.new_context(viewport={"width": width, "height": height}, color_scheme=scheme)
                    page = context.new_page()
                    page.goto(server.url)
                    page.screenshot(path=target / f"login-{scheme}-{size}.png")
                    page.get_by_label("The server's token").fill(server.token)
                    page.get_by_role("button", name="Log in").click()
                    for name, path in screens.items():
                        page.goto(server.url + path)
                        for path in (str(ROOT), folder):
                            page.evaluate(ELSEWHERE, [path, "/srv/shop"])
                        page.screenshot(path=target / f"{name}-{scheme}-{size}.png")
                    context.close()
        finally:
            browser.close()
            app.stop()
            server.stop()


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "docs/screenshots"))
