"""Runs as their users see them: what happened, what came out, waiting for it, and mending what stands still."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

from idioteque.clock import Clock
from idioteque.dispatcher import Dispatcher, throttling_of
from idioteque.durations import Duration, seconds
from idioteque.engine import Outbox
from idioteque.errors import InvalidValue, RunCancelled, RunFailed, RunUnknown
from idioteque.events import EventsSchema
from idioteque.function import Function
from idioteque.function import run_id as derived_run_id
from idioteque.ids import checked_id, new_id
from idioteque.insight import insight_into
from idioteque.metrics import SILENT, Metrics
from idioteque.paths import path_of
from idioteque.payloads import unpacked
from idioteque.records import AttemptRecord, describe, described
from idioteque.rerun import rerun
from idioteque.runlog import Log, run_log_in
from idioteque.store import NEVER_MS, Outcome, RunRecord, Status, StepRecord, Store, required
from idioteque.upkeep import Upkeep, upkeep_of

PAGE_MAX = 1000
ENDED = ("completed", "failed", "cancelled")
FIRST_LOOK_S = 0.02
LOOK_EVERY_S = 0.5
STALLED_AFTER_S = 3600.0
HOUR_MS = 3_600_000

_log = logging.getLogger("idioteque")


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
class Attempt:
    """An attempt of a step that failed and was followed by another; `took_s` is None where nobody measured it."""

    key: tuple[str, ...]
    attempt: int
    at: datetime
    took_s: float | None
    error: str


@dataclass(frozen=True, slots=True)
class Run:
    """A run: `event`, `result` and the steps' results are plain JSON values; `error` names the last failure.

    `messages` counts the deliveries that were at work on it. `failed_attempts` are the latest of each step, and of the
    function, whose key is `()`; the oldest first.
    """

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
    messages: int = 0
    failed_attempts: tuple[Attempt, ...] = ()


@dataclass(frozen=True, slots=True)
class Why:
    """Why a run has not ended: `cause` for programs, `text` for people, `until` when that may change, if known."""

    cause: Literal["waiting_for_event", "sleeping", "retrying", "running", "throttled", "dead_letter", "missing_step"]
    text: str
    until: datetime | None = None


ON_ITS_WAY = Why("running", "its message is on its way; if a process died with it, it comes again or is a dead letter")


@dataclass(frozen=True, slots=True)
class RunPage:
    """Some runs, the newest first and without their steps; `cursor` asks for the next page, None when there is none."""

    runs: list[Run]
    cursor: str | None


class Runs:
    """Looks at the runs of one store."""

    def __init__(
        self,
        store: Store,
        dispatcher: Dispatcher,
        functions: Mapping[str, Function],
        schema: EventsSchema,
        clock: Clock,
        metrics: Metrics = SILENT,
    ) -> None:
        self._metrics = metrics
        self._store = store
        self._outbox = Outbox(dispatcher, schema, clock)
        self._throttling = throttling_of(dispatcher)
        self._functions = functions
        self._clock = clock

    async def get(self, run_id: str) -> Run | None:
        """Return a run with its steps in the order in which they ended, or None when there is no such run."""
        record = await self._store.get(checked_id(run_id, "run id"))
        return None if record is None else _run(record)

    async def logs(self, run_id: str) -> Log:
        """Return the latest lines that a run wrote with `ctx.log`, the oldest first; raise `RunUnknown`."""
        log = await run_log_in(self._store).lines(checked_id(run_id, "run id"))
        if not log.lines and await self._store.get(run_id) is None:
            raise RunUnknown(run_id)
        return log

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

    async def count(self, *, function: Function | str | None = None, limit: int = 10_000) -> Mapping[Status, int]:
        """Return how many runs have each status; each count stops at `limit`, so that it never takes long."""
        if limit < 1:
            raise InvalidValue(f"limit must be 1 or more, not {limit}")
        function_id = function.id if isinstance(function, Function) else function
        return await insight_into(self._store).counts(function_id, limit)

    async def result(self, run_id: str, timeout: Duration | None = None) -> Any:
        """Wait for a run to end and return its value, as the function's annotated type when it is declared here.

        Raise `RunFailed`, `RunCancelled`, or `TimeoutError` when it has not ended (or not begun) within `timeout`.
        """
        deadline_s = None if timeout is None else self._clock.monotonic_s() + seconds(timeout, "timeout")
        pause_s = FIRST_LOOK_S
        while True:
            record = await self._store.get(checked_id(run_id, "run id"))
            if record is not None and record.status in ENDED:
                return self._value(record)
            left_s = pause_s if deadline_s is None else deadline_s - self._clock.monotonic_s()
            if left_s <= 0:
                state = "is not known yet" if record is None else f"is {record.status}"
                raise TimeoutError(f"run {run_id} {state} after {timeout}")
            await self._clock.sleep(min(pause_s, left_s))
            pause_s = min(LOOK_EVERY_S, pause_s * 1.5)

    async def why(self, run_id: str) -> Why | None:
        """Return why a run has not ended, or None when it has; raise `RunUnknown`.

        Whether a message that is due waits for a limit of the function (`throttled`) is known to the transport alone:
        `QStashDispatcher` asks it, others say `running`. So is said, too, of a run whose message was given up when a
        delivery of it goes on after all (its process stood still, or it is a duplicate) and breaks off: the claim of a
        delivery ends a `dead_letter`, and the transport tells of one only once.
        """
        record = await self._store.get(checked_id(run_id, "run id"))
        if record is None:
            raise RunUnknown(run_id)
        if record.status in ENDED:
            return None
        return _why(record, self._clock.now_ms()) or await self._throttled(record) or ON_ITS_WAY

    async def _throttled(self, record: RunRecord) -> Why | None:
        options: dict[str, Any] = json.loads(record.options)
        flow = options.get("flow")
        if flow is None or self._throttling is None:
            return None
        waiting = await self._throttling.waiting_behind(flow[0])
        if not waiting:
            return None
        return Why("throttled", f"its message waits for a slot of {flow[0]!r} ({flow[1]}); waiting there: {waiting}")

    async def cancel(self, run_id: str) -> Status:
        """End a run without a result: steps in progress end, none is started; return its status from now on.

        A run that has ended stays as it is. Raise `RunUnknown`.
        """
        before = await self._store.get(checked_id(run_id, "run id"))
        status = await self._store.cancel(run_id)
        record = await self._store.get(run_id)
        if status is None or record is None:
            raise RunUnknown(run_id)
        if status == "cancelled" and before is not None and before.status not in ENDED:
            age_s = max(0, self._clock.now_ms() - record.created_at_ms) / 1000
            self._metrics.run_ended(record.function_id, status, age_s)
        if status == "cancelled" and "parent" in json.loads(
            record.options
        ):  # the run that waits for it hears of it by a delivery
            await self._outbox.reopen(record)
        return status

    async def retry(self, run_id: str) -> None:
        """Let a run that failed or was cancelled go on from where it stopped: its steps' results stand.

        For a run that has not ended, send its message again, which mends one whose message was deleted. Raise
        `RunUnknown`, `InvalidValue` for a completed run, `DispatchError` when the message was not accepted (then call
        it again).
        """
        epoch = await self._store.reopen(checked_id(run_id, "run id"))
        record = await self._store.get(run_id)
        if record is None:
            raise RunUnknown(run_id)
        if epoch is None and record.status == "completed":
            raise InvalidValue(f"run {run_id} is completed; there is nothing to retry")
        await self._outbox.reopen(record)

    async def resume(self, run_id: str, step: str | Sequence[str]) -> str:
        """Run the function again from a step on, as a new run, and return its id; the run itself stays as it ended.

        The new run takes over what had ended before the step; the step, what lies in it and what ended later run
        again. `step` is a key, or the keys from the outermost down; in one text they are parted by `/`. Raise
        `RunUnknown`, `InvalidValue` for a run that has not ended or has no such step, `DispatchError` when the message
        was not accepted (then nothing runs).
        """
        record = await self._store.get(checked_id(run_id, "run id"))
        if record is None:
            raise RunUnknown(run_id)
        if record.status not in ENDED:
            raise InvalidValue(f"run {run_id} is {record.status}; it goes on by itself, or is to be cancelled first")
        path = path_of(step) if isinstance(step, str) else tuple(step)
        event_id = new_id("evt", self._clock.now_ms())
        new, steps = rerun(record, event_id, path)
        again = derived_run_id(event_id, record.function_id)
        await insight_into(self._store).seed(again, new, steps)
        seeded = await self._store.get(again)
        assert seeded is not None
        try:
            await self._outbox.reopen(seeded)
        except BaseException:
            await self._store.cancel(again)  # no message of it is out, so nothing else would end it
            raise
        return again

    async def stalled(self, *, before: datetime | None = None, limit: int = 50) -> Sequence[Run]:
        """Return unfinished runs, the oldest first and without their steps, that nothing has held since `before`.

        None means an hour ago. Their messages were deleted or given up, or the store was restored from a backup: all
        that is left undone otherwise is held by a message. (One that waits long behind a limit or in a queue looks
        like them; to wake it does no harm.)
        """
        if not 1 <= limit <= PAGE_MAX:
            raise InvalidValue(f"limit must be between 1 and {PAGE_MAX}, not {limit}")
        if before is not None and before.tzinfo is None:
            raise InvalidValue(f"before {before!r} needs a time zone")
        now_s = self._clock.now_ms() / 1000
        before_ms = round((now_s - STALLED_AFTER_S if before is None else min(before.timestamp(), now_s)) * 1000)
        return [_run(record) for record in await self._upkeep().stalled(before_ms, limit)]

    async def repair(self, run_id: str) -> None:
        """Wake a run that nothing holds, once within an hour however often it is asked for, and log an alarm.

        It goes on from its recorded outcomes, and sends what it had sent of steps' own messages again. Raise
        `RunUnknown`, `InvalidValue` for a run that has ended, `DispatchError` when the message was not accepted.
        """
        record = await self._store.get(checked_id(run_id, "run id"))
        if record is None:
            raise RunUnknown(run_id)
        if record.status in ENDED:
            raise InvalidValue(f"run {run_id} is {record.status}; there is nothing to repair")
        await self._upkeep().forget_sent(run_id)
        await self._outbox.repair(record, self._clock.now_ms() // HOUR_MS)
        _log.error(
            "run %s of %s is %s and was held by nothing; it is woken. Was a message deleted, or a backup restored?",
            *(run_id, record.function_id, record.status),
        )

    def _upkeep(self) -> Upkeep:
        return required(upkeep_of(self._store), self._store, "look after old runs")

    def _value(self, record: RunRecord) -> Any:
        if record.outcome is None:
            raise RunCancelled(record.run_id)
        if not record.outcome.ok:
            error = described(record.outcome.payload)
            raise RunFailed(record.run_id, error["type"], error["message"])
        function = self._functions.get(record.function_id)
        payload = record.outcome.payload
        return json.loads(unpacked(payload)) if function is None else function.codec.decode(payload)


def _why(record: RunRecord, now_ms: int) -> Why | None:
    """Say what the store knows; None when a message is due."""
    if record.lease_until_ms > now_ms:
        return Why("running", "a delivery is at work on it", _time(record.lease_until_ms))
    if record.trouble is not None:
        return Why(record.trouble.kind, record.trouble.text)
    if record.due_at_ms > now_ms:
        text = f"the function failed {record.attempts} times, last with {record.error}"
        return Why("retrying", text, _time(record.due_at_ms))
    pending = [step for step in record.steps if step.outcome is None and step.due_at_ms > now_ms]
    if pending:
        step = min(pending, key=lambda step: step.due_at_ms)
        key = "/".join(step.path)
        if step.attempts:
            text = f"step {key!r} failed {step.attempts} times, last with {step.error}"
            return Why("retrying", text, _time(step.due_at_ms))
        until = _time(step.due_at_ms) if step.due_at_ms < NEVER_MS else None
        if step.waits_for is not None:
            return Why("waiting_for_event", f"step {key!r} waits for {step.waits_for}", until)
        return Why("sleeping", f"in {key!r}", until)
    return None


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
        messages=record.messages,
        failed_attempts=tuple(_attempt(attempt) for attempt in record.failed_attempts),
    )


def _step(step: StepRecord) -> Step:
    status = "pending" if step.outcome is None else "completed" if step.outcome.ok else "failed"
    finished_at = None if step.committed_at_ms is None else _time(step.committed_at_ms)
    return Step(
        step.path, status, _result(step.outcome), _error(step.outcome) or step.error, step.attempts, finished_at
    )


def _attempt(attempt: AttemptRecord) -> Attempt:
    took_s = None if attempt.took_ms is None else attempt.took_ms / 1000
    return Attempt(attempt.path, attempt.attempt, _time(attempt.at_ms), took_s, attempt.error)


def _result(outcome: Outcome | None) -> Any:
    return json.loads(unpacked(outcome.payload)) if outcome is not None and outcome.ok else None


def _error(outcome: Outcome | None) -> str | None:
    if outcome is None or outcome.ok:
        return None
    return describe(outcome.payload)


def _time(at_ms: int) -> datetime:
    return datetime.fromtimestamp(at_ms / 1000, UTC)
