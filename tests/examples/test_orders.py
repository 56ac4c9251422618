"""The orders example, as its README starts it: a real server, a real uvicorn, and an order over HTTP."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from idioteque.transport import HttpRequest, PooledTransport
from tests.processes import start_server
from tests.workers import environment_for, free_port, start_app, until

ROOT = Path(__file__).parents[2]


async def test_an_order_is_paid_confirmed_and_taken_from_three_shops(tmp_path: Path) -> None:
    server = start_server(tmp_path)
    port = free_port()
    environment = environment_for(
        server,
        {
            "MOUNT_URL": f"http://127.0.0.1:{port}/api/worker",
            "IDIOTEQUE_STORE": f"sqlite:///{tmp_path / 'runs.db'}",
            "PYTHONPATH": str(ROOT),
        },
    )
    app = await start_app("examples.orders.app:app", port, environment, tmp_path / "app.log")
    transport = PooledTransport()

    async def ask(method: str, path: str, document: object = None) -> dict[str, Any]:
        body = b"" if document is None else json.dumps(document).encode()
        headers = [("Content-Type", "application/json")]
        response = await transport.send(HttpRequest(method, f"http://127.0.0.1:{port}{path}", headers, body))
        assert response.ok, response
        answer: dict[str, Any] = json.loads(response.body)
        return answer

    try:
        order = {"order_id": "1", "email": "ada@example.com", "items": {"book": 2}}
        run_id = (await ask("POST", "/orders", order))["run_id"]
        assert (await ask("POST", "/orders", order))["run_id"] == run_id

        async def is_confirmed() -> bool:
            printed = app.log.read_text()
            return "mail to ada@example.com" in printed and printed.count("'book': 2") == 3

        await until(is_confirmed, 20, "the order to be confirmed")
        run = await ask("GET", f"/runs/{run_id}")
        assert run["result"] == "receipt-1"
        assert run["steps"] == {"charge": "completed", "announce-paid": "completed"}
        assert app.log.read_text().count("charged order 1") == 1
    finally:
        await transport.close()
        app.stop()
        server.stop()
