"""When a schedule is due: five-field cron expressions in a time zone. Pure: text and a moment in, a moment out.

Daylight saving, as Debian's cron has it. An expression that names its minutes and hours (neither field begins with a
star) means wall-clock times: one that is skipped falls to the first moment after the gap, and one that comes twice is
due the first time only. With a star in either field it means a frequency: it is due in each hour that really passes,
so twice in an hour that comes twice, and not at all in one that is skipped.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, tzinfo
from importlib import resources
from zoneinfo import ZoneInfo

from cronsim import CronSim, CronSimError

from idioteque.errors import InvalidValue

LENGTH_MAX = 256
SEARCHED_YEARS = 8  # 29 February is eight years away at most; what has no date by then is refused
STEPS_MAX = 4000  # of a search around a change of the clocks: minutes of more than two days

NICKNAMES: Mapping[str, str] = {
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
    "@monthly": "0 0 1 * *",
    "@weekly": "0 0 * * 0",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@hourly": "0 * * * *",
}

_ZONED = re.compile(r"(?:CRON_TZ|TZ)=(\S*)[ \t]+(.*)")
_FIELD = re.compile(r"[0-9A-Za-z*,/#-]+")
_FIELD_COUNT = 5


class _Search(CronSim):
    """cronsim, which looks fifty years ahead, within a bound."""

    def advance_month(self) -> None:
        super().advance_month()
        if self.dt.year > self.year_max:
            raise StopIteration

    def __init__(self, fields: str, moment: datetime, *, reverse: bool = False) -> None:
        self.year_max = moment.year + SEARCHED_YEARS
        super().__init__(fields, moment, reverse=reverse)


@dataclass(frozen=True, slots=True)
class Cron:
    """A parsed expression. Its moments, *ticks*, are in milliseconds since the epoch, and whole minutes."""

    fields: str
    zone: tzinfo = UTC

    def next_ms(self, after_ms: int) -> int | None:
        """Return the first tick after a moment, or None when there is none within `SEARCHED_YEARS`."""
        search = _Search(self.fields, _moment(after_ms, self.zone))
        # In an hour that comes twice, cronsim begins with ticks that lie before the moment.
        return next((tick_ms for tick_ms in _bounded(search) if tick_ms > after_ms), None)

    def latest_ms(self, first_ms: int, until_ms: int) -> int:
        """Return the latest tick up to a moment, where `first_ms` is an earlier one that is known to be a tick."""
        latest_ms = max(first_ms, self._rough_latest_ms(until_ms) or first_ms)
        # Backwards, cronsim may overlook ticks in an hour that comes twice.
        for _ in range(STEPS_MAX):
            following_ms = self.next_ms(latest_ms)
            if following_ms is None or following_ms > until_ms:
                break
            latest_ms = following_ms
        return latest_ms

    def _rough_latest_ms(self, until_ms: int) -> int | None:
        search = _Search(self.fields, _moment(until_ms, self.zone) + timedelta(seconds=1), reverse=True)
        return next((tick_ms for tick_ms in _bounded(search) if tick_ms <= until_ms), None)


def parse_cron(text: str) -> Cron:
    """Return the cron of `min hour day month weekday` or `@daily`, perhaps behind `CRON_TZ=Europe/Paris `.

    Raise `InvalidValue` for anything else. Whether it has a next tick is not looked at.
    """
    stripped = text.strip(" \t")
    if len(stripped) > LENGTH_MAX:
        raise InvalidValue(f"cron expression {stripped[:60]!r}… is longer than {LENGTH_MAX} characters")
    zone: tzinfo = UTC
    fields = stripped
    if (zoned := _ZONED.fullmatch(stripped)) is not None:
        zone, fields = _zone(zoned[1]), zoned[2]
    fields = NICKNAMES.get(fields.strip(" \t").lower(), fields)
    parts = re.split(r"[ \t]+", fields.strip(" \t"))
    if len(parts) != _FIELD_COUNT:
        raise InvalidValue(
            f"cron expression {stripped!r} must have five fields (minute hour day month weekday) or be one of "
            f"{', '.join(NICKNAMES)}"
        )
    for part in parts:
        if _FIELD.fullmatch(part) is None:
            raise InvalidValue(f"cron expression {stripped!r}: {part!r} is not a field")
    fields = " ".join(parts)
    try:
        _Search(fields, datetime(2000, 1, 1, tzinfo=UTC))
    except CronSimError as error:
        raise InvalidValue(f"cron expression {stripped!r}: {error}") from None
    except (AssertionError, ValueError, TypeError):
        raise InvalidValue(f"cron expression {stripped!r} has a field that means nothing") from None
    return Cron(fields, zone)


def _zone(name: str) -> tzinfo:
    if name not in zone_names():
        raise InvalidValue(f"time zone {name!r} is not a name of the IANA database, like Europe/Paris or UTC")
    return ZoneInfo(name)


@functools.cache
def zone_names() -> frozenset[str]:
    """Return the zones that may be named: an allow list, since elsewhere a name becomes a path."""
    return frozenset(resources.files("tzdata").joinpath("zones").read_text(encoding="ascii").split())


def _bounded(search: CronSim) -> Iterator[int]:
    return (int(tick.timestamp()) * 1000 for _, tick in zip(range(STEPS_MAX), search, strict=False))


def _moment(ms: int, zone: tzinfo) -> datetime:
    return datetime.fromtimestamp(ms // 1000, tz=zone)
