"""What a store of runs promises: a few atomic operations, each one round trip, each harmless when its answer was lost.

A run is one function at work on one event. Its *body* is the function itself; a step is named by its path, the keys
from the body down. Each of them gets one outcome, which never changes. A delivery that runs the body holds its *lease*.
"""

from __future__ import annotations

from collections.abc import Awaitable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol, TypeVar

from idioteque.errors import ConfigurationError
from idioteque.paths import BODY, Path
from idioteque.records import Outcome as Outcome
from idioteque.records import RunRecord as RunRecord
from idioteque.records import Status as Status
from idioteque.records import StepRecord as StepRecord
from idioteque.records import Trouble as Trouble

T = TypeVar("T")

MAX_STRIKES = 3
TAKEOVER_AFTER_MS = 1500
MAILBOX_MS = 24 * 3600 * 1000
"""How long an event can still be taken by a run that begins to wait for it after it came."""
NEVER_MS = 2**52


@dataclass(frozen=True, slots=True)
class Recorded:
    """A step's outcome in a run's history; `seq` counts the outcomes of the run in the order of their commits."""

    path: Path
    outcome: Outcome
    seq: int


# ---- claim


@dataclass(frozen=True, slots=True)
class NewRun:
    """What a claim creates the run with, when there is none yet."""

    event_id: str
    function_id: str
    event: bytes
    options: bytes = b"{}"


@dataclass(frozen=True, slots=True)
class Claim:
    """Ask for the body of a run, or for a step that runs in a delivery of its own.

    `owner` is drawn anew for each claim, so that a repeated call is recognised; `message_id` and `retried` are those of
    the delivery, which tell a second attempt from a second message.
    `known` is the `seq` of the last outcome that the caller holds already, 0 for none: the answer may begin with it.
    With `inside`, the caller needs nothing of the history but what is recorded of this step and of those in it; a store
    may tell more.
    """

    run_id: str
    owner: str
    message_id: str
    retried: int
    lease_ms: int
    new: NewRun | None = None
    path: Path = BODY
    at_most_once: bool = False
    known: int = 0
    inside: bool = False


@dataclass(frozen=True, slots=True)
class Unknown:
    """No such run is stored."""


@dataclass(frozen=True, slots=True)
class Finished:
    """The run has ended; `outcome` is None when it was cancelled."""

    status: Status
    outcome: Outcome | None
    function_id: str


@dataclass(frozen=True, slots=True)
class Settled:
    """The step has an outcome, of which the body is told by its wake of this generation."""

    wake: int


@dataclass(frozen=True, slots=True)
class Busy:
    """Another delivery holds a lease that is alive."""

    token: int
    remaining_ms: int


@dataclass(frozen=True, slots=True)
class Waiting:
    """The back-off after the function's last failure is not over."""

    attempts: int
    remaining_ms: int


@dataclass(frozen=True, slots=True)
class Unfinished:
    """A step that has failed or started before and has no outcome yet; `is_sent` when a message of its own is out."""

    attempts: int
    due_at_ms: int
    is_sent: bool = False


@dataclass(frozen=True, slots=True)
class Letter:
    """An event in the mailbox: it may have come before anybody waited for it."""

    event_id: str
    event: bytes
    accepted_at_ms: int


@dataclass(frozen=True, slots=True)
class Watcher:
    """A step that waits for an event of one of its types whose fields equal those of `where` (a JSON object)."""

    run_id: str
    path: Path
    event_id: str
    function_id: str
    where: bytes
    created_at_ms: int
    epoch: int
    options: bytes
    seat: Path = BODY
    """Whose delivery runs the step: the body's, or that of an enclosing step."""


@dataclass(frozen=True, slots=True)
class Started:
    """The lease is yours under this token, with all that is known of the run in one snapshot; `outcomes` may begin with
    that of `Claim.known`. `epoch` counts how often the run was opened again, which took its failures out."""

    token: int
    attempts: int
    strikes: int
    event_id: str
    function_id: str
    event: bytes
    options: bytes
    created_at_ms: int = 0
    outcomes: Sequence[Recorded] = ()
    unfinished: Mapping[Path, Unfinished] = field(default_factory=dict[Path, Unfinished])
    epoch: int = 0


# ---- the holder's operations


@dataclass(frozen=True, slots=True)
class Won:
    """The outcome was recorded; `held`: the token still holds the lease. `wake` is the generation of the wake that the
    body is owed for a step with a delivery of its own, 0 when none; `seq` a step's place in the history."""

    held: bool
    wake: int = 0
    seq: int = field(default=0, compare=False)


@dataclass(frozen=True, slots=True)
class Lost:
    """Another outcome was recorded before (None: the run has ended without this step), at the place `seq` in the
    history; go on with that one."""

    outcome: Outcome | None
    held: bool
    wake: int = 0
    seq: int = field(default=0, compare=False)


@dataclass(frozen=True, slots=True)
class Stale:
    """A failure was refused, since another delivery holds the lease."""


Committed = Won | Lost | Stale


@dataclass(frozen=True, slots=True)
class Go:
    """The step may start (`begin`), or its failure was recorded (`fail`)."""

    attempts: int = 0


@dataclass(frozen=True, slots=True)
class Exhausted:
    """The step was begun too often without an end; it must fail with this outcome's reason."""

    strikes: int


@dataclass(frozen=True, slots=True)
class Done:
    """The step has an outcome already."""

    outcome: Outcome


@dataclass(frozen=True, slots=True)
class Gone:
    """The lease is not yours any more, or the run has ended."""


@dataclass(frozen=True, slots=True)
class Due:
    """When a timer ends: the time that was recorded first."""

    at_ms: int


Claimed = Unknown | Finished | Settled | Busy | Waiting | Exhausted | Started
Begun = Go | Exhausted | Done | Gone
Failed = Go | Done | Gone
Scheduled = Due | Done | Gone
ReleaseKind = Literal["suspended", "failed", "shutdown"]


@dataclass(frozen=True, slots=True)
class Lease:
    """A run, or one of its steps, and the token that holds it."""

    run_id: str
    token: int
    path: Path = BODY


@dataclass(frozen=True, slots=True)
class Released:
    """The lease was handed back; `is_dirty` when a step has ended that the holder of the body has not seen."""

    attempts: int
    is_dirty: bool = False


class Store(Protocol):
    """Keeps runs. Every method is atomic; an exception means "unknown", and the same call may be made again."""

    def claim(self, claim: Claim) -> Awaitable[Claimed]:
        """Take the lease of a run's body, creating the run if it is new and `claim.new` says with what.

        It may be under way before it is awaited, beside whatever its caller does meanwhile.
        """
        ...

    async def commit(self, lease: Lease, path: Path, outcome: Outcome) -> Committed:
        """Record the outcome of a step that ran under this lease, or of the body, which ends the run.

        The first success wins, whoever brings it; a failure is taken only while no other delivery holds the lease.
        """
        ...

    async def begin(self, lease: Lease, path: Path, *, at_most_once: bool = False) -> Begun:
        """Record that a step is about to start: what kills its process is charged to it alone."""
        ...

    async def fail(
        self, lease: Lease, path: Path, attempts: int, due_at_ms: int, error: str, took_ms: int | None = None
    ) -> Failed:
        """Record that a step failed for the n-th time, after so long, and is due again at a time."""
        ...

    async def sent(self, lease: Lease, paths: Sequence[Path]) -> None:
        """Record that messages of these steps' own were accepted, so that they are not sent again."""
        ...

    async def schedule(self, lease: Lease, path: Path, due_at_ms: int, waits_for: str | None = None) -> Scheduled:
        """Record when a timer or a wait ends, unless that is on record already, and what it waits for, in words."""
        ...

    async def watch(self, lease: Lease, path: Path, types: Sequence[str], where: bytes) -> None:
        """Have a step of this run found by the events of these types, until `unwatch` or the end of the run."""
        ...

    async def unwatch(self, run_id: str, path: Path) -> None:
        """Forget a watcher."""
        ...

    async def arrive(self, event_id: str, type_name: str, event: bytes) -> tuple[Letter, Sequence[Watcher]]:
        """Put an event into the mailbox, once, and return it as it is there, with everybody who waits for its type."""
        ...

    async def letters(self, types: Sequence[str], since_ms: int) -> Sequence[Letter]:
        """Return the events of these types that were accepted since then, in that order."""
        ...

    async def take(self, run_id: str, path: Path, event_id: str, outcome: Outcome) -> Committed:
        """Record an event as the outcome of a step that waited; `Stale` when another step of the run has taken it."""
        ...

    async def occupy(self, name: str, run_id: str, *, until_end: bool) -> str:
        """Let a run have a name that nobody has; return who has it. With `until_end`, an ended run has it no more.

        A run that meets another one here is dismissed, for good: it is told of the same one whenever it asks again,
        within the retention. For the messages of its event are acknowledged then, and nothing would hold what a stray
        repetition of them began. What was dismissed and has not begun has no other name either, here and hereafter.
        """
        ...

    async def latest(self, name: str, event_id: str, accepted_at_ms: int, run_id: str) -> str:
        """Note an event under a name, and return which of those noted was accepted last.

        When that is another one, the run of this event is dismissed: unless it has begun, it has no name any more.
        """
        ...

    async def release(
        self, lease: Lease, kind: ReleaseKind, *, due_at_ms: int = 0, error: str | None = None
    ) -> Released | None:
        """Hand the lease back; return None when it was not held.

        `failed` counts an attempt and sets when the next is due; `shutdown` takes the strike of the claim back.
        """
        ...

    async def renew(self, leases: Sequence[Lease], lease_ms: int) -> Sequence[bool]:
        """Give a sign of life for each lease; return for each whether it is still held."""
        ...

    async def trouble(self, run_id: str, trouble: Trouble, new: NewRun | None = None) -> None:
        """Record why an unfinished run cannot go on by itself; create the run if it is new and `new` says with what.

        A run that was dismissed is not created: what tells of its message comes late, and nothing would ever end it.
        """
        ...

    async def cancel(self, run_id: str) -> Status | None:
        """End a run without an outcome, unless it has ended; return its status from now on, or None: no such run."""
        ...

    async def reopen(self, run_id: str) -> int | None:
        """Let a failed or cancelled run go on: forget its own outcome and its steps' failures, keep their results.

        Return how often it was opened, or None when there is no such run, or it has not failed.
        """
        ...

    async def get(self, run_id: str) -> RunRecord | None:
        """Return a run with its steps in the order of their commits (those without an outcome last), or None."""
        ...

    async def list(
        self,
        *,
        status: Status | None = None,
        function_id: str | None = None,
        limit: int = 50,
        before: str | None = None,
    ) -> Sequence[RunRecord]:
        """Return runs without their steps, the newest first; `before` is the last run id of the page before."""
        ...

    async def close(self) -> None:
        """Finish what was begun and let go of the storage."""
        ...


def required(part: T | None, store: Store, doing: str) -> T:
    """Return a part that not every store has; raise `ConfigurationError` when this one does not have it."""
    if part is None:
        raise ConfigurationError(f"{type(store).__name__} does not {doing}")
    return part
