"""Pages as HTML and as JSON. What users sent becomes text: escaped, and what would turn or hide it made visible."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import asdict, is_dataclass
from datetime import UTC, datetime
from typing import cast
from urllib.parse import quote, urlencode

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from idioteque.cron import zone_names
from idioteque.errors import counted

_INVISIBLE = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff]")
_JSON_SUFFIX = ".json"
_SIZES = ("B", "KiB", "MiB", "GiB", "TiB")
_UNITS = (("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1000))


def visible(value: object) -> object:
    """Return a text with control characters, and those that turn the reading direction, written as escapes."""
    if isinstance(value, str) and not isinstance(value, Markup):
        return _INVISIBLE.sub(lambda match: f"\\u{ord(match[0]):04x}", value)
    return value


def when(at_ms: int | None) -> Markup:
    """Return a moment as `<time>`: how long ago once the page's script has seen it, UTC for whoever points at it."""
    if not at_ms:
        return Markup('<span class="none">–</span>')
    utc = utc_text(at_ms)
    return Markup('<time datetime="{}" title="{}">{}</time>').format(
        utc.replace(" ", "T", 1).replace(" UTC", "Z"), utc, utc[:19]
    )


def utc_text(at_ms: int) -> str:
    """Return a moment in UTC to the millisecond; the number itself when no calendar has it."""
    try:
        at = datetime.fromtimestamp(at_ms / 1000, UTC)
    except (OverflowError, OSError, ValueError):
        return str(at_ms)
    return f"{at:%Y-%m-%d %H:%M:%S}.{at_ms % 1000:03d} UTC"


def utc_minute(at_ms: int) -> str:
    """Return a moment in UTC to the minute, where nothing is more exact."""
    return f"{utc_text(at_ms)[:16]} UTC"


def duration(ms: int | None) -> str:
    """Return a span of time in two units at most: `340 ms`, `1.24 s`, `3 m 12 s`, `2 d 4 h`."""
    if ms is None:
        return "–"
    if ms < 1000:
        return f"{ms} ms"
    if ms < 60_000:
        return f"{ms / 1000:.3g} s"
    for place, (name, unit_ms) in enumerate(_UNITS):
        if ms >= unit_ms:
            rest = ms % unit_ms
            lower, lower_ms = _UNITS[place + 1] if place + 1 < len(_UNITS) else ("", 1)
            count = rest // lower_ms
            return f"{ms // unit_ms} {name}" + (f" {count} {lower}" if lower and count else "")
    return f"{ms} ms"


def size(count: int) -> str:
    """Return a number of bytes in three digits: `812 B`, `4.28 MiB`, `1.5 GiB`."""
    value, place = float(count), 0
    while value >= 999.5 and place < len(_SIZES) - 1:  # what would be written as 1,000
        value, place = value / 1024, place + 1
    return f"{value:.3g} {_SIZES[place]}" if value < 999.5 else f"{value:,.0f} {_SIZES[place]}"


def many(value: float) -> str:
    """Return a number with its thousands apart; a rate keeps one digit behind the point as long as it is small."""
    return f"{value:,.1f}" if isinstance(value, float) and value < 10 else f"{value:,.0f}"


def pretty(value: object) -> str:
    """Return a JSON value as people read it; a text that is JSON is taken for what it says."""
    if isinstance(value, bytes):
        value = value.decode(errors="replace")
    if isinstance(value, str):
        text = value
        try:
            value = cast(object, json.loads(text))
        except (ValueError, RecursionError):
            return text
    try:
        return json.dumps(value, indent=2, ensure_ascii=False)
    except RecursionError:
        return "(nested too deeply to be shown)"


def brief(id_: object) -> str:
    """Return an id so short that it fits into a table: ids begin with their time, so their ends tell them apart."""
    text = str(id_)
    return text if len(text) <= 20 else f"{text[:8]}…{text[-8:]}"


def segment(text: object) -> str:
    """Return a text as one segment of a path; one that ends like a JSON twin is written so that it is none."""
    quoted = quote(str(text), safe="")
    return quoted[: -len(_JSON_SUFFIX)] + "%2Ejson" if quoted.endswith(_JSON_SUFFIX) else quoted


def address(prefix: str, path: str, query: Mapping[str, object]) -> str:
    """Return a link inside the console; query values that are None or empty are left out."""
    pairs = [(name, str(value)) for name, value in query.items() if value not in (None, "")]
    return prefix + path + (f"?{urlencode(pairs)}" if pairs else "")


def twin(view: object) -> object:
    """Return a view as plain values for JSON."""
    return asdict(view) if is_dataclass(view) and not isinstance(view, type) else view


def mark(view: object) -> str:
    """Return what changes when, and only when, a view says something else."""
    return hashlib.sha256(repr(view).encode(errors="backslashreplace")).hexdigest()


def make_environment() -> Environment:
    """Return the templates: everything is escaped, and a missing name is an error."""
    environment = Environment(
        loader=PackageLoader("idioteque.console"),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=visible,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    filters: dict[str, Callable[..., object]] = {
        "when": when, "utc": utc_minute, "duration": duration, "size": size, "segment": segment, "brief": brief,
        "many": many, "counted": counted,
    }  # fmt: skip
    for name, function in filters.items():
        environment.filters[name] = function  # pyright: ignore[reportUnknownMemberType] - the library's own
    environment.globals["zones"] = lambda: sorted(zone_names())  # pyright: ignore - the library's own
    return environment
