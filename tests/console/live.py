"""A server, its console, and beside them the worker of `live_app`: runs that really go on."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.console.conftest import READONLY, Place
from tests.destination import open_destination, until
from tests.processes import start_server
from tests.workers import AppProcess, environment_for, free_port, start_app

APP = "tests.console.live_app"
ROOT = Path(__file__).resolve().parents[2]


@contextmanager
def open_shop(folder: Path) -> Iterator[Place]:
    """Start the server and the worker, in processes of their own, until the block ends."""
    port = free_port()
    shop = {"SHOP_FOLDER": str(folder), "SHOP_PORT": str(port), "QSTASH_READONLY_TOKEN": READONLY,
            "PYTHONPATH": str(ROOT)}  # fmt: skip
    arguments = ["--store", f"sqlite:///{folder / 'runs.db'}", "--app", f"{APP}:make_app"]
    with open_destination() as destination:
        server = start_server(folder, args=arguments, env=shop)
        try:
            starting = start_app(f"{APP}:make_app", port, environment_for(server, shop), folder / "app.log")
            app = _elsewhere(starting)
            try:
                yield Place(server, destination, {"port": str(port), "folder": str(folder)})
            finally:
                app.stop()
        finally:
            assert server.stop() == 0


def _elsewhere(starting: Coroutine[Any, Any, AppProcess]) -> AppProcess:
    with ThreadPoolExecutor(1) as thread:  # a loop of its own: the browser's driver has one in this thread
        return thread.submit(lambda: asyncio.run(starting)).result()


def send(place: Place, **event: Any) -> str:
    """Publish a bare event to the mount; return its message's id, which is its event's id as well."""
    url = f"http://127.0.0.1:{place.runs['port']}/api/worker"
    body = json.dumps({"idioteque": 1, "kind": "event", "event_id": f"evt_{event['id']}", "event": event["event"]})
    text = place.call(f"/v2/publish/{url}", body.encode(), Retries="0")
    return str(json.loads(text)["messageId"])


def twin(place: Place, path: str) -> Any:
    """Return what a page of the console says, as JSON."""
    return place.twin(path)


def placed(place: Place, order: str, **more: Any) -> str:
    """Place an order, wait until its run has come to rest, and return the run's id."""
    send(place, id=order, event={"type": "order.placed", "order": order, **more})

    def at_rest() -> str:
        runs = twin(place, f"/runs?id=evt_{order}")["runs"]
        return next((run["id"] for run in runs if run["function_id"] == "ship" and run["status"] != "running"), "")

    until(lambda: bool(at_rest()))
    return at_rest()
