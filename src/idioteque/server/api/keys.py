"""`/v2/keys`: the signing keys, and their rotation."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from idioteque.server.api.services import reply, services_of


async def get_keys(request: Request) -> Response:
    credentials = services_of(request).credentials
    return reply({"current": credentials.current_key, "next": credentials.next_key})


async def rotate_keys(request: Request) -> Response:
    await services_of(request).credentials.rotate()
    return await get_keys(request)


routes = [
    Route("/v2/keys", get_keys, methods=["GET"]),
    Route("/v2/keys/rotate", rotate_keys, methods=["POST"]),
]
