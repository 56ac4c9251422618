"""Messages sent once more, as they were or edited, for the pages and for commands: all of it by the public API."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from idioteque.client import ApiRefusal, Json, QStash
from idioteque.console.entries import forwarded, headers_of, items, number, plain_body, text, unpacked
from idioteque.errors import InvalidValue

ENDED = ("DELIVERED", "FAILED", "CANCELED")
REDACTED = "REDACTED:"
OWN = "upstash-"

Pairs = Sequence[tuple[str, str]]


@dataclass(frozen=True, slots=True)
class Edits:
    """What is sent instead of what a message was sent with; None keeps it. `headers` are all of its own ones."""

    url: str | None = None
    method: str | None = None
    headers: Pairs | None = None
    body: bytes | None = None


@dataclass(frozen=True, slots=True)
class Resending:
    """A message as it would be published: `headers` are publish headers, in `queue` if that is named."""

    destination: str
    headers: Pairs
    body: bytes
    queue: str = ""

    async def send(self, qstash: QStash) -> str:
        """Publish it; return the new message's id, the first one's where the destination is a URL group."""
        if self.queue:
            accepted = await qstash.enqueue(self.queue, self.destination, self.headers, self.body)
        else:
            accepted = await qstash.publish(self.destination, self.headers, self.body)
        return text(accepted[0], "messageId") if accepted else ""


async def last_entry(qstash: QStash, message_id: str) -> Json | None:
    """Return what the log says last of a message; None when it says nothing."""
    page = await qstash.events([("messageId", message_id)], count=1)
    return page.entries[0] if page.entries else None


def again(entry: Json) -> Resending:
    """Return a message like the one of a log entry."""
    return Resending(text(entry, "url"), republishing(entry), _kept_body(entry, unpacked(entry, "body")))


async def retry_now(qstash: QStash, entry: Json) -> str:
    """Send a message that waits for its next attempt at once, as a new message, and cancel the one that waits.

    In this order, so that nothing is lost between the two; what is under way meanwhile may arrive twice. Return the
    new message's id; raise `InvalidValue` when the message is over.
    """
    if text(entry, "state") in ENDED:
        raise InvalidValue("the message is over; send it again instead")
    sent = await again(entry).send(qstash)
    try:
        await qstash.cancel(text(entry, "messageId"))
    except ApiRefusal as refusal:
        if refusal.status != 404:  # it has just been delivered, or has just failed
            raise
    return sent


async def edited(qstash: QStash, letter: Json, edits: Edits) -> Resending:
    """Return the message of a dead letter as it would be sent with these edits."""
    logged = await last_entry(qstash, text(letter, "messageId")) or letter  # the log has its timeout, too
    headers = republishing(logged, edits.headers)
    if edits.method is not None:
        headers = [*((name, value) for name, value in headers if name != "Upstash-Method"),
                   ("Upstash-Method", edits.method)]  # fmt: skip
    body = _kept_body(letter, plain_body(letter)) if edits.body is None else edits.body
    return Resending(edits.url or text(letter, "url"), headers, body)


async def replace_letter(qstash: QStash, dlq_id: str, instead: Resending) -> str:
    """Send a message instead of a dead letter, then delete the letter; return the new message's id."""
    sent = await instead.send(qstash)
    await qstash.delete_dead_letters([dlq_id])
    return sent


def of_schedule(row: Json) -> Resending:
    """Return the message that a schedule would send now; raise `InvalidValue` when a part of it is redacted."""
    refuse_redacted(row)
    return Resending(text(row, "destination"), headers_of_schedule(row), plain_body(row), text(row, "queueName"))


def refuse_redacted(schedule: Json) -> None:
    """Raise `InvalidValue` when a part of a schedule is redacted, so that nobody can read it any more."""
    shown = [plain_body(schedule), *(value.encode() for _, value in headers_of(schedule, "header"))]
    if any(value.startswith(REDACTED.encode()) for value in shown):
        raise InvalidValue("a part of it is redacted, so only the schedule itself can send it")


def republishing(row: Json, headers: Pairs | None = None) -> list[tuple[str, str]]:
    """Return the headers that publish a message of the log, or a dead letter, again with all that it was sent with.

    `headers` are sent instead of its own. It waits in no queue and comes from no schedule. Raise `InvalidValue` when a
    header that is kept was redacted.
    """
    own = headers_of(row, "header") if headers is None else headers
    _refuse_redacted(value for _, value in own)
    sent = [*forwarded(own), ("Upstash-Method", text(row, "method") or "POST")]
    named = (("maxRetries", "Retries"), ("retryDelayExpression", "Retry-Delay"), ("flowControlKey", "Flow-Control-Key"))
    sent += [(f"Upstash-{name}", text(row, field)) for field, name in named if text(row, field)]
    if number(row, "timeout"):
        sent.append(("Upstash-Timeout", f"{number(row, 'timeout') / 1000:g}s"))
    labels = [str(label) for label in items(row, "labels")] or [text(row, "label")]
    if any(labels):
        sent.append(("Upstash-Label", ",".join(labels)))
    limits = [f"{name}={number(row, name)}" for name in ("parallelism", "rate", "period") if number(row, name)]
    if text(row, "flowControlKey") and limits:
        sent.append(("Upstash-Flow-Control-Value", ", ".join(limits)))
    for field, name in (("callback", "Callback"), ("failureCallback", "Failure-Callback")):
        if text(row, field):
            told = headers_of(row, f"{field}Headers") or headers_of(row, f"{field}Header")
            sent.append((f"Upstash-{name}", text(row, field)))
            sent += [(f"Upstash-{name}-{key.removeprefix('Upstash-')}", value) for key, value in told]
    return sent


def headers_of_schedule(row: Json) -> list[tuple[str, str]]:
    """Return the publish headers that a schedule stands for, without its cron, its id and its queue."""
    named = {header: text(row, name) for header, name in _HEADERS.items()}
    named |= {f"Upstash-{name.title()}": f"{row[name]}s" for name in ("delay", "timeout") if row.get(name)}
    named["Upstash-Label"] = ",".join(str(label) for label in items(row, "labels"))
    limits = [f"{name}={row[name]}" for name in ("parallelism", "rate") if row.get(name)]
    if text(row, "flowControlKey") and limits:
        period = [f"period={row['period']}s"] if row.get("period") else []
        named["Upstash-Flow-Control-Value"] = ", ".join([*limits, *period])
    else:
        named.pop("Upstash-Flow-Control-Key")
    headers = [*forwarded(headers_of(row, "header")), *((name, value) for name, value in named.items() if value)]
    for kind, name in (("Callback", "callbackHeader"), ("Failure-Callback", "failureCallbackHeader")):
        for header, value in headers_of(row, name):
            rest = header[len(OWN) :] if header.lower().startswith(OWN) else f"Forward-{header}"
            headers.append((f"Upstash-{kind}-{rest}", value))
    return headers


_HEADERS = {
    "Upstash-Method": "method", "Upstash-Retries": "retries", "Upstash-Retry-Delay": "retryDelayExpression",
    "Upstash-Callback": "callback", "Upstash-Failure-Callback": "failureCallback",
    "Upstash-Flow-Control-Key": "flowControlKey",
}  # fmt: skip


def _kept_body(row: Json, body: bytes) -> bytes:
    _refuse_redacted([text(row, "body")])
    return body


def _refuse_redacted(values: Iterable[str]) -> None:
    if any(value.startswith(REDACTED) for value in values):
        raise InvalidValue(
            "a part of this message was redacted when it was published: it cannot be sent again as it was"
        )
