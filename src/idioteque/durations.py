"""Durations as people write them: seconds as a number, a `timedelta`, or text like `90s`, `1h30m`, `3d`."""

from __future__ import annotations

import math
import re
from datetime import timedelta

from idioteque.errors import InvalidValue

Duration = float | int | str | timedelta
"""Seconds as a number, a `timedelta`, or text of `<integer><unit>` parts with the units s, m, h, d."""

_UNITS_S = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
_TEXT = re.compile(r"(?:[0-9]{1,12}[smhd])+")
_PART = re.compile(r"([0-9]+)([smhd])")


def parse_text(text: str) -> int | None:
    """Return the seconds that a text like `1d10h30m` names, or None when it is not of that form."""
    if len(text) > 64 or _TEXT.fullmatch(text) is None:
        return None
    return sum(int(number) * _UNITS_S[unit] for number, unit in _PART.findall(text))


def seconds(value: Duration, what: str = "duration") -> float:
    """Return a duration in seconds; raise `InvalidValue` for what is negative, not finite or not a duration."""
    if isinstance(value, timedelta):
        result = value.total_seconds()
    elif isinstance(value, str):
        parsed = parse_text(value.strip())
        if parsed is None:
            raise InvalidValue(f'{what} {value!r} is not a duration; write seconds, or text like "90s", "1h30m", "3d"')
        result = float(parsed)
    else:
        result = _number(value, what)
    if not math.isfinite(result) or result < 0:
        raise InvalidValue(f"{what} must be zero or more and finite, not {value!r}")
    return result


def _number(value: object, what: str) -> float:
    try:
        if isinstance(value, int | float) and not isinstance(value, bool):
            return float(value)
    except OverflowError:
        pass
    raise InvalidValue(f"{what} must be a duration, not {str(value)[:100]!r}")
