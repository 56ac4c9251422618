"""Where the messages of a run go: what the operator says, or what the log of its last message says."""

from __future__ import annotations

from idioteque.console.entries import text
from idioteque.console.frame import Visit
from idioteque.errors import IdiotequeError
from idioteque.records import RunRecord


async def mount_of(visit: Visit, record: RunRecord) -> str | None:
    """Return the URL of the mount, or None when nothing tells it."""
    if visit.services.settings.mount_url is not None:
        return visit.services.settings.mount_url
    if not record.deliveries:
        return None
    last = record.deliveries[-1].message_id
    try:
        page = await visit.api.events([("messageId", last)], count=1)
    except IdiotequeError:
        return None
    return text(page.entries[0], "url") or None if page.entries else None
