"""What a delivery tells of itself: its log lines carry the ids, its metrics the function, its spans both."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Generator, Mapping, MutableMapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

from idioteque.clock import Clock
from idioteque.dispatcher import RunEnvelope
from idioteque.engine.answers import Answer, Delivery
from idioteque.engine.endings import Ending, Faulted, LeaseLost, Raised
from idioteque.errors import first_line
from idioteque.metrics import SILENT, Metrics
from idioteque.paths import Path, path_text
from idioteque.store import Started
from idioteque.tracing import UNHEARD, Mark, is_heard, span

_QUIET = nullcontext()

_log = logging.getLogger("idioteque")


Keep = Callable[[int, str], None]
"""What is given the level and the text of each line that a run is to keep."""


class RunLogger(logging.LoggerAdapter[logging.Logger]):
    """A logger whose every record carries the ids of its run, and what else is given.

    From INFO on, a line is kept with the run whatever the application's logging prints; below, what it prints.
    """

    def __init__(self, logger: logging.Logger, fields: Mapping[str, object], keep: Keep) -> None:
        super().__init__(logger, fields)
        self._keep = keep

    def log(self, level: int, msg: object, *args: object, **kwargs: Any) -> None:
        is_printed = self.isEnabledFor(level)
        if is_printed or level >= logging.INFO:
            self._keep(level, _said(msg, args, kwargs.get("exc_info")))
        if is_printed:
            kwargs["stacklevel"] = kwargs.get("stacklevel", 1) + 1  # the caller is who called this
            super().log(level, msg, *args, **kwargs)

    def process(self, msg: Any, kwargs: MutableMapping[str, Any]) -> tuple[Any, MutableMapping[str, Any]]:
        kwargs["extra"] = {**(self.extra or {}), **kwargs.get("extra", {})}
        return msg, kwargs


def fields_of(run_id: str, run: Started | RunEnvelope) -> dict[str, str]:
    """Return what a log record carries of a run."""
    return {"run_id": run_id, "event_id": run.event_id, "function_id": run.function_id}


def _said(msg: object, args: tuple[object, ...], exc_info: object) -> str:
    """Return the text of a line, with its error in a line of its own: the traceback is in the worker's log."""
    try:
        text = logging.LogRecord("", 0, "", 0, msg, args, None).getMessage()
    except Exception:  # arguments that do not fit, a __str__ that fails
        return "(a line that cannot be put into words)"
    error = exc_info if isinstance(exc_info, BaseException) else sys.exc_info()[1] if exc_info else None
    return text if error is None else f"{text}\n{first_line(error)}"


def run_logger(run_id: str, started: Started, delivery: Delivery, keep: Keep) -> RunLogger:
    """Return the logger of a run, below `idioteque` and named for its function."""
    fields = {**fields_of(run_id, started), "message_id": delivery.message_id}
    return RunLogger(logging.getLogger(f"idioteque.{started.function_id}"), fields, keep)


def run_span(run_id: str, started: Started) -> AbstractContextManager[Mark]:
    """Return the span of one pass over a function."""
    if not is_heard():
        return UNHEARD
    attributes = {"idioteque.run_id": run_id, "idioteque.event_id": started.event_id}
    attributes |= {"idioteque.function_id": started.function_id}
    return span(f"run {started.function_id}", "internal", {**attributes, "idioteque.pass": started.token})


def tell_ending(mark: Mark, metrics: Metrics, function_id: str, ending: Ending) -> None:
    """Say how a pass ended, if not well."""
    if isinstance(ending, Raised | Faulted):
        mark.fail(type(ending.error).__name__)
    elif isinstance(ending, LeaseLost):
        mark.fail("LeaseLost")
        metrics.lease_lost(function_id)


class StepReport:
    """Tells of the steps of one pass."""

    def __init__(self, run_id: str, function_id: str, metrics: Metrics, clock: Clock) -> None:
        self._run_id = run_id
        self._function_id = function_id
        self._metrics = metrics
        self._clock = clock
        self._has_listeners = metrics is not SILENT or is_heard()

    def calling(self, path: Path, attempt: int) -> AbstractContextManager[None]:
        """Tell of one call of a step's callable, the block; one that is cut off with its pass does not count."""
        return self._told(path, attempt) if self._has_listeners else _QUIET

    @contextmanager
    def _told(self, path: Path, attempt: int) -> Generator[None]:
        key = path_text(path)
        attributes: dict[str, str | int] = {
            "idioteque.run_id": self._run_id,
            "idioteque.step": key,
            "idioteque.attempt": attempt,
        }
        begun_s = self._clock.monotonic_s()
        with span(f"step {key}", "internal", attributes):
            try:
                yield
            except Exception:
                self._metrics.step_attempted(self._function_id, False, self._clock.monotonic_s() - begun_s)
                raise
        self._metrics.step_attempted(self._function_id, True, self._clock.monotonic_s() - begun_s)

    def recorded(self, ok: bool) -> None:
        """An outcome is on record."""
        self._metrics.step_ended(self._function_id, ok)


def unknown(run_id: str, envelope: RunEnvelope, now_ms: int) -> Answer:
    """Say that a message's run is not stored; the message comes again as long as somebody may wait for it."""
    told = fields_of(run_id, envelope)
    if now_ms > envelope.not_after_ms:
        _log.warning("run %s is not stored (any more), its message is past its time: dropped", run_id, extra=told)
        return Answer(200, "the run is past its retention")
    _log.error("run %s is not stored: was the store lost, or is this the wrong one?", run_id, extra=told)
    return Answer(503, f"RunUnknown: no run {run_id!r} is stored")
