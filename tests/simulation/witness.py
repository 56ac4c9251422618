"""What was seen in a world, and whether every promise was kept."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast

from pydantic import BaseModel

from idioteque.dispatcher import Dispatcher, EventEnvelope, decode
from idioteque.errors import StepFailed
from idioteque.function import run_id
from idioteque.ids import derived_id
from idioteque.paths import Path, path_text
from idioteque.runs import ENDED, Runs
from idioteque.store import (
    NEVER_MS,
    Exhausted,
    Finished,
    Gone,
    Lease,
    Lost,
    Outcome,
    RunRecord,
    Settled,
    Stale,
    Started,
    StepRecord,
    Waiting,
    Won,
)
from tests.simulation import faults
from tests.simulation.post import Flight, Letter
from tests.simulation.storage import all_runs, at_once

if TYPE_CHECKING:
    from tests.simulation.world import Process, World

REPEATING = (
    faults.CRASH_BEFORE, faults.CRASH_AFTER, faults.ERROR, faults.LOST, faults.FREEZE_BEFORE, faults.FREEZE_AFTER,
    faults.KILL_ALL, faults.AWAY, faults.CANCEL,
)  # fmt: skip
"""Faults after which an effect may be repeated (a cancelled run may be retried); a repeated message is none."""
TRY_NUMBER = re.compile(r"#\d+")
RECOVERY_US = 4 * 3600 * 1_000_000
"""What a run may need after the last fault beyond the time that it takes without one: all retries, and an operator."""

Key = tuple[str, Path]


@dataclass(frozen=True, slots=True)
class Conduct:
    """How a world went without a fault: what came out of its runs, how often each step was called, how long it took."""

    endings: dict[str, str]
    effects: dict[Key, int]
    points: int
    took_us: int


@dataclass(eq=False)
class Witness:
    """Sees every answer of the store, every value that a function is given, and every effect."""

    world: World
    expected: Conduct | None = None
    effects: Counter[Key] = field(default_factory=Counter[Key])
    edges: Counter[str] = field(default_factory=Counter[str])
    accepted_ms: dict[str, int] = field(default_factory=dict[str, int])
    """When the store first saw each event."""
    holders: dict[str, dict[str, None]] = field(default_factory=dict[str, dict[str, None]])
    """By the name that the store gave away: the ids of the runs that have had it, the first one first."""
    _once: set[Key] = field(default_factory=set[Key])
    _wins: Counter[tuple[str, int, Path]] = field(default_factory=Counter[tuple[str, int, Path]])
    _outcomes: dict[Key, list[Outcome]] = field(default_factory=dict[Key, list[Outcome]])
    _epochs: Counter[str] = field(default_factory=Counter[str])
    _asked_ms: dict[Key, int] = field(default_factory=dict[Key, int])
    _at_work: dict[Key, dict[Flight, None]] = field(default_factory=dict[Key, dict[Flight, None]])
    _cancelled_by_operator: dict[str, bool] = field(default_factory=dict[str, bool])
    """Of each run that was cancelled: whether the first to do so was an operator, and not the engine."""
    _given_up: Counter[str] = field(default_factory=Counter[str])
    _late_signs: int = 0
    """How often a sign of life was held up, for which a lease may be lost whose holder is at work."""
    _last_fault_us: int = 0

    # ---- what happens

    def edge(self, name: str) -> None:
        """Count that something of the recovery table happened."""
        self.edges[name] += 1

    def fault(self, process: Process, name: str, fault: str) -> None:
        """Take note of an injected fault, and of the row of the recovery table that it stands for."""
        self._last_fault_us = self.world.timers.now_us
        self._late_signs += (fault, name) == (faults.DELAY, "renew")
        row = EDGES_OF_FAULTS.get((fault, name)) or EDGES_OF_FAULTS.get((fault, ""))
        if row is not None and process is not self.world.outside:
            self.edge(row)

    def died(self, process: Process) -> None:
        """Take note of a process's end."""
        for flights in self._at_work.values():
            for flight in [flight for flight in flights if flight.process is process]:
                del flights[flight]

    def ended(self, flight: Flight) -> None:
        """Take note of a delivery's end."""
        for flights in self._at_work.values():
            flights.pop(flight, None)

    def answered(
        self, process: Process, flight: Flight | None, name: str, args: tuple[Any, ...], answer: object
    ) -> None:
        """Take note of an answer of the store, given in a delivery, whether or not its process will hear it."""
        if isinstance(answer, Won):
            run, path = (args[0].run_id, args[1]) if isinstance(args[0], Lease) else (args[0], args[1])
            self._won(run, path, args[2] if name == "commit" else args[3], answer)
        elif isinstance(answer, Started):
            at_work = self._at_work.setdefault((args[0].run_id, args[0].path), {})
            if at_work.keys() - {flight}:
                self.edge("two at work at once")
            if flight is not None:
                at_work[flight] = None
                flight.letter.claimed_when_dead |= flight.letter.state == "dead"
        elif name == "occupy":
            self.holders.setdefault(args[0], {})[str(answer)] = None
        elif name == "cancel" and answer == "cancelled":
            self._cancelled_by_operator.setdefault(args[0], process is self.world.outside)
        elif name == "arrive":
            self.accepted_ms[args[0]] = answer[0].accepted_at_ms  # type: ignore[index]
        elif isinstance(answer, Lost | Stale | Gone):
            self.edge("a holder finds that it is not one")
        elif isinstance(answer, Exhausted):
            self.edge("a step that killed its process")
        elif isinstance(answer, Settled | Finished):
            self.edge("a message finds all done")
        elif isinstance(answer, Waiting):
            self.edge("a message comes before its time")
        if name == "reopen" and answer is not None:
            self._epochs[args[0]] += 1

    def _won(self, run: str, path: Path, outcome: Outcome, answer: Won) -> None:
        key = (run, self._epochs[run], path)
        self._wins[key] += 1
        if self._wins[key] > 1:
            self.world.violate(f"{path_text(path) or 'the result'} of {run} was recorded {self._wins[key]} times")
        self._outcomes.setdefault((run, path), []).append(outcome)
        if answer.wake > 1:
            self.edge("a wake overtaken by a sibling's commit")
        if not outcome.ok:
            kind = json.loads(outcome.payload)["type"]
            if kind in ("StepInterrupted", "CrashLoop"):
                self._given_up[kind] += 1

    def effect(self, run: str, path: Path, *, once: bool) -> int:
        """Take note of an effect on the outside world; return how often it has happened by now."""
        self.effects[run, path] += 1
        if once:
            self._once.add((run, path))
        self.world.note(f"  effect {path_text(path)} of {run[:12]}, time {self.effects[run, path]}")
        return self.effects[run, path]

    def saw(self, run: str, path: Path, value: object) -> None:
        """Take note of what a step's await gave or raised: it must be what is on record."""
        seen = _plain(value)
        if seen not in [_recorded(outcome) for outcome in self._outcomes.get((run, path), [])]:
            self.world.violate(f"{path_text(path)} of {run} was seen as {seen}, which is not on record")

    def asked_to_sleep(self, run: str, path: Path, until_ms: int) -> None:
        """Take note of the earliest end that a sleep was asked for."""
        self._asked_ms.setdefault((run, path), until_ms)

    def slept(self, run: str, path: Path) -> None:
        """Take note of the end of a sleep, which must not be early."""
        slack_ms = 2 * max(map(abs, self.world.skews_ms)) + 2
        early_ms = self._asked_ms[run, path] - self.world.outside.now_ms() - slack_ms
        if early_ms > 0:
            self.world.violate(f"the sleep {path_text(path)} of {run} ended {early_ms} ms early")

    # ---- what must hold while nothing moves

    def look_at_idle_runs(self) -> None:
        """Time is about to leap: whatever has not ended must be held by a message, or wait for what will send one."""
        records = all_runs(self.world.storage.look)
        unfinished = [record for record in records if record.status not in ENDED]
        if not unfinished:
            return
        pending = self.world.post.pending()
        by_run = {record.run_id: record for record in records}
        for record in unfinished:
            letters = self._letters_of(record, pending)
            if not letters and not self._waits_for_others(record, by_run):
                self.world.violate(f"{_named(record)} is stranded: no message will ever move it")
            self._check_why(record, letters)

    def _letters_of(self, record: RunRecord, pending: list[Letter]) -> list[Letter]:
        """Return the letters that will move a run: its own, of the runs it invoked, or of an event it waits for."""
        about = {(record.event_id, record.function_id)}
        about |= {(event_id, function_id) for event_id, function_id in map(_invoked_by(record), record.steps)}
        waited = any(step.waits_for is not None for step in record.steps)
        return [letter for letter in pending if _is_about(letter, about, waited)]

    def _waits_for_others(self, record: RunRecord, by_run: dict[str, RunRecord]) -> bool:
        for step in record.steps:
            if step.outcome is not None or step.waits_for is None or step.due_at_ms < NEVER_MS:
                continue
            if not step.waits_for.startswith("a run of "):
                return True
            child = run_id(*_invoked_by(record)(step))
            if child not in by_run or by_run[child].status not in ENDED:
                return True
        return False

    def _check_why(self, record: RunRecord, letters: list[Letter]) -> None:
        world = self.world
        dispatcher = cast(Dispatcher, world.client.dispatcher)
        runs = Runs(world.storage.look, dispatcher, {}, world.program.schema, world.outside)
        why = at_once(runs.why(record.run_id))
        if why is None:
            world.violate(f"why says nothing of {_named(record)}")
        elif why.cause == "running" and record.lease_until_ms <= world.outside.now_ms():
            is_told = not world.post.pending(lambda letter: letter.is_callback)
            # A run knows of one trouble, the last, which a later claim of whose it is clears: that of a step may be
            # forgotten for another's, and that of a message whose delivery claimed the run after all.
            if is_told and letters and all(_is_dead_and_of(record, letter) for letter in letters):
                world.violate(f"why says of {_named(record)}: {why.text}; but nothing is on its way")

    # ---- what must hold in the end

    def check(self) -> None:
        """Hold the end of the world against every promise."""
        world = self.world
        records = all_runs(world.storage.look)
        self.records = records
        for letter in world.post.pending():
            world.violate(f"{letter.id} is {letter.state} for ever: {letter.outgoing.body[:200]!r}")
        for record in records:
            if record.status not in ENDED and not self._waits_for_what_was_cancelled(record):
                world.violate(f"{_named(record)} never ends")
            self._check_outcomes(record)
        world.client.check()
        self._check_effects()
        self._check_endings()
        self._check_time()
        world.finished_us = world.timers.now_us
        problem = world.program.check(world) if world.program.check is not None else None
        if problem is not None and not world.violations:
            world.violate(problem)

    def _check_time(self) -> None:
        """After the last fault everything must end within bounded time."""
        if self.expected is None or self.world.program.races:
            return
        ends_us = [1000 * record.finished_at_ms for record in self.records if record.finished_at_ms is not None]
        allowed_us = max(self._last_fault_us, self.world.client.began_us) + self.expected.took_us + RECOVERY_US
        if max(ends_us, default=0) > allowed_us:
            self.world.violate(f"it took {(max(ends_us) - allowed_us) // 1_000_000} s too long after the last fault")

    def _waits_for_what_was_cancelled(self, record: RunRecord) -> bool:
        return bool(self.world.injected[faults.CANCEL]) and self._waits_for_others(record, {})

    def _check_outcomes(self, record: RunRecord) -> None:
        for step in record.steps:
            if step.outcome is None:
                continue
            known = self._outcomes.get((record.run_id, step.path))
            if not known or known[-1] != step.outcome:
                self.world.violate(f"{path_text(step.path)} of {_named(record)} is another one than was recorded")

    def _check_effects(self) -> None:
        repeating = self._repeating_faults()
        for key, count in self.effects.items():
            if key in self._once and count > 1:
                self.world.violate(f"{path_text(key[1])} of {key[0]} may happen once, and happened {count} times")
            expected = None if self.expected is None else self.expected.effects.get(key)
            if expected is not None and count > expected + repeating:
                self.world.violate(f"{path_text(key[1])} of {key[0]} happened {count} times, with {repeating} faults")

    def _repeating_faults(self) -> int:
        """Count what may begin a step anew: where signs of life are slow, a repeated message also takes over."""
        kinds = faults.SINGLES if self.world.plan.is_slow else REPEATING
        return faults.total(self.world.injected, kinds) + self._late_signs

    def _check_endings(self) -> None:
        world = self.world
        hits = self._repeating_faults()
        if self._given_up["CrashLoop"] * 3 > hits or (self._given_up["StepInterrupted"] and not hits):
            world.violate(f"{dict(self._given_up)} after {hits} faults")
        if self.expected is None or world.program.races or self._given_up or world.injected[faults.CANCEL]:
            return
        endings = self.endings()
        for run in sorted(endings.keys() | self.expected.endings.keys()):
            seen, expected = endings.get(run, "no run"), self.expected.endings.get(run, "no run")
            if seen != expected:
                world.violate(f"{run} ended as {seen}, and without faults as {expected}")

    def operator_cancelled(self, run: str) -> bool:
        """Whether an operator ended the run, before the engine did."""
        return self._cancelled_by_operator.get(run, False)

    def endings(self) -> dict[str, str]:
        """Return what came out of each run, without the numbers of the attempts."""
        return {record.run_id: TRY_NUMBER.sub("", _ending(record)) for record in self.records}

    def conduct(self) -> Conduct:
        """Return how this world went, which is what others like it are held against."""
        took_us = self.world.finished_us - self.world.client.began_us
        return Conduct(self.endings(), dict(self.effects), self.world.points, took_us)


EDGES_OF_FAULTS = {
    (faults.CRASH_BEFORE, "claim"): "death before claim",
    (faults.CRASH_BEFORE, "arrive"): "death before claim",
    (faults.CRASH_BEFORE, faults.DELIVERY): "death before claim",
    (faults.CRASH_AFTER, "claim"): "death after claim, before effect",
    (faults.CRASH_BEFORE, "commit"): "death after effect, before commit",
    (faults.CRASH_AFTER, "commit"): "death after commit, before wake",
    (faults.CRASH_AFTER, "send"): "death after wake, before ack",
    (faults.CRASH_AFTER, faults.DELIVERY): "death after all, before ack",
    (faults.LOST, "claim"): "lost reply of claim",
    (faults.LOST, "commit"): "lost reply of commit",
    (faults.LOST, "send"): "dispatch accepted, reply lost",
    (faults.LOST, faults.DELIVERY): "ack lost",
    (faults.DUPLICATE, ""): "message duplicated",
    (faults.DUPLICATE_LATE, ""): "message duplicated after its ack, up to days late",
    (faults.FREEZE_BEFORE, ""): "process frozen for longer than its lease",
    (faults.FREEZE_AFTER, ""): "process frozen for longer than its lease",
    (faults.CANCEL, ""): "cancel",
    (faults.KILL_ALL, ""): "all processes killed",
    (faults.RESTART, ""): "transport restarted",
}


def _ending(record: RunRecord) -> str:
    if record.outcome is None:
        return record.status
    document = json.loads(record.outcome.payload)
    if not record.outcome.ok:
        document = f"{document['type']}: {document['message']}"
    return f"{record.status}: {document}"


def _named(record: RunRecord) -> str:
    return f"{record.run_id} of {record.function_id}"


def _invoked_by(record: RunRecord) -> Callable[[StepRecord], tuple[str, str]]:
    """Return how to tell, of a step that invoked a run, that run's event and function."""

    def event_and_function(step: StepRecord) -> tuple[str, str]:
        event_id = derived_id("evt", record.run_id, *step.path)
        return event_id, (step.waits_for or "").removeprefix("a run of ")

    return event_and_function


def _is_dead_and_of(record: RunRecord, letter: Letter) -> bool:
    envelope = decode(letter.outgoing.body, letter.id)
    of_step = not isinstance(envelope, EventEnvelope) and bool(envelope.path)
    of_run = _is_about(letter, {(record.event_id, record.function_id)}, or_any_event=False)
    return letter.state == "dead" and not letter.claimed_when_dead and of_run and not of_step


def _is_about(letter: Letter, runs: set[tuple[str, str]], or_any_event: bool) -> bool:
    if letter.is_callback:
        return False
    envelope = decode(letter.outgoing.body, letter.id)
    if isinstance(envelope, EventEnvelope):
        return or_any_event or any(envelope.event_id == event_id for event_id, _ in runs)
    return (envelope.event_id, envelope.function_id) in runs


def _recorded(outcome: Outcome) -> str:
    document = json.loads(outcome.payload)
    if not outcome.ok:
        return f"raised {document['type']}: {document['message']}"
    return json.dumps(document, sort_keys=True)


def _plain(value: object) -> str:
    if isinstance(value, StepFailed):
        return f"raised {value.type}: {value.message}"
    if isinstance(value, BaseModel):
        return json.dumps(value.model_dump(mode="json"), sort_keys=True)
    return json.dumps(value, sort_keys=True)
