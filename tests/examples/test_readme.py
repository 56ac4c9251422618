"""The code of the README, as it stands but for its ports: what a newcomer copies must work."""

from __future__ import annotations

import re
from pathlib import Path

from idioteque.stores import open_store
from idioteque.transport import HttpRequest, PooledTransport
from tests.house.source import ROOT
from tests.processes import start_server
from tests.workers import environment_for, free_port, start_app, until

README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```python\n(.*?)^```", README, re.MULTILINE | re.DOTALL)
FUNCTIONS = "functions=[process_user_signup]"


def block(holds: str) -> str:
    """Return the one block of code that holds a text."""
    (code,) = [code for code in BLOCKS if holds in code]
    return str(code)


async def test_the_shop_of_the_quick_start_does_what_it_says(tmp_path: Path) -> None:
    port = free_port()
    shop = block("# shop.py").replace("127.0.0.1:8000", f"127.0.0.1:{port}")
    before, app_is, after = shop.partition("app = FastAPI()")
    assert FUNCTIONS in after
    assert str(port) in before
    after = after.replace(FUNCTIONS, "functions=[process_user_signup, close_account]")
    (tmp_path / "shop.py").write_text(f"{before}{block('def close_account')}\n\n{app_is}{after}")
    server = start_server(tmp_path, args=["--dev"])
    environment = environment_for(
        server,
        {
            "QSTASH_DEV": "true",
            "QSTASH_DEV_PORT": str(server.port),
            "PYTHONPATH": str(tmp_path),
            "IDIOTEQUE_STORE": "",
        },
    )
    app = await start_app("shop:app", port, environment, tmp_path / "app.log", directory=tmp_path)
    transport = PooledTransport()
    store = open_store(f"sqlite:///{tmp_path / 'runs.db'}")
    try:
        answer = await transport.send(HttpRequest("POST", f"http://127.0.0.1:{port}/signup/user-123"))
        assert answer.ok, answer
        printed = ["mail to user-123@example.com: Welcome!", "ada is told", "grace is told"]
        run_id = answer.body.decode().strip('"')

        async def rests() -> bool:
            runs = {run.function_id: run.status for run in await store.list()}
            return runs == {"process-user-signup": "waiting", "close-account": "waiting"}

        await until(rests, 20, "both functions to sleep")
        assert sorted(app.log.read_text().splitlines()) == sorted(printed)
        run = await store.get(run_id)
        assert run is not None
        steps = {step.path[0]: step.outcome is not None for step in run.steps}
        done = {"fetch-user", "send-welcome", "notify-ada", "notify-grace"}
        assert steps == {**dict.fromkeys(done, True), "cool-down": False}
    finally:
        await store.close()
        await transport.close()
        app.stop()
        server.stop()
