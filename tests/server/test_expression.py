"""The retry-delay expression: what it computes, and what it refuses without harm."""

from __future__ import annotations

import contextlib
import re
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from idioteque.errors import InvalidValue
from idioteque.server.expression import DELAY_MAX_MS, checked_expression, delay_ms


@pytest.mark.parametrize(
    ("text", "delays"),
    [
        ("1000", [1000, 1000, 1000]),
        ("1000 * (1 + retried)", [1000, 2000, 3000]),
        ("pow(2, retried) * 1000", [1000, 2000, 4000]),
        ("max(1000, pow(2, retried) * 100)", [1000, 1000, 1000]),
        ("min(pow(3, retried) * 1000, 300000)", [1000, 3000, 9000]),
        ("7000 * retried", [0, 7000, 14000]),
        ("2 + 3 * 4 - 6 / 2", [11, 11, 11]),
        ("10 - 3 - 2", [5, 5, 5]),
        ("7 % 4", [3, 3, 3]),
        ("--5", [5, 5, 5]),
        ("+(-5) * -1", [5, 5, 5]),
        ("sqrt(16) + abs(-3) + floor(1.9) + ceil(1.1) + round(1.5) + round(2.4)", [14, 14, 14]),
        ("exp(0)", [1, 1, 1]),
        (".5 * 10 + 1e3 + 2.", [1007, 1007, 1007]),
        ("-1000", [0, 0, 0]),
        ("1e300", [DELAY_MAX_MS] * 3),
    ],
)
def test_it_computes_milliseconds_within_a_day(text: str, delays: list[int]) -> None:
    assert [delay_ms(text, retried) for retried in range(3)] == delays


@pytest.mark.parametrize(
    "text",
    ["", " ", "1 2", "1 +", "* 1", "(1", "1)", "pow(2)", "pow(1, 2, 3)", "min()", "sqrt", "retried(1)", "x", "Retried",
     "1 ** 2", "1 // 2", "__import__('os')", "().__class__", "1;2", "1\n+1", "0x10", "1_000", "\u0663", "\u00bd", "1e",
     "1e9999", "nan", "inf", "1e308*10", "sqrt(-1)", "0/0", "1/0", "1/retried", "5 % 0", "pow(0, -1)", "exp(1000)",
     "pow(pow(pow(9,9),9),9)", "(" * 10_000, "(" * 17 + "1" + ")" * 17, "-" * 17 + "1", "1" * 257, "1+" * 127 + "1",
     "1,2", "floor(1e400)"],
)  # fmt: skip
def test_it_refuses_what_has_no_value(text: str) -> None:
    with pytest.raises(InvalidValue, match="invalid retry delay expression"):
        checked_expression(text)


@given(st.text(alphabet="0123456789.eE+-*/%(), \tretiadpowsqbxflncmu_", max_size=300), st.integers(0, 1000))
def test_any_text_gives_a_delay_or_a_refusal_at_once(text: str, retried: int) -> None:
    begun = time.perf_counter()
    with contextlib.suppress(InvalidValue):
        assert 0 <= delay_ms(text, retried) <= DELAY_MAX_MS
    assert time.perf_counter() - begun < 0.1


NUMBERS = st.one_of(st.integers(0, 1000).map(str), st.floats(0, 1000).map(lambda number: f"{number:.3f}"))


def _wider(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    return st.one_of(
        st.tuples(inner, st.sampled_from([" + ", "-", "*", " / "]), inner).map(lambda parts: f"({''.join(parts)})"),
        inner.map(lambda text: f"-{text}"),
        st.tuples(st.sampled_from(["min", "max"]), inner, inner).map(lambda call: f"{call[0]}({call[1]}, {call[2]})"),
        inner.map(lambda text: f"abs({text})"),
    )


@given(st.recursive(st.one_of(NUMBERS, st.just("retried")), _wider, max_leaves=12), st.integers(0, 20))
def test_it_agrees_with_python_where_both_have_a_value(text: str, retried: int) -> None:
    floats = re.sub(r"(?<![.\d])(\d+)(?![.\d])", r"\1.0", text)
    try:
        expected = eval(floats, {"__builtins__": {}}, {"retried": float(retried), "min": min, "max": max, "abs": abs})
        given_ms = delay_ms(text, retried)
    except (ZeroDivisionError, InvalidValue):
        return
    assert given_ms == pytest.approx(min(max(expected, 0), DELAY_MAX_MS), abs=1)


@pytest.mark.parametrize(
    "text", ["pow(pow(pow(9,9),9),9)", "(" * 10_000, "1+" * 127 + "1", "sqrt(" * 15 + "2" + ")" * 15]
)
def test_the_worst_of_them_takes_less_than_a_millisecond(text: str) -> None:
    def once() -> float:
        begun = time.perf_counter()
        with contextlib.suppress(InvalidValue):
            delay_ms(text, 0)
        return time.perf_counter() - begun

    assert min(once() for _ in range(20)) < 0.001
