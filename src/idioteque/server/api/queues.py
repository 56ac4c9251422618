"""`/v2/queues`: make queues, look at them, pause, resume and delete them. The door serves `/v2/enqueue`."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from idioteque.server.api.services import document_of, reply, services_of
from idioteque.server.wire.queues import queue_json, read_settings


async def save_queue(request: Request) -> Response:
    await services_of(request).queues.save(read_settings(await document_of(request)))
    return reply({})


async def list_queues(request: Request) -> Response:
    return reply([queue_json(queue) for queue in await services_of(request).queues.queues()])


async def get_queue(request: Request) -> Response:
    return reply(queue_json(await services_of(request).queues.queue(request.path_params["name"])))


async def delete_queue(request: Request) -> Response:
    await services_of(request).queues.delete(request.path_params["name"])
    return reply({})


async def pause_queue(request: Request) -> Response:
    await services_of(request).queues.pause(request.path_params["name"])
    return reply({})


async def resume_queue(request: Request) -> Response:
    await services_of(request).queues.resume(request.path_params["name"])
    return reply({})


routes = [
    Route("/v2/queues", list_queues, methods=["GET"]),
    Route("/v2/queues", save_queue, methods=["POST"]),
    Route("/v2/queues/", save_queue, methods=["POST"]),  # some documentation has the slash
    Route("/v2/queues/{name}", get_queue, methods=["GET"]),
    Route("/v2/queues/{name}", delete_queue, methods=["DELETE"]),
    Route("/v2/queues/{name}/pause", pause_queue, methods=["POST"]),
    Route("/v2/queues/{name}/resume", resume_queue, methods=["POST"]),
]
