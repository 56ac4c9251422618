"""A run's rows as others see them: what a holder goes on from, and what people look at."""

from __future__ import annotations

from collections.abc import Iterable

from idioteque.ledger import Holder, RunRow, StepRow
from idioteque.paths import Path
from idioteque.records import AttemptRecord, DeliveryRecord, trouble_of
from idioteque.store import Recorded, RunRecord, Started, StepRecord, Unfinished


def started(
    run: RunRow,
    event: bytes,
    steps: Iterable[StepRow],
    holder: Holder | None = None,
    seats: Iterable[Path] = (),
    known: int = 0,
) -> Started:
    """Return what a holder needs to know: the history in the order of its commits, and what is still unfinished.

    Of the history, what has a `seq` below `known` may be missing from `steps`, and is left out in any case.
    """
    outcomes: list[Recorded] = []
    unfinished: dict[Path, Unfinished] = {}
    sent = set(seats)
    ended: set[Path] = set()
    for step in steps:
        if step.outcome is not None:
            if step.seq >= known:
                outcomes.append(Recorded(step.path, step.outcome, step.seq))
            if step.path in sent:
                ended.add(step.path)
        else:
            unfinished[step.path] = Unfinished(step.attempts, step.due_at_ms, step.path in sent)
    for path in sent - ended - unfinished.keys():
        unfinished[path] = Unfinished(0, 0, is_sent=True)
    outcomes.sort(key=_seq)
    held = holder or run
    return Started(
        held.token,
        run.attempts,
        held.strikes,
        run.event_id,
        run.function_id,
        event,
        run.options,
        run.created_at_ms,
        outcomes,
        unfinished,
        run.epoch,
    )


def record(
    run: RunRow,
    event: bytes,
    steps: Iterable[StepRow] = (),
    deliveries: Iterable[DeliveryRecord] = (),
    failed_attempts: Iterable[AttemptRecord] = (),
) -> RunRecord:
    """Return a run as people look at it."""
    ordered = sorted(steps, key=lambda step: (step.outcome is None, step.seq, step.path))
    return RunRecord(
        run_id=run.run_id,
        event_id=run.event_id,
        function_id=run.function_id,
        status=run.status,
        event=event,
        options=run.options,
        outcome=run.outcome,
        attempts=run.attempts,
        strikes=run.strikes,
        due_at_ms=run.due_at_ms,
        lease_until_ms=run.lease_until_ms if run.token else 0,
        created_at_ms=run.created_at_ms,
        finished_at_ms=run.finished_at_ms,
        error=run.last_error,
        epoch=run.epoch,
        trouble=None if run.trouble is None else trouble_of(run.trouble),
        steps=[
            StepRecord(
                step.path,
                step.outcome,
                step.seq or None,
                step.attempts,
                step.strikes,
                step.due_at_ms,
                step.committed_at_ms,
                step.last_error,
                step.waits_for,
                None if step.outcome is None else step.outcome.took_ms,
            )
            for step in ordered
        ],
        deliveries=tuple(deliveries),
        failed_attempts=tuple(failed_attempts),
        messages=run.tokens,
    )


def _seq(recorded: Recorded) -> int:
    return recorded.seq
