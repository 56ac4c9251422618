"""`/v2/dlq`: list, look at, delete and retry dead letters."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from idioteque.server.api.services import paged, reply, selection_of, services_of
from idioteque.server.core.operations import only_ids
from idioteque.server.errors import NotFound
from idioteque.server.model import Page
from idioteque.server.wire.filters import DEAD_LETTERS
from idioteque.server.wire.shapes import dead_letter_json


async def list_letters(request: Request) -> Response:
    letters, cursor = await services_of(request).operations.dead_letters(*await selection_of(request, DEAD_LETTERS))
    return paged({"messages": [dead_letter_json(letter) for letter in letters]}, cursor)


async def get_letter(request: Request) -> Response:
    letter_id = request.path_params["id"]
    letters, _ = await services_of(request).operations.dead_letters(only_ids([letter_id]), Page(1))
    if not letters:
        raise _unknown(letter_id)
    return reply(dead_letter_json(letters[0]))


async def delete_letter(request: Request) -> Response:
    letter_id = request.path_params["id"]
    deleted, _ = await services_of(request).operations.delete_dead_letters(only_ids([letter_id]), Page(1))
    if not deleted:
        raise _unknown(letter_id)
    return reply({"deleted": deleted})


async def delete_letters(request: Request) -> Response:
    chosen, page = await selection_of(request, DEAD_LETTERS)
    deleted, cursor = await services_of(request).operations.delete_dead_letters(chosen, page)
    return paged({"deleted": deleted}, cursor)


async def retry_letter(request: Request) -> Response:
    letter_id = request.path_params["id"]
    message_ids, _ = await services_of(request).operations.retry_dead_letters(only_ids([letter_id]), Page(1))
    if not message_ids:
        raise _unknown(letter_id)
    return reply({"messageId": message_ids[0]}, 201)


async def retry_letters(request: Request) -> Response:
    chosen, page = await selection_of(request, DEAD_LETTERS)
    message_ids, cursor = await services_of(request).operations.retry_dead_letters(chosen, page)
    if chosen.ids and not message_ids:
        raise NotFound("some messages not found")
    responses = [{"messageId": message_id} for message_id in message_ids]
    return reply({"cursor": cursor or "", "responses": responses}, 201)


def _unknown(letter_id: str) -> NotFound:
    return NotFound(f"message {letter_id[:100]} not found in the DLQ")


routes = [
    Route("/v2/dlq", list_letters, methods=["GET"]),
    Route("/v2/dlq", delete_letters, methods=["DELETE"]),
    Route("/v2/dlq/retry", retry_letters, methods=["POST"]),
    Route("/v2/dlq/retry/{id}", retry_letter, methods=["POST"]),
    Route("/v2/dlq/{id}", get_letter, methods=["GET"]),
    Route("/v2/dlq/{id}", delete_letter, methods=["DELETE"]),
]
