"""Django: an asynchronous view, exempt from the CSRF check, for Django under ASGI and under WSGI."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from importlib import import_module
from typing import Any

from idioteque.bridge import run_in_background
from idioteque.errors import ConfigurationError
from idioteque.transport import Handler, HttpRequest

View = Callable[[Any], Awaitable[Any]]


def view(handle: Handler, body_bytes_max: int) -> View:
    """Return the endpoint as a view for `path(…)`; raise `ConfigurationError` when Django is not installed."""
    try:
        http, wsgi, db = (import_module(f"django.{name}") for name in ("http", "core.handlers.wsgi", "db"))
    except ModuleNotFoundError as error:
        raise ConfigurationError(f"mount.django needs Django: {error}; pip install django") from error

    async def deliver(request: Any) -> Any:
        # Read as a stream: `request.body` refuses what is larger than Django's limit for forms.
        body = request.read(body_bytes_max + 1)
        asked = HttpRequest(request.method, request.path, list(request.headers.items()), body)
        # Under WSGI every request has an event loop of its own, which takes its connections with it when it ends.
        is_wsgi = isinstance(request, wsgi.WSGIRequest)
        response = await (run_in_background(_answer(handle, asked)) if is_wsgi else handle(asked))
        return http.HttpResponse(response.body, status=response.status, headers=dict(response.headers))

    # What the decorators of these names do; they have not taken asynchronous views in every version.
    marked: Any = deliver
    marked.csrf_exempt = True
    marked._non_atomic_requests = set(db.connections)  # a delivery is no transaction: its steps commit one by one
    return deliver


async def _answer(handle: Handler, request: HttpRequest) -> Any:
    return await handle(request)
