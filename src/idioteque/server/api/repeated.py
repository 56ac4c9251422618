"""Publishes like earlier ones: clients send the same target and headers again and again, and these are read once."""

from __future__ import annotations

from typing import cast
from urllib.parse import unquote_to_bytes

from idioteque.server.front.request import Request
from idioteque.server.model import Draft
from idioteque.server.wire.publish import checked_deduplication_id

REMEMBERED_MAX = 1024
PATTERN_BYTES_MAX = 2048

CONFIGURING = b"upstash-"
CONTENT_TYPE = b"content-type"
DEDUPLICATION_ID = b"upstash-deduplication-id"
OF_EACH = frozenset((b"upstash-content-based-deduplication", b"upstash-header-forward"))
"""Headers by which a message depends on its request's body, or on headers that configure nothing."""

Pattern = tuple[bytes, bytes, tuple[tuple[bytes, bytes], ...]]
"""What a draft depends on besides body, peer and deduplication id: path, query, and the headers that configure it."""


class Repeated:
    """Remembers the drafts that publishes for a URL gave, by their patterns."""

    def __init__(self) -> None:
        self._drafts: dict[Pattern, Draft] = {}

    def draft(self, request: Request) -> Draft | None:
        """Return the draft of a request like one that is remembered, or None; raise `BadRequest` for a bad one."""
        pattern, deduplication_id = _pattern(request)
        known = self._drafts.get(pattern)
        if known is None:
            return None
        key = None if deduplication_id is None else checked_deduplication_id(deduplication_id.decode("latin-1"))
        return Draft(known.url, request.body, known.options, key, request.peer, known.source, known.queue)

    def remember(self, request: Request, draft: Draft) -> None:
        """Remember the draft of a request, if its pattern is all that it depends on."""
        pattern, _ = _pattern(request)
        path, query, headers = pattern
        if any(name in OF_EACH for name, _ in headers) or b"upstash" in unquote_to_bytes(query).lower():
            return
        if len(path) + len(query) + sum(len(name) + len(value) for name, value in headers) > PATTERN_BYTES_MAX:
            return
        if len(self._drafts) >= REMEMBERED_MAX:
            del self._drafts[next(iter(self._drafts))]  # the oldest
        self._drafts[pattern] = Draft(draft.url, b"", draft.options, None, "", draft.source, draft.queue)


def _pattern(request: Request) -> tuple[Pattern, bytes | None]:
    """Return a request's pattern, and its deduplication id; heads that came before have none."""
    if request.head is not None and request.head.pattern is not None:
        return cast(Pattern, request.head.pattern), None
    deduplication_id: bytes | None = None
    headers: list[tuple[bytes, bytes]] = []
    for pair in request.headers:
        name = pair[0]
        if name == DEDUPLICATION_ID:
            deduplication_id = pair[1]
        elif name.startswith(CONFIGURING) or name == CONTENT_TYPE:
            headers.append(pair)
    pattern = (request.path, request.query, tuple(headers))
    if request.head is not None and deduplication_id is None:
        request.head.pattern = pattern
    return pattern, deduplication_id
