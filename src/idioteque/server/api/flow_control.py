"""`/v2/flowControl`: keys with their limits, and what operators do with them; a key may contain slashes."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from idioteque.server.api.services import reply, services_of
from idioteque.server.wire.flow import flow_key_json, read_pin, read_search, read_unpin


async def list_keys(request: Request) -> Response:
    services = services_of(request)
    keys = await services.flow_keys.keys(read_search(_query(request)))
    return reply([flow_key_json(flow, services.now_ms()) for flow in keys])


async def get_key(request: Request) -> Response:
    services = services_of(request)
    return reply(flow_key_json(await services.flow_keys.key(request.path_params["key"]), services.now_ms()))


async def pause_key(request: Request) -> Response:
    await services_of(request).flow_keys.pause(request.path_params["key"])
    return reply({})


async def resume_key(request: Request) -> Response:
    await services_of(request).flow_keys.resume(request.path_params["key"])
    return reply({})


async def pin_key(request: Request) -> Response:
    await services_of(request).flow_keys.pin(request.path_params["key"], read_pin(_query(request)))
    return reply({})


async def unpin_key(request: Request) -> Response:
    parallelism, rate = read_unpin(_query(request))
    await services_of(request).flow_keys.unpin(request.path_params["key"], parallelism=parallelism, rate=rate)
    return reply({})


async def reset_rate(request: Request) -> Response:
    # `reset` is older and resets the count of what is under way too: that is counted from leases, and never wrong.
    await services_of(request).flow_keys.reset_rate(request.path_params["key"])
    return reply({})


async def get_global_parallelism(request: Request) -> Response:
    most, count = services_of(request).global_parallelism()
    return reply({"parallelismMax": most, "parallelismCount": count})


def _query(request: Request) -> str:
    query: bytes = request.scope["query_string"]
    return query.decode("latin-1")


routes = [
    Route("/v2/globalParallelism", get_global_parallelism, methods=["GET"]),
    Route("/v2/flowControl", list_keys, methods=["GET"]),
    # What stands last in the path is the verb: the key before it may contain slashes.
    Route("/v2/flowControl/{key:path}/pause", pause_key, methods=["POST"]),
    Route("/v2/flowControl/{key:path}/resume", resume_key, methods=["POST"]),
    Route("/v2/flowControl/{key:path}/pin", pin_key, methods=["POST"]),
    Route("/v2/flowControl/{key:path}/unpin", unpin_key, methods=["POST"]),
    Route("/v2/flowControl/{key:path}/resetRate", reset_rate, methods=["POST"]),
    Route("/v2/flowControl/{key:path}/reset", reset_rate, methods=["POST"]),
    Route("/v2/flowControl/{key:path}", get_key, methods=["GET"]),
]
