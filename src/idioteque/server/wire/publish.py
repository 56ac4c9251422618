"""What clients ask to publish, as drafts of messages. Every refusal names the value and the rule."""

from __future__ import annotations

import functools
import hashlib
import json
import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import cast

from idioteque.server.config import ServerConfig
from idioteque.server.errors import BadRequest
from idioteque.server.model import Callback, Draft, Message, Options
from idioteque.server.network import NetworkPolicy
from idioteque.server.wire.headers import HeaderReading, Pairs, Parsed
from idioteque.transport import Headers

TELEMETRY = "upstash-telemetry-"
OPTIONS_CACHED = 2048
DEDUPLICATION_ID_LENGTH_MAX = 512
CALLBACK_DEPTH_MAX = 4

DELAYING = frozenset(("upstash-delay", "upstash-not-before"))

_DEDUPLICATION_ID = re.compile(r"[!-9;-~]+(?: +[!-9;-~]+)*")


@dataclass(slots=True, unsafe_hash=True)
class Order:
    """What a client asks to publish, unread: `destination` is a URL or the name of a URL group."""

    destination: str
    headers: Pairs = ()
    body: bytes = b""
    caller_ip: str = ""
    queue: str | None = None


class PublishReader:
    """Reads what a client wants published. Header sets that come again and again are parsed once."""

    def __init__(self, config: ServerConfig, policy: NetworkPolicy) -> None:
        self._config = config
        self._policy = policy
        self._parsed = functools.lru_cache(OPTIONS_CACHED)(self._parse)

    def draft(self, order: Order) -> Draft:
        """Return the draft of an order whose destination is a URL; raise `Refused` for a bad one."""
        url, body = self._policy.checked_url(order.destination), order.body
        chosen: list[tuple[str, str]] = []
        deduplication_id: str | None = None
        for pair in order.headers:
            name = pair[0]
            if name == "upstash-deduplication-id":
                deduplication_id = checked_deduplication_id(pair[1])
            elif _configures(name):
                chosen.append(pair)
        parsed = self._parsed(tuple(chosen))
        options = parsed.options
        if parsed.forward_all:
            options = replace(options, headers=self._merged(options.headers, order.headers))
        if deduplication_id is None and parsed.content_based:
            deduplication_id = content_key(url, body, options.headers)
        if order.queue is not None:
            _check_callbacks(options)
        return Draft(url, body, options, deduplication_id, order.caller_ip, queue=order.queue)

    def options(self, headers: Pairs) -> Options:
        """Return the options that publish headers give; raise `Refused` for a bad one."""
        return self._parsed(tuple(pair for pair in headers if _configures(pair[0]))).options

    def lasting(self, headers: Pairs) -> Pairs:
        """Return those headers that a publish is repeated with; what `Upstash-Header-Forward` means is spelled out."""
        kept = tuple(pair for pair in headers if _configures(pair[0]) and not pair[0].startswith(TELEMETRY))
        parsed = self._parsed(kept)
        if not parsed.forward_all:
            return kept
        merged = self._merged(parsed.options.headers, headers)[len(parsed.options.headers) :]
        named = tuple(pair for pair in kept if pair[0] != "upstash-header-forward")
        return (*named, *((f"upstash-forward-{name.lower()}", value) for name, value in merged))

    def callback_draft(self, callback: Callback, source: Message, body: bytes) -> Draft:
        """Return the draft of the message that reports on `source`; its retries are the source's unless it has own."""
        parsed = self._parsed((*_lowered(callback.headers), ("content-type", "application/json")))
        options = parsed.options
        if not any(name.lower() == "upstash-retries" for name, _ in callback.headers):
            options = replace(options, retries_max=source.options.retries_max)
        return Draft(callback.url, body, options, None, source.caller_ip)

    def _parse(self, pairs: tuple[tuple[str, str], ...], depth: int = 0) -> Parsed:
        reading = HeaderReading(self._config)
        for name, value in pairs:
            reading.take(name, value)
        return reading.finished(lambda url, headers: self._callback(url, headers, depth))

    def _callback(self, url: str, headers: Headers, depth: int) -> Callback:
        if depth >= CALLBACK_DEPTH_MAX:
            raise BadRequest(f"callbacks of callbacks may be nested {CALLBACK_DEPTH_MAX} deep")
        try:
            url = self._policy.checked_url(url)
        except BadRequest as error:
            raise BadRequest(str(error).replace("destination", "callback", 1)) from None
        self._parse(_lowered(headers), depth + 1)
        return Callback(url, headers)

    def _merged(self, explicit: Headers, headers: Pairs) -> Headers:
        """Return all headers of a webhook's request, and over them those that were named explicitly."""
        named = {name.lower() for name, _ in explicit}
        reading = HeaderReading(self._config)
        for name, value in headers:
            if name != "authorization" and not name.startswith("upstash-") and name not in named:
                reading.forward(name, value)
        return (*explicit, *reading.headers.items())


def batch_order(item: object, caller_ip: str = "") -> Order:
    """Return the order that one element of a batch's array is; raise `BadRequest` for a malformed one."""
    if not isinstance(item, dict):
        raise BadRequest("a batch item must be an object with destination, headers and body")
    fields = cast(dict[str, object], item)
    destination, body, queue = fields.get("destination"), fields.get("body"), fields.get("queue")
    if not isinstance(destination, str):
        raise BadRequest("invalid destination url: a batch item's destination must be a string")
    if queue is not None and not isinstance(queue, str):
        raise BadRequest("a batch item's queue must be a string or null")
    if body is not None and not isinstance(body, str):
        raise BadRequest("a batch item's body must be a string or null")
    try:
        raw = body.encode() if body else b""
    except UnicodeEncodeError:
        raise BadRequest("a batch item's body contains half of a surrogate pair") from None
    return Order(destination, _item_headers(fields.get("headers")), raw, caller_ip, queue)


def with_query(headers: Pairs, configuration: Pairs) -> Pairs:
    """Add the configuration that a query carried; a header of the same name wins."""
    present = {name for name, _ in headers}
    return [*headers, *(pair for pair in configuration if pair[0] not in present)]


def content_key(url: str, body: bytes, headers: Headers) -> str:
    """Return the deduplication id that destination, body and headers give together."""
    digest = hashlib.sha256(json.dumps([url, sorted(headers)]).encode())
    digest.update(hashlib.sha256(body).digest())
    return f"content:{digest.hexdigest()}"  # the colon: no client's own id is the same


def _check_callbacks(options: Options) -> None:
    """Refuse delayed callbacks of what goes into a queue: they would hold up all messages behind it."""
    for callback in (options.callback, options.failure_callback):
        if callback is not None and any(name.lower() in DELAYING for name, _ in callback.headers):
            raise BadRequest("a message in a queue may have no delayed callback: the queue would wait for it")


def _configures(name: str) -> bool:
    return name.startswith("upstash-") or name == "content-type"


def _lowered(headers: Headers) -> tuple[tuple[str, str], ...]:
    return tuple((name.lower(), value) for name, value in headers)


def _item_headers(headers: object) -> Pairs:
    if headers is None:
        return ()
    if not isinstance(headers, dict):
        raise BadRequest("a batch item's headers must be an object of strings")
    pairs: list[tuple[str, str]] = []
    for name, value in cast(dict[str, object], headers).items():
        if not isinstance(value, str):
            raise BadRequest(f"a batch item's header {name[:100]!r} must be a string")
        pairs.append((name.lower(), value))
    return pairs


def checked_deduplication_id(value: str) -> str:
    """Return a deduplication id as a client may give it, or raise `BadRequest` naming the rule."""
    if len(value) > DEDUPLICATION_ID_LENGTH_MAX or _DEDUPLICATION_ID.fullmatch(value) is None:
        raise BadRequest(
            f"invalid Upstash-Deduplication-Id {value[:100]!r}: must be 1 to {DEDUPLICATION_ID_LENGTH_MAX} printable "
            "ASCII characters and no colon"
        )
    return value


def latin_pairs(headers: Iterable[tuple[bytes, bytes]]) -> Pairs:
    """Return an ASGI request's headers as text."""
    return [(name.decode("latin-1"), value.decode("latin-1")) for name, value in headers]
