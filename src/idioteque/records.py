"""What a store keeps of a run, as people look at it."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from idioteque.paths import BODY, Path, path_of, path_text

TroubleKind = Literal["dead_letter", "missing_step"]
Status = Literal["running", "waiting", "completed", "failed", "cancelled"]


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a step or a run ended: `payload` is the JSON of its value, or of the error it is to raise.

    `took_ms` is how long the last attempt ran, None for what ran nothing or where the store does not keep it.
    """

    ok: bool
    payload: bytes
    took_ms: int | None = field(default=None, compare=False)


@dataclass(frozen=True, slots=True)
class Trouble:
    """Why a run cannot go on by itself: `dead_letter` (its message was given up) or `missing_step`.

    `path` is the step whose message that was, `()` for the body; what claims that forgets the trouble.
    """

    kind: TroubleKind
    text: str
    path: Path = BODY

    def encode(self) -> str:
        """Write it as one text, which says whose trouble it is before the first line ends."""
        return f"{self.kind} {self.text}" if self.path == BODY else f"{self.kind}@{path_text(self.path)}\n{self.text}"


_OF_A_STEP = re.compile(r"[a-z_]+@([^\n]*)\n")  # `path_text` writes no control characters


def trouble_of(text: str) -> Trouble:
    """Read what `Trouble.encode` wrote."""
    kind: TroubleKind = "missing_step" if text.startswith("missing_step") else "dead_letter"
    match = _OF_A_STEP.match(text)
    if match is None:
        return Trouble(kind, text.partition(" ")[2])
    return Trouble(kind, text[match.end() :], path_of(match[1]))


@dataclass(frozen=True, slots=True)
class StepRecord:
    """A step as stored; times in milliseconds since the epoch, `outcome` None while it has none."""

    path: Path
    outcome: Outcome | None
    seq: int | None
    attempts: int
    strikes: int
    due_at_ms: int
    committed_at_ms: int | None
    error: str | None
    waits_for: str | None = None
    took_ms: int | None = None


@dataclass(frozen=True, slots=True)
class DeliveryRecord:
    """A delivery that held the lease of a run's body, or of the step at `path`; `retried` attempts went before it."""

    path: Path
    message_id: str
    retried: int
    at_ms: int


ATTEMPTS_KEPT = 20
"""How many failed attempts of one step a store keeps, the latest; its count of them goes on."""
ERROR_LENGTH_MAX = 500
DELIVERIES_KEPT = 50
"""How many deliveries of a run a store keeps at least, the latest."""


@dataclass(frozen=True, slots=True)
class AttemptRecord:
    """A failed attempt of the step at `path`, or of the body, that was not its end.

    `attempt` counts from 1 in each `epoch` of the run; `took_ms` is None where nobody measured it.
    """

    path: Path
    epoch: int
    attempt: int
    at_ms: int
    took_ms: int | None
    error: str


def described(payload: bytes) -> dict[str, Any]:
    """Return the `type`, `message`, `traceback` and `kind` of a recorded failure."""
    document: dict[str, Any] = json.loads(payload)
    return document


def describe(payload: bytes) -> str:
    """Return a recorded failure as `Type: message`."""
    error = described(payload)
    return f"{error['type']}: {error['message']}" if error.get("message") else str(error["type"])


def error_line(payload: bytes) -> str:
    """Return a recorded failure as one line of bounded length, whatever it holds."""
    try:
        text = describe(payload)
    except (ValueError, KeyError, TypeError, AttributeError):  # no JSON, or no object with a type
        text = payload.decode(errors="replace")
    return " ".join(text.split())[:ERROR_LENGTH_MAX]


@dataclass(frozen=True, slots=True)
class RunRecord:
    """A run as stored; times in milliseconds since the epoch. `messages` counts the deliveries that were at work on it,
    of which `deliveries` has the latest; `failed_attempts` has those of steps and body, the oldest first. A store may
    leave out these two.
    """

    run_id: str
    event_id: str
    function_id: str
    status: Status
    event: bytes
    options: bytes
    outcome: Outcome | None
    attempts: int
    strikes: int
    due_at_ms: int
    lease_until_ms: int
    created_at_ms: int
    finished_at_ms: int | None
    error: str | None
    epoch: int = 0
    trouble: Trouble | None = None
    steps: Sequence[StepRecord] = ()
    deliveries: Sequence[DeliveryRecord] = ()
    failed_attempts: Sequence[AttemptRecord] = ()
    messages: int = 0
