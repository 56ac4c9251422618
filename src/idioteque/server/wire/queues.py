"""Queues in the protocol's JSON, both ways."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from idioteque.server.errors import BadRequest
from idioteque.server.model import Queue
from idioteque.server.wire.target import checked_name


@dataclass(frozen=True, slots=True)
class QueueSettings:
    """What a queue is to be like; None leaves it as it is."""

    name: str
    parallelism: int | None = None
    paused: bool | None = None


def queue_json(queue: Queue) -> dict[str, object]:
    """Return a queue as `/v2/queues/{name}` shows it."""
    return {
        "name": queue.name,
        "parallelism": queue.parallelism,
        "createdAt": queue.created_at_ms,
        "updatedAt": queue.updated_at_ms,
        "lag": queue.lag,
        "paused": queue.paused,
    }


def read_settings(document: Mapping[str, object]) -> QueueSettings:
    """Return what `POST /v2/queues` asks for; raise `BadRequest` for a bad value."""
    name, parallelism, paused = (document.get(each) for each in ("queueName", "parallelism", "paused"))
    if not isinstance(name, str):
        raise BadRequest('the body must be like {"queueName": "orders", "parallelism": 1, "paused": false}')
    if parallelism is not None and (isinstance(parallelism, bool) or not isinstance(parallelism, int)):
        raise BadRequest("parallelism must be an integer of 1 or more")
    if parallelism is not None and parallelism < 1:
        raise BadRequest(f"invalid parallelism {str(parallelism)[:30]}: must be an integer of 1 or more")
    if paused is not None and not isinstance(paused, bool):
        raise BadRequest("paused must be true or false")
    return QueueSettings(checked_name("queue name", name), parallelism, paused)
