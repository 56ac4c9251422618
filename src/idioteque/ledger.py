"""The rules by which a run changes, as functions of its rows; every store loads rows, calls these, and keeps the rows.

Safety rests on one rule alone: an outcome is written only where there is none. Leases, tokens and strikes only keep
the number of repeated effects low and make a step that kills its process end.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from idioteque.paths import BODY, Path
from idioteque.records import trouble_of
from idioteque.store import (
    MAX_STRIKES,
    NEVER_MS,
    TAKEOVER_AFTER_MS,
    Begun,
    Busy,
    Claim,
    Committed,
    Done,
    Due,
    Exhausted,
    Failed,
    Finished,
    Go,
    Gone,
    Lost,
    Outcome,
    Released,
    ReleaseKind,
    Scheduled,
    Settled,
    Stale,
    Status,
    Trouble,
    Waiting,
    Won,
)

REOPENED: tuple[Status, ...] = ("failed", "cancelled")
"""Which runs can be let go on."""


class _Held:
    """What the body and a step with a delivery of its own have in common: a lease."""

    __slots__ = ()
    token: int
    lease_until_ms: int
    alive_at_ms: int
    owner: str
    message_id: str
    retried: int
    strikes: int

    def is_held_by(self, token: int) -> bool:
        return token != 0 and self.token == token

    def is_held_by_another(self, token: int, now_ms: int) -> bool:
        return self.token not in (0, token) and self.lease_until_ms > now_ms


@dataclass(slots=True)
class RunRow(_Held):
    """A run and its body: the one row that every operation of the run reads first, which also orders them."""

    run_id: str
    event_id: str
    function_id: str
    options: bytes
    created_at_ms: int
    status: Status = "running"
    finished_at_ms: int | None = None
    outcome: Outcome | None = None
    attempts: int = 0
    strikes: int = 0
    due_at_ms: int = 0
    last_error: str | None = None
    epoch: int = 0
    trouble: str | None = None
    seq: int = 0
    tokens: int = 0
    token: int = 0  # 0: nobody holds the lease
    lease_until_ms: int = 0
    alive_at_ms: int = 0
    owner: str = ""
    message_id: str = ""
    retried: int = 0
    dirty: int = 0  # 1: a step with a delivery of its own has ended since the body was last claimed
    gen: int = 0  # counts the wakes that steps owed the body

    @property
    def is_open(self) -> bool:
        return self.status in ("running", "waiting")


@dataclass(slots=True)
class SeatRow(_Held):
    """A step that runs in deliveries of its own: its lease, and the wake that tells the body of its end."""

    path: Path
    token: int = 0
    lease_until_ms: int = 0
    alive_at_ms: int = 0
    owner: str = ""
    message_id: str = ""
    retried: int = 0
    strikes: int = 0
    wake: int = 0
    sent: int = 0  # 1: a message of its own was accepted


@dataclass(slots=True)
class StepRow:
    """A step that has failed, was begun, or has an outcome."""

    path: Path
    outcome: Outcome | None = None
    seq: int = 0
    attempts: int = 0
    strikes: int = 0
    begun: int = 0
    due_at_ms: int = 0
    committed_at_ms: int | None = None
    last_error: str | None = None
    taken: str | None = None  # the event that is its outcome
    waits_for: str | None = None  # what will bring its outcome, in words


Holder = RunRow | SeatRow


def claim(run: RunRow, request: Claim, now_ms: int) -> Finished | Busy | Waiting | None:
    """Take the lease of the body, or say why not; None means that it was taken."""
    if not run.is_open:
        return Finished(run.status, run.outcome, run.function_id)
    refused = _take_lease(run, run, request, run.attempts, run.due_at_ms, now_ms)
    if refused is None:
        run.dirty = 0
    return refused


def claim_step(
    run: RunRow, step: StepRow, seat: SeatRow, request: Claim, now_ms: int
) -> Finished | Settled | Busy | Waiting | Exhausted | None:
    """Take the lease of a step that runs in a delivery of its own, or say why not; None means that it was taken."""
    if not run.is_open:
        return Finished(run.status, run.outcome, run.function_id)
    if step.outcome is not None:
        _forget_trouble(run, seat.path)
        return Settled(seat.wake)
    is_new = seat.owner != request.owner or not seat.token
    refused = _take_lease(run, seat, request, step.attempts, step.due_at_ms, now_ms)
    if refused is None and is_new and (seat.strikes > MAX_STRIKES or (request.at_most_once and step.begun)):
        seat.token = 0
        return Exhausted(seat.strikes)
    return refused


def _take_lease(
    run: RunRow, holder: Holder, request: Claim, attempts: int, due_at_ms: int, now_ms: int
) -> Busy | Waiting | None:
    if holder.token and holder.owner == request.owner:
        return None  # the answer to this very claim was lost
    if holder.token and holder.lease_until_ms > now_ms and not _is_abandoned(holder, request, now_ms):
        return Busy(holder.token, holder.lease_until_ms - now_ms)
    if due_at_ms > now_ms:
        holder.token = 0
        return Waiting(attempts, due_at_ms - now_ms)
    run.tokens += 1
    holder.token = run.tokens
    holder.owner, holder.message_id, holder.retried = request.owner, request.message_id, request.retried
    holder.lease_until_ms, holder.alive_at_ms = now_ms + request.lease_ms, now_ms
    holder.strikes += 1
    run.status = "running"
    _forget_trouble(run, BODY if isinstance(holder, RunRow) else holder.path)
    return None


def _forget_trouble(run: RunRow, path: Path) -> None:
    """A message has come for the body or a step; what is known of another's trouble stays true."""
    if run.trouble is not None and trouble_of(run.trouble).path == path:
        run.trouble = None


def _is_abandoned(holder: Holder, request: Claim, now_ms: int) -> bool:
    """Whether the transport gave up on the attempt that holds the lease, which shows no sign of life either."""
    return (
        holder.message_id == request.message_id
        and request.retried >= holder.retried
        and now_ms - holder.alive_at_ms > TAKEOVER_AFTER_MS
    )


def commit_step(run: RunRow, step: StepRow, holder: Holder, token: int, outcome: Outcome, now_ms: int) -> Committed:
    """Record the outcome of a step that ran in place, under the lease of the body or of an enclosing step."""
    held = holder.is_held_by(token)
    if step.outcome is not None or not run.is_open:
        return Lost(step.outcome, held, seq=step.seq)
    if not outcome.ok and _is_overtaken(run, holder, token, now_ms):
        return Stale()
    _record(run, step, outcome, now_ms)
    _note_progress(holder, held, now_ms)
    return Won(held, seq=step.seq)


def commit_seat(run: RunRow, step: StepRow, seat: SeatRow, token: int, outcome: Outcome, now_ms: int) -> Committed:
    """Record the outcome of a step that ran in a delivery of its own; the first such step since the body was claimed
    owes it a wake."""
    if step.outcome is not None or not run.is_open:
        return Lost(step.outcome, held=False, wake=seat.wake, seq=step.seq)
    if not outcome.ok and _is_overtaken(run, seat, token, now_ms):
        return Stale()
    _record(run, step, outcome, now_ms)
    seat.token, seat.strikes = 0, 0
    owes = not run.dirty
    if owes:
        run.dirty, run.gen = 1, run.gen + 1
    seat.wake = run.gen
    return Won(held=False, wake=run.gen if owes else 0, seq=step.seq)


def take(run: RunRow, step: StepRow, event_id: str, outcome: Outcome, is_taken: bool, now_ms: int) -> Committed:
    """Record what came from elsewhere as the outcome of a step that waited for it; one run takes an event once."""
    if step.outcome is not None or not run.is_open:
        return Lost(step.outcome, held=False, seq=step.seq)
    if is_taken:
        return Stale()
    step.taken = event_id
    _record(run, step, outcome, now_ms)
    return Won(held=False, seq=step.seq)


def commit_body(run: RunRow, token: int, outcome: Outcome, now_ms: int) -> Committed:
    """End the run."""
    if not run.is_open:
        return Lost(run.outcome, held=False)
    if not outcome.ok and _is_overtaken(run, run, token, now_ms):
        return Stale()
    run.outcome = outcome
    run.status = "completed" if outcome.ok else "failed"
    run.finished_at_ms = now_ms
    run.token, run.strikes = 0, 0
    return Won(held=False)


def begin(
    run: RunRow, step: StepRow, around: Sequence[StepRow], holder: Holder, token: int, at_most_once: bool
) -> Begun:
    """Charge the coming start to the step alone: should its process die now, neither the body nor the steps `around`
    it are the suspect."""
    if not run.is_open or not holder.is_held_by(token):
        return Gone()
    if step.outcome is not None:
        return Done(step.outcome)
    if step.begun == token:
        return Go(step.attempts)  # the answer to this very call was lost
    if step.strikes >= MAX_STRIKES or (at_most_once and step.begun):
        return Exhausted(step.strikes)
    step.strikes += 1
    step.begun = token
    holder.strikes = 1
    for outer in around:
        outer.strikes = 0
    return Go(step.attempts)


def fail(
    run: RunRow, step: StepRow, holder: Holder, token: int, attempts: int, due_at_ms: int, error: str, now_ms: int
) -> Failed:
    """Record a failed attempt of a step that will be tried again."""
    if not run.is_open or not holder.is_held_by(token):
        return Gone()
    if step.outcome is not None:
        return Done(step.outcome)
    step.attempts = max(step.attempts, attempts)
    step.strikes, step.begun, step.due_at_ms, step.last_error = 0, 0, due_at_ms, error
    _note_progress(holder, held=True, now_ms=now_ms)
    return Go(step.attempts)


def schedule(
    run: RunRow, step: StepRow, holder: Holder, token: int, due_at_ms: int, waits_for: str | None
) -> Scheduled:
    """Fix when a timer or a wait ends; the first time that was recorded stands."""
    if not run.is_open or not holder.is_held_by(token):
        return Gone()
    if step.outcome is not None:
        return Done(step.outcome)
    step.due_at_ms = step.due_at_ms or due_at_ms
    step.waits_for = waits_for
    return Due(step.due_at_ms)


def release(
    run: RunRow, holder: Holder, token: int, kind: ReleaseKind, due_at_ms: int, error: str | None
) -> Released | None:
    """Give the lease back; None when this token does not hold it."""
    if not run.is_open or not holder.is_held_by(token):
        return None
    holder.token = 0
    if kind == "shutdown":
        holder.strikes = max(0, holder.strikes - 1)
        return Released(run.attempts)
    holder.strikes = 0
    if holder is run:
        run.status = "waiting"
    if kind == "failed":
        run.attempts += 1
        run.due_at_ms, run.last_error = due_at_ms, error
    return Released(run.attempts, bool(run.dirty))


def cancel(run: RunRow, now_ms: int) -> Status:
    """End a run without an outcome, unless it has ended; its holder hears of it at its next call."""
    if run.is_open:
        run.status, run.finished_at_ms, run.token = "cancelled", now_ms, 0
    return run.status


def reopen(run: RunRow, steps: Iterable[StepRow]) -> list[StepRow] | None:
    """Let a failed or cancelled run go on; return the steps that changed, or None when it has not failed."""
    if run.status not in REOPENED:
        return None
    run.status, run.outcome, run.finished_at_ms = "waiting", None, None
    run.attempts, run.strikes, run.due_at_ms, run.token = 0, 0, 0, 0
    run.epoch += 1
    run.trouble = None
    changed = [step for step in steps if step.outcome is None or not step.outcome.ok]
    for step in changed:
        is_timer = step.outcome is None and not step.attempts
        step.outcome, step.seq, step.committed_at_ms, step.taken = None, 0, None, None
        step.attempts, step.strikes, step.begun = 0, 0, 0
        step.due_at_ms = step.due_at_ms if is_timer else 0
    return changed


def note_trouble(run: RunRow, trouble: Trouble) -> None:
    """Record why an unfinished run cannot go on by itself; the next claim of whose trouble it is forgets it."""
    if run.is_open:
        run.trouble = trouble.encode()


def is_stalled(run: RunRow, steps: Iterable[StepRow], seats: Iterable[SeatRow], before_ms: int) -> bool:
    """Whether nothing has held an unfinished run since a time: no lease or sign of life, and nothing that falls due.

    A wait without an end holds a run that has nothing else to do: no lease was left behind, perhaps before the wait was
    heard of, no other step of the body's failed or began without an end, and no message of a step's own is out.
    """
    if not run.is_open or run.created_at_ms >= before_ms or run.due_at_ms >= before_ms:
        return False
    holders: list[Holder] = [run, *seats]
    if any(each.alive_at_ms >= before_ms or (each.token and each.lease_until_ms >= before_ms) for each in holders):
        return False
    known = list(steps)
    pending = [step for step in known if step.outcome is None]
    if any(before_ms <= step.due_at_ms < NEVER_MS for step in pending):
        return False
    if any((step.committed_at_ms or 0) >= before_ms for step in known if step.outcome is not None):
        return False
    if all(step.due_at_ms < NEVER_MS for step in pending):
        return True
    ended = {step.path for step in known if step.outcome is not None}
    return (
        any(each.token for each in holders)
        or any(step.due_at_ms < NEVER_MS and len(step.path) == 1 for step in pending)
        or any(isinstance(each, SeatRow) and each.sent and each.path not in ended for each in holders)
    )


def renew(run: RunRow, holder: Holder, token: int, lease_ms: int, now_ms: int) -> bool:
    """Give a sign of life; return whether the lease is held."""
    if not run.is_open or not holder.is_held_by(token):
        return False
    holder.lease_until_ms, holder.alive_at_ms = now_ms + lease_ms, now_ms
    return True


def _is_overtaken(run: RunRow, holder: Holder, token: int, now_ms: int) -> bool:
    """Whether a failure comes too late: another holds the lease, or the run was let go on after a failure since."""
    return holder.is_held_by_another(token, now_ms) or (run.epoch > 0 and holder.token != token)


def _record(run: RunRow, step: StepRow, outcome: Outcome, now_ms: int) -> None:
    run.seq += 1
    step.outcome, step.seq, step.committed_at_ms = outcome, run.seq, now_ms
    step.strikes, step.due_at_ms = 0, 0


def _note_progress(holder: Holder, held: bool, now_ms: int) -> None:
    """A recorded result clears the holder of suspicion but for the claim that is still at work; a sign of life, too."""
    holder.strikes = 1 if holder.token else 0
    if held:
        holder.alive_at_ms = now_ms
