"""Cron expressions: what they mean, in zones too, and what is refused."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from idioteque.cron import Cron, parse_cron
from idioteque.errors import InvalidValue

MINUTE_MS = 60_000


def at(text: str, zone: str = "UTC", *, fold: int = 0) -> int:
    return int(datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(zone), fold=fold).timestamp()) * 1000


def shown(ms: int | None) -> str:
    assert ms is not None
    return datetime.fromtimestamp(ms / 1000, tz=UTC).strftime("%Y-%m-%d %H:%M")


def ticks(cron: Cron, after_ms: int, count: int) -> list[str]:
    result: list[str] = []
    for _ in range(count):
        following_ms = cron.next_ms(after_ms)
        assert following_ms is not None
        after_ms = following_ms
        result.append(shown(after_ms))
    return result


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("* * * * *", ["2026-03-01 00:01", "2026-03-01 00:02"]),
        ("*/20 * * * *", ["2026-03-01 00:20", "2026-03-01 00:40"]),
        ("  5\t4  * * * ", ["2026-03-01 04:05", "2026-03-02 04:05"]),
        ("0 0 1,15 * *", ["2026-03-15 00:00", "2026-04-01 00:00"]),
        ("0 9-17/4 * * mon-fri", ["2026-03-02 09:00", "2026-03-02 13:00"]),
        ("0 0 * * 7", ["2026-03-08 00:00", "2026-03-15 00:00"]),
        ("0 0 13 * 5", ["2026-03-06 00:00", "2026-03-13 00:00"]),
        ("0 0 29 2 *", ["2028-02-29 00:00", "2032-02-29 00:00"]),
        ("0 12 L * *", ["2026-03-31 12:00", "2026-04-30 12:00"]),
        ("30 8 * JAN SUN#1", ["2027-01-03 08:30", "2028-01-02 08:30"]),
        ("@hourly", ["2026-03-01 01:00", "2026-03-01 02:00"]),
        ("@Daily", ["2026-03-02 00:00", "2026-03-03 00:00"]),
        ("@midnight", ["2026-03-02 00:00", "2026-03-03 00:00"]),
        ("@weekly", ["2026-03-08 00:00", "2026-03-15 00:00"]),
        ("@monthly", ["2026-04-01 00:00", "2026-05-01 00:00"]),
        ("@yearly", ["2027-01-01 00:00", "2028-01-01 00:00"]),
        ("CRON_TZ=Asia/Kolkata 0 9 * * *", ["2026-03-01 03:30", "2026-03-02 03:30"]),
        ("TZ=America/New_York @daily", ["2026-03-01 05:00", "2026-03-02 05:00"]),
        ("CRON_TZ=UTC * * * * *", ["2026-03-01 00:01", "2026-03-01 00:02"]),
    ],
)
def test_an_expression_is_due_at_its_ticks(expression: str, expected: list[str]) -> None:
    assert ticks(parse_cron(expression), at("2026-03-01T00:00"), 2) == expected


def test_the_tick_after_a_moment_lies_behind_it() -> None:
    cron = parse_cron("0 * * * *")
    assert shown(cron.next_ms(at("2026-03-01T00:00") - 1)) == "2026-03-01 00:00"
    assert shown(cron.next_ms(at("2026-03-01T00:00"))) == "2026-03-01 01:00"
    assert shown(cron.next_ms(at("2026-03-01T00:00") + 1)) == "2026-03-01 01:00"


REFUSED = """
*
* * * *
* * * * * *
0 0 0 1 1 *
*/0 * * * *
60 * * * *
* 24 * * *
* * 0 * *
* * 32 * *
* * * 13 *
* * * * 8
5-1 * * * *
a * * * *
-1 * * * *
1- * * * *
, * * * *
* * * * MON#6
* * L/x * *
* * * * 5L/2
* * * * 1#2/3
① * * * *
٣ * * * *
* * * * ²L
0 0 31 2 *
0 0 30 FEB *
0 0 31 4,6,9,11 *
@every 5m
@reboot
@
* * * * *; DROP TABLE schedules
__import__('os') * * * *
CRON_TZ=UTC
CRON_TZ= * * * * *
CRON_TZ=../../etc/passwd * * * * *
CRON_TZ=/etc/passwd * * * * *
CRON_TZ=Europe/../UTC * * * * *
CRON_TZ=Mars/Base * * * * *
CRON_TZ=europe/paris * * * * *
CRON_TZ=localtime * * * * *
CRON_TZ=zones * * * * *
CRON_TZ=Europe * * * * *
XTZ=UTC * * * * *
CRON_TZ=UTC TZ=UTC * * * * *
CRON_TZ=UTC * * * * * *
""".strip().splitlines()
LONG = ["1," * 5000 + "1 * * * *", "*" + " " * 300 + "* * * *"]


@pytest.mark.parametrize("expression", ["", " ", "* * * * *\n", "*\n* * * *", "0\x00 * * * *", *LONG, *REFUSED])
def test_anything_else_is_refused_with_the_rule(expression: str) -> None:
    with pytest.raises(InvalidValue, match=r"cron expression|time zone"):
        parse_cron(expression)


@pytest.mark.parametrize("expression", ["0 0 */29 2 MON#5", "0 0 */30 4,6,9,11 MON#5", "0 0 29 2 */7#5", "* * * 2 1#5"])
def test_an_expression_without_a_date_in_sight_has_no_tick(expression: str) -> None:
    try:
        cron = parse_cron(expression)
    except InvalidValue:
        return
    assert cron.next_ms(at("2026-03-01T00:00")) is None


def test_a_time_that_is_skipped_falls_to_the_end_of_the_gap_and_one_that_comes_twice_is_due_once() -> None:
    cron = parse_cron("CRON_TZ=Europe/Berlin 30 2 * * *")
    assert ticks(cron, at("2026-03-28T12:00"), 2) == ["2026-03-29 01:00", "2026-03-30 00:30"]
    assert ticks(cron, at("2026-10-24T12:00"), 2) == ["2026-10-25 00:30", "2026-10-26 01:30"]
    # Asked in the second of the two hours, it is not due again.
    assert shown(cron.next_ms(at("2026-10-25T02:15", "Europe/Berlin", fold=1))) == "2026-10-26 01:30"


def test_a_frequency_follows_the_hours_that_really_pass() -> None:
    cron = parse_cron("CRON_TZ=Europe/Berlin */30 * * * *")
    for day in ("2026-03-29", "2026-10-25"):
        begin_ms = at(f"{day}T00:00")
        expected = [shown(begin_ms + 30 * MINUTE_MS * step) for step in range(1, 9)]
        assert ticks(cron, begin_ms, 8) == expected


def test_a_day_that_begins_with_a_gap_has_its_midnight_job() -> None:
    # In Cairo, 24 April 2026 begins at 01:00.
    cron = parse_cron("CRON_TZ=Africa/Cairo 0 0 * * *")
    assert ticks(cron, at("2026-04-22T23:00"), 2) == ["2026-04-23 22:00", "2026-04-24 21:00"]


@pytest.mark.parametrize("year", [2038, 2096, 2099])
def test_far_years_are_reached(year: int) -> None:
    assert shown(parse_cron("0 0 1 1 *").next_ms(at(f"{year}-06-01T00:00"))) == f"{year + 1}-01-01 00:00"
    leap = parse_cron("0 0 29 2 *").next_ms(at(f"{year}-06-01T00:00"))
    assert shown(leap) == {2038: "2040-02-29 00:00", 2096: "2104-02-29 00:00", 2099: "2104-02-29 00:00"}[year]


FIELD = st.sampled_from(["*", "*/2", "*/7", "0", "30", "1-5", "0,30", "2", "3,4", "0-23/6", "15"])
EXPRESSION = st.tuples(
    FIELD,
    FIELD.filter(lambda field: field not in ("30", "0,30")),
    st.sampled_from(["*", "*/2", "1", "25-31", "L"]),
    st.sampled_from(["*", "3,10", "4"]),
    st.sampled_from(["*", "SUN", "1-5"]),
).map(" ".join)
ZONES = st.sampled_from(
    ["UTC", "Europe/Berlin", "America/New_York", "Africa/Cairo", "Australia/Lord_Howe", "Asia/Gaza"]
)
CHANGES = st.sampled_from(["2026-03-08T06", "2026-03-29T00", "2026-04-24T00", "2026-10-25T00", "2026-04-04T14"])


@settings(max_examples=300, deadline=None)
@given(EXPRESSION, ZONES, CHANGES, st.integers(0, 5 * 24 * 60), st.integers(1, 3 * 24 * 60))
def test_the_latest_tick_is_the_last_of_those_that_come_one_after_the_other(
    expression: str, zone: str, change: str, before: int, span: int
) -> None:
    cron = parse_cron(f"CRON_TZ={zone} {expression}")
    begin_ms = at(f"{change}:00") - before * MINUTE_MS + 17
    until_ms = begin_ms + span * MINUTE_MS
    first_ms = cron.next_ms(begin_ms)
    if first_ms is None or first_ms > until_ms:
        return
    expected_ms = first_ms
    while (following_ms := cron.next_ms(expected_ms)) is not None and following_ms <= until_ms:
        assert following_ms > expected_ms
        assert following_ms % MINUTE_MS == 0
        expected_ms = following_ms
    assert cron.latest_ms(first_ms, until_ms) == expected_ms


@settings(max_examples=500, deadline=None)
@given(st.text("0123456789*/,-#LW ATZ=@MONFEB", max_size=40) | st.text(max_size=30))
def test_any_text_is_a_cron_or_is_refused(text: str) -> None:
    try:
        cron = parse_cron(text)
    except InvalidValue:
        return
    following_ms = cron.next_ms(at("2026-03-01T00:00"))
    assert following_ms is None or following_ms > at("2026-03-01T00:00")


@pytest.mark.parametrize(
    "expression",
    ["59 23 31 12 *", "0 0 29 2 *", "0-59/59 */23 29 2 */6", "1," * 120 + "1 1 1 1 *", "CRON_TZ=Asia/Gaza 0 0 29 2 *"],
)
def test_a_next_tick_costs_no_more_than_a_millisecond(expression: str) -> None:
    cron = parse_cron(expression)
    costs_s: list[float] = []
    for _ in range(20):
        begun_s = time.perf_counter()
        cron.next_ms(at("2028-03-01T00:00"))
        costs_s.append(time.perf_counter() - begun_s)
    assert min(costs_s) < 0.001
