"""Whatever is sent to the endpoints of `/openapi.json`, the server answers, and never with a fault of its own."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import schemathesis
import uvicorn
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from idioteque.database import open_database
from idioteque.server.api.openapi import document, served
from idioteque.server.api.rest import ROUTES
from idioteque.server.app import Server
from idioteque.server.config import ServerConfig
from idioteque.server.process import bound_socket
from idioteque.testing import ScriptedTransport
from tests.server.house import ENVIRONMENT, TOKEN

EXAMPLES = 50


@contextmanager
def running() -> Iterator[str]:
    """A server behind a real socket, whose messages go nowhere."""
    listener = bound_socket("127.0.0.1", 0)
    ready = threading.Event()
    web: list[uvicorn.Server] = []

    async def main() -> None:
        server = Server(
            ServerConfig(),
            database=open_database("sqlite://:memory:"),
            transport=ScriptedTransport([500, 200]),
            environment=ENVIRONMENT,
        )
        await server.start()
        config = uvicorn.Config(server.app, http="httptools", lifespan="off", log_config=None, access_log=False)
        web.append(uvicorn.Server(config))
        web[0].capture_signals = contextmanager(lambda: iter([None]))  # type: ignore[method-assign]  # not this thread's
        ready.set()
        await web[0].serve([listener])
        await server.stop()

    thread = threading.Thread(target=asyncio.run, args=(main(),), daemon=True)
    thread.start()
    assert ready.wait(20)
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        web[0].should_exit = True
        thread.join(20)
        listener.close()


SCHEMA = schemathesis.openapi.from_dict(document(tuple(served(ROUTES))))
ENDPOINTS = {f"{found.ok().method.upper()} {found.ok().path}": found.ok() for found in SCHEMA.get_all_operations()}


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with running() as url:
        yield url


@pytest.mark.parametrize("endpoint", sorted(ENDPOINTS))
@settings(
    max_examples=EXAMPLES,
    deadline=None,
    derandomize=True,
    database=None,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
)
@given(data=st.data())
def test_no_request_makes_the_server_fail(url: str, endpoint: str, data: st.DataObject) -> None:
    case: Any = data.draw(ENDPOINTS[endpoint].as_strategy())
    if "destination" in case.path_parameters and data.draw(st.booleans()):  # most of what is made up is no URL
        case.path_parameters["destination"] = "https://shop.test/hook"
    response = case.call(base_url=url, headers={"Authorization": f"Bearer {TOKEN}"})
    assert response.status_code < 500, response.text
    plain = endpoint == "GET /metrics" and response.status_code == 200
    assert response.headers["content-type"][0].startswith("text/plain" if plain else "application/json")
    if response.status_code >= 400:
        assert list(response.json()) == ["error"]
