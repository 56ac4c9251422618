"""How an exception is written down as an outcome, and raised again from it, the same on every replay."""

from __future__ import annotations

import json
import os
import traceback
from pathlib import Path
from typing import cast

from idioteque.errors import (
    DuplicateStepKey,
    IdiotequeError,
    ResultNotSerializable,
    StepFailed,
    StepInterrupted,
    text_of,
)
from idioteque.function import Function
from idioteque.records import described
from idioteque.store import MAX_STRIKES, Outcome, Started
from idioteque.values import NotSerializable

TRACEBACK_LENGTH_MAX = 8000
MESSAGE_LENGTH_MAX = 4000

OURS = f"{Path(__file__).parents[1]}{os.sep}"
"""How the names of this package's files begin."""

FAILED, INTERRUPT, UNSERIALIZABLE = "failed", "interrupted", "unserializable"
_CLASSES: dict[str, type[StepFailed]] = {INTERRUPT: StepInterrupted, UNSERIALIZABLE: ResultNotSerializable}


class NoJsonForm(Exception):
    """Names why a result cannot be stored."""


def failure(error: BaseException, kind: str = FAILED) -> Outcome:
    """Return the outcome that records an exception: its class name, its text and where it came from."""
    if isinstance(error, StepFailed):
        name, kind = type(error).__name__, FAILED
    else:
        name = "ResultNotSerializable" if kind == UNSERIALIZABLE else type(error).__name__
    return _outcome(kind, name, text_of(error)[:MESSAGE_LENGTH_MAX], _trace(error)[-TRACEBACK_LENGTH_MAX:])


def _trace(error: BaseException) -> str:
    """Return the traceback of an exception; without its causes when something about it cannot be read."""
    try:
        return "".join(_trace_of(error).format())
    except Exception:  # somebody's property that raises, a SyntaxError whose line is no number
        frames = "".join(traceback.format_tb(error.__traceback__))
        return f"Traceback (most recent call last):\n{frames}{type(error).__name__}: {text_of(error)}\n"


def _trace_of(error: BaseException) -> traceback.TracebackException:
    """Return where an exception and its causes came from, in the code of who wrote the function.

    Our own frames around theirs say nothing to them. What stands below the last of theirs is left out too when it
    raised an error of ours, which says by itself what is wrong; any other may be a mistake of ours, so it is shown.
    """
    whole = traceback.TracebackException.from_exception(error)
    left = [(whole, error)]
    while left:
        told, raised_here = left.pop()
        are_ours = [frame.filename.startswith(OURS) for frame in told.stack]
        if not all(are_ours):
            last = max(place for place, is_ours in enumerate(are_ours) if not is_ours)
            shows_below = not isinstance(raised_here, IdiotequeError)
            told.stack[:] = [
                frame
                for place, (frame, is_ours) in enumerate(zip(told.stack, are_ours, strict=True))
                if not is_ours or (place > last and shows_below)
            ]
        for below, cause in ((told.__cause__, raised_here.__cause__), (told.__context__, raised_here.__context__)):
            if below is not None and cause is not None:
                left.append((below, cause))
        if told.exceptions is not None:
            group = cast("BaseExceptionGroup[BaseException]", raised_here)
            left += zip(told.exceptions, group.exceptions, strict=False)
    return whole


def _outcome(kind: str, name: str, message: str, trace: str = "") -> Outcome:
    document = {"kind": kind, "type": name, "message": message, "traceback": trace}
    return Outcome(False, json.dumps(document, ensure_ascii=True, separators=(",", ":")).encode())


INTERRUPTED = _outcome(INTERRUPT, "StepInterrupted", "it was started at most once, and its end was never recorded")
CRASH_LOOP = _outcome(FAILED, "CrashLoop", f"it was started {MAX_STRIKES} times, and each time its process died")


def returned(function: Function, value: object) -> Outcome:
    """Return the outcome that records what a function returned, or that this cannot be stored."""
    try:
        encoded = function.codec.encode(value)
        function.codec.decode(encoded)  # whoever asks for the result must be able to read it
        return Outcome(True, encoded)
    except NotSerializable as error:
        return failure(NoJsonForm(f"function {function.id!r} returned {error}"), kind=UNSERIALIZABLE)


def pause_s(function: Function, error: BaseException, attempts: int) -> float | None:
    """Return how long a function waits after a failed attempt, or None when it is not tried again."""
    if isinstance(error, DuplicateStepKey):
        return None
    return function.retry.after(error, attempts)


def raised(key: str, payload: bytes) -> StepFailed:
    """Return the exception that a recorded failure is raised as."""
    document = described(payload)
    cls = _CLASSES.get(document["kind"], StepFailed)
    return cls(key, document["type"], document["message"], document["traceback"])


def recorded_as(error: StepFailed) -> Outcome:
    """Return the recorded failure that is raised as this exception."""
    kind = next((kind for kind, cls in _CLASSES.items() if isinstance(error, cls)), FAILED)
    return _outcome(kind, error.type, error.message, error.traceback)


def overdue(function: Function, started: Started, now_ms: int) -> Exception | None:
    """Return what ends a run that took longer than its function allows, or None for one that has time left."""
    timeout_s = function.controls.timeout_s
    if timeout_s is None or now_ms < started.created_at_ms + timeout_s * 1000:
        return None
    return TimeoutError(f"the run did not end within {timeout_s:g} s, its timeout")
