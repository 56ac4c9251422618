"""A run as a test to copy: its event, the outcomes that are on record, and how it ended."""

from __future__ import annotations

import json
import pprint
from collections.abc import Mapping, Sequence

from idioteque.engine.failures import raised
from idioteque.finite import has_non_finite
from idioteque.function import FAILURE_SUFFIX
from idioteque.paths import path_text
from idioteque.payloads import unpacked
from idioteque.records import Outcome, RunRecord, StepRecord

GIVEN_CHARS_MAX = 100_000
"""How much of the outcomes of one run is written down; where it is more, the longest are left for the reader."""
LEFT_OUT = "..."
_WIDTH = 100


def pytest_case(record: RunRecord, failure: RunRecord | None = None) -> str:
    """Return a test in which the run goes the way that it went; "" for what no event of a test starts.

    Steps that ended are given their outcomes and are not run; the comments name those that have none. `failure` is the
    run of its `on_failure`, whose outcomes are given too.
    """
    if record.function_id.endswith(FAILURE_SUFFIX):
        return ""
    steps = [step for one in (record, failure) if one is not None for step in _asked_for(one)]
    ended: dict[str, Outcome] = {}
    for step in steps:
        if step.outcome is not None:
            ended.setdefault(path_text(step.path), step.outcome)
    pending = [step for step in steps if step.outcome is None]
    classes = sorted({type(raised("", one.payload)).__name__ for one in ended.values() if not one.ok})
    is_tick = record.event_id.startswith("tick_")
    start = f"h.tick({record.function_id!r}" if is_tick else "h.publish(EVENT"
    status = _status(record, pending)
    name = _identifier(record.function_id)
    lines = [
        *((f"from idioteque import {', '.join(classes)}",) if classes else ()),
        "from idioteque.testing import harness",
        "",
        "from your_app import worker",
        "",
        *(() if is_tick else (f"EVENT = {_literal(record.event)}", "")),
        "# What the steps came to, in the order of their ends. They are not run; take one out, and it is.",
        *_given(ended),
        *(f"# Without an outcome: {path_text(step.path)!r}" for step in pending),
        "",
        "",
        f"async def test_{name}_as_in_{_identifier(record.run_id)}() -> None:",
        f"    functions = [one for one in worker.functions if one.id == {record.function_id!r}]",
        "    async with harness(worker, functions) as h:",
        f"        published = await {start}, given=GIVEN)",
        *(() if status == "waiting" else ("        await h.finish()",)),
        f"        run = await h.run(published, {record.function_id!r})",
        f"    assert run.status == {status!r}, run",
    ]
    return "\n".join(lines) + "\n"


def _asked_for(record: RunRecord) -> Sequence[StepRecord]:
    """Return the steps that a replay asks for: none that lies within one that has ended."""
    ended = {step.path for step in record.steps if step.outcome is not None}
    return [
        step for step in record.steps if not any(step.path[:length] in ended for length in range(1, len(step.path)))
    ]


def _status(record: RunRecord, pending: Sequence[StepRecord]) -> str:
    """Return how the test's run ends: as this one did, or as it can be expected to from here on."""
    if record.status in ("completed", "failed"):
        return record.status
    rests = bool(pending) and all(step.waits_for or (step.due_at_ms and not step.attempts) for step in pending)
    return "waiting" if rests and record.error is None else "completed"


def _given(ended: Mapping[str, Outcome]) -> Sequence[str]:
    if not ended:
        return ["GIVEN = {}"]
    written = {text: _written(text, outcome) for text, outcome in ended.items()}
    excess = sum(map(len, written.values())) - GIVEN_CHARS_MAX
    for text, literal in sorted(written.items(), key=lambda one: -len(one[1])):
        if excess <= 0:
            break
        written[text] = LEFT_OUT
        excess -= len(literal)
    return ["GIVEN = {", *(_line(text, literal) for text, literal in written.items()), "}"]


def _line(text: str, literal: str) -> str:
    is_left_out = literal == LEFT_OUT
    return f"    {text!r}: {literal}," + ("  # this could not be copied: it must be filled in" if is_left_out else "")


def _written(text: str, outcome: Outcome) -> str:
    if outcome.ok:
        return _literal(unpacked(outcome.payload))
    error = raised(text, outcome.payload)
    return f"{type(error).__name__}({text!r}, {error.type!r}, {error.message!r})"


def _literal(encoded: bytes) -> str:
    """Return a JSON value as Python writes it, or `LEFT_OUT` where it cannot."""
    try:
        value: object = json.loads(encoded)
        shown = pprint.pformat(value, width=_WIDTH, sort_dicts=False)
    except (ValueError, RecursionError):
        return LEFT_OUT
    return LEFT_OUT if has_non_finite(value) else shown.replace("\n", "\n    ")


def _identifier(text: str) -> str:
    return "".join(c if c.isascii() and c.isalnum() else "_" for c in text)
