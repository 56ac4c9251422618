"""Figures as people read them."""

from __future__ import annotations

import pytest

from idioteque.console.rendering import duration, many, size
from idioteque.errors import counted


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (812, "812 B"),
        (1000, "0.977 KiB"),
        (1024, "1 KiB"),
        (208_896, "204 KiB"),
        (1_048_000, "0.999 MiB"),
        (4_486_000, "4.28 MiB"),
        (3 * 2**30, "3 GiB"),
        (1000 * 2**30, "0.977 TiB"),
        (5000 * 2**40, "5,000 TiB"),
    ],
)
def test_a_size_takes_three_digits(count: int, text: str) -> None:
    assert size(count) == text


@pytest.mark.parametrize(
    ("value", "text"), [(0, "0"), (7, "7"), (1.25, "1.2"), (123.0, "123"), (1_234_567, "1,234,567")]
)
def test_a_number_has_its_thousands_apart(value: float, text: str) -> None:
    assert many(value) == text


@pytest.mark.parametrize(("count", "text"), [(0, "0 runs"), (1, "1 run"), (2000, "2,000 runs")])
def test_one_is_not_several(count: int, text: str) -> None:
    assert counted(count, "run") == text


@pytest.mark.parametrize(
    ("ms", "text"), [(None, "–"), (999, "999 ms"), (1240, "1.24 s"), (59_999, "60 s"), (192_000, "3 m 12 s")]
)
def test_a_duration_has_two_units_at_most(ms: int | None, text: str) -> None:
    assert duration(ms) == text
