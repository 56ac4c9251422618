"""One queue and one flow-control key: who waits there, in the order of their turns, and what can be done about it."""

from __future__ import annotations

from dataclasses import dataclass

from idioteque.client import Query
from idioteque.console.entries import number, text
from idioteque.console.frame import Answer, Page, Screen, Visit
from idioteque.console.pages.resources import FlowKey, Queue, flow_key_of, queue_of


@dataclass(frozen=True, slots=True)
class Waiting:
    """A message that waits; 0 for `due_at_ms` while it has no slot of its queue."""

    place: int
    message_id: str
    url: str
    created_at_ms: int
    due_at_ms: int
    retried: int
    is_under_way: bool


@dataclass(frozen=True, slots=True)
class QueueView:
    """A queue and the first messages in it, None where the server does not tell them."""

    queue: Queue
    waiting: tuple[Waiting, ...] | None


@dataclass(frozen=True, slots=True)
class FlowKeyView:
    """A flow-control key and the first messages that wait for it, None where the server does not tell them."""

    key: FlowKey
    waiting: tuple[Waiting, ...] | None


async def show_queue(visit: Visit) -> Answer:
    name = visit.path["name"]
    queue = queue_of(await visit.api.queue(name))
    return Page("queue.html", QueueView(queue, await _waiting(visit, [("queueName", name)])))


async def show_key(visit: Visit) -> Answer:
    name = visit.path["key"]
    key = flow_key_of(await visit.api.flow_key(name))
    return Page("flow_key.html", FlowKeyView(key, await _waiting(visit, [("flowControlKey", name)])))


async def _waiting(visit: Visit, query: Query) -> tuple[Waiting, ...] | None:
    found = await visit.api.waiting(query)
    if found is None:
        return None
    return tuple(
        Waiting(
            number(row, "place"), text(row, "messageId"), text(row, "url"), number(row, "createdAt"),
            number(row, "dueAt"), number(row, "retried"), bool(row.get("isUnderWay")),
        )
        for row in found
    )  # fmt: skip


screens = (Screen("/queues/{name}", show_queue), Screen("/flow-control/{key:path}", show_key))
