"""Runs as their users see them: what happened, what came out, and waiting for it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from idioteque.clock import Clock
from idioteque.durations import Duration, seconds
from idioteque.engine import described
from idioteque.errors import InvalidValue, RunCancelled, RunFailed
from idioteque.function import Function
from idioteque.ids import checked_id
from idioteque.store import Outcome, RunRecord, Status, StepRecord, Store

PAGE_MAX = 1000
FIRST_LOOK_S = 0.02
LOOK_EVERY_S = 0.5


@dataclass(frozen=True, slots=True)
class Step:
    """A step of a run: `key` is its path, `status` completed, failed, or pending while it has no outcome."""

    key: tuple[str, ...]
    status: str
    result: Any
    error: str | None
    attempts: int
    finished_at: datetime | None


@dataclass(frozen=True, slots=True)
class Run:
    """A run: `event`, `result` and the steps' results are plain JSON values; `error` names the last failure."""

    id: str
    event_id: str
    function_id: str
    status: Status
    event: Any
    result: Any
    error: str | None
    steps: tuple[Step, ...]
    attempts: int
    created_at: datetime
    finished_at: datetime | None


@dataclass(frozen=True, slots=True)
class RunPage:
    """Some runs, the newest first and without their steps; `cursor` asks for the next page, None when there is none."""

    runs: list[Run]
    cursor: str | None


class Runs:
    """Looks at the runs of one store."""

    def __init__(self, store: Store, functions: Mapping[str, Function], clock: Clock) -> None:
        self._store = store
        self._functions = functions
        self._clock = clock

    async def get(self, run_id: str) -> Run | None:
        """Return a run with its steps in the order in which they ended, or None when there is no such run."""
        record = await self._store.get(checked_id(run_id, "run id"))
        return None if record is None else _run(record)

    async def list(
        self,
        *,
        status: Status | None = None,
        function: Function | str | None = None,
        limit: int = 50,
        cursor: str | None = None,
    ) -> RunPage:
        """Return a page of runs, the newest first."""
        if not 1 <= limit <= PAGE_MAX:
            raise InvalidValue(f"limit must be between 1 and {PAGE_MAX}, not {limit}")
        function_id = function.id if isinstance(function, Function) else function
        records: Sequence[RunRecord] = await self._store.list(
            status=status, function_id=function_id, limit=limit + 1, before=cursor and checked_id(cursor, "cursor")
        )
        runs = [_run(record) for record in records[:limit]]
        return RunPage(runs, runs[-1].id if len(records) > limit else None)

    async def result(self, run_id: str, timeout: Duration | None = None) -> Any:
        """Wait for a run to end and return its value, as the function's annotated type when it is declared here.

        Raise `RunFailed`, `RunCancelled`, or `TimeoutError` when it has not ended (or not begun) within `timeout`.
        """
        deadline_s = None if timeout is None else self._clock.monotonic_s() + seconds(timeout, "timeout")
        pause_s = FIRST_LOOK_S
        while True:
            record = await self._store.get(checked_id(run_id, "run id"))
            if record is not None and record.status in ("completed", "failed", "cancelled"):
                return self._value(record)
            if deadline_s is not None and self._clock.monotonic_s() + pause_s > deadline_s:
                state = "is not known yet" if record is None else f"is {record.status}"
                raise TimeoutError(f"run {run_id} {state} after {timeout}")
            await self._clock.sleep(pause_s)
            pause_s = min(LOOK_EVERY_S, pause_s * 1.5)

    def _value(self, record: RunRecord) -> Any:
        if record.outcome is None:
            raise RunCancelled(record.run_id)
        if not record.outcome.ok:
            error = described(record.outcome.payload)
            raise RunFailed(record.run_id, error["type"], error["message"])
        function = self._functions.get(record.function_id)
        return json.loads(record.outcome.payload) if function is None else function.codec.decode(record.outcome.payload)


def _run(record: RunRecord) -> Run:
    return Run(
        id=record.run_id,
        event_id=record.event_id,
        function_id=record.function_id,
        status=record.status,
        event=json.loads(record.event),
        result=_result(record.outcome),
        error=_error(record.outcome) or record.error,
        steps=tuple(_step(step) for step in record.steps),
        attempts=record.attempts,
        created_at=_time(record.created_at_ms),
        finished_at=None if record.finished_at_ms is None else _time(record.finished_at_ms),
    )


def _step(step: StepRecord) -> Step:
    status = "pending" if step.outcome is None else "completed" if step.outcome.ok else "failed"
    finished_at = None if step.committed_at_ms is None else _time(step.committed_at_ms)
    return Step(
        step.path, status, _result(step.outcome), _error(step.outcome) or step.error, step.attempts, finished_at
    )


def _result(outcome: Outcome | None) -> Any:
    return json.loads(outcome.payload) if outcome is not None and outcome.ok else None


def _error(outcome: Outcome | None) -> str | None:
    if outcome is None or outcome.ok:
        return None
    error = described(outcome.payload)
    return f"{error['type']}: {error['message']}" if error["message"] else str(error["type"])


def _time(at_ms: int) -> datetime:
    return datetime.fromtimestamp(at_ms / 1000, UTC)
