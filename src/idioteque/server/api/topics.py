"""`/v2/topics`: URL groups, under their old name."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from idioteque.server.api.services import document_of, reply, services_of
from idioteque.server.wire.groups import (
    read_default_headers,
    read_endpoints,
    read_removals,
    url_group_json,
)
from idioteque.server.wire.target import checked_name


async def list_groups(request: Request) -> Response:
    return reply([url_group_json(group) for group in await services_of(request).url_groups.groups()])


async def get_group(request: Request) -> Response:
    return reply(url_group_json(await services_of(request).url_groups.group(request.path_params["name"])))


async def add_endpoints(request: Request) -> Response:
    services, name = services_of(request), checked_name("URL group name", request.path_params["name"])
    await services.url_groups.add(name, read_endpoints(await document_of(request)))
    return reply({})


async def remove_endpoints(request: Request) -> Response:
    chosen = read_removals(await document_of(request))
    await services_of(request).url_groups.remove(request.path_params["name"], chosen)
    return reply({})


async def set_headers(request: Request) -> Response:
    headers, removed = read_default_headers(await document_of(request))
    await services_of(request).url_groups.set_headers(request.path_params["name"], headers, removed)
    return reply({})


async def delete_group(request: Request) -> Response:
    await services_of(request).url_groups.delete(request.path_params["name"])
    return reply({})


routes = [
    Route("/v2/topics", list_groups, methods=["GET"]),
    Route("/v2/topics/{name}/endpoints", add_endpoints, methods=["POST"]),
    Route("/v2/topics/{name}/endpoints", remove_endpoints, methods=["DELETE"]),
    Route("/v2/topics/{name}", get_group, methods=["GET"]),
    Route("/v2/topics/{name}", set_headers, methods=["PATCH"]),
    Route("/v2/topics/{name}", delete_group, methods=["DELETE"]),
]
