"""Every endpoint but the hot ones, as one Starlette application; each noun has a file that exports `routes`."""

from __future__ import annotations

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from idioteque.server.api import dlq, health, keys, logs, messages
from idioteque.server.api.services import Services, reply


async def refuse(request: Request, error: Exception) -> Response:
    """Answer an unknown path, or a method that it does not know."""
    assert isinstance(error, HTTPException)
    if error.status_code == 404:
        text = f"no such path: {request.url.path[:200]}"
    elif error.status_code == 405:
        text = f"{request.method} is not allowed here"
    else:
        text = error.detail
    response = reply({"error": text}, error.status_code)
    response.headers.update(error.headers or {})
    return response


def build_rest(services: Services) -> Starlette:
    """Return the application; refusals of ours pass through it to the door."""
    app = Starlette(
        routes=[*messages.routes, *dlq.routes, *logs.routes, *keys.routes, *health.routes],
        exception_handlers={HTTPException: refuse},
    )
    app.router.redirect_slashes = False
    app.state.services = services
    return app
