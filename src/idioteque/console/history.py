"""What became of a run, attempt by attempt and moment by moment, out of its record and the log of its messages."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from idioteque.console.traffic import Delivery
from idioteque.paths import Path, path_text
from idioteque.records import Outcome, RunRecord, error_line
from idioteque.runlog import Log

FUNCTION = "the function"
JOURNAL_MAX = 2000


@dataclass(frozen=True, slots=True)
class AttemptLine:
    """An attempt of a step, or of the function: `status` completed or failed, `took_ms` None where nobody measured it.

    `round` counts the retries of the run that went before.
    """

    where: str
    round: int
    attempt: int
    at_ms: int
    took_ms: int | None
    status: str
    error: str


@dataclass(frozen=True, slots=True)
class JournalLine:
    """A moment of a run: `kind` is run, delivery, step or message; a `message_id` where it concerns one."""

    at_ms: int
    kind: str
    status: str
    text: str
    message_id: str = ""


@dataclass(frozen=True, slots=True)
class LoggedLine:
    """A line that the function wrote with `ctx.log`, or that a step wrote in one of its attempts."""

    at_ms: int
    level: str
    where: str
    attempt: int
    text: str


def logged_lines(log: Log | None) -> tuple[LoggedLine, ...]:
    """Return the lines of a run that are kept, the earliest first."""
    lines = () if log is None else log.lines
    return tuple(LoggedLine(line.at_ms, line.level, _name(line.path), line.attempt, line.text) for line in lines)


def attempt_lines(record: RunRecord) -> tuple[AttemptLine, ...]:
    """Return every attempt that is on record, the earliest first: the failed ones, and those that were the end."""
    lines = [
        AttemptLine(_name(one.path), one.epoch, one.attempt, one.at_ms, one.took_ms, "failed", one.error)
        for one in record.failed_attempts
    ]
    for step in record.steps:
        if step.outcome is not None and step.took_ms is not None and step.committed_at_ms is not None:
            end = _end(step.path, record.epoch, step.attempts + 1, step.committed_at_ms, step.outcome)
            lines.append(end)
    if record.outcome is not None and record.finished_at_ms is not None:
        lines.append(_end((), record.epoch, record.attempts + 1, record.finished_at_ms, record.outcome))
    return tuple(sorted(lines, key=lambda line: line.at_ms))


def journal(record: RunRecord, deliveries: Sequence[Delivery]) -> tuple[JournalLine, ...]:
    """Return what happened to a run and its messages, the earliest first; of a very long story, its end."""
    lines = [*_of_run(record), *_of_messages(deliveries)]
    return tuple(sorted(lines, key=lambda line: line.at_ms)[-JOURNAL_MAX:])


def _of_run(record: RunRecord) -> Iterator[JournalLine]:
    yield JournalLine(record.created_at_ms, "run", "created", "the run was created")
    for one in record.deliveries:
        what = path_text(one.path) or FUNCTION
        yield JournalLine(one.at_ms, "delivery", "active", f"a delivery took up {what}", one.message_id)
    for line in attempt_lines(record):
        if line.status == "failed":
            yield JournalLine(line.at_ms, "step", "failed", f"{line.where}, attempt {line.attempt}: {line.error}")
    for step in record.steps:
        if step.outcome is not None and step.outcome.ok and step.committed_at_ms is not None:
            yield JournalLine(step.committed_at_ms, "step", "completed", f"{path_text(step.path)} ended")
    if record.finished_at_ms is not None:
        yield JournalLine(record.finished_at_ms, "run", record.status, f"the run is {record.status}")


def _of_messages(deliveries: Sequence[Delivery]) -> Iterator[JournalLine]:
    for delivery in deliveries:
        for entry in delivery.entries:
            said = [f"answered {entry.status}"] if entry.status else []
            said += [f"after {entry.took_ms} ms"] if entry.took_ms is not None else []
            said += [entry.error or entry.response.text[:200]] if entry.error or entry.response.text else []
            text = " ".join(["message", entry.state.lower().replace("_", " "), *said])
            yield JournalLine(entry.at_ms, "message", entry.state, text, delivery.message_id)


def _end(path: Path, epoch: int, attempt: int, at_ms: int, outcome: Outcome) -> AttemptLine:
    status, error = ("completed", "") if outcome.ok else ("failed", error_line(outcome.payload))
    return AttemptLine(_name(path), epoch, attempt, at_ms, outcome.took_ms, status, error)


def _name(path: Path) -> str:
    return path_text(path) or FUNCTION
