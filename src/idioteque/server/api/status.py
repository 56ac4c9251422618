"""`/status`, `/waiting` and `/pending`: what the console shows beyond the protocol. For who has a token; under `--dev`
for all.
"""

from __future__ import annotations

from urllib.parse import parse_qs

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from idioteque.server.api.services import admit, reply, selection_of, services_of
from idioteque.server.core.activity import STRETCH_MS
from idioteque.server.core.status import COUNTED_MAX, Facts, Latency, latency_of
from idioteque.server.errors import BadRequest
from idioteque.server.model import Stretch, Waiting
from idioteque.server.wire.filters import PENDING
from idioteque.server.wire.shapes import Json

WAITING_MAX = 100


async def show_status(request: Request) -> Response:
    admit(request)
    status = services_of(request).status
    config = status.config
    retention: Json = {
        "logSeconds": config.log_retention_s,
        "logMessagesMax": config.log_messages_max,
        "deadLetterSeconds": config.dead_letter_retention_s,
        "deliveredReadableSeconds": config.delivered_readable_s,
        "deduplicationSeconds": config.deduplication_window_s,
    }
    facts = await status.facts()
    return reply({**_facts_json(facts), "durability": config.durability, "retention": retention})


async def list_waiting(request: Request) -> Response:
    admit(request)
    query: bytes = request.scope["query_string"]
    given = {name: values[-1] for name, values in parse_qs(query.decode("latin-1")).items()}
    status = services_of(request).status
    match given:
        case {"flowControlKey": key, **rest} if not rest:
            found = await status.waiting_for_key(key, WAITING_MAX)
        case {"queueName": name, **rest} if not rest:
            found = await status.waiting_in_queue(name, WAITING_MAX)
        case _:
            raise BadRequest("give either flowControlKey or queueName, and nothing else")
    return reply({"waiting": [_waiting_json(one) for one in found]})


async def list_pending(request: Request) -> Response:
    """Name the messages that a cancellation with these filters would find: 100, or `count`, up to 10,000."""
    admit(request)
    chosen, page = await selection_of(request, PENDING)
    return reply({"pending": await services_of(request).operations.pending(chosen, page.count)})


def _facts_json(facts: Facts) -> Json:
    return {
        "version": facts.version,
        "startedAt": facts.started_at_ms,
        "pending": facts.pending,
        "inFlight": facts.in_flight,
        "inFlightMax": facts.in_flight_max,
        "retrying": facts.retrying,
        "deadLetters": facts.dead_letters,
        "countedMax": COUNTED_MAX,
        "linesHeld": facts.lines_held,
        "oldestDueAt": facts.oldest_due_ms,
        "latency": _latency_json(facts.latency),
        "stretchMs": STRETCH_MS,
        "activity": [_stretch_json(one) for one in facts.activity],
        "fileBytes": facts.file_bytes,
        "walBytes": facts.wal_bytes,
        "rows": dict(facts.rows),
    }


def _latency_json(latency: Latency) -> Json:
    return {"p50Seconds": latency.p50_s, "p95Seconds": latency.p95_s}


def _stretch_json(one: Stretch) -> Json:
    return {
        "from": one.began_ms,
        "accepted": one.accepted,
        "delivered": one.delivered,
        "retried": one.retried,
        "deadLettered": one.dead_lettered,
        **_latency_json(latency_of([one])),
    }


def _waiting_json(one: Waiting) -> Json:
    shown: Json = {
        "place": one.place,
        "messageId": one.message_id,
        "url": one.url,
        "createdAt": one.created_at_ms,
        "retried": one.retried,
        "isUnderWay": one.is_under_way,
    }
    return shown if one.due_ms is None else {**shown, "dueAt": one.due_ms}


routes = [
    Route("/status", show_status, methods=["GET"]),
    Route("/waiting", list_waiting, methods=["GET"]),
    Route("/pending", list_pending, methods=["GET"]),
]
