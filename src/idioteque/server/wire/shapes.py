"""Records as the protocol's JSON: messages, dead letters, log entries, callback bodies. What is unset is left out."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Sequence
from json.encoder import encode_basestring_ascii as quoted
from typing import cast

from idioteque.server.model import Accepted, Answer, DeadLetter, LogEntry, Message, Options, States
from idioteque.server.wire.flow import flow_fields
from idioteque.transport import Headers

Json = dict[str, object]

LOGGED_AS: dict[States, str] = {state: cast(str, state.name) for state in States}


def accepted_json(accepted: Accepted) -> str:
    """Return the reply to a publish; written by hand, since it is the hottest of all."""
    flag = ',"deduplicated":true' if accepted.deduplicated else ""
    return f'{{"messageId":"{accepted.message_id}","url":{quoted(accepted.url)}{flag}}}'


def group_accepted_json(accepted: Sequence[Accepted]) -> str:
    """Return the reply to a publish to a URL group: one object for each endpoint."""
    return f"[{','.join(accepted_json(each) for each in accepted)}]"


def message_json(message: Message) -> Json:
    """Return a message as `/v2/messages/{id}` shows it."""
    options = message.options
    shown: Json = {
        "messageId": message.id,
        "url": message.url,
        "method": options.method,
        "header": header_map(shown_headers(options.headers, options.redact)),
        "maxRetries": options.retries_max,
        "notBefore": message.not_before_ms,
        "createdAt": message.created_at_ms,
        **body_fields("body", message.body, redacted="body" in options.redact),
        **option_fields(options),
    }
    if options.callback is not None:
        shown["callbackHeader"] = header_map(options.callback.headers)
    if options.failure_callback is not None:
        shown["failureCallbackHeader"] = header_map(options.failure_callback.headers)
    if options.retry_delay is not None:
        shown["retryDelayExpression"] = options.retry_delay
    if message.caller_ip:
        shown["callerIP"] = message.caller_ip
    return {**shown, **_source_fields(message)}


def dead_letter_json(letter: DeadLetter) -> Json:
    """Return a dead letter: its message, and the last answer."""
    shown = {
        **message_json(letter.message),
        "dlqId": letter.id,
        "responseStatus": letter.answer.status,
        "responseHeader": header_map(letter.answer.headers),
        **body_fields("responseBody", letter.answer.body),
    }
    if letter.answer.error is not None:
        shown["error"] = letter.answer.error
    return shown


def log_json(entry: LogEntry) -> Json:
    """Return a log entry; where the SDKs and the documentation spell a name differently, both are there."""
    message, options = entry.message, entry.message.options
    shown: Json = {
        "time": entry.time_ms,
        "messageId": message.id,
        "state": LOGGED_AS[entry.state],
        "url": message.url,
        "method": options.method,
        "header": header_map(shown_headers(options.headers, options.redact)),
        "maxRetries": options.retries_max,
        **option_fields(options),
    }
    if message.body:
        shown["body"] = placeholder(message.body) if "body" in options.redact else _base64(message.body)
    if options.callback is not None:
        shown["callbackHeaders"] = header_map(options.callback.headers)
    if options.failure_callback is not None:
        shown["failureCallbackHeaders"] = header_map(options.failure_callback.headers)
    if options.retry_delay is not None:
        shown["retryDelayExpr"] = shown["retryDelayExpression"] = options.retry_delay
    if options.timeout_s is not None:
        shown["timeout"] = options.timeout_s * 1000
    if message.caller_ip:
        shown["callerIP"] = message.caller_ip
    shown.update(_source_fields(message))
    if entry.next_at_ms is not None:
        shown["nextDeliveryTime"] = entry.next_at_ms
    if entry.answer is not None:
        shown.update(_answer_fields(entry.answer, entry.state))
    return shown


def callback_body(message: Message, retried: int, answer: Answer, dead_letter_id: str | None) -> bytes:
    """Return what a callback reports of one attempt; `dead_letter_id` in failure callbacks only."""
    shown: Json = {
        "status": answer.status,
        "header": header_map(answer.headers),
        "body": _base64(answer.body),
        "retried": retried,
        "maxRetries": message.options.retries_max,
        "sourceMessageId": message.id,
        "url": message.url,
        "method": message.options.method,
        "sourceHeader": header_map(message.options.headers),
        "sourceBody": _base64(message.body),
        "notBefore": message.not_before_ms,
        "createdAt": message.created_at_ms,
        **_source_fields(message),
    }
    if message.caller_ip:
        shown["callerIP"] = message.caller_ip
    if dead_letter_id is not None:
        shown["dlqId"] = dead_letter_id
    if answer.error is not None:
        shown["error"] = answer.error
    return json.dumps(shown, separators=(",", ":")).encode()


def placeholder(value: bytes) -> str:
    """Return what stands for a redacted value; equal values have equal ones."""
    return f"REDACTED:{hashlib.sha256(value).hexdigest()}"


def shown_headers(headers: Headers, redact: Sequence[str]) -> Headers:
    """Return headers as the API may show them, see `Options.redact`."""
    if not redact:
        return headers
    return [
        (name, placeholder(value.encode()) if "header" in redact or f"header[{name.lower()}]" in redact else value)
        for name, value in headers
    ]


def header_map(headers: Headers) -> dict[str, list[str]]:
    """Return headers by canonical name, each with all its values."""
    shown: dict[str, list[str]] = {}
    for name, value in headers:
        shown.setdefault("-".join(part[:1].upper() + part[1:] for part in name.split("-")), []).append(value)
    return shown


def option_fields(options: Options) -> Json:
    """Return the options that every kind of record shows under the same names."""
    shown: Json = {}
    if options.callback is not None:
        shown["callback"] = options.callback.url
    if options.failure_callback is not None:
        shown["failureCallback"] = options.failure_callback.url
    if options.labels:
        shown["label"] = options.labels[0]
        shown["labels"] = list(options.labels)
    shown.update(flow_fields(options.flow))
    return shown


def _source_fields(message: Message) -> Json:
    source = message.source
    named = (
        ("queueName", message.queue),
        ("scheduleId", source.schedule_id),
        ("topicName", source.url_group),
        ("endpointName", source.endpoint),
    )
    return {name: value for name, value in named if value is not None}


def _answer_fields(answer: Answer, state: States) -> Json:
    shown: Json = {"responseStatus": answer.status}
    if answer.body:
        shown["responseBody"] = _base64(answer.body)
    if answer.error is not None:
        shown["error"] = answer.error
    if state is States.ERROR:
        shown["responseHeader"] = shown["responseHeaders"] = header_map(answer.headers)
    return shown


def body_fields(name: str, body: bytes, *, redacted: bool = False) -> Json:
    """Return a body as the field that suits it: as text, or in base64 when it is none; nothing when it is empty."""
    if not body:
        return {}
    if redacted:
        return {name: placeholder(body)}
    try:
        return {name: body.decode()}
    except UnicodeDecodeError:
        return {f"{name}Base64": _base64(body)}


def _base64(body: bytes) -> str:
    return base64.b64encode(body).decode()
