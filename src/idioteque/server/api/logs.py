"""`/v2/events`, which the SDKs call, and `/v2/logs`, which is documented: one list under both names."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from idioteque.server.api.services import paged, selection_of, services_of
from idioteque.server.wire.filters import LOGS
from idioteque.server.wire.shapes import log_json


async def list_events(request: Request) -> Response:
    entries, cursor = await services_of(request).operations.logs(*await selection_of(request, LOGS))
    events = [log_json(entry) for entry in entries]
    return paged({"events": events, "logs": events}, cursor)


routes = [
    Route("/v2/events", list_events, methods=["GET"]),
    Route("/v2/logs", list_events, methods=["GET"]),
]
