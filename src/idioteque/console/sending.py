"""Messages that the console sends to a mount, in the name of whoever acts."""

from __future__ import annotations

from typing import Any

from idioteque.client import Json
from idioteque.console.frame import Visit
from idioteque.dispatchers.qstash import QStashDispatcher
from idioteque.engine import Outbox
from idioteque.errors import ConfigurationError
from idioteque.events import EventsSchema
from idioteque.function import Published
from idioteque.ids import new_id

SCHEMA = EventsSchema(dict[str, Any])
NO_URL = "an event goes to the URL of a mount: say which one"


async def publish_event(visit: Visit, mount_url: str, event: bytes) -> Published:
    """Publish an event to a mount under a new id; raise `EventRejected` when it is no JSON object."""
    if not mount_url:
        raise ConfigurationError(NO_URL)
    services = visit.services
    dispatcher = QStashDispatcher(
        mount_url=mount_url,
        token=visit.session.token,
        url=services.settings.api_url,
        transport=services.transport,
        clock=services.clock,
    )
    document: Json = SCHEMA.decode(event)
    return await Outbox(dispatcher, SCHEMA, services.clock).publish(
        new_id("evt", services.clock.now_ms()), SCHEMA.encode(document)
    )
