"""What must hold: seen by one who watches every record, every effect and every value that a function is given."""

from __future__ import annotations

from collections import Counter
from collections.abc import Set as AbstractSet
from typing import TYPE_CHECKING

from idioteque.engine.failures import CRASH_LOOP, INTERRUPTED
from idioteque.paths import BODY, Path
from idioteque.store import MAX_STRIKES, Lease, Outcome

if TYPE_CHECKING:
    from tests.model.messages import Message
    from tests.model.passes import Spec
    from tests.model.world import World

Unit = tuple[str, Path]


class Observer:
    """Keeps the first thing that went wrong in `violation`."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.violation: str | None = None
        self.falls = 0
        """Faults that may cost one more run of each step in progress."""
        self.errors = 0
        """Calls that failed or whose answer was lost."""
        self.deaths = 0
        """Processes that a callable took with it."""
        self.width = 1
        """How many steps were in progress at once in one delivery."""
        self.effects: Counter[tuple[str, int, Path]] = Counter()
        self.specs: dict[Unit, Spec] = {}
        self._taken: set[tuple[str, int, str]] = set()
        self.purged = 0
        self.retried = False
        self.odd_times = 0
        """How often time passed or a message came when it need not have."""
        self.superseded: set[str] = set()
        self.unstarted: set[str] = set()
        self._outcomes: dict[tuple[str, int, Path], Outcome] = {}
        self._notes: dict[tuple[str, int, str], object] = {}
        self._marks: dict[Unit, int] = {}
        self._at_cancel: dict[str, tuple[int, int]] = {}

    def blame(self, what: str) -> None:
        self.violation = self.violation or what

    # ---- as it happens

    def recorded(self, lease: Lease, path: Path, outcome: Outcome, *, is_fenced: bool) -> None:
        epoch = self._world.store.epoch(lease.run_id)
        if (lease.run_id, epoch, path) in self._outcomes:
            self.blame(f"{path} of {lease.run_id} has two outcomes")
        self._outcomes[lease.run_id, epoch, path] = outcome
        if is_fenced:
            self.blame(f"the failure of {path} was recorded against a live holder")
        if path != BODY and outcome == INTERRUPTED and not self.crashes:
            self.blame(f"{path} was interrupted without a fault")
        is_inner = any(
            run_id == lease.run_id and inner[: len(path)] == path and inner != path and each == outcome
            for (run_id, _, inner), each in self._outcomes.items()
        )
        if (
            path != BODY
            and outcome == CRASH_LOOP
            and not is_inner  # the failure of a step inside, which came through
            and self.crashes - self._marks.get((lease.run_id, path), 0) < MAX_STRIKES
        ):
            self.blame(f"{path} is taken for a crash loop, which it is not")
        spec = self.specs.get((lease.run_id, path))
        if outcome == CRASH_LOOP and spec is not None and not spec.is_poison and not self.falls + self.errors:
            self.blame(f"{path} is blamed for what another did")
        self.progressed(lease, path)
        self.progressed(lease, lease.path)

    def progressed(self, lease: Lease, path: Path) -> None:
        """A result is on record: what came before is no ground for suspicion any more."""
        self._marks[lease.run_id, path] = self.crashes

    def took(self, run_id: str, event_id: str) -> None:
        epoch = self._world.store.epoch(run_id)
        if (run_id, epoch, event_id) in self._taken:
            self.blame(f"{run_id} took {event_id} twice")
        self._taken.add((run_id, epoch, event_id))

    @property
    def crashes(self) -> int:
        """How often a delivery ended before its work did."""
        return self.falls + self.deaths + self.errors

    def reopened(self, run_id: str, epoch: int, kept: AbstractSet[Path]) -> None:
        self._at_cancel.pop(run_id, None)
        for (run, before, path), outcome in list(self._outcomes.items()):
            if (run, before) == (run_id, epoch - 1) and path != BODY and outcome.ok and path not in kept:
                self.blame(f"the result of {path} was forgotten")
        self.retried = True
        if epoch == 0:
            self.blame(f"{run_id} was opened again in its first epoch")
            return
        for path in kept:
            self._outcomes[run_id, epoch, path] = self._outcomes[run_id, epoch - 1, path]

    def seen(self, run_id: str, epoch: int, path: Path, outcome: Outcome) -> None:
        on_record = self._outcomes.get((run_id, epoch, path))
        if on_record != outcome:
            self.blame(f"{path} of {run_id} was seen as {outcome.payload!r}, on record is {on_record}")

    def noted(self, run_id: str, epoch: int, name: str, value: object) -> None:
        """Check that what the function concludes is the same in every pass."""
        known = self._notes.setdefault((run_id, epoch, name), value)
        if known != value:
            self.blame(f"{name} of {run_id} was {known!r}, and on a replay {value!r}")

    def ran(self, run_id: str, path: Path, spec: Spec) -> int:
        """Count that a step's callable was called; return the number of its calls."""
        epoch = self._world.store.epoch(run_id)
        self.effects[run_id, epoch, path] += 1
        self.specs[run_id, path] = spec
        return self.effects[run_id, epoch, path]

    def refused(self, message: Message, status: int | None) -> None:
        if not (self.crashes or self.purged):
            self.blame(f"{message.kind} {message.event_id} was answered {status} without a fault")

    def cancelled(self, run_id: str) -> None:
        self._at_cancel.setdefault(run_id, (self._effects_of(run_id), len(self._world.running)))

    def forgotten(self, run_id: str) -> None:
        """The retention of a run is over: should it begin anew, it is another."""
        self.purged += 1
        for known in (self.effects, self._outcomes, self._notes):
            for key in [key for key in known if key[0] == run_id]:
                del known[key]
        self._taken = {key for key in self._taken if key[0] != run_id}

    def _effects_of(self, run_id: str) -> int:
        return sum(count for (run, _, _), count in self.effects.items() if run == run_id)

    # ---- in the end

    def verdict(self) -> str | None:
        """Return what went wrong, or None."""
        if self.violation is not None:
            return self.violation
        return self._unfinished() or self._unreported() or self._repeated() or self._world.program.check(self._world)

    def _unfinished(self) -> str | None:
        if self._world.running:
            return f"delivery {self._world.running[0].number} stands still"
        missing = self._world.program.expected() - set(self._world.store.run_ids) - self.superseded - self.unstarted
        if missing and not self.purged:
            return f"{min(missing)} never began"
        for run_id in self._world.store.run_ids:
            if self._world.store.status(run_id) in ("running", "waiting") and not self._may_wait(run_id):
                return f"{run_id} never ended"
        return None

    def _may_wait(self, run_id: str) -> bool:
        """Whether what a run waits for came before it began, or it began anew after its retention."""
        created_at_ms = self._world.store.created_at_ms(run_id)
        letters = [self._world.store.letter_ms(event_id) for event_id in self._world.program.letters()]
        is_too_late = self.retried or any(at_ms is None or at_ms < created_at_ms for at_ms in letters)
        return bool(letters) and is_too_late

    def _unreported(self) -> str | None:
        store = self._world.store
        for run_id in store.run_ids:
            event_id, function_id = run_id.rsplit("/", 1)
            function = self._world.functions.get(function_id)
            if function is None or function.on_failure is None or store.status(run_id) != "failed":
                continue
            epoch = store.epoch(run_id)
            handler = f"{run_id}.{epoch}" if epoch else run_id
            if store.status(f"{handler}/{function_id}.failed") is None:
                return f"the failure of {event_id} was never handled"
        handled = [run for run in store.run_ids if run.endswith(".failed")]
        for run in handled:
            failed = run.rsplit("/", 1)[0]
            if failed in store.run_ids and store.status(failed) == "completed" and not store.epoch(failed):
                return f"a failure of {failed} was handled, which did not fail"
        return None

    def _repeated(self) -> str | None:
        falls, extra = self.falls + self.errors, 0
        for (run_id, _epoch, path), count in self.effects.items():
            spec = self.specs[run_id, path]
            if spec.once and count > 1:
                return f"{path} was to start once and started {count} times"
            allowed = spec.calls_max
            deaths = 0 if spec.is_poison else self.deaths
            if count > allowed + falls + deaths:
                return f"{path} of {run_id} ran {count} times for {falls} faults"
            extra += max(0, count - allowed)
        if extra > (falls + self.deaths) * self.width:
            return f"{extra} repeated effects for {falls} faults"
        for run_id, (before, running) in self._at_cancel.items():
            if self._effects_of(run_id) - before > running * self.width:
                return "steps were started after the cancellation"
        return None

    def outcome_of(self, run_id: str, path: Path = BODY) -> str | None:
        """Return the recorded payload of the latest epoch, as text, for a program's own check."""
        found = self._outcomes.get((run_id, self._world.store.epoch(run_id), path))
        return None if found is None else found.payload.decode()
