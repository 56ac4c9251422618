"""Publish headers, and a batch's items, as drafts of messages. Every refusal names the value and the rule."""

from __future__ import annotations

import functools
import hashlib
import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import cast

from idioteque.durations import parse_text
from idioteque.errors import InvalidValue
from idioteque.server.config import ServerConfig
from idioteque.server.errors import BadRequest, QuotaExceeded
from idioteque.server.expression import checked_expression
from idioteque.server.model import Callback, Draft, Message, Options
from idioteque.server.network import NetworkPolicy
from idioteque.server.wire.flow import read_flow_control
from idioteque.transport import Headers

Pairs = Sequence[tuple[str, str]]
"""Headers as they came, their names in lower case."""

METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE")
TELEMETRY = "upstash-telemetry-"
OPTIONS_CACHED = 2048
DEDUPLICATION_ID_LENGTH_MAX = 512
CALLBACK_DEPTH_MAX = 4

NEVER_FORWARDED = frozenset(  # of the connection, or set by the server itself
    (
        "connection", "keep-alive", "proxy-authenticate", "proxy-authorization", "proxy-connection", "te", "trailer",
        "transfer-encoding", "upgrade", "host", "content-length", "content-type", "expect", "accept-encoding",
        "user-agent", "upstash-signature", "upstash-message-id", "upstash-retried", "upstash-topic-name",
        "upstash-schedule-id", "upstash-caller-ip", "upstash-region",
    )
)  # fmt: skip

UNSUPPORTED = frozenset(("queue-name", "cron"))  # of schedules only
DELAYING = frozenset(("upstash-delay", "upstash-not-before"))

_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_VALUE = re.compile(r"[\t -~]*")
_LABEL = re.compile(r"[A-Za-z0-9._-]{1,256}")
_DEDUPLICATION_ID = re.compile(r"[!-9;-~]+(?: +[!-9;-~]+)*")
_INTEGER = re.compile(r"[0-9]{1,12}")
_REDACTED_FIELD = re.compile(r"body|headers?(?:\[ *([!#$%&'*+.^_`|~0-9A-Za-z-]+) *\])?", re.IGNORECASE)
_TRUTHS: Mapping[str, bool] = {"true": True, "1": True, "false": False, "0": False, "": False}


@dataclass(frozen=True, slots=True)
class Order:
    """What a client asks to publish, unread: `destination` is a URL or the name of a URL group."""

    destination: str
    headers: Pairs = ()
    body: bytes = b""
    caller_ip: str = ""
    queue: str | None = None


@dataclass(frozen=True, slots=True)
class _Parsed:
    """Options, and the two settings that concern the publish rather than the message."""

    options: Options
    content_based: bool
    forward_all: bool


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
                deduplication_id = _checked_deduplication_id(pair[1])
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

    def _parse(self, pairs: tuple[tuple[str, str], ...], depth: int = 0) -> _Parsed:
        reading = _Reading(self._config)
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
        reading = _Reading(self._config)
        for name, value in headers:
            if name != "authorization" and not name.startswith("upstash-") and name not in named:
                reading.forward(name, value)
        return (*explicit, *reading.headers.items())


class _Reading:
    """Collects what one header set says."""

    def __init__(self, config: ServerConfig) -> None:
        self._config = config
        self._options = Options(retries_max=config.retries_default)
        self.headers: dict[str, str] = {}
        self._content_type: str | None = None
        self._callbacks: dict[str, str] = {}
        self._callback_headers: dict[str, dict[str, str]] = {"callback": {}, "failure-callback": {}}
        self._content_based = False
        self._forward_all = False
        self._forwarded_bytes = 0
        self._flow_key: str | None = None
        self._flow_value: str | None = None

    def take(self, name: str, value: str) -> None:
        if _VALUE.fullmatch(value) is None:
            raise BadRequest(f"invalid {canonical(name)}: a header value may hold printable ASCII characters only")
        value = value.strip(" \t")
        if name == "content-type":
            self._content_type = value
            return
        rest = name.removeprefix("upstash-")
        if rest.startswith("forward-"):
            self.forward(rest.removeprefix("forward-"), value)
        elif rest.startswith("failure-callback-"):
            self._configure("failure-callback", rest, value)
        elif rest.startswith("callback-"):
            self._configure("callback", rest, value)
        elif rest in _SETTERS:
            _SETTERS[rest](self, value)
        elif rest in UNSUPPORTED and value:
            raise BadRequest(f"{canonical(name)} {value[:100]!r} is not supported by this server")

    def forward(self, name: str, value: str) -> None:
        if _TOKEN.fullmatch(name) is None:
            raise BadRequest(f"invalid forwarded header name {name[:100]!r}")
        if name in NEVER_FORWARDED:
            return
        name = canonical(name)
        self._forwarded_bytes += len(name) + len(value)
        self.headers[name] = f"{self.headers[name]}, {value}" if name in self.headers else value
        if len(self.headers) > self._config.forwarded_headers_max:
            raise BadRequest(f"more than {self._config.forwarded_headers_max} forwarded headers")
        if self._forwarded_bytes > self._config.forwarded_bytes_max:
            raise BadRequest(f"forwarded headers are longer than {self._config.forwarded_bytes_max} bytes together")

    def finished(self, callback: Callable[[str, Headers], Callback]) -> _Parsed:
        made: dict[str, Callback | None] = {}
        for kind, headers in self._callback_headers.items():
            url = self._callbacks.get(kind)
            made[kind] = callback(url, tuple(headers.items())) if url is not None else None
        first = () if self._content_type is None else (("Content-Type", self._content_type),)
        options = replace(
            self._options,
            headers=(*first, *self.headers.items()),
            callback=made["callback"],
            failure_callback=made["failure-callback"],
            flow=read_flow_control(self._flow_key, self._flow_value),
        )
        return _Parsed(options, self._content_based, self._forward_all)

    def _configure(self, kind: str, rest: str, value: str) -> None:
        """Strip the callback's prefix: what remains, after `Upstash-`, is a publish header of the callback message."""
        name = rest.removeprefix(f"{kind}-")
        if _TOKEN.fullmatch(name) is None:
            raise BadRequest(f"invalid header name {canonical(rest)[:100]!r}")
        self._callback_headers[kind][canonical(f"upstash-{name}")] = value

    def set_method(self, value: str) -> None:
        if value.upper() not in METHODS:
            raise BadRequest(f"invalid Upstash-Method {value[:100]!r}: must be one of {', '.join(METHODS)}")
        self._options = replace(self._options, method=value.upper())

    def set_delay(self, value: str) -> None:
        delay_s = _duration_s("Upstash-Delay", value)
        if delay_s > self._config.delay_max_s:
            raise QuotaExceeded(f"quota maxDelay exceeded, current limit: {self._config.delay_max_s}")
        self._options = replace(self._options, delay_ms=delay_s * 1000)

    def set_not_before(self, value: str) -> None:
        self._options = replace(self._options, not_before_ms=_integer("Upstash-Not-Before", value) * 1000)

    def set_retries(self, value: str) -> None:
        retries = _integer("Upstash-Retries", value)
        if retries > self._config.retries_max:
            raise QuotaExceeded(f"quota maxRetries exceeded, current limit: {self._config.retries_max}")
        self._options = replace(self._options, retries_max=retries)

    def set_retry_delay(self, value: str) -> None:
        try:
            self._options = replace(self._options, retry_delay=checked_expression(value))
        except InvalidValue as error:
            raise BadRequest(f"invalid Upstash-Retry-Delay: {error}") from None

    def set_timeout(self, value: str) -> None:
        timeout_s = int(value) if _INTEGER.fullmatch(value) else _duration_s("Upstash-Timeout", value)
        if timeout_s == 0:
            raise BadRequest(f"invalid Upstash-Timeout {value!r}: must be more than zero")
        self._options = replace(self._options, timeout_s=timeout_s)

    def set_labels(self, value: str) -> None:
        labels = tuple(label.strip(" ") for label in value.split(","))
        for label in labels:
            if _LABEL.fullmatch(label) is None:
                raise BadRequest(f"invalid Upstash-Label {label[:100]!r}: a label must match [A-Za-z0-9._-]+")
        self._options = replace(self._options, labels=labels)

    def set_redact(self, value: str) -> None:
        fields: dict[str, None] = {}
        for field in value.split(","):
            match = _REDACTED_FIELD.fullmatch(field.strip(" "))
            if match is None:
                raise BadRequest(
                    f"invalid Upstash-Redact-Fields {field.strip()[:100]!r}: must be body, header or header[Name]"
                )
            whole = "body" if match[0].lower() == "body" else "header"
            fields[f"header[{match[1].lower()}]" if match[1] else whole] = None
        self._options = replace(self._options, redact=tuple(fields))

    def set_callback(self, value: str) -> None:
        self._callbacks["callback"] = value

    def set_failure_callback(self, value: str) -> None:
        self._callbacks["failure-callback"] = value

    def set_flow_key(self, value: str) -> None:
        self._flow_key = value

    def set_flow_value(self, value: str) -> None:
        self._flow_value = value

    def set_content_based(self, value: str) -> None:
        self._content_based = _truth("Upstash-Content-Based-Deduplication", value)

    def set_header_forward(self, value: str) -> None:
        self._forward_all = _truth("Upstash-Header-Forward", value)


_SETTERS: Mapping[str, Callable[[_Reading, str], None]] = {
    "method": _Reading.set_method,
    "delay": _Reading.set_delay,
    "not-before": _Reading.set_not_before,
    "retries": _Reading.set_retries,
    "retry-delay": _Reading.set_retry_delay,
    "timeout": _Reading.set_timeout,
    "label": _Reading.set_labels,
    "redact-fields": _Reading.set_redact,
    "callback": _Reading.set_callback,
    "failure-callback": _Reading.set_failure_callback,
    "flow-control-key": _Reading.set_flow_key,
    "flow-control-value": _Reading.set_flow_value,
    "content-based-deduplication": _Reading.set_content_based,
    "header-forward": _Reading.set_header_forward,
}


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


@functools.lru_cache(maxsize=4096)
def canonical(name: str) -> str:
    """Return a header name as the protocol shows it: `Content-Type`."""
    return "-".join(part[:1].upper() + part[1:].lower() for part in name.split("-"))


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


def _checked_deduplication_id(value: str) -> str:
    if len(value) > DEDUPLICATION_ID_LENGTH_MAX or _DEDUPLICATION_ID.fullmatch(value) is None:
        raise BadRequest(
            f"invalid Upstash-Deduplication-Id {value[:100]!r}: must be 1 to {DEDUPLICATION_ID_LENGTH_MAX} printable "
            "ASCII characters and no colon"
        )
    return value


def _duration_s(name: str, value: str) -> int:
    parsed = parse_text(value)
    if parsed is None:
        raise BadRequest(f'invalid {name} {value[:100]!r}: write a duration like "10s", "1h30m" or "3d"')
    return parsed


def _integer(name: str, value: str) -> int:
    if _INTEGER.fullmatch(value) is None:
        raise BadRequest(f"invalid {name} {value[:100]!r}: must be an integer of zero or more")
    return int(value)


def _truth(name: str, value: str) -> bool:
    truth = _TRUTHS.get(value.lower())
    if truth is None:
        raise BadRequest(f"invalid {name} {value[:100]!r}: must be true or false")
    return truth


def latin_pairs(headers: Iterable[tuple[bytes, bytes]]) -> Pairs:
    """Return an ASGI request's headers as text."""
    return [(name.decode("latin-1"), value.decode("latin-1")) for name, value in headers]
