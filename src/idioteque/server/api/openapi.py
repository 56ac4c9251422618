"""`/openapi.json`: the HTTP surface, described. A test holds it against the routes that are really served.

`OPERATIONS` has one line for each method and path; what its words stand for is spelled out in `schemas.py`.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from idioteque.server.api.schemas import HEADERS, PATHS, QUERIES, REFUSALS, SCHEMAS, Json, reference
from idioteque.server.api.services import reply

HOT = (
    ("POST", "/v2/publish/{destination}"),
    ("POST", "/v2/enqueue/{queue}/{destination}"),
    ("POST", "/v2/batch"),
    ("POST", "/v2/schedules/{destination}"),
)
"""Served by the door itself, before any routing."""

ANYTHING = "*"
PLAIN = "text"
"""What is no JSON."""


@dataclass(frozen=True, slots=True)
class Operation:
    """One method of one path: `sends` and `gives` name schemas, `query` and `headers` sets of parameters.

    `Name[]` is a list, `Name?` a body that may be missing. A repeated publish is answered 202 if it `may_repeat`.
    """

    summary: str
    gives: str
    status: int = 200
    sends: str = ""
    query: str = ""
    headers: str = ""
    refusals: tuple[int, ...] = ()
    may_repeat: bool = False


OPERATIONS: Mapping[tuple[str, str], Operation] = {
    ("POST", "/v2/publish/{destination}"): Operation(
        "Publish a message to a URL or a URL group", "Published", sends=ANYTHING, headers="publish",
        refusals=(412, 413), may_repeat=True,
    ),
    ("POST", "/v2/enqueue/{queue}/{destination}"): Operation(
        "Put a message for a URL or a URL group at the end of a queue, which is made if need be", "Published",
        sends=ANYTHING, headers="publish", refusals=(412, 413), may_repeat=True,
    ),
    ("POST", "/v2/batch"): Operation(
        "Publish several messages in one transaction", "Batched", sends="Batch", refusals=(413,)
    ),
    ("GET", "/v2/messages/{id}"): Operation("Look at a message", "Message", refusals=(404,)),
    ("DELETE", "/v2/messages/{id}"): Operation("Cancel a message", "Cancelled", refusals=(404,)),
    ("DELETE", "/v2/messages"): Operation(
        "Cancel messages: those selected by the query or the body, or all if nothing is selected",
        "Cancelled", sends="MessageSelection?", query="messages",
    ),
    ("GET", "/v2/dlq"): Operation("List dead letters", "DeadLetters", query="dlq"),
    ("DELETE", "/v2/dlq"): Operation(
        "Delete dead letters, a page at a time", "Deleted", sends="DeadLetterSelection?", query="dlq"
    ),
    ("GET", "/v2/dlq/{id}"): Operation("Look at a dead letter", "DeadLetter", refusals=(404,)),
    ("DELETE", "/v2/dlq/{id}"): Operation("Delete a dead letter", "Deleted", refusals=(404,)),
    ("POST", "/v2/dlq/retry"): Operation(
        "Publish dead letters as new messages", "Retried", 201, sends="DeadLetterSelection?", query="dlq",
        refusals=(404,),
    ),
    ("POST", "/v2/dlq/retry/{id}"): Operation(
        "Publish a dead letter as a new message", "RetriedOne", 201, refusals=(404,)
    ),
    ("GET", "/v2/events"): Operation("List the log", "Log", query="logs"),
    ("GET", "/v2/logs"): Operation("List the log, under its documented name", "Log", query="logs"),
    ("GET", "/v2/keys"): Operation("Show the signing keys", "Keys"),
    ("POST", "/v2/keys/rotate"): Operation("Make the next signing key the current one", "Keys"),
    ("POST", "/v2/schedules/{destination}"): Operation(
        "Publish a message at every tick of a cron expression", "Scheduled", sends=ANYTHING, headers="schedule",
        refusals=(412, 413),
    ),
    ("GET", "/v2/schedules"): Operation("List schedules", "Schedule[]"),
    ("GET", "/v2/schedules/{id}"): Operation("Look at a schedule", "Schedule", refusals=(404,)),
    ("DELETE", "/v2/schedules/{id}"): Operation("Delete a schedule", "Nothing"),
    **{
        (method, f"/v2/schedules/{{id}}/{verb}"): Operation(f"{verb.title()} a schedule", "Nothing", refusals=(404,))
        for verb in ("pause", "resume") for method in ("PATCH", "POST", "PUT")
    },
    ("GET", "/v2/queues"): Operation("List queues", "Queue[]"),
    **{
        ("POST", path): Operation(
            "Make a queue, or change it", "Nothing", sends="QueueSettings", refusals=(412,)
        )
        for path in ("/v2/queues", "/v2/queues/")
    },
    ("GET", "/v2/queues/{name}"): Operation("Look at a queue", "Queue", refusals=(404,)),
    ("DELETE", "/v2/queues/{name}"): Operation("Delete a queue, and cancel what is in it", "Nothing"),
    **{
        ("POST", f"/v2/queues/{{name}}/{verb}"): Operation(f"{verb.title()} a queue", "Nothing", refusals=(404,))
        for verb in ("pause", "resume")
    },
    ("GET", "/v2/flowControl"): Operation("List flow-control keys", "FlowControlKey[]", query="search"),
    ("GET", "/v2/flowControl/{key:path}"): Operation("Look at a flow-control key", "FlowControlKey", refusals=(404,)),
    ("POST", "/v2/flowControl/{key:path}/pause"): Operation("Let a key's messages wait", "Nothing"),
    ("POST", "/v2/flowControl/{key:path}/resume"): Operation(
        "Let a key's messages go on", "Nothing", refusals=(404,)
    ),
    ("POST", "/v2/flowControl/{key:path}/pin"): Operation(
        "Set limits that messages do not change", "Nothing", query="pin"
    ),
    ("POST", "/v2/flowControl/{key:path}/unpin"): Operation(
        "Let messages set limits again", "Nothing", query="unpin", refusals=(404,)
    ),
    **{
        ("POST", f"/v2/flowControl/{{key:path}}/{verb}"): Operation(
            "Begin a new period of a key's rate", "Nothing", refusals=(404,)
        )
        for verb in ("resetRate", "reset")
    },
    ("GET", "/v2/globalParallelism"): Operation(
        "How many deliveries may be under way, and how many are", "GlobalParallelism"
    ),
    ("GET", "/v2/topics"): Operation("List URL groups", "UrlGroup[]"),
    ("GET", "/v2/topics/{name}"): Operation("Look at a URL group", "UrlGroup", refusals=(404,)),
    ("PATCH", "/v2/topics/{name}"): Operation(
        "Set a URL group's default headers", "Nothing", sends="DefaultHeaders", refusals=(404,)
    ),
    ("DELETE", "/v2/topics/{name}"): Operation("Delete a URL group", "Nothing"),
    ("POST", "/v2/topics/{name}/endpoints"): Operation(
        "Add endpoints to a URL group, or change them", "Nothing", sends="Endpoints", refusals=(412,)
    ),
    ("DELETE", "/v2/topics/{name}/endpoints"): Operation(
        "Remove endpoints from a URL group", "Nothing", sends="EndpointRemovals", refusals=(404,)
    ),
    ("GET", "/health"): Operation("Whether the process lives", "Status"),
    ("GET", "/ready"): Operation("Whether it accepts messages", "Status", refusals=(503,)),
    ("GET", "/metrics"): Operation("What the server counts, for Prometheus; open under --dev", PLAIN, refusals=(401,)),
    ("GET", "/status"): Operation(
        "What the server has, what it did in the last day, and what it keeps; open under --dev", "ServerStatus",
        refusals=(401,),
    ),
    ("GET", "/waiting"): Operation(
        "Who waits for a queue or a flow-control key, in their order; open under --dev", "WaitingList",
        query="waiting", refusals=(400, 401),
    ),
    ("GET", "/pending"): Operation(
        "The ids of messages that a cancellation with these filters would find; open under --dev", "PendingList",
        query="pending", refusals=(400, 401),
    ),
    ("GET", "/openapi.json"): Operation("This document", "Document"),
}  # fmt: skip


async def show_document(request: Request) -> Response:
    return reply(document(tuple(served(request.app.routes))))


routes = [Route("/openapi.json", show_document, methods=["GET"])]


def served(rest: Iterable[BaseRoute]) -> list[tuple[str, str]]:
    """Return every method and path that the server answers: the hot ones, and those of the routes."""
    routed = [
        (method, route.path)
        for route in rest
        if isinstance(route, Route)
        for method in sorted((route.methods or set()) - {"HEAD"})
    ]
    return [*HOT, *routed]


@functools.lru_cache(maxsize=1)
def document(pairs: tuple[tuple[str, str], ...]) -> Json:
    """Return the document that describes these operations."""
    paths: dict[str, Json] = {}
    for method, path in pairs:
        operation = OPERATIONS.get((method, path))
        if operation is not None:
            paths.setdefault(_plain(path), {})[method.lower()] = _described(method, _plain(path), operation)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "idioteque",
            "version": "2",
            "description": "A QStash-compatible server. Every refusal is an object with one member, `error`.",
        },
        "paths": paths,
        "components": {
            "schemas": SCHEMAS,
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
        "security": [{"token": []}],
    }


def _plain(path: str) -> str:
    """Return a route's path without the converters of its parameters: `{key:path}` is `{key}`."""
    return re.sub(r"\{(\w+):\w+\}", r"{\1}", path)


def _described(method: str, path: str, operation: Operation) -> Json:
    parameters: list[Json] = [
        {"name": name, "in": "path", "required": True, "schema": PATHS.get(name, PATHS[""])}
        for name in re.findall(r"\{(\w+)\}", path)
    ]
    described: Json = {
        "operationId": "_".join([method.lower(), *re.findall(r"\w+", path), *([""] if path.endswith("/") else [])]),
        "summary": operation.summary,
        "tags": [path.split("/")[2] if path.startswith("/v2/") else "server"],
        "parameters": [*parameters, *QUERIES[operation.query], *HEADERS[operation.headers]],
        "responses": _responses(path, operation),
    }
    if not path.startswith("/v2/") and 401 not in operation.refusals:
        described["security"] = []
    if operation.sends:
        described["requestBody"] = _request_body(operation.sends)
    return described


def _responses(path: str, operation: Operation) -> Json:
    statuses = {*operation.refusals, *((400, 401, 403, 429, 503, 507) if path.startswith("/v2/") else ())}
    responses: Json = {str(status): _json(REFUSALS[status], "Error") for status in sorted(statuses)}
    if operation.may_repeat:
        responses["202"] = _json("A duplicate: the message that carries the deduplication id", operation.gives)
    responses[str(operation.status)] = PLAIN_TEXT if operation.gives == PLAIN else _json("Done", operation.gives)
    return responses


def _request_body(sends: str) -> Json:
    if sends == ANYTHING:
        return {"description": "The message, sent on as it is", "content": {"*/*": {"schema": {}}}}
    name = sends.removesuffix("?")
    return {"required": name == sends, "content": {"application/json": {"schema": reference(name)}}}


PLAIN_TEXT: Json = {"description": "Done", "content": {"text/plain": {"schema": {"type": "string"}}}}


def _json(description: str, schema: str) -> Json:
    return {"description": description, "content": {"application/json": {"schema": reference(schema)}}}
