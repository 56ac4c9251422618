"""What the endpoints work with, and how a request becomes a selection and a record a reply."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import cast

from prometheus_client import CollectorRegistry
from starlette.requests import Request
from starlette.responses import Response

from idioteque.server.api.reply import read_body
from idioteque.server.core.credentials import Credentials
from idioteque.server.core.flow_control import FlowKeys
from idioteque.server.core.operations import Operations
from idioteque.server.core.queues import Queues
from idioteque.server.core.schedules import Schedules
from idioteque.server.core.status import Status
from idioteque.server.core.url_groups import UrlGroups
from idioteque.server.errors import BadRequest
from idioteque.server.model import Filter, Page
from idioteque.server.wire.filters import Kind, parse_selection

SELECTION_BYTES_MAX = 256 * 1024
DOCUMENT_BYTES_MAX = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Services:
    """The parts of the core that endpoints call; `is_ready` says whether the server accepts messages."""

    operations: Operations
    credentials: Credentials
    is_ready: Callable[[], bool]
    url_groups: UrlGroups
    schedules: Schedules
    queues: Queues
    flow_keys: FlowKeys
    global_parallelism: Callable[[], tuple[int, int]]
    now_ms: Callable[[], int]
    registry: CollectorRegistry
    status: Status
    is_dev: bool


def services_of(request: Request) -> Services:
    """Return the server's services."""
    services = request.app.state.services
    assert isinstance(services, Services)
    return services


def admit(request: Request) -> None:
    """Let in who has a token, and under `--dev` everybody; raise `Unauthorized` otherwise. For paths beside `/v2`."""
    services = services_of(request)
    if not services.is_dev:
        peer = request.client.host if request.client is not None else ""
        services.credentials.role(bearer_token(request.headers.get("authorization", "")), peer)


def bearer_token(authorization: str) -> str | None:
    """Return the token in an `Authorization` header, or None."""
    scheme, _, token = authorization.partition(" ")
    return token.strip() if scheme.lower() == "bearer" else None


async def selection_of(request: Request, kind: Kind) -> tuple[Filter, Page]:
    """Return what a request selects, by its query or its JSON body."""
    body = await read_body(dict(request.scope["headers"]), request.receive, SELECTION_BYTES_MAX)
    return parse_selection(kind, request.scope["query_string"].decode("latin-1"), body)


async def document_of(request: Request) -> Mapping[str, object]:
    """Return a request's body, which must be a JSON object."""
    body = await read_body(dict(request.scope["headers"]), request.receive, DOCUMENT_BYTES_MAX)
    try:
        document: object = json.loads(body)
    except (ValueError, RecursionError):
        raise BadRequest("the body is not JSON") from None
    if not isinstance(document, dict):
        raise BadRequest("the body must be a JSON object")
    return cast(dict[str, object], document)


def reply(document: object, status: int = 200) -> Response:
    """Return a JSON reply."""
    return Response(json.dumps(document, separators=(",", ":")), status, media_type="application/json")


def paged(document: dict[str, object], cursor: str | None) -> Response:
    """Return a page of a list; without a `cursor` it is the last."""
    return reply(document if cursor is None else {**document, "cursor": cursor})
