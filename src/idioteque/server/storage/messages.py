"""What messages are: stored once, read by id, deleted when nothing refers to them any more."""

from __future__ import annotations

import functools
import json
from collections.abc import Iterable
from typing import TypedDict, cast

from idioteque.database import Row, SqlValue, Transaction
from idioteque.server.model import DIRECT, Accepted, Callback, Draft, FlowControl, Message, Options, Source, States
from idioteque.server.network import split_url
from idioteque.server.storage.numbers import first_number, next_number
from idioteque.transport import Headers

MESSAGE_COLUMNS = (
    "m.id, m.url, m.body, m.created_at_ms, m.not_before_ms, m.caller_ip, m.method, m.headers, m.retries_max, m.labels,"
    " m.options, m.schedule_id, m.topic_name, m.endpoint_name, m.queue_name"
)
MESSAGE_COLUMN_COUNT = MESSAGE_COLUMNS.count(",") + 1

INSERT = f"""INSERT INTO messages
    (number, begun, id, created_at_ms, not_before_ms, url, host, path, method, headers, body, retries_max, caller_ip,
    labels, options, schedule_id, topic_name, endpoint_name, queue_name, flow_key)
    VALUES ({next_number("messages")}, :begun, :id, :created_at_ms, :not_before_ms, :url, :host, :path, :method,
    :headers, :body, :retries_max, :caller_ip, :labels, :options, :schedule_id, :topic_name, :endpoint_name,
    :queue_name, :flow_key)"""  # noqa: S608 - a constant


class _Extras(TypedDict, total=False):
    """The options that most messages leave at their defaults."""

    timeout_s: int
    retry_delay: str
    callback: tuple[str, list[tuple[str, str]]]
    failure_callback: tuple[str, list[tuple[str, str]]]
    redact: list[str]
    flow: tuple[str, int | None, int | None, int]


def insert_messages(tx: Transaction, messages: Iterable[tuple[Message, States]]) -> None:
    """Store messages, each with the states that begin with it: those are its first entries in the log."""
    tx.execute_many(INSERT, [_parameters(message, begun) for message, begun in messages])


def claim_deduplication(tx: Transaction, draft: Draft, message_id: str, now_ms: int, window_ms: int) -> Accepted | None:
    """Note that a deduplication id belongs to this message; return the one it belongs to already, if any."""
    if draft.deduplication_key is None:
        return None
    # Take the id when it is new or its window has passed; otherwise no row comes back.
    taken = tx.execute(
        """INSERT INTO deduplications (id, message_id, url, expires_at_ms)
        VALUES (:id, :message_id, :url, :expires_at_ms)
        ON CONFLICT (id) DO UPDATE SET message_id = excluded.message_id, url = excluded.url,
            expires_at_ms = excluded.expires_at_ms WHERE deduplications.expires_at_ms <= :now_ms
        RETURNING message_id""",
        {
            "id": draft.deduplication_key,
            "message_id": message_id,
            "url": draft.url,
            "expires_at_ms": now_ms + window_ms,
            "now_ms": now_ms,
        },
    )
    if taken:
        return None
    # Whose message carries the id?
    rows = tx.execute("SELECT message_id, url FROM deduplications WHERE id = :id", {"id": draft.deduplication_key})
    return Accepted(rows[0][0], rows[0][1], deduplicated=True)


def delete_deduplications_before(tx: Transaction, time_ms: int, count_max: int) -> int:
    """Forget deduplication ids whose window has passed; return how many."""
    # A bounded bite.
    rows = tx.execute(
        """DELETE FROM deduplications WHERE id IN (SELECT id FROM deduplications WHERE expires_at_ms <= :time_ms
        LIMIT :count_max) RETURNING 1""",
        {"time_ms": time_ms, "count_max": count_max},
    )
    return len(rows)


def find_message(tx: Transaction, message_id: str, delivered_since_ms: int, delivered_states: int) -> Message | None:
    """Return a message that is pending, or was delivered since then; None for every other."""
    # A message has a delivery until it ends; how it ended stands in the log.
    rows = tx.execute(
        f"""SELECT {MESSAGE_COLUMNS} FROM messages m WHERE m.id = :id AND (
            EXISTS (SELECT 1 FROM deliveries d WHERE d.leased IN (0, 1) AND d.message_id = m.id)
            OR EXISTS (SELECT 1 FROM logs l WHERE l.message_id = m.id AND l.states = :delivered
                       AND l.number >= :since))""",  # noqa: S608 - a constant
        {"id": message_id, "delivered": delivered_states, "since": first_number(delivered_since_ms)},
    )
    return message_of(rows[0]) if rows else None


def message_of(row: Row) -> Message:
    """Return the message in the first columns of a row."""
    id_, url, body, created_at_ms, not_before_ms, caller_ip, method, headers, retries_max, labels, extras = row[:11]
    schedule_id, topic_name, endpoint_name, queue = row[11:15]
    options = Options(
        method=method,
        headers=headers_of(headers),
        retries_max=retries_max,
        labels=tuple(labels.split(",")[1:-1]) if labels else (),
    )
    if extras:
        options = _with_extras(options, cast(_Extras, json.loads(extras)))
    source = Source(schedule_id, topic_name, endpoint_name) if schedule_id or topic_name else DIRECT
    return Message(id_, url, body, options, created_at_ms, not_before_ms, caller_ip, source, queue)


def headers_text(headers: Headers) -> str:
    """Return headers as HTTP writes them; values hold no line breaks."""
    return "\r\n".join([f"{name}: {value}" for name, value in headers])


@functools.lru_cache(maxsize=256)
def _shared_text(headers: tuple[tuple[str, str], ...]) -> str:
    """Return `headers_text` of headers that many messages have."""
    return headers_text(headers)


def headers_of(text: str) -> Headers:
    """Return the headers that `headers_text` wrote."""
    if not text:
        return ()
    return tuple([(name, value) for name, _, value in (line.partition(": ") for line in text.split("\r\n"))])


def _parameters(message: Message, begun: States) -> tuple[SqlValue, ...]:
    options, source, parts = message.options, message.source, split_url(message.url)
    return (
        first_number(message.created_at_ms),
        int(begun),
        message.id,
        message.created_at_ms,
        message.not_before_ms,
        message.url,
        parts.host,
        parts.path,
        options.method,
        _shared_text(tuple(options.headers)),
        message.body,
        options.retries_max,
        message.caller_ip,
        f",{','.join(options.labels)}," if options.labels else "",
        _extras_text(options),
        source.schedule_id,
        source.url_group,
        source.endpoint,
        message.queue,
        None if options.flow is None else options.flow.key,
    )


def _extras_text(options: Options) -> str | None:
    if (
        options.timeout_s is None
        and options.retry_delay is None
        and options.callback is None
        and options.failure_callback is None
        and not options.redact
        and options.flow is None
    ):
        return None
    extras = _Extras()
    if options.timeout_s is not None:
        extras["timeout_s"] = options.timeout_s
    if options.retry_delay is not None:
        extras["retry_delay"] = options.retry_delay
    if options.callback is not None:
        extras["callback"] = (options.callback.url, list(options.callback.headers))
    if options.failure_callback is not None:
        extras["failure_callback"] = (options.failure_callback.url, list(options.failure_callback.headers))
    if options.redact:
        extras["redact"] = list(options.redact)
    if (flow := options.flow) is not None:
        extras["flow"] = (flow.key, flow.parallelism, flow.rate, flow.period_s)
    return json.dumps(extras, separators=(",", ":"))


def _with_extras(options: Options, extras: _Extras) -> Options:
    return Options(
        method=options.method,
        headers=options.headers,
        retries_max=options.retries_max,
        labels=options.labels,
        timeout_s=extras.get("timeout_s"),
        retry_delay=extras.get("retry_delay"),
        callback=_callback(extras.get("callback")),
        failure_callback=_callback(extras.get("failure_callback")),
        redact=tuple(extras.get("redact", ())),
        flow=FlowControl(*extras["flow"]) if "flow" in extras else None,
    )


def _callback(stored: tuple[str, list[tuple[str, str]]] | None) -> Callback | None:
    return Callback(stored[0], tuple((name, value) for name, value in stored[1])) if stored else None
