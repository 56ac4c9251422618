"""One set of publish headers, read into the options of a message. Every refusal names the value and the rule."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from idioteque.durations import parse_text
from idioteque.errors import InvalidValue
from idioteque.server.config import ServerConfig
from idioteque.server.errors import BadRequest, QuotaExceeded
from idioteque.server.expression import checked_expression
from idioteque.server.model import Callback, Options
from idioteque.server.wire.flow import read_flow_control
from idioteque.transport import Headers

Pairs = Sequence[tuple[str, str]]
"""Headers as they came, their names in lower case."""

METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE")

NEVER_FORWARDED = frozenset(  # of the connection, or set by the server itself
    (
        "connection", "keep-alive", "proxy-authenticate", "proxy-authorization", "proxy-connection", "te", "trailer",
        "transfer-encoding", "upgrade", "host", "content-length", "content-type", "expect", "accept-encoding",
        "user-agent", "upstash-signature", "upstash-message-id", "upstash-retried", "upstash-topic-name",
        "upstash-schedule-id", "upstash-caller-ip", "upstash-region",
    )
)  # fmt: skip

UNSUPPORTED = frozenset(("queue-name", "cron"))  # of schedules only

_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_VALUE = re.compile(r"[\t -~]*")
_LABEL = re.compile(r"[A-Za-z0-9._-]{1,256}")
_INTEGER = re.compile(r"[0-9]{1,12}")
_REDACTED_FIELD = re.compile(r"body|headers?(?:\[ *([!#$%&'*+.^_`|~0-9A-Za-z-]+) *\])?", re.IGNORECASE)
_TRUTHS: Mapping[str, bool] = {"true": True, "1": True, "false": False, "0": False, "": False}


@dataclass(frozen=True, slots=True)
class Parsed:
    """Options, and the two settings that concern the publish rather than the message."""

    options: Options
    content_based: bool
    forward_all: bool


class HeaderReading:
    """Collects what a header set says: `take` each header, then ask for what was `finished`."""

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
        """Read one header, its name in lower case."""
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
        """Have a header sent on under this name, unless the server or the connection sets it."""
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

    def finished(self, callback: Callable[[str, Headers], Callback]) -> Parsed:
        """Return what was read; `callback` makes a callback of its URL and the headers that configure it."""
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
        return Parsed(options, self._content_based, self._forward_all)

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


_SETTERS: Mapping[str, Callable[[HeaderReading, str], None]] = {
    "method": HeaderReading.set_method,
    "delay": HeaderReading.set_delay,
    "not-before": HeaderReading.set_not_before,
    "retries": HeaderReading.set_retries,
    "retry-delay": HeaderReading.set_retry_delay,
    "timeout": HeaderReading.set_timeout,
    "label": HeaderReading.set_labels,
    "redact-fields": HeaderReading.set_redact,
    "callback": HeaderReading.set_callback,
    "failure-callback": HeaderReading.set_failure_callback,
    "flow-control-key": HeaderReading.set_flow_key,
    "flow-control-value": HeaderReading.set_flow_value,
    "content-based-deduplication": HeaderReading.set_content_based,
    "header-forward": HeaderReading.set_header_forward,
}


@functools.lru_cache(maxsize=4096)
def canonical(name: str) -> str:
    """Return a header name as the protocol shows it: `Content-Type`."""
    return "-".join(part[:1].upper() + part[1:].lower() for part in name.split("-"))


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
