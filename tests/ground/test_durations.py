"""Durations as people write them."""

from __future__ import annotations

import math
from datetime import timedelta
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from idioteque.durations import parse_text, seconds
from idioteque.errors import InvalidValue


@pytest.mark.parametrize(
    ("written", "meant_s"),
    [
        (0, 0),
        (1.5, 1.5),
        (90, 90),
        ("90s", 90),
        ("1h30m", 5400),
        ("1h30m3s", 5403),
        ("3d", 259_200),
        ("1d10h30m", 124_200),
        (" 5m ", 300),
        ("0s", 0),
        ("007s", 7),
        (timedelta(minutes=2), 120),
        (timedelta(milliseconds=1), 0.001),
    ],
)
def test_a_duration_is_a_number_of_seconds_a_timedelta_or_text(
    written: float | str | timedelta, meant_s: float
) -> None:
    assert seconds(written) == meant_s


@pytest.mark.parametrize(
    "written",
    [
        "",
        " ",
        "s",
        "1",
        "1.5s",
        "-1s",
        "+1s",
        "1 s",
        "1w",
        "1S",
        "1h 30m",
        "1s;",
        "1s\n1s",
        "٣s",
        "1e3s",
        "9" * 13 + "s",
        "1s" * 40,
        -1,
        -0.001,
        math.nan,
        math.inf,
        -math.inf,
        10**400,
        True,
        False,
        None,
        [],
        {},
        b"1s",
        Decimal("NaN"),
        timedelta(seconds=-1),
    ],
)
def test_anything_else_is_refused_and_named(written: object) -> None:
    with pytest.raises(InvalidValue, match="delay"):
        seconds(written, "delay")  # type: ignore[arg-type]


@given(st.text(max_size=80))
def test_any_text_is_read_or_refused(text: str) -> None:
    read = parse_text(text)
    assert read is None or read >= 0


@given(st.lists(st.tuples(st.integers(0, 10**6), st.sampled_from("smhd")), min_size=1, max_size=5))
def test_the_parts_of_a_text_add_up(parts: list[tuple[int, str]]) -> None:
    units = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
    assert seconds("".join(f"{n}{unit}" for n, unit in parts)) == sum(n * units[unit] for n, unit in parts)
