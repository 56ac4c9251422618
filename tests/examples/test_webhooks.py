"""The guide to webhooks: its app is run, and a sender that knows nothing but an address calls it through the server."""

from __future__ import annotations

import hashlib
import hmac
import json
import re
from pathlib import Path

from idioteque.transport import HttpRequest, HttpResponse, PooledTransport
from tests.house.source import ROOT
from tests.processes import start_server
from tests.workers import environment_for, free_port, start_app, until

GUIDE = (ROOT / "docs" / "guides" / "webhooks.md").read_text(encoding="utf-8")
SECRET = b"between the two of us"


async def test_a_call_becomes_an_event_once_and_a_forged_one_a_dead_letter(tmp_path: Path) -> None:
    [code] = re.findall(r"^```python\n(# hooks\.py\n.*?)^```", GUIDE, re.MULTILINE | re.DOTALL)
    [address] = re.findall(r"^https://qstash\.example\.com(/v2/publish/\S+)$", GUIDE, re.MULTILINE)
    (tmp_path / "hooks.py").write_text(code)
    server, port = start_server(tmp_path), free_port()
    app_url = f"http://127.0.0.1:{port}"
    extra = {"APP_URL": app_url, "BILLING_SECRET": SECRET.decode(), "PYTHONPATH": str(tmp_path)}
    app = await start_app("hooks:app", port, environment_for(server, extra), tmp_path / "app.log", tmp_path)
    transport = PooledTransport()
    url = server.url + address.replace("https://shop.example.com", app_url).replace("TOKEN", server.token)

    async def call(document: object, secret: bytes = SECRET) -> HttpResponse:
        body = json.dumps(document).encode()
        signature = hmac.new(secret, body, hashlib.sha256).hexdigest()
        return await transport.send(HttpRequest("POST", url, [("Billing-Signature", signature)], body))

    async def letters() -> list[dict[str, object]]:
        headers = [("Authorization", f"Bearer {server.token}")]
        answer = await transport.send(HttpRequest("GET", f"{server.url}/v2/dlq", headers))
        return list(json.loads(answer.body)["messages"])

    async def are_shipped() -> bool:
        return {"shipped 17", "shipped 18"} <= set(app.log.read_text().splitlines())

    async def are_given_up() -> bool:
        return len(await letters()) == 2

    try:
        for document in ({"invoice_id": "17"}, {"invoice_id": "17"}, {"invoice_id": "18"}):
            assert (await call(document)).status == 200
        assert (await call({"invoice_id": "19"}, secret=b"a guess")).status == 200
        assert (await call({"amount": 5})).status == 200
        await until(are_shipped, 20, "both orders to be shipped")
        await until(are_given_up, 20, "what is not theirs to be given up")
        assert {letter["responseStatus"] for letter in await letters()} == {489}
        assert sorted(app.log.read_text().splitlines()) == ["shipped 17", "shipped 18"]
        direct = await transport.send(HttpRequest("POST", f"{app_url}/hooks/billing", [], b"{}"))
        assert direct.status == 401
        event = {"type": "invoice.paid", "invoice_id": "20"}
        target = f"{server.url}/v2/publish/{app_url}/api/worker"
        headers = [("Authorization", f"Bearer {server.token}")]
        bare = await transport.send(HttpRequest("POST", target, headers, json.dumps(event).encode()))
        assert bare.ok

        async def is_shipped() -> bool:
            return "shipped 20" in app.log.read_text()

        await until(is_shipped, 20, "the bare event's order to be shipped")
    finally:
        await transport.close()
        app.stop()
        server.stop()
