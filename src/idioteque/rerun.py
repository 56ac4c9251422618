"""What a run begins with that goes on from a step of another one."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from idioteque.errors import InvalidValue
from idioteque.paths import Path, path_text
from idioteque.store import NewRun, RunRecord, StepRecord

ORIGIN = "resumed_from"
"""The option of such a run that names the other one and the step."""
PARENT = "parent"


def rerun(record: RunRecord, event_id: str, path: Path) -> tuple[NewRun, Sequence[StepRecord]]:
    """Return what to create the new run with: its event, and the history that it takes over.

    That is what had ended when the step at `path` ended, but for what lies in the step, and around it. Raise
    `InvalidValue` when the run has no such step.
    """
    own = [step for step in record.steps if step.path[: len(path)] == path]
    if not own or not path:
        raise InvalidValue(f"run {record.run_id} has no step {path_text(path)!r}")
    until = next((step.seq for step in own if step.path == path and step.outcome is not None), None)
    kept = [
        step
        for step in record.steps
        if step.outcome is not None
        and (until is None or (step.seq or 0) < until)
        and step.path[: len(path)] != path
        and path[: len(step.path)] != step.path
    ]
    options: dict[str, Any] = json.loads(record.options)
    options.pop(PARENT, None)  # whoever invoked the run has had its outcome
    options[ORIGIN] = [record.run_id, path_text(path)]
    encoded = json.dumps(options, separators=(",", ":")).encode()
    return NewRun(event_id, record.function_id, record.event, encoded), kept
