"""Flow control in the protocol's headers, queries and JSON. Every refusal names the value and the rule."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from urllib.parse import parse_qsl

from idioteque.durations import parse_text
from idioteque.server.errors import BadRequest
from idioteque.server.model import FlowControl, FlowKey
from idioteque.server.wire.target import TOKEN_PARAMETER

PERIOD_MAX_S = 7 * 86_400

_KEY = re.compile(r"[A-Za-z0-9._/-]{1,512}")
_COUNT = re.compile(r"[0-9]{1,9}")
_TRUTHS: Mapping[str, bool] = {"true": True, "false": False}


@dataclass(frozen=True, slots=True)
class Pin:
    """Limits that are to hold whatever messages say; None for what is not pinned."""

    parallelism: int | None = None
    rate: int | None = None
    period_s: int | None = None


def checked_key(key: str) -> str:
    """Return a flow-control key, or raise `BadRequest`; a slash is allowed, since paths can hold it."""
    if _KEY.fullmatch(key) is None:
        raise BadRequest(
            f"invalid Upstash-Flow-Control-Key {key[:100]!r}: must match [A-Za-z0-9._-]+, at most 512 characters"
        )
    return key


def read_flow_control(key: str | None, value: str | None) -> FlowControl | None:
    """Return what the two headers of a publish say, which need each other; None without them.

    The value is like `parallelism=5, rate=10, period=1m`, in any order, with one of the first two at least.
    """
    if not key and not value:
        return None
    if not key:
        raise BadRequest("Upstash-Flow-Control-Value needs Upstash-Flow-Control-Key")
    if not value:
        raise BadRequest("Upstash-Flow-Control-Key needs Upstash-Flow-Control-Value, like parallelism=5, rate=10")
    parts = _parts(value)
    parallelism, rate, period = (parts.get(name) for name in ("parallelism", "rate", "period"))
    if parallelism is None and rate is None:
        raise BadRequest(f"invalid Upstash-Flow-Control-Value {value[:100]!r}: must have a parallelism, a rate or both")
    return FlowControl(
        checked_key(key),
        None if parallelism is None else _count("parallelism", parallelism),
        None if rate is None else _count("rate", rate),
        1 if period is None else _period_s(period),
    )


def read_pin(query: str) -> Pin:
    """Return the limits in a query; raise `BadRequest` when there is none, or a bad one."""
    given = _query(query, ("parallelism", "rate", "period"))
    if not given:
        raise BadRequest("name what to pin: parallelism, rate, period, or several of them")
    return Pin(
        _count("parallelism", given["parallelism"]) if "parallelism" in given else None,
        _count("rate", given["rate"]) if "rate" in given else None,
        _period_s(given["period"]) if "period" in given else None,
    )


def read_unpin(query: str) -> tuple[bool, bool]:
    """Return whether the parallelism, and whether the rate, is no longer to be pinned."""
    given = _query(query, ("parallelism", "rate"))
    if not given:
        raise BadRequest("name what to unpin: parallelism=true, rate=true, or both")
    return _truth("parallelism", given.get("parallelism", "false")), _truth("rate", given.get("rate", "false"))


def read_search(query: str) -> str:
    """Return the text that listed keys contain; an empty one finds all."""
    return _query(query, ("search",)).get("search", "")


def flow_key_json(flow: FlowKey, now_ms: int) -> dict[str, object]:
    """Return a key as `/v2/flowControl/{key}` shows it; 0 stands for no limit, since the SDKs want numbers."""
    limits = flow.limits
    return {
        "flowControlKey": limits.key,
        "waitListSize": flow.waiting,
        "parallelismMax": limits.parallelism or 0,
        "parallelismCount": flow.running,
        "rateMax": limits.rate or 0,
        "rateCount": flow.rate_used if flow.is_in_period(now_ms) else 0,
        "ratePeriod": limits.period_s,
        "ratePeriodStart": flow.period_began_ms // 1000,
        "isPaused": flow.paused,
        "isPinnedParallelism": flow.pinned_parallelism,
        "isPinnedRate": flow.pinned_rate,
    }


def flow_fields(flow: FlowControl | None) -> dict[str, object]:
    """Return the fields by which a message shows its flow control; a limit that it does not set is left out."""
    if flow is None:
        return {}
    named = (("flowControlKey", flow.key), ("parallelism", flow.parallelism), ("rate", flow.rate))
    return {**{name: value for name, value in named if value is not None}, "period": flow.period_s}


def _parts(value: str) -> dict[str, str]:
    parts: dict[str, str] = {}
    for part in value.split(","):
        name, equals, text = (each.strip() for each in part.partition("="))
        if not equals or name not in ("parallelism", "rate", "period") or name in parts:
            raise BadRequest(
                f"invalid Upstash-Flow-Control-Value {value[:100]!r}: must be like parallelism=5, rate=10, period=1m"
            )
        parts[name] = text
    return parts


def _query(query: str, allowed: Sequence[str]) -> dict[str, str]:
    given: dict[str, str] = {}
    for name, value in parse_qsl(query, keep_blank_values=True):
        if name.lower() == TOKEN_PARAMETER:
            continue
        if name not in allowed:
            raise BadRequest(f"unknown parameter {name[:100]!r}; known are {', '.join(allowed)}")
        given[name] = value
    return given


def _count(name: str, text: str) -> int:
    if _COUNT.fullmatch(text) is None or int(text) < 1:
        raise BadRequest(f"invalid {name} {text[:100]!r}: must be an integer of 1 or more")
    return int(text)


def _period_s(text: str) -> int:
    period_s = int(text) if _COUNT.fullmatch(text) else parse_text(text)
    if period_s is None or not 1 <= period_s <= PERIOD_MAX_S:
        raise BadRequest(f'invalid period {text[:100]!r}: write seconds, or a duration like "30s" or "1h", up to "7d"')
    return period_s


def _truth(name: str, text: str) -> bool:
    if text.lower() not in _TRUTHS:
        raise BadRequest(f"invalid {name} {text[:100]!r}: must be true or false")
    return _TRUTHS[text.lower()]
