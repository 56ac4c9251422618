"""`/health` and `/ready`: open to everybody, and saying nothing else."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from idioteque.server.api.services import reply, services_of


async def health(request: Request) -> Response:
    return reply({"status": "ok"})


async def ready(request: Request) -> Response:
    if services_of(request).is_ready():
        return reply({"status": "ready"})
    return reply({"status": "not ready"}, 503)


routes = [Route("/health", health, methods=["GET"]), Route("/ready", ready, methods=["GET"])]
