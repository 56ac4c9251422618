"""The mount as a Django view: under Django's ASGI and WSGI handlers, behind its CSRF check and its transactions."""

from __future__ import annotations

import asyncio
import sys
import types
from collections.abc import Iterator
from typing import Any

import django
import pytest
from django.conf import settings
from django.core.asgi import get_asgi_application
from django.core.wsgi import get_wsgi_application
from django.urls import clear_url_caches, path

from idioteque import ConfigurationError
from tests.library.mounts.servers import uvicorn_running, wsgiref_running
from tests.library.mounts.shop import Shop, headers, order, text_of
from tests.library.mounts.test_asgi import post

PATH = "/api/worker"
URLS = types.ModuleType("shop_urls")
sys.modules["shop_urls"] = URLS

settings.configure(
    ALLOWED_HOSTS=["127.0.0.1"],
    ROOT_URLCONF="shop_urls",
    SECRET_KEY="of the tests",
    MIDDLEWARE=["django.middleware.common.CommonMiddleware", "django.middleware.csrf.CsrfViewMiddleware"],
    DATABASES={
        "default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:", "ATOMIC_REQUESTS": True},
        "other": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:", "ATOMIC_REQUESTS": True},
    },
    DATA_UPLOAD_MAX_MEMORY_SIZE=10_000,
    USE_TZ=True,
)
django.setup()


@pytest.fixture
def shop() -> Shop:
    return Shop()


@pytest.fixture(params=["asgi", "wsgi"])
def origin(request: pytest.FixtureRequest, shop: Shop) -> Iterator[str]:
    URLS.urlpatterns = [path("api/worker", shop.mount.django)]  # type: ignore[attr-defined]
    clear_url_caches()
    if request.param == "asgi":
        with uvicorn_running(get_asgi_application(), lifespan="off") as running:
            yield running
    else:
        with wsgiref_running(get_wsgi_application()) as running:
            yield running


async def test_a_delivery_and_its_redelivery(origin: str, shop: Shop) -> None:
    answers = [await post(origin + PATH, order()) for _ in range(2)]
    assert [answer.status for answer in answers] == [200, 200], answers[0].body
    assert answers[0].header("Content-Type") == "application/json"
    assert text_of(answers[0].body) == "completed"
    assert shop.paid == {"1": 1}


async def test_every_refusal_gets_through_as_it_is(origin: str, shop: Shop, caplog: pytest.LogCaptureFixture) -> None:
    unsigned = await post(origin + PATH, order(), {"Content-Type": "application/json"})
    poison = await post(origin + PATH, b"not json")
    method = await post(origin + PATH, b"", {}, method="GET")
    assert [unsigned.status, poison.status, method.status] == [401, 489, 405]
    assert poison.header("Upstash-NonRetryable-Error") == "true"
    assert shop.paid == {}


async def test_a_body_beyond_djangos_limit_for_forms_is_taken(origin: str, shop: Shop) -> None:
    answer = await post(origin + PATH, order(note="é" * 100_000))
    assert (answer.status, shop.paid) == (200, {"1": 1})


async def test_a_body_that_is_too_large_is_413() -> None:
    shop = Shop(body_bytes_max=1000)
    URLS.urlpatterns = [path("api/worker", shop.mount.django)]  # type: ignore[attr-defined]
    clear_url_caches()
    with wsgiref_running(get_wsgi_application()) as running:
        answer = await post(running + PATH, order(note="x" * 1000))
    assert (answer.status, answer.header("Upstash-NonRetryable-Error")) == (413, "true")


async def test_many_deliveries_at_once(origin: str, shop: Shop) -> None:
    answers = await asyncio.gather(*(post(origin + PATH, order(str(n))) for n in range(20)))
    assert {answer.status for answer in answers} == {200}
    assert shop.paid == {str(n): 1 for n in range(20)}


async def test_under_wsgi_all_deliveries_share_one_loop_and_its_connections(shop: Shop) -> None:
    loops = set[int]()

    async def noting(order_id: str) -> str:
        loops.add(id(asyncio.get_running_loop()))
        return order_id

    shop._pay = noting  # type: ignore[method-assign]
    URLS.urlpatterns = [path("api/worker", shop.mount.django)]  # type: ignore[attr-defined]
    clear_url_caches()
    with wsgiref_running(get_wsgi_application()) as running:
        for n in range(3):
            assert (await post(running + PATH, order(str(n)))).status == 200
    assert len(loops) == 1


async def test_a_header_of_another_name_with_the_same_letters_is_no_signature(origin: str, shop: Shop) -> None:
    given: dict[str, Any] = headers(order())
    given["Upstash-Signature-2"] = given.pop("Upstash-Signature")
    assert (await post(origin + PATH, order(), given)).status == 401


def test_without_django_the_view_says_what_to_install(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "django.http", None)
    with pytest.raises(ConfigurationError, match="pip install django"):
        _ = shop.mount.django
