"""Durable runs as the commands print them: as records for JSON, and as a tree of steps for people."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from datetime import datetime

import click

from idioteque.client import Json, printable
from idioteque.paths import Path, path_text
from idioteque.runlog import LogLine
from idioteque.runs import Attempt, Run, Step, Why

COLORS = {"completed": "green", "failed": "red", "pending": "yellow"}


def summary(run: Run) -> Json:
    return {
        "id": run.id,
        "function_id": run.function_id,
        "event_id": run.event_id,
        "status": run.status,
        "attempts": run.attempts,
        "messages": run.messages,
        "created_at": time_text(run.created_at),
        "finished_at": time_text(run.finished_at),
        "error": run.error,
    }


def step_record(step: Step) -> Json:
    return {
        "key": path_text(step.key),
        "status": step.status,
        "attempts": step.attempts,
        "finished_at": time_text(step.finished_at),
        "result": step.result,
        "error": step.error,
    }


def attempt_record(attempt: Attempt) -> Json:
    return {
        "key": path_text(attempt.key),
        "attempt": attempt.attempt,
        "at": time_text(attempt.at),
        "took_s": attempt.took_s,
        "error": attempt.error,
    }


def line_record(line: LogLine) -> Json:
    return {
        "at": time_text(line.at),
        "level": line.level,
        "key": path_text(line.path),
        "attempt": line.attempt,
        "text": line.text,
    }


def print_run(run: Run, reason: Why | None) -> None:
    lines = {
        "function": run.function_id,
        "event": f"{run.event_id} {json.dumps(run.event, ensure_ascii=False)}",
        "created": time_text(run.created_at),
        "finished": time_text(run.finished_at),
        "why": None if reason is None else reason_text(reason),
        "result": json.dumps(run.result, ensure_ascii=False) if run.status == "completed" else None,
        "error": run.error,
    }
    click.echo(f"{run.id}  {_colored(run.status)}")
    for name, text in lines.items():
        if text is not None:
            click.echo(f"{name:<9} {printable(text)}")
    click.echo(f"steps     {len(run.steps)}")
    for line in _tree(run.steps):
        click.echo(line)
    if run.failed_attempts:
        click.echo("failed attempts")
    for one in run.failed_attempts:
        took = "" if one.took_s is None else f" after {one.took_s:g} s"
        where = path_text(one.key) or "the function"
        click.echo(printable(f"{time_text(one.at)}  {where}, attempt {one.attempt}{took}: {one.error}"))


def _tree(steps: Sequence[Step]) -> Iterator[str]:
    """Yield a line for each step, below the step that it lies in; one that has not ended may be known by its own."""
    records = {step.key: step for step in steps}
    inside: dict[Path, dict[Path, None]] = {}
    for step in steps:
        for depth in range(1, len(step.key) + 1):
            inside.setdefault(step.key[: depth - 1], {})[step.key[:depth]] = None

    def below(path: Path, indent: str) -> Iterator[str]:
        children = list(inside.get(path, ()))
        for child in children:
            is_last = child == children[-1]
            state = _state(records[child]) if child in records else _colored("pending")
            yield f"{indent}{'└── ' if is_last else '├── '}{printable(child[-1])}  {state}"
            yield from below(child, indent + ("    " if is_last else "│   "))

    return below((), "")


def _state(step: Step) -> str:
    attempts = f", {step.attempts} failed attempts" if step.attempts else ""
    error = f": {printable(step.error)}" if step.error is not None else ""
    return f"{_colored(step.status)}{attempts}{error}"


def _colored(status: str) -> str:
    return click.style(status, fg=COLORS.get(status))


def reason_text(reason: Why) -> str:
    until = "" if reason.until is None else f" (until {time_text(reason.until)})"
    return printable(f"{reason.cause}: {reason.text}{until}")


def time_text(at: datetime | None) -> str | None:
    return None if at is None else at.isoformat(timespec="milliseconds").replace("+00:00", "Z")
