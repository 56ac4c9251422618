"""Rules of the ledger, each broken in one point: name, the rule it stands in for, and where that shows."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from idioteque import ledger
from idioteque.store import Exhausted, Finished

ISOLATED, INLINE, BOTH = ("isolated",), ("inline",), ("inline", "isolated")


def overwrites(rule: Callable[..., Any]) -> Callable[..., Any]:
    def commit(run: Any, step: Any, *rest: Any) -> Any:
        step.outcome = None
        return rule(run, step, *rest)

    return commit


def unfenced(rule: Callable[..., Any]) -> Callable[..., Any]:
    """Take a failure although somebody else is at work."""

    def commit(run: Any, *rest: Any) -> Any:
        holder = rest[1] if len(rest) == 5 else run
        until, holder.lease_until_ms = holder.lease_until_ms, 0
        answer = rule(run, *rest)
        holder.lease_until_ms = until
        return answer

    return commit


def body_overwritten(run: Any, token: int, outcome: Any, now_ms: int) -> Any:
    run.status = "running"
    return ledger.commit_body(run, token, outcome, now_ms)


def _holder(run: Any, rest: tuple[Any, ...]) -> Any:
    return rest[1] if len(rest) > 2 else run


def taken_over_alive(rule: Callable[..., Any]) -> Callable[..., Any]:
    """Do not mind signs of life."""

    def claim(run: Any, *rest: Any) -> Any:
        _holder(run, rest).alive_at_ms = 0
        return rule(run, *rest)

    return claim


def taken_over_by_any(rule: Callable[..., Any]) -> Callable[..., Any]:
    """Do not mind whose message comes."""

    def claim(run: Any, *rest: Any) -> Any:
        holder, request = _holder(run, rest), rest[-2]
        if holder.owner != request.owner:
            holder.lease_until_ms = 0
        return rule(run, *rest)

    return claim


def claimed_after_its_end(run: Any, request: Any, now_ms: int) -> Any:
    if run.status == "cancelled":
        run.status = "running"
    return ledger.claim(run, request, now_ms)


def dirty_for_ever(run: Any, request: Any, now_ms: int) -> Any:
    dirty = run.dirty
    answer = ledger.claim(run, request, now_ms)
    run.dirty = dirty
    return answer


def nothing_known_of_once(run: Any, step: Any, seat: Any, request: Any, now_ms: int) -> Any:
    step.begun = 0
    return ledger.claim_step(run, step, seat, request, now_ms)


def never_exhausted(run: Any, step: Any, seat: Any, request: Any, now_ms: int) -> Any:
    seat.strikes = 0
    return ledger.claim_step(run, step, seat, request, now_ms)


def owes_nothing(run: Any, *rest: Any) -> Any:
    run.dirty = 1
    return ledger.commit_seat(run, *rest)


def same_generation(run: Any, *rest: Any) -> Any:
    answer = ledger.commit_seat(run, *rest)
    run.gen = min(run.gen, 1)
    return answer


def uncharged(run: Any, step: Any, *rest: Any) -> Any:
    answer = ledger.begin(run, step, *rest)
    step.strikes = 0
    return answer


def begun_again(run: Any, step: Any, around: Any, holder: Any, token: int, at_most_once: bool) -> Any:
    return ledger.begin(run, step, around, holder, token, False)


def exhausted_at_once(run: Any, step: Any, *rest: Any) -> Any:
    return Exhausted(3) if run.is_open else ledger.begin(run, step, *rest)


def failed_by_any(run: Any, step: Any, holder: Any, token: int, *rest: Any) -> Any:
    return ledger.fail(run, step, holder, holder.token or token, *rest)


def attempts_uncounted(run: Any, step: Any, holder: Any, token: int, attempts: int, *rest: Any) -> Any:
    return ledger.fail(run, step, holder, token, 0, *rest)


def moved_on(run: Any, step: Any, holder: Any, token: int, due_at_ms: int, *rest: Any) -> Any:
    step.due_at_ms = 0
    return ledger.schedule(run, step, holder, token, due_at_ms, *rest)


def taken_twice(run: Any, step: Any, event_id: str, outcome: Any, is_taken: bool, now_ms: int) -> Any:
    return ledger.take(run, step, event_id, outcome, False, now_ms)


def taken_over_again(run: Any, step: Any, *rest: Any) -> Any:
    step.outcome = None
    return ledger.take(run, step, *rest)


def never_stalled(*_: Any) -> bool:
    return False


def released_uncounted(run: Any, holder: Any, token: int, *rest: Any) -> Any:
    attempts = run.attempts
    answer = ledger.release(run, holder, token, *rest)
    run.attempts = attempts
    return answer


def results_forgotten(run: Any, steps: Any) -> Any:
    kept = list(steps)
    changed = ledger.reopen(run, kept)
    for step in kept if changed is not None else ():
        step.outcome = None
    return changed


def same_epoch(run: Any, steps: Any) -> Any:
    changed = ledger.reopen(run, steps)
    run.epoch = 0
    return changed


def cancel_unheard(run: Any, now_ms: int) -> Any:
    return run.status


def finished_unseen(run: Any, request: Any, now_ms: int) -> Any:
    answer = ledger.claim(run, request, now_ms)
    return ledger.claim(run, request, now_ms) if not isinstance(answer, Finished) else Exhausted(0)


def renewed_by_any(run: Any, holder: Any, token: int, lease_ms: int, now_ms: int) -> bool:
    holder.token = token
    return ledger.renew(run, holder, token, lease_ms, now_ms)


RULES: tuple[tuple[Any, ...], ...] = (
    ("step_is_overwritten", "commit_step", overwrites(ledger.commit_step), ("seq", "par"), INLINE),
    ("seat_is_overwritten", "commit_seat", overwrites(ledger.commit_seat), ("seq", "par"), ISOLATED),
    ("body_is_overwritten", "commit_body", body_overwritten, ("seq", "failing")),
    ("step_failure_is_not_fenced", "commit_step", unfenced(ledger.commit_step), ("caught", "failing"), INLINE),
    ("seat_failure_is_not_fenced", "commit_seat", unfenced(ledger.commit_seat), ("caught", "bad"), ISOLATED),
    ("body_failure_is_not_fenced", "commit_body", unfenced(ledger.commit_body), ("failing",), BOTH),
    ("failure_is_recorded_by_any", "fail", failed_by_any, ("flaky", "slow")),
    ("failures_are_not_counted", "fail", attempts_uncounted, ("bad", "slow")),
    ("body_is_taken_over_alive", "claim", taken_over_alive(ledger.claim), ("mixed", "retrying"), INLINE, ("dup",)),
    ("seat_is_taken_over_alive", "claim_step", taken_over_alive(ledger.claim_step), ("seq", "par"), ISOLATED),
    ("body_is_taken_over_by_any", "claim", taken_over_by_any(ledger.claim), ("seq", "par"), INLINE),
    ("seat_is_taken_over_by_any", "claim_step", taken_over_by_any(ledger.claim_step), ("seq", "par"), ISOLATED),
    ("cancelled_goes_on", "claim", claimed_after_its_end, ("seq", "par"), BOTH, ("cancel",)),
    ("dirty_is_not_cleared", "claim", dirty_for_ever, ("par", "chains"), ISOLATED),
    ("no_wake_is_owed", "commit_seat", owes_nothing, ("seq", "par"), ISOLATED),
    ("generation_stands_still", "commit_seat", same_generation, ("seq", "par", "chains"), ISOLATED),
    ("once_is_not_remembered", "claim_step", nothing_known_of_once, ("once",), ISOLATED),
    ("seat_is_never_exhausted", "claim_step", never_exhausted, ("poison",), ISOLATED),
    ("start_is_not_charged", "begin", uncharged, ("poison",), INLINE),
    ("once_may_begin_again", "begin", begun_again, ("once", "oncepar"), INLINE),
    ("begin_is_refused", "begin", exhausted_at_once, ("once",), INLINE),
    ("timer_moves_on", "schedule", moved_on, ("sleepy", "sleeppar")),
    ("event_is_taken_twice", "take", taken_twice, ("waitpar",)),
    ("wait_is_overwritten", "take", taken_over_again, ("wait", "waitpar")),
    ("stalled_is_not_found", "is_stalled", never_stalled, ("sleepy", "slow"), BOTH, ("delete",)),
    ("function_failures_are_not_counted", "release", released_uncounted, ("retrying",)),
    ("results_are_forgotten", "reopen", results_forgotten, ("failing",), BOTH, ("retry",)),
    ("epoch_stands_still", "reopen", same_epoch, ("failing",), BOTH, ("retry",)),
    ("cancel_is_not_heard", "cancel", cancel_unheard, ("cancelon",), BOTH, ("cancel",)),
    ("end_is_not_told", "claim", finished_unseen, ("seq",), BOTH, ("dup",)),
    ("lease_is_renewed_by_any", "renew", renewed_by_any, ("seq", "par"), INLINE, ("freeze", "keep")),
)
