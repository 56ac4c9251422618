"""The protocol with one of its rules broken: each must be found out, or the rule, or the model, is for nothing.

Left out, since they cost time and nothing else: a release that does not look at `dirty` (the wake that met the lease
has left a check-back), check-backs that may not take a lease over, steps that are sent again although they were
accepted, an acknowledgement by who met a live lease with his failure (its holder has a message of its own), and one
message for the last instead of the first of several steps that are due later; a delivery that goes on as a step while
others are postponed (that step's end wakes the body), and a claim of a step before it is due (its pass looks again).
Left out, too: a claim that does not know
its own owner, as long as no call is repeated within a delivery.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from idioteque.paths import BODY
from idioteque.store import Lease, Lost, Outcome, Recorded, Stale, Started, Won
from idioteque.stores.memory import MemoryStore
from tests.model.deliveries import DONE, Delivery
from tests.model.messages import Outbox, Outgoing
from tests.model.mutant_rules import RULES
from tests.model.passes import Pass
from tests.model.protocol import Protocol
from tests.model.steps import StepTask
from tests.model.store import ModelStore
from tests.model.waits import Arrival, Watch, take

Method = Callable[..., Any]


@dataclass(frozen=True, slots=True)
class Mutant:
    """What it breaks, and in which programs and modes that shows."""

    name: str
    protocol: Protocol
    programs: tuple[str, ...]
    modes: tuple[str, ...] = ("inline", "isolated")
    faults: tuple[str, ...] = ("kill", "dup", "freeze", "redel", "lost")


def _done(*_: Any) -> Any:
    """Acknowledge and do nothing."""
    yield from ()
    return DONE


def _none(*_: Any) -> Any:
    yield from ()


# ---- deliveries


def finish_tells_nobody(self: Delivery, message: Any, lease: Lease, started: Started, outcome: Outcome) -> Any:
    answer = yield from self.call(lambda: self.store.commit(lease, BODY, outcome))
    return None if isinstance(answer, Stale) else DONE


def hand_out_nothing(self: Delivery, message: Any, lease: Lease, scheduled: Any) -> Any:
    yield from self.call(lambda: self.store.sent(lease, list(scheduled)))


def hand_out_recorded_first(self: Delivery, message: Any, lease: Lease, scheduled: Any) -> Any:
    yield from self.call(lambda: self.store.sent(lease, list(scheduled)))
    yield from self.send(*self.outbox.steps(message, scheduled))


def try_later_alone(self: Delivery, message: Any, lease: Lease, pause_ms: int) -> Any:
    due_ms = self.world.clock_ms + pause_ms
    released = yield from self.call(lambda: self.store.release(lease, "failed", due_at_ms=due_ms))
    return None if released is None else DONE


def fan_out_first(self: Delivery, begins: Any) -> Any:
    yield from self.send(*self.outbox.start([run for run, _ in begins[:1]], [delay_ms for _, delay_ms in begins[:1]]))


def occupy_nothing(self: Delivery, name: str, own: str, kind: str) -> Any:
    yield from ()
    return own


async def occupy_without_record(self: ModelStore, name: str, run_id: str, *, until_end: bool) -> str:
    holder = await MemoryStore.occupy(self, name, run_id, until_end=until_end)
    self._dismissals.clear()
    return holder


def dismiss_whatever_began(self: Delivery, run: str) -> Any:
    yield from Delivery.dismiss(self, run)
    return True


def never_superseded(self: Delivery, message: Any) -> Any:
    yield from ()
    return False


def given_up_fails(self: Delivery) -> Any:
    lost = self.message.lost
    assert lost is not None
    yield from self.call(lambda: self.store.commit(Lease(lost.run_id, 0), BODY, Outcome(False, b"given up")))
    return DONE


def whole_unchecked(self: Delivery, claim: Any, epoch: int) -> Any:
    """Take what is remembered for the beginning of whatever the store answers."""
    answer = yield from self.call(lambda: self.store.claim(claim))
    past = self.memory.remembered._runs.get(claim.run_id)
    if not isinstance(answer, Started) or not claim.known or past is None:
        return answer
    self.running.heard.append(past.outcomes)
    return replace(answer, outcomes=[*past.outcomes, *answer.outcomes[1:]])


def learn_parts(self: Delivery, started: Started, one: Pass, *, is_inside: bool) -> None:
    """Take what lies inside a step for the whole."""
    Delivery.learn(self, started, one, is_inside=False)


def parent_woken_once(self: Delivery, parent_id: str, path: Any, seat: Any, child: Any) -> Any:
    outcome = child.outcome or Outcome(False, b"cancelled")
    answer = yield from self.call(lambda: self.store.take(parent_id, path, child.run_id, outcome))
    parent = yield from self.call(lambda: self.store.get(parent_id))
    if isinstance(answer, Won):
        yield from self.send(self.outbox.wake(parent.event_id, parent.function_id, seat, parent.epoch, path))


def never_overdue(self: Delivery, *_: Any) -> bool:
    return False


# ---- messages


def _cause(position: int | None, *, without: tuple[str, ...]) -> Method:
    """Leave one part out of the ids of messages of some kinds."""

    def cause(self: Outbox, message: Any, kind: str, *parts: Any) -> Any:
        whole = [kind, message.run_id, message.path, message.epoch, *parts]
        if kind in without and position is not None and position < len(whole):
            del whole[position]
        return tuple(whole)

    return cause


def retry_named_by_nothing(self: Outbox, message: Any, attempts: int, delay_ms: int, path: Any = BODY) -> Outgoing:
    again = self.following(message, None)
    return Outgoing(again, self.cause(again, "retry", path), delay_ms)


def fail_without_epoch(self: Outbox, run: str, handler_id: str, epoch: int) -> Outgoing:
    return Outbox.fail(self, run, handler_id, 0)


# ---- passes and steps


def is_ours_always(self: Pass, spec: Any) -> bool:
    return self.lease.path != BODY or Pass.is_ours(self, spec)


class Unordered(Pass):
    """Hands outcomes out as they are asked for."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        known = {entry.path: entry.outcome for entry in self.started.outcomes}
        self.history.next = known.get  # type: ignore[method-assign]


class Heedless(Pass):
    """Shows what its own steps record at once, whatever others have recorded before."""

    def remember(self, recorded: Recorded) -> None:
        self.history.add(recorded, has_turn=True)


class Hasty(Pass):
    """Hands out in one go what is known."""

    def settle(self) -> None:
        self.loop.settle()
        while not self.is_stopping and self.history.hand_out():
            while self.history.hand_out():
                pass
            self.loop.settle()


class Unlearned(Pass):
    """Takes what it holds back for the next outcome, whatever lies between."""

    def show(self, arrived: Any) -> None:
        self.are_others = False
        super().show(arrived)


class Careless(Pass):
    """Never one step at a time."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.is_careful = False


def take_turn_never(self: StepTask) -> Any:
    yield from ()


def commit_without_loss(self: StepTask, outcome: Outcome) -> Any:
    one, spec = self.one, self.spec
    answer = yield from self._call(lambda: self.world.store.commit(one.lease, spec.path, outcome))
    if spec.path == one.lease.path and not isinstance(answer, Stale):
        one.conclude(answer.wake)
        return None
    if isinstance(answer, Lost) and answer.outcome is not None:
        outcome = answer.outcome
    one.remember(Recorded(spec.path, outcome, getattr(answer, "seq", 0)))
    return outcome


def adopt_own(self: StepTask, on_record: Outcome, own: Outcome) -> Outcome:
    return own


def failed_in_memory(self: StepTask, text: str) -> Any:
    yield from ()
    if self.attempts + 1 >= self.spec.attempts:
        return Outcome(False, text.encode())
    self.attempts += 1
    return None


def is_due_always(self: StepTask) -> Any:
    yield from ()
    return True


def begin_nothing(self: StepTask) -> Any:
    yield from ()
    return True, None


def is_inside_none(self: Pass, path: Any) -> bool:
    return False


async def forget_nothing(self: ModelStore, run_id: str) -> None:
    return


# ---- waits


def look_then_register(self: Watch) -> Any:
    letters = yield from self.letters()
    yield from self.register()
    for letter in letters:
        outcome = yield from take(self.world, self.call, self.one.run_id, self.spec.path, letter)
        if outcome is not None:
            return outcome
    return None


def register_alone(self: Watch) -> Any:
    yield from self.register()


def register_nothing(self: Watch) -> Any:
    yield from ()


def look_then_post(self: Arrival, kind: str, event_id: str) -> Any:
    watchers = list(self.world.store._watchers.get(kind, {}).values())
    yield from self.call(lambda: None)
    letter, _ = yield from self.call(lambda: self.world.store.arrive(event_id, kind, kind.encode()))
    return letter, watchers


def forget_then_notify(self: Arrival, watcher: Any, letter: Any) -> Any:
    outcome = yield from take(self.world, self.call, watcher.run_id, watcher.path, letter)
    if outcome is not None:
        yield from self.call(lambda: self.world.store.unwatch(watcher.run_id, watcher.path))
        yield from self.notify(watcher)


def forget_first(self: Arrival, watcher: Any, letter: Any) -> Any:
    yield from self.call(lambda: self.world.store.unwatch(watcher.run_id, watcher.path))
    yield from Arrival.wake(self, watcher, letter)


def notify_once(self: Arrival, watcher: Any, letter: Any) -> Any:
    outcome = Outcome(True, letter.event_id.encode())
    answer = yield from self.call(lambda: self.world.store.take(watcher.run_id, watcher.path, letter.event_id, outcome))
    if isinstance(answer, Won):
        yield from self.notify(watcher)


def _with(part: str, base: type, **methods: Method) -> Protocol:
    return Protocol(**{part: type(f"Broken{base.__name__}", (base,), methods)})  # type: ignore[arg-type]


def _delivery(**methods: Method) -> Protocol:
    return _with("delivery", Delivery, **methods)


def _outbox(**methods: Method) -> Protocol:
    return _with("outbox", Outbox, **methods)


def _step(**methods: Method) -> Protocol:
    return _with("step", StepTask, **methods)


def _arrival(**methods: Method) -> Protocol:
    return _with("arrival", Arrival, **methods)


def _watch(**methods: Method) -> Protocol:
    return _with("watch", Watch, **methods)


INLINE, ISOLATED, BOTH = ("inline",), ("isolated",), ("inline", "isolated")
MUTANTS = (
    Mutant("busy_is_acked", _delivery(met_another=_done), ("seq", "par")),
    Mutant("settled_wakes_nobody", _delivery(met_an_outcome=_done), ("seq", "par"), ISOLATED),
    Mutant("back_off_is_acked", _delivery(met_a_back_off=_done), ("retrying",)),
    Mutant("commit_wakes_nobody", _delivery(concluded=_done), ("seq", "mixed")),
    Mutant("end_is_not_reported", _delivery(finish=finish_tells_nobody), ("failing", "invoke")),
    Mutant("finished_reports_nothing", _delivery(met_the_end=_done), ("failing", "invoke")),
    Mutant("postponed_is_not_sent", _delivery(postpone=_none), ("sleepy", "slow")),
    Mutant("steps_are_not_sent", _delivery(hand_out=hand_out_nothing), ("par",), ISOLATED),
    Mutant("sent_before_it_is", _delivery(hand_out=hand_out_recorded_first), ("par",), ISOLATED),
    Mutant("retry_is_not_sent", _delivery(try_later=try_later_alone), ("retrying",)),
    Mutant("exhausted_is_not_recorded", _delivery(exhaust=_none), ("once",), ISOLATED),
    Mutant("fan_out_is_not_sent", _delivery(fan_out=_none), ("fanout",)),
    Mutant("fan_out_to_the_first", _delivery(fan_out=fan_out_first), ("fanout",)),
    Mutant("cancel_is_not_watched", _delivery(watch_cancels=_none), ("cancelon",)),
    Mutant("names_are_free", _delivery(occupy=occupy_nothing), ("idempotent",)),
    Mutant("dismissal_is_forgotten", _with("store", ModelStore, occupy=occupy_without_record), ("singleton",)),
    Mutant("dismissed_though_it_began", _delivery(dismiss=dismiss_whatever_began), ("nextone",)),
    Mutant("never_superseded", _delivery(is_superseded=never_superseded), ("debounce",)),
    Mutant("never_overdue", _delivery(is_overdue=never_overdue), ("timeout",)),
    Mutant("dead_letter_fails_the_run", _delivery(given_up=given_up_fails), ("seq",), BOTH, ("giveup",)),
    Mutant("left_is_not_sent", _delivery(leave=_none), ("seq", "chains"), INLINE, ("late",)),
    Mutant("memory_is_not_checked", _delivery(whole=whole_unchecked), ("failing", "caught"), BOTH, ("retry", "freeze")),
    Mutant("memory_with_gaps", _delivery(learn=learn_parts), ("boxed",), ISOLATED, ("kill", "redel")),
    Mutant("parent_is_woken_once", _delivery(answer_parent=parent_woken_once), ("invoke", "invokebad")),
    Mutant("parent_is_not_told", _delivery(answer_parent=_none), ("invoke",)),
    Mutant("check_back_without_hop", _outbox(cause=_cause(5, without=("check-back",))), ("seq", "par")),
    Mutant("check_back_without_cause", _outbox(cause=_cause(4, without=("check-back",))), ("seq", "par", "chains")),
    Mutant("wake_without_generation", _outbox(cause=_cause(4, without=("step-ended",))), ("seq", "par"), ISOLATED),
    Mutant("wake_without_step", _outbox(cause=_cause(4, without=("wake",))), ("waitpar",)),
    Mutant("continue_without_token", _outbox(cause=_cause(4, without=("continue",))), ("nested",), INLINE, ("late",)),
    Mutant("retry_without_cause", _outbox(retry=retry_named_by_nothing), ("bad", "slowpar")),
    Mutant(
        "ids_without_epoch",
        _outbox(cause=_cause(3, without=("step", "reopen", "wake", "retry"))),
        ("failing", "caught"),
        BOTH,
        ("retry",),
    ),
    Mutant("handler_without_epoch", _outbox(fail=fail_without_epoch), ("failing",), BOTH, ("retry",)),
    Mutant("step_delivery_runs_all", _with("one_pass", Pass, is_ours=is_ours_always), ("par", "chains"), ISOLATED),
    Mutant("history_without_order", Protocol(one_pass=Unordered), ("order",), BOTH),
    Mutant(
        "leaves_inside_once", _with("one_pass", Pass, is_inside_once=is_inside_none), ("oncebox",), INLINE, ("late",)
    ),
    Mutant(
        "sent_is_not_forgotten", _with("store", ModelStore, forget_sent=forget_nothing), ("par",), ISOLATED, ("delete",)
    ),
    Mutant("gap_is_not_minded", Protocol(one_pass=Heedless), ("racing",), INLINE),
    Mutant("gap_is_not_closed", Protocol(one_pass=Unlearned), ("racing",), INLINE),
    Mutant("history_in_one_go", Protocol(one_pass=Hasty), ("deep", "race"), BOTH),
    Mutant("never_careful", Protocol(one_pass=Careless), ("poison", "poisonpar"), INLINE),
    Mutant("careful_side_by_side", _step(take_turn=take_turn_never), ("poisonpar",), INLINE),
    Mutant("loss_is_not_minded", _step(commit=commit_without_loss), ("seq", "chains"), INLINE),
    Mutant("own_outcome_is_kept", _step(adopt=adopt_own), ("seq", "par"), INLINE),
    Mutant("failure_in_memory", _step(failed=failed_in_memory), ("flaky", "bad")),
    Mutant("back_off_is_not_waited_for", _step(is_due=is_due_always), ("flaky", "slow")),
    Mutant("once_is_not_begun", _step(begin=begin_nothing), ("once", "oncepar"), INLINE),
    Mutant("wait_looks_first", _watch(prepare=look_then_register), ("wait", "waitpar")),
    Mutant("wait_never_looks", _watch(prepare=register_alone), ("wait", "waitpar")),
    Mutant("wait_never_registers", _watch(register=register_nothing), ("wait",)),
    Mutant("event_looks_first", _arrival(post=look_then_post), ("wait", "waitpar")),
    Mutant("event_wakes_nobody", _arrival(notify=_none), ("wait",)),
    Mutant("watcher_is_forgotten_early", _arrival(wake=forget_then_notify), ("wait",)),
    Mutant("watcher_is_forgotten_first", _arrival(wake=forget_first), ("wait",)),
    Mutant("event_wakes_once", _arrival(wake=notify_once), ("wait",)),
    *(Mutant(name, Protocol(rules={of: rule}), *where) for name, of, rule, *where in RULES),
)
