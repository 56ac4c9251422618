"""Messages and the log: the live feed, one message with its attempts, publishing, cancelling, and signatures."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from starlette.responses import Response

from idioteque.client import BULK_COUNT_MAX, ApiRefusal, Json
from idioteque.console.entries import (
    Carried,
    Entry,
    Payload,
    carried,
    curl,
    entry_of,
    forwarded,
    headers_of,
    payload,
    text,
    timeline,
    unpacked,
)
from idioteque.console.frame import Answer, Done, NotShown, Page, Screen, Visit
from idioteque.console.resending import ENDED, Resending, again, last_entry, retry_now
from idioteque.console.writing import written_headers
from idioteque.errors import InvalidValue, SignatureError
from idioteque.signing import verify

PAGE_COUNT = 50
TIMELINE_MAX = 1000
FILTERS = ("state", "url", "host", "path", "label", "queueName", "topicName", "scheduleId", "flowControlKey",
           "messageId", "callerIp", "fromDate", "toDate")  # fmt: skip
"""The API's own filters of its log, by their names there; dates are milliseconds, or ISO 8601 in UTC."""
DATES = ("fromDate", "toDate")
OVER = (*ENDED, "CANCEL_REQUESTED")
LOOKED_AT_MAX = 10_000
"""Log entries that are looked at for messages under way, where the server does not name those."""
STATES = ("CREATED", "ACTIVE", "DELIVERED", "ERROR", "RETRY", "FAILED", "CANCEL_REQUESTED", "CANCELED")


@dataclass(frozen=True, slots=True)
class MessagesView:
    """A page of the log, the latest first; `filters` are those of the address."""

    entries: tuple[Entry, ...]
    filters: dict[str, str]
    states: tuple[str, ...]
    next: str | None


@dataclass(frozen=True, slots=True)
class MessageView:
    """A message: what is known of it, every state it was in, and what a signature of it says."""

    id: str
    state: str
    url: str
    method: str
    is_open: bool
    facts: tuple[tuple[str, str], ...]
    headers: tuple[tuple[str, str], ...]
    body: Payload
    entries: tuple[Entry, ...]
    carried: Carried | None
    curl: str
    body_sha256: str


@dataclass(frozen=True, slots=True)
class CancelView:
    """The messages that a cancellation would concern, at most the limit, and whether there may be more."""

    ids: tuple[str, ...]
    filters: dict[str, str]
    has_more: bool
    count_max: int


@dataclass(frozen=True, slots=True)
class SignatureView:
    """Whether a receiver with these keys would accept a delivery, and if not, by which rule it refuses."""

    url: str
    body: str
    verdict: str
    is_good: bool


async def list_messages(visit: Visit) -> Answer:
    filters = {name: visit.asked(name) for name in FILTERS if visit.asked(name)}
    page = await visit.api.events(_query(filters), visit.asked("cursor") or None, PAGE_COUNT)
    entries = tuple(entry_of(row, 200) for row in page.entries)
    return Page("messages.html", MessagesView(entries, filters, STATES, page.cursor))


def _query(filters: Mapping[str, str]) -> list[tuple[str, str]]:
    return [(name, _date(value) if name in DATES else value) for name, value in filters.items()]


def _date(value: str) -> str:
    """Return a moment in milliseconds, as the API wants it; without a zone it is in UTC."""
    if value.isascii() and value.isdigit():
        return value
    try:
        at = datetime.fromisoformat(value)
    except ValueError:
        raise InvalidValue(f"{value[:40]!r} is no moment: write 2026-01-31T12:00, or milliseconds") from None
    return str(round(at.replace(tzinfo=at.tzinfo or UTC).timestamp() * 1000))


async def show_message(visit: Visit) -> Answer:
    message_id, chars_max = visit.path["id"], visit.services.settings.shown_chars_max
    page = await visit.api.events([("messageId", message_id), ("order", "earliestFirst")], count=TIMELINE_MAX)
    if not page.entries:
        raise NotShown(f"nothing is known of message {message_id[:100]}: a wrong id, or one whose time is over")
    last = page.entries[-1]
    body = unpacked(last, "body")
    headers = headers_of(last, "header")
    entries = timeline(page.entries, chars_max)
    state = entries[-1].state
    named = ("queueName", "topicName", "endpointName", "scheduleId", "flowControlKey", "callback", "failureCallback",
             "maxRetries", "retryDelayExpression", "callerIP")  # fmt: skip
    url, method = text(last, "url"), text(last, "method")
    view = MessageView(
        id=message_id,
        state=state,
        url=url,
        method=method,
        is_open=state not in ENDED,
        facts=tuple((name, text(last, name)) for name in named if text(last, name)),
        headers=headers,
        body=payload(body, chars_max),
        entries=entries,
        carried=carried(body, message_id),
        curl=curl(visit.services.settings.api_url, url, forwarded(headers), body, method),
        body_sha256=base64.urlsafe_b64encode(hashlib.sha256(body).digest()).decode(),
    )
    return Page("message.html", view)


async def download(visit: Visit) -> Answer:
    """Hand out a message's whole body as a file, which no browser shows as a page."""
    page = await visit.api.events([("messageId", visit.path["id"])], count=1)
    if not page.entries:
        raise NotShown("nothing is known of this message")
    headers = {"Content-Disposition": 'attachment; filename="body.bin"'}
    return Response(unpacked(page.entries[0], "body"), media_type="application/octet-stream", headers=headers)


async def cancel_message(visit: Visit) -> Answer:
    await visit.api.cancel(visit.path["id"])
    return Done("the message is cancelled", f"/messages/{visit.path['id']}")


async def count_bulk(visit: Visit) -> Answer:
    """Say which messages under way fit the filters."""
    filters = {name: visit.given(name).strip() for name in FILTERS if visit.given(name).strip()}
    count_max = visit.services.settings.bulk_max
    ids, has_more = await _under_way(visit, filters, count_max)
    return Page("messages_bulk.html", CancelView(tuple(ids), filters, has_more, count_max))


async def cancel_many(visit: Visit) -> Answer:
    """Cancel the messages that were counted before; those that have ended meanwhile stay as they are."""
    ids = visit.all_given("id")[: visit.services.settings.bulk_max]
    done = 0
    for begin in range(0, len(ids), BULK_COUNT_MAX):
        done += await visit.api.cancel_many(ids[begin : begin + BULK_COUNT_MAX])
    return Done(f"cancel: {done} of {len(ids)} messages", "/messages", is_failure=done < len(ids))


async def _under_way(visit: Visit, filters: Mapping[str, str], count_max: int) -> tuple[list[str], bool]:
    """Return the ids of messages that have not ended and fit, and whether there may be more than these.

    Our own server names them, but for a state. Otherwise the log tells: the newest entry of a message is its state.
    """
    wanted = filters.get("state", "")
    query = _query({name: value for name, value in filters.items() if name != "state"})
    named = None if wanted else await visit.api.pending(query, count_max + 1)
    if named is not None:
        return named[:count_max], len(named) > count_max
    states: dict[str, str] = {}
    cursor: str | None = None
    for _ in range(LOOKED_AT_MAX // TIMELINE_MAX):
        page = await visit.api.events(query, cursor, TIMELINE_MAX)
        for row in page.entries:
            states.setdefault(text(row, "messageId"), text(row, "state"))
        cursor = page.cursor
        if cursor is None:
            break
    ids = [one for one, state in states.items() if state not in OVER and wanted in ("", state)]
    return ids[:count_max], cursor is not None or len(ids) > count_max


async def send_again(visit: Visit) -> Answer:
    """Publish a message like this one, with its options, now."""
    message = again(await _last(visit))
    return _accepted(await message.send(visit.api), message.destination)


async def retry_message_now(visit: Visit) -> Answer:
    """Send a message that waits for its next attempt at once, in place of it."""
    entry = await _last(visit)
    done = _accepted(await retry_now(visit.api, entry), text(entry, "url"))
    return replace(done, text=f"{done.text} in place of this one")


async def _last(visit: Visit) -> Json:
    entry = await last_entry(visit.api, visit.path["id"])
    if entry is None:
        raise NotShown("nothing is known of this message")
    return entry


async def show_publish(visit: Visit) -> Answer:
    return Page("publish.html", SignatureView(visit.asked("url"), visit.asked("body"), "", is_good=False))


async def publish(visit: Visit) -> Answer:
    headers = [
        ("Upstash-Method", visit.given("method") or "POST"),
        ("Content-Type", visit.given("type") or "text/plain"),
    ]
    for field, name in (("delay", "Upstash-Delay"), ("retries", "Upstash-Retries"), ("label", "Upstash-Label")):
        if visit.given(field).strip():
            headers.append((name, visit.given(field).strip()))
    headers += forwarded(written_headers(visit.written("headers")))
    message = Resending(visit.given("url").strip(), headers, visit.written("body").encode())
    return _accepted(await message.send(visit.api), message.destination)


def _accepted(message_id: str, destination: str) -> Done:
    said = f"message {message_id} is accepted"
    return Done(said, f"/messages/{message_id}", target=f"{message_id} to {destination}")


async def show_signature(visit: Visit) -> Answer:
    return Page("signature.html", SignatureView(visit.asked("url"), "", "", is_good=False))


async def check_signature(visit: Visit) -> Answer:
    """Say whether a receiver would accept, with the keys as they are now."""
    url, body = visit.given("url").strip(), visit.given("body")
    try:
        keys = await visit.api.keys()
        claims = verify(
            visit.given("signature").strip(), body.encode(), [text(keys, "current"), text(keys, "next")],
            visit.now_ms, url or None,
        )  # fmt: skip
    except SignatureError as refusal:
        return Page("signature.html", SignatureView(url, body, f"refused: {refusal}", is_good=False))
    except ApiRefusal as refusal:
        if refusal.status != 403:
            raise
        raise InvalidValue("a read-only token may not read the signing keys, so nothing can be checked") from None
    return Page("signature.html", SignatureView(url, body, f"accepted: made for {claims.url}", is_good=True))


screens = (
    Screen("/messages", list_messages),
    Screen("/messages/publish", show_publish),
    Screen("/messages/publish/send", publish, act="message.publish"),
    Screen("/messages/bulk/count", count_bulk, act="message.bulk-count", looks_only=True),
    Screen("/messages/bulk", cancel_many, act="message.bulk-cancel"),
    Screen("/messages/signature", show_signature),
    Screen("/messages/signature/check", check_signature, act="signature.check", looks_only=True),
    Screen("/messages/{id}", show_message),
    Screen("/messages/{id}/raw", download),
    Screen("/messages/{id}/cancel", cancel_message, act="message.cancel"),
    Screen("/messages/{id}/again", send_again, act="message.again"),
    Screen("/messages/{id}/retry", retry_message_now, act="message.retry-now"),
)
