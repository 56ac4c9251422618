"""When to try again: the pauses, their bounds, and what ends it at once."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from idioteque import InvalidValue, NonRetryableError, Retry, RetryAfter, StepFailed
from idioteque.retry import DELAY_MAX_S

ERROR = ValueError("no")


def still(value: float, _fraction: float) -> float:
    return value


def test_the_pauses_grow_by_the_factor_up_to_their_limit() -> None:
    policy = Retry(max_attempts=10, initial_delay_s=2, factor=3, max_delay_s=100)
    assert [policy.after(ERROR, n, still) for n in range(1, 7)] == [2, 6, 18, 54, 100, 100]


def test_attempts_count_the_first_one() -> None:
    assert Retry(max_attempts=1).after(ERROR, 1) is None
    assert Retry(max_attempts=2).after(ERROR, 1) is not None
    assert Retry(max_attempts=2).after(ERROR, 2) is None


def test_no_pause_is_a_pause_of_zero() -> None:
    assert Retry(initial_delay_s=0).after(ERROR, 1) == 0
    assert Retry(max_delay_s=0).after(ERROR, 1) == 0


def test_only_what_the_policy_names_is_tried_again() -> None:
    policy = Retry(retry_on=(KeyError, OSError))
    assert policy.after(KeyError("x"), 1) is not None
    assert policy.after(ConnectionError(), 1) is not None, "a subclass"
    assert policy.after(ERROR, 1) is None
    assert policy.after(KeyboardInterrupt(), 1) is None


@pytest.mark.parametrize("error", [NonRetryableError("never"), StepFailed("key", "ValueError", "no")])
def test_what_ends_it_at_once(error: Exception) -> None:
    assert Retry(max_attempts=9).after(error, 1) is None


@pytest.mark.parametrize(
    ("seconds", "pause"),
    [(90, 90), (0, 0), (-5, 0), (math.inf, DELAY_MAX_S), (1e300, DELAY_MAX_S), (math.nan, 0), (0.25, 0.25)],
)
def test_retry_after_sets_the_pause_within_bounds(seconds: float, pause: float) -> None:
    assert Retry(max_delay_s=1, retry_on=()).after(RetryAfter(seconds), 1) == pause


def test_retry_after_counts_as_an_attempt() -> None:
    assert Retry(max_attempts=3).after(RetryAfter(1), 3) is None


@given(
    attempts=st.integers(1, 10_000),
    initial=st.floats(0, DELAY_MAX_S),
    factor=st.floats(1, 1e300),
    limit=st.floats(0, DELAY_MAX_S),
    jitter=st.floats(0, 1),
)
def test_no_pause_is_negative_or_beyond_the_limit(
    attempts: int, initial: float, factor: float, limit: float, jitter: float
) -> None:
    policy = Retry(attempts + 1, initial_delay_s=initial, factor=factor, max_delay_s=limit, jitter=jitter)
    pause = policy.after(ERROR, attempts)
    assert pause is not None
    assert 0 <= pause <= limit


def test_jitter_moves_a_pause_by_a_share_of_itself() -> None:
    policy = Retry(initial_delay_s=100, jitter=0.1)
    pauses = [policy.after(ERROR, 1) for _ in range(500)]
    assert all(pause is not None and 90 <= pause <= 110 for pause in pauses)
    assert len(set(pauses)) > 400


@pytest.mark.parametrize(
    "options",
    [
        {"max_attempts": 0},
        {"max_attempts": -1},
        {"initial_delay_s": -0.1},
        {"initial_delay_s": math.nan},
        {"initial_delay_s": math.inf},
        {"max_delay_s": math.nan},
        {"max_delay_s": math.inf},
        {"max_delay_s": -1},
        {"factor": 0.5},
        {"factor": math.nan},
        {"jitter": 1.5},
        {"jitter": math.nan},
        {"retry_on": ValueError},
        {"retry_on": ("ValueError",)},
        {"retry_on": (int,)},
        {"retry_on": (BaseException,)},
    ],
)
def test_a_policy_that_makes_no_sense_is_refused(options: dict[str, Any]) -> None:
    with pytest.raises(InvalidValue):
        Retry(**options)
