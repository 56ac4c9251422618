"""The mount as an ASGI application: in Starlette and FastAPI under uvicorn, and by itself."""

from __future__ import annotations

import asyncio
import http.client
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import pytest
from fastapi import FastAPI
from starlette.applications import Starlette
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.routing import Mount as StarletteMount
from starlette.routing import Route

from idioteque import HttpRequest, HttpResponse
from idioteque.transport import PooledTransport
from tests.library.mounts.servers import uvicorn_running
from tests.library.mounts.shop import Shop, headers, order, text_of

PATH = "/api/worker"


@pytest.fixture
def shop() -> Shop:
    return Shop()


@pytest.fixture(params=["starlette", "fastapi", "itself", "h11", "under middleware"])
def origin(request: pytest.FixtureRequest, shop: Shop) -> Iterator[str]:
    app: Any
    options: dict[str, Any] = {}
    if request.param == "itself":
        app = shop.mount
    elif request.param == "fastapi":
        app = FastAPI()
        app.router.routes.append(Route(PATH, shop.mount))
    else:
        app = Starlette(routes=[Route(PATH, shop.mount)])
        options = {"http": "h11"} if request.param == "h11" else {}
        if request.param == "under middleware":
            app.add_middleware(BaseHTTPMiddleware, dispatch=passing_on)
    with uvicorn_running(app, **options) as running:
        yield running


async def passing_on(request: Any, call_next: Any) -> Any:
    return await call_next(request)


async def post(url: str, body: bytes, given: dict[str, str] | None = None, method: str = "POST") -> HttpResponse:
    transport = PooledTransport()
    try:
        pairs = list((headers(body) if given is None else given).items())
        return await transport.send(HttpRequest(method, url, pairs, body), timeout_s=10)
    finally:
        await transport.close()


async def test_a_delivery_and_its_redelivery(origin: str, shop: Shop) -> None:
    answers = [await post(origin + PATH, order()) for _ in range(2)]
    assert [answer.status for answer in answers] == [200, 200]
    assert answers[0].header("Content-Type") == "application/json"
    assert text_of(answers[0].body) == "completed"
    assert shop.paid == {"1": 1}


async def test_every_refusal_gets_through_as_it_is(origin: str, shop: Shop) -> None:
    unsigned = await post(origin + PATH, order(), {"Content-Type": "application/json"})
    poison = await post(origin + PATH, b"not json")
    method = await post(origin + PATH, b"", {}, method="GET")
    assert [unsigned.status, poison.status, method.status] == [401, 489, 405]
    assert poison.header("Upstash-NonRetryable-Error") == "true"
    assert shop.paid == {}


async def test_a_body_of_many_chunks_is_one_body(origin: str, shop: Shop) -> None:
    body = order(note="é" * 50_000)
    parts = urlsplit(origin)

    def chunked() -> tuple[int, bytes]:
        connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=10)
        pieces = (body[start : start + 997] for start in range(0, len(body), 997))
        connection.request("POST", PATH, pieces, headers(body), encode_chunked=True)
        response = connection.getresponse()
        answer = response.status, response.read()
        connection.close()
        return answer

    status, answer = await asyncio.to_thread(chunked)
    assert (status, text_of(answer)) == (200, "completed")


async def test_fifty_deliveries_at_once(origin: str, shop: Shop) -> None:
    answers = await asyncio.gather(*(post(origin + PATH, order(str(n % 25))) for n in range(50)))
    assert {answer.status for answer in answers} == {200}
    await asyncio.gather(*(post(origin + PATH, order(str(n))) for n in range(25)))
    assert shop.paid == {str(n): 1 for n in range(25)}


async def test_a_client_that_leaves_before_its_body_is_complete_starts_nothing(origin: str, shop: Shop) -> None:
    parts = urlsplit(origin)
    body = order()
    _, writer = await asyncio.open_connection(parts.hostname, parts.port)
    lines = [f"{name}: {value}" for name, value in headers(body).items()]
    head = [f"POST {PATH} HTTP/1.1", "Host: x", f"Content-Length: {len(body) + 10}", *lines]
    writer.write("\r\n".join(head).encode() + b"\r\n\r\n" + body)
    await writer.drain()
    writer.close()
    await writer.wait_closed()
    assert (await post(origin + PATH, order("2"))).status == 200, "the server is well"
    assert shop.paid == {"2": 1}


async def test_a_client_that_leaves_while_it_runs_loses_nothing(origin: str, shop: Shop) -> None:
    entered, leave = asyncio.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()

    async def slow(order_id: str) -> str:
        loop.call_soon_threadsafe(entered.set)
        await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(leave.wait(), loop))
        shop.paid[order_id] += 1
        return "slow"

    shop._pay = slow  # type: ignore[method-assign]
    parts = urlsplit(origin)
    body = order()
    _, writer = await asyncio.open_connection(parts.hostname, parts.port)
    lines = [f"{name}: {value}" for name, value in headers(body).items()]
    head = [f"POST {PATH} HTTP/1.1", "Host: x", f"Content-Length: {len(body)}", *lines]
    writer.write("\r\n".join(head).encode() + b"\r\n\r\n" + body)
    await asyncio.wait_for(entered.wait(), 10)
    writer.close()
    await writer.wait_closed()
    leave.set()
    [run] = (await shop.worker.runs.list()).runs
    redelivered = await post(origin + PATH, body, headers(body, **{"Upstash-Retried": "1"}))
    assert redelivered.status == 200
    assert await shop.worker.runs.result(run.id, timeout=10) == "slow"


async def test_a_body_that_is_too_large_is_not_read_to_its_end() -> None:
    shop = Shop(body_bytes_max=100_000)
    body = order(note="x" * 200_000)
    with uvicorn_running(shop.mount) as running:
        answer = await post(running, body)
    assert (answer.status, answer.header("Upstash-NonRetryable-Error")) == (413, "true")


async def test_starlettes_own_mount_answers_with_a_redirect_that_nobody_follows(shop: Shop) -> None:
    app = Starlette(routes=[StarletteMount(PATH, shop.mount)])
    with uvicorn_running(app) as running:
        assert (await post(running + PATH, order())).status == 307
        assert (await post(running + PATH + "/", order())).status == 200


# ---- by itself


async def call(shop: Shop, messages: list[dict[str, Any]], **scope: Any) -> list[dict[str, Any]]:
    sent: list[dict[str, Any]] = []
    waiting = iter(messages)

    async def receive() -> Any:
        return next(waiting)

    async def send(message: Any) -> None:
        sent.append(message)

    given = [(name.lower().encode(), value.encode()) for name, value in headers(order()).items()]
    await shop.mount({"type": "http", "method": "POST", "path": "/", "headers": given, **scope}, receive, send)
    return sent


async def test_a_request_without_a_body_message_of_its_own_has_none(shop: Shop) -> None:
    start, _ = await call(shop, [{"type": "http.request"}])
    assert start["status"] == 401


async def test_a_disconnect_before_the_body_is_answered_by_nothing(shop: Shop) -> None:
    messages = [{"type": "http.request", "body": order()[:5], "more_body": True}, {"type": "http.disconnect"}]
    assert await call(shop, messages) == []
    assert shop.paid == {}


async def test_a_mount_is_an_application_with_a_lifespan(shop: Shop) -> None:
    sent = await call(shop, [{"type": "lifespan.startup"}, {"type": "lifespan.shutdown"}], type="lifespan")
    assert [message["type"] for message in sent] == ["lifespan.startup.complete", "lifespan.shutdown.complete"]


async def test_a_mount_speaks_http_only(shop: Shop) -> None:
    with pytest.raises(RuntimeError, match="websocket"):
        await call(shop, [], type="websocket")
