"""Outcomes that a run of a test begins with, as if deliveries before it had recorded them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from idioteque.engine.failures import failure, recorded_as
from idioteque.errors import IdiotequeError, StepFailed
from idioteque.paths import checked_key, path_of
from idioteque.store import Outcome, StepRecord
from idioteque.testing.movement import HarnessError
from idioteque.values import ANY


def history_of(given: Mapping[str, Any]) -> list[StepRecord]:
    """Return the history in which steps, by their paths as text, ended in this order.

    An exception is the failure of its step, anything else the plain JSON value of its result. Raise `HarnessError`
    that names the step when a path or a value can be none.
    """
    return [_step(text, value, seq) for seq, (text, value) in enumerate(given.items(), 1)]


def _step(text: str, value: Any, seq: int) -> StepRecord:
    try:
        path = tuple(checked_key(key) for key in path_of(text) or ("",))
        return StepRecord(path, _outcome(value), seq, 1, 0, 0, None, None)
    except IdiotequeError as error:
        raise HarnessError(f"given[{text!r}]: {error}") from error


def _outcome(value: Any) -> Outcome:
    if isinstance(value, StepFailed):
        return recorded_as(value)
    return failure(value) if isinstance(value, BaseException) else Outcome(True, ANY.encode(value))
