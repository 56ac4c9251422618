"""The mount as a WSGI application: under wsgiref, inside Flask, and beside an ASGI server in one process."""

from __future__ import annotations

import asyncio
import io
import threading
from collections.abc import Callable, Iterator
from typing import Any
from wsgiref.util import setup_testing_defaults

import pytest
from flask import Flask
from starlette.applications import Starlette
from starlette.routing import Route
from werkzeug.middleware.dispatcher import DispatcherMiddleware

from idioteque import bridge
from tests.library.mounts.servers import uvicorn_running, wsgiref_running
from tests.library.mounts.shop import Shop, headers, order, text_of
from tests.library.mounts.test_asgi import post

PATH = "/api/worker"


@pytest.fixture
def shop() -> Shop:
    return Shop()


@pytest.fixture(params=["wsgiref", "flask"])
def origin(request: pytest.FixtureRequest, shop: Shop) -> Iterator[str]:
    app: Any = shop.mount.wsgi
    if request.param == "flask":
        flask = Flask("shop")
        flask.wsgi_app = DispatcherMiddleware(flask.wsgi_app, {PATH: shop.mount.wsgi})  # type: ignore[method-assign]
        flask.add_url_rule("/", view_func=lambda: "the shop")
        app = flask
    with wsgiref_running(app) as running:
        yield running


async def test_a_delivery_and_its_redelivery(origin: str, shop: Shop) -> None:
    answers = [await post(origin + PATH, order()) for _ in range(2)]
    assert [answer.status for answer in answers] == [200, 200]
    assert text_of(answers[0].body) == "completed"
    assert shop.paid == {"1": 1}


async def test_every_refusal_gets_through_as_it_is(origin: str, shop: Shop) -> None:
    unsigned = await post(origin + PATH, order(), {"Content-Type": "application/json"})
    poison = await post(origin + PATH, b"not json")
    method = await post(origin + PATH, b"", {}, method="GET")
    assert [unsigned.status, poison.status, method.status] == [401, 489, 405]
    assert poison.header("Upstash-NonRetryable-Error") == "true"


async def test_many_deliveries_at_once(origin: str, shop: Shop) -> None:
    answers = await asyncio.gather(*(post(origin + PATH, order(str(n))) for n in range(20)))
    assert {answer.status for answer in answers} == {200}
    assert shop.paid == {str(n): 1 for n in range(20)}


async def test_flask_serves_its_own_pages_beside_it(shop: Shop) -> None:
    flask = Flask("shop")
    flask.wsgi_app = DispatcherMiddleware(flask.wsgi_app, {PATH: shop.mount.wsgi})  # type: ignore[method-assign]
    flask.add_url_rule("/", view_func=lambda: "the shop")
    with wsgiref_running(flask) as running:
        assert (await post(running + "/", b"", {}, method="GET")).body == b"the shop"


async def test_one_mount_serves_two_event_loops_at_once(shop: Shop) -> None:
    loops = set[int]()
    pay = shop._pay

    async def noting(order_id: str) -> str:
        loops.add(id(asyncio.get_running_loop()))
        return await pay(order_id)

    shop._pay = noting  # type: ignore[method-assign]
    asgi = Starlette(routes=[Route(PATH, shop.mount)])
    with uvicorn_running(asgi) as one, wsgiref_running(shop.mount.wsgi) as other:
        sides = [one, other] * 10  # each order comes to one side first, so both have their share, whichever is faster
        answers = await asyncio.gather(*(post(side + PATH, order(str(n))) for n, side in enumerate(sides)))
        assert {answer.status for answer in answers} == {200}
        again = [post(side + PATH, order(str(n))) for n in range(20) for side in (one, other)]
        assert {answer.status for answer in await asyncio.gather(*again)} == {200}
    assert shop.paid == {str(n): 1 for n in range(20)}
    assert len(loops) == 2


def answer(shop: Shop, environ: dict[str, Any]) -> tuple[str, bytes]:
    setup_testing_defaults(environ)
    seen: list[str] = []
    body = b"".join(shop.mount.wsgi(environ, lambda status, _: seen.append(status)))
    return seen[0], body


def environment(body: bytes, **changed: Any) -> dict[str, Any]:
    named = {f"HTTP_{name.upper().replace('-', '_')}": value for name, value in headers(body).items()}
    return {
        "REQUEST_METHOD": "POST",
        "wsgi.input": io.BytesIO(body + b"what belongs to the next request"),
        "CONTENT_LENGTH": str(len(body)),
        **named,
        **changed,
    }


def test_a_body_is_read_to_its_length_and_no_further(shop: Shop) -> None:
    assert answer(shop, environment(order()))[0] == "200 OK"


@pytest.mark.parametrize("length", ["", "x", "-5", "²", "1e3"])
def test_a_length_that_is_none_is_a_body_that_is_none(shop: Shop, length: str) -> None:
    status, body = answer(shop, environment(order(), CONTENT_LENGTH=length))
    assert (status, text_of(body)) == ("401 Unauthorized", "the body is not the one that was signed")


def test_a_server_that_ends_the_input_itself_needs_no_length(shop: Shop) -> None:
    ended = {"CONTENT_LENGTH": "", "wsgi.input": io.BytesIO(order()), "wsgi.input_terminated": True}
    assert answer(shop, environment(order(), **ended))[0] == "200 OK"


def test_a_body_that_is_too_large_is_not_read() -> None:
    shop = Shop(body_bytes_max=100)

    class Endless(io.RawIOBase):
        taken = 0

        def read(self, size: int = -1) -> bytes:
            assert 0 <= size <= 101
            return b"x" * size

    status, _ = answer(shop, environment(b"", CONTENT_LENGTH=str(10**12), **{"wsgi.input": Endless()}))
    assert status.startswith("413 ")


def test_a_status_of_the_protocols_own_has_a_phrase(shop: Shop) -> None:
    assert answer(shop, environment(b"not json"))[0] == "489 Not Retryable"


# ---- the bridge


def from_a_thread(call: Callable[[], Any]) -> Any:
    """Return what a call gives or raises in a thread without a loop."""
    results: list[Any] = []

    def run() -> None:
        try:
            results.append(call())
        except BaseException as error:
            results.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join(10)
    return results[0]


async def ok() -> str:
    return threading.current_thread().name


async def fails() -> str:
    raise KeyError("no")


def test_a_sync_caller_gets_the_result_or_the_error() -> None:
    assert bridge.run_sync(ok()) == "idioteque-background"
    assert from_a_thread(lambda: bridge.run_sync(ok())) == "idioteque-background"
    with pytest.raises(KeyError):
        bridge.run_sync(fails())


async def test_a_sync_call_inside_another_loop_works_and_blocks_it_only() -> None:
    assert bridge.run_sync(ok()) == "idioteque-background"


def test_a_sync_call_on_the_background_loop_is_refused_instead_of_waiting_for_itself() -> None:
    async def nested() -> str:
        return bridge.run_sync(ok())

    with pytest.raises(RuntimeError, match="await the async one"):
        bridge.run_sync(nested())


async def test_a_call_of_a_short_lived_loop_runs_in_the_background() -> None:
    assert await bridge.run_in_background(ok()) == "idioteque-background"
    with pytest.raises(KeyError):
        await bridge.run_in_background(fails())
