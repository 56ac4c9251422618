"""What becomes of a message once an attempt ended. Pure: an answer in, a verdict out."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime

from idioteque.errors import InvalidValue
from idioteque.server.expression import delay_ms
from idioteque.server.model import Answer, Lease
from idioteque.transport import Headers

BACKOFF_MAX_S = 86_400
RETRY_AFTER_MAX_S = 86_400  # a destination that asks for more is not listened to
RETRY_AFTER_HEADERS = ("retry-after", "x-ratelimit-reset", "x-ratelimit-reset-requests", "x-ratelimit-reset-tokens")

_NUMBER = re.compile(r"[0-9]{1,12}(?:\.[0-9]{1,9})?")
_GO_DURATION = re.compile(r"(?:[0-9]{1,12}(?:\.[0-9]{1,9})?(?:ns|us|µs|μs|ms|s|m|h))+")
_GO_PART = re.compile(r"([0-9.]+)(ns|us|µs|μs|ms|s|m|h)")
_GO_UNITS_S: Mapping[str, float] = {
    "ns": 1e-9, "us": 1e-6, "µs": 1e-6, "μs": 1e-6, "ms": 1e-3, "s": 1, "m": 60, "h": 3600,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Delivered:
    """The destination said yes."""


@dataclass(frozen=True, slots=True)
class Retried:
    """The message is tried again at a time."""

    due_at_ms: int


@dataclass(frozen=True, slots=True)
class Buried:
    """No attempt follows: the retries are used up, or the destination said that none would help."""


Verdict = Delivered | Retried | Buried

DELIVERED = Delivered()


def after_attempt(lease: Lease, answer: Answer, now_ms: int) -> Verdict:
    """Decide what becomes of a message once an attempt ended; status 0 means that no answer came."""
    if 200 <= answer.status < 300:
        return DELIVERED
    if lease.retried >= lease.message.options.retries_max or says_stop(answer.headers):
        return Buried()
    return Retried(now_ms + wait_ms(lease, answer.headers, now_ms))


def wait_ms(lease: Lease, headers: Headers, now_ms: int) -> int:
    """Return the time until the next attempt: the destination's wish, else the message's expression, else the curve."""
    asked_s = retry_after_s(headers, now_ms)
    if asked_s is not None:
        return round(asked_s * 1000)
    expression = lease.message.options.retry_delay
    if expression is not None:
        try:
            return delay_ms(expression, lease.retried)
        except InvalidValue:
            pass  # it had a value for the first retry and has none for this: the curve serves
    return backoff_s(lease.retried + 1) * 1000


def backoff_s(retry: int) -> int:
    """Return the wait before the n-th retry, in whole seconds: 12, 148, 1808, 22026, then a day."""
    return min(BACKOFF_MAX_S, int(math.exp(min(2.5 * retry, 12.0))))


def says_stop(headers: Headers) -> bool:
    """Whether a failed answer forbids further attempts; the status is 489 by convention, the header decides."""
    return any(name.lower() == "upstash-nonretryable-error" and value.lower() == "true" for name, value in headers)


def retry_after_s(headers: Headers, now_ms: int) -> float | None:
    """Return how long the destination asks to be left alone, or None when it does not, or asks for over a day."""
    given = {name.lower(): value.strip() for name, value in reversed(headers)}
    for name in RETRY_AFTER_HEADERS:
        if name in given:
            asked_s = _wait_s(given[name], now_ms)
            if asked_s is not None and asked_s <= RETRY_AFTER_MAX_S:
                return asked_s
    return None


def _wait_s(text: str, now_ms: int) -> float | None:
    """Read seconds, a duration as Go writes it, or an HTTP date."""
    if _NUMBER.fullmatch(text):
        return float(text)
    if len(text) <= 64 and _GO_DURATION.fullmatch(text):
        parts = _GO_PART.findall(text)
        return sum(float(number) * _GO_UNITS_S[unit] for number, unit in parts)
    try:
        moment = parsedate_to_datetime(text)
        return max(0.0, moment.timestamp() - now_ms / 1000)
    except (TypeError, ValueError, OverflowError, IndexError):
        return None
