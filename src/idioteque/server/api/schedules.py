"""`/v2/schedules`: look at them, pause, resume and delete them. The door makes them: a destination is no path."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from idioteque.server.api.services import reply, services_of
from idioteque.server.core.schedules import Shown
from idioteque.server.wire.schedules import schedule_json


async def list_schedules(request: Request) -> Response:
    return reply([_json(shown) for shown in await services_of(request).schedules.schedules()])


async def get_schedule(request: Request) -> Response:
    return reply(_json(await services_of(request).schedules.schedule(request.path_params["id"])))


async def delete_schedule(request: Request) -> Response:
    await services_of(request).schedules.delete(request.path_params["id"])
    return reply({})


async def pause_schedule(request: Request) -> Response:
    await services_of(request).schedules.pause(request.path_params["id"])
    return reply({})


async def resume_schedule(request: Request) -> Response:
    await services_of(request).schedules.resume(request.path_params["id"])
    return reply({})


def _json(shown: Shown) -> dict[str, object]:
    return schedule_json(shown.schedule, shown.options, shown.fates)


routes = [
    Route("/v2/schedules", list_schedules, methods=["GET"]),
    Route("/v2/schedules/{id}", get_schedule, methods=["GET"]),
    Route("/v2/schedules/{id}", delete_schedule, methods=["DELETE"]),
    # The SDKs patch, the documentation posts.
    Route("/v2/schedules/{id}/pause", pause_schedule, methods=["PATCH", "POST", "PUT"]),
    Route("/v2/schedules/{id}/resume", resume_schedule, methods=["PATCH", "POST", "PUT"]),
]
