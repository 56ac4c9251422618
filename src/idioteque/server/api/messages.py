"""`/v2/messages`: look at one, cancel some or all."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from idioteque.server.api.services import reply, selection_of, services_of
from idioteque.server.core.operations import only_ids
from idioteque.server.errors import NotFound
from idioteque.server.model import Page
from idioteque.server.wire.filters import MESSAGES
from idioteque.server.wire.shapes import message_json


async def get_message(request: Request) -> Response:
    return reply(message_json(await services_of(request).operations.message(request.path_params["id"])))


async def cancel_message(request: Request) -> Response:
    message_id = request.path_params["id"]
    cancelled = await services_of(request).operations.cancel(only_ids([message_id]), Page(1))
    if not cancelled:
        raise NotFound(f"message {message_id[:100]} not found, or it has ended")
    return reply({"cancelled": cancelled})


async def cancel_messages(request: Request) -> Response:
    chosen, page = await selection_of(request, MESSAGES)
    return reply({"cancelled": await services_of(request).operations.cancel(chosen, page)})


routes = [
    Route("/v2/messages/{id}", get_message, methods=["GET"]),
    Route("/v2/messages/{id}", cancel_message, methods=["DELETE"]),
    Route("/v2/messages", cancel_messages, methods=["DELETE"]),
]
