"""What the scripts answer, read back into the store's answers and the ledger's rows."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import cast

from idioteque.ledger import RunRow, SeatRow, StepRow
from idioteque.paths import path_of
from idioteque.records import AttemptRecord, DeliveryRecord
from idioteque.store import (
    Begun,
    Busy,
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
    Scheduled,
    Settled,
    Stale,
    Status,
    Unknown,
    Waiting,
    Won,
)

RUN_TEXTS = ("status", "outcome", "error", "trouble", "owner", "message", "event_id", "function_id")
HEADER = ("run", *RUN_TEXTS, "options", "event")


@dataclass(frozen=True, slots=True)
class Reply:
    """An array that the server answered, read part by part."""

    parts: Sequence[object]

    @classmethod
    def of(cls, answered: object) -> Reply:
        return cls(cast("list[object]", answered))

    def data(self, at: int) -> bytes:
        return cast("bytes", self.parts[at])

    def text(self, at: int) -> str:
        return self.data(at).decode()

    def number(self, at: int) -> int:
        return int(cast("bytes | int", self.parts[at]))

    def inner(self, at: int) -> Reply:
        return Reply.of(self.parts[at])

    def outcome(self, at: int) -> Outcome | None:
        """Return the outcome that stands in two parts: 1, 0 or -1 for none, and the payload."""
        return outcome_of(self.number(at), self.data(at + 1))


@dataclass(frozen=True, slots=True)
class Dump:
    """Everything of a run: its rows, and the event."""

    run: RunRow
    event: bytes
    steps: list[StepRow]
    seats: dict[str, SeatRow]


def outcome_of(ok: int, payload: bytes | None, took_ms: int | None = None) -> Outcome | None:
    return None if ok < 0 else Outcome(ok == 1, payload or b"", took_ms)


def refused(reply: Reply) -> Unknown | Finished | Busy | Waiting | Settled | Exhausted:
    """Read why a claim did not start."""
    match reply.text(0):
        case "unknown":
            return Unknown()
        case "finished":
            return Finished(cast("Status", reply.text(1)), reply.outcome(2), reply.text(4))
        case "busy":
            return Busy(reply.number(1), reply.number(2))
        case "waiting":
            return Waiting(reply.number(1), reply.number(2))
        case "settled":
            return Settled(reply.number(1))
        case _:
            return Exhausted(reply.number(1))


def committed(reply: Reply) -> Committed:
    match reply.text(0):
        case "won":
            return Won(bool(reply.number(1)), reply.number(2), seq=reply.number(3))
        case "lost":
            return Lost(reply.outcome(1), bool(reply.number(3)), reply.number(4), reply.number(5))
        case _:
            return Stale()


def begun(reply: Reply) -> Begun:
    return Exhausted(reply.number(1)) if reply.text(0) == "exhausted" else failed(reply)


def failed(reply: Reply) -> Failed:
    if reply.text(0) == "go":
        return Go(reply.number(1))
    return _over(reply)


def scheduled(reply: Reply) -> Scheduled:
    if reply.text(0) == "due":
        return Due(reply.number(1))
    return _over(reply)


def _over(reply: Reply) -> Done | Gone:
    outcome = reply.outcome(1) if reply.text(0) == "done" else None
    return Gone() if outcome is None else Done(outcome)


def dump_of(run_id: str, flat: Iterable[object]) -> Dump | None:
    """Read a whole hash, given as names and values in turn; None when there is none."""
    values = cast("list[bytes]", list(flat))
    fields = {name.decode(): value for name, value in zip(values[::2], values[1::2], strict=True)}
    if "run" not in fields:
        return None
    steps = [_step(name[5:], fields) for name in fields if name.startswith("step:")]
    seats = {name[5:]: _seat(name[5:], fields) for name in fields if name.startswith("seat:")}
    return Dump(_run(run_id, fields), fields["event"], steps, seats)


def past_of(flat: Iterable[object]) -> tuple[list[DeliveryRecord], list[AttemptRecord]]:
    """Read the past of a run out of its whole hash: its latest deliveries, and attempts that failed, in their order."""
    values = cast("list[bytes]", list(flat))
    came: list[tuple[int, DeliveryRecord]] = []
    tried: list[AttemptRecord] = []
    for name, value in zip(values[::2], values[1::2], strict=True):
        if name.startswith(b"came:"):
            token, path, message_id, retried, at_ms = value.decode(errors="replace").split("\n")
            came.append((int(token), DeliveryRecord(path_of(path), message_id, int(retried), int(at_ms))))
        elif name.startswith(b"tried:"):
            path_text = name.decode().removeprefix("tried:")
            tried += [_attempt(path_text, line) for line in value.decode(errors="replace").split("\n")]
    came.sort(key=lambda one: one[0])
    tried.sort(key=lambda attempt: attempt.at_ms)
    return [delivery for _, delivery in came], tried


def _attempt(path: str, line: str) -> AttemptRecord:
    epoch, attempt, at_ms, took, error = line.split(" ", 4)
    took_ms = None if int(took) < 0 else int(took)
    return AttemptRecord(path_of(path), int(epoch), int(attempt), int(at_ms), took_ms, error)


def header_of(run_id: str, values: Sequence[object]) -> Dump | None:
    """Read the fields of `HEADER`: a run without its steps; None when there is none."""
    pairs = zip(HEADER, cast("Sequence[bytes | None]", values), strict=True)
    fields = {name: value for name, value in pairs if value is not None}
    return Dump(_run(run_id, fields), fields["event"], [], {}) if "run" in fields else None


def _run(run_id: str, fields: dict[str, bytes]) -> RunRow:
    numbers = [int(number) for number in fields["run"].split()]
    created, finished, ok, attempts, strikes, due, epoch, seq, tokens, token = numbers[:10]
    lease_until, alive, retried, dirty, gen = numbers[10:15]
    return RunRow(
        *(run_id, fields["event_id"].decode(), fields["function_id"].decode(), fields["options"], created),
        status=cast("Status", fields["status"].decode()),
        finished_at_ms=None if finished < 0 else finished,
        outcome=outcome_of(ok, fields.get("outcome")),
        attempts=attempts,
        strikes=strikes,
        due_at_ms=due,
        last_error=_text(fields, "error"),
        epoch=epoch,
        trouble=_text(fields, "trouble"),
        seq=seq,
        tokens=tokens,
        token=token,
        lease_until_ms=lease_until,
        alive_at_ms=alive,
        owner=_text(fields, "owner") or "",
        message_id=_text(fields, "message") or "",
        retried=retried,
        dirty=dirty,
        gen=gen,
    )


def _step(path: str, fields: dict[str, bytes]) -> StepRow:
    ok, seq, attempts, strikes, begun_by, due, committed_at, took = (int(n) for n in fields[f"step:{path}"].split())
    outcome = outcome_of(ok, fields.get(f"step.outcome:{path}"), None if took < 0 else took)
    return StepRow(
        *(path_of(path), outcome, seq, attempts, strikes, begun_by, due),
        committed_at_ms=None if committed_at < 0 else committed_at,
        last_error=_text(fields, f"step.error:{path}"),
        taken=_text(fields, f"step.taken:{path}"),
        waits_for=_text(fields, f"step.waits:{path}"),
    )


def _seat(path: str, fields: dict[str, bytes]) -> SeatRow:
    token, lease_until, alive, retried, strikes, wake, sent = (int(n) for n in fields[f"seat:{path}"].split())
    owner, message = _text(fields, f"seat.owner:{path}") or "", _text(fields, f"seat.message:{path}") or ""
    return SeatRow(path_of(path), token, lease_until, alive, owner, message, retried, strikes, wake, sent)


def _text(fields: dict[str, bytes], name: str) -> str | None:
    return fields[name].decode() if name in fields else None
