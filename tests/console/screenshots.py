"""`make screenshots`: the console's screens over a filled server, light and dark, wide and narrow, into the docs."""

from __future__ import annotations

import asyncio
import json
import sys
import tempfile
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from playwright.sync_api import sync_playwright

from tests.console import shop
from tests.console.browse import Visitor
from tests.console.conftest import browser_path
from tests.destination import Received, open_destination, until
from tests.processes import ServerProcess, start_server

SIZES = {"wide": (1600, 900), "narrow": (400, 800)}
SCREENS = {"overview": "/", "runs": "/runs", "messages": "/messages", "dead-letters": "/dead-letters",
           "schedules": "/schedules", "queues": "/queues", "url-groups": "/url-groups", "publish": "/messages/publish",
           "flow-control": "/flow-control", "keys": "/keys", "system": "/system", "events": "/events"}  # fmt: skip

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
    call(server, "/v2/queues", json.dumps({"queueName": "mails", "parallelism": 3}).encode())
    call(server, f"/v2/schedules/{to}/report", b"{}", Cron="CRON_TZ=Europe/Paris 0 4 * * *", Schedule_Id="daily-report")
    ends = [{"name": "stock", "url": f"{to}/stock"}, {"name": "mail", "url": f"{to}/mail"}]
    call(server, "/v2/topics/orders/endpoints", json.dumps({"endpoints": ends}).encode())


def answer(request: Received) -> tuple[int, dict[str, str], bytes]:
    bad = "bad" in request.target
    return (422, {}, b'{"error": "no such invoice"}') if bad else (200, {}, b"ok")


def main(target: Path) -> None:
    target.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder, open_destination(answer) as destination, sync_playwright() as driver:
        directory = Path(folder)
        with ThreadPoolExecutor(1) as thread:  # a loop of its own: the driver has one in this
            ids = thread.submit(lambda: asyncio.run(shop.fill(directory / "runs.db"))).result()
        server = start_server(directory, args=["--store", f"sqlite:///{directory / 'runs.db'}"])
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
                        page.evaluate(ELSEWHERE, [str(ROOT), "/srv/shop"])
                        page.screenshot(path=target / f"{name}-{scheme}-{size}.png")
                    context.close()
        finally:
            browser.close()
            server.stop()


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "docs/screenshots"))
