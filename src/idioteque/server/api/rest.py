"""Every endpoint but the hot ones, as one Starlette application; each noun has a file that exports `routes`."""

from __future__ import annotations

import logging

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from idioteque.errors import DatabaseError, DatabaseTooSlow
from idioteque.server.api import (
    dlq,
    flow_control,
    health,
    keys,
    logs,
    messages,
    metrics,
    openapi,
    queues,
    schedules,
    status,
    topics,
)
from idioteque.server.api.services import Services, reply
from idioteque.server.errors import Refused

ROUTES = (
    *messages.routes,
    *dlq.routes,
    *logs.routes,
    *keys.routes,
    *topics.routes,
    *schedules.routes,
    *queues.routes,
    *flow_control.routes,
    *health.routes,
    *metrics.routes,
    *status.routes,
    *openapi.routes,
)

logger = logging.getLogger("idioteque.server")


async def answer_refusal(request: Request, error: Exception) -> Response:
    """Answer what an endpoint refused."""
    assert isinstance(error, Refused)
    response = reply({"error": str(error)}, error.status)
    response.headers.update(dict(error.headers))
    return response


async def answer_database_error(request: Request, error: Exception) -> Response:
    """Answer when the database does not do what an endpoint asks of it."""
    if isinstance(error, DatabaseTooSlow):
        return reply({"error": "this takes too long; narrow it by dates, ids or labels, or ask for fewer"}, 503)
    logger.error("%s %s failed: %s", request.method, request.url.path, error)
    return reply({"error": "the database does not answer as it should at the moment; try again"}, 503)


async def answer_unexpected(request: Request, error: Exception) -> Response:
    """Answer when there is a fault in this server; Starlette logs it afterwards."""
    return reply({"error": "internal error"}, 500)


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
    """Return the application."""
    app = Starlette(
        routes=ROUTES,
        exception_handlers={
            Refused: answer_refusal,
            HTTPException: refuse,
            DatabaseError: answer_database_error,
            Exception: answer_unexpected,
        },
    )
    app.router.redirect_slashes = False
    app.state.services = services
    return app
