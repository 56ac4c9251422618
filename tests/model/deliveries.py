"""What becomes of one delivered message: the delivery algorithm, in which each method is a rule.

A delivery is a generator that yields what can move in it; it returns the status of its answer. Being closed is being
killed.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from idioteque.engine.deliver import CLAIMS_MAX
from idioteque.engine.endings import Concluded, Ending, Faulted, LeaseLost, Missing, Raised, Returned, Suspended
from idioteque.engine.failures import CRASH_LOOP, INTERRUPTED
from idioteque.engine.starts import CANCEL
from idioteque.paths import BODY, Path
from idioteque.store import (
    Busy,
    Claim,
    Exhausted,
    Finished,
    Lease,
    Lost,
    NewRun,
    Outcome,
    RunRecord,
    Settled,
    Stale,
    Started,
    Trouble,
    Waiting,
)
from tests.model.memory import KEPT_MS, Kept
from tests.model.messages import Message, Outgoing, run_id
from tests.model.steps import call
from tests.model.usercode import Oops
from tests.model.waits import ANY
from tests.model.world import LEASE_MS, Away, Running, Terminated, Work, World

if TYPE_CHECKING:
    from tests.model.passes import Context, Pass, Spec
    from tests.model.programs import Body, Function

DONE, TRY_AGAIN = 200, 503


class Delivery:
    """One attempt at one message."""

    def __init__(self, world: World, message: Message, running: Running) -> None:
        self.world, self.message, self.running = world, message, running
        self.store, self.outbox = world.store, world.outbox
        self.memory = world.memories[message.uid % len(world.memories)]
        self._claims = 0

    def run(self) -> Work:
        try:
            if self.message.kind == "given_up":
                return (yield from self.given_up())
            if self.message.kind == "event":
                return (yield from self.start(self.message))
            return (yield from self.go_on(self.message))
        except Away:
            return TRY_AGAIN

    def call(self, operation: Callable[[], Any]) -> Work:
        """Make one round trip."""
        work = call(self.world, self.running, operation)
        try:
            did, until_ms = next(work)
            while True:
                command, _ = yield [(0, did, until_ms)]
                did, until_ms = work.send(command)
        except StopIteration as end:
            return end.value

    def send(self, *messages: Outgoing) -> Work:
        """Hand messages over; a kill in between leaves some of them accepted."""
        for message in messages:
            yield from self.call(lambda message=message: self.world.accept(message))

    # ---- events

    def start(self, event: Message) -> Work:
        """Put an event into the mailbox, end the waits that it ends, and begin what it begins."""
        assert event.event is not None
        letter = yield from self.world.protocol.arrival(self.world, event, self.call).wake_watchers()
        begins: list[tuple[Message, int]] = []
        for function in self.world.functions.values():
            if function.on == event.event.decode():
                begin = yield from self.admit(function, event, letter.accepted_at_ms)
                begins += [] if begin is None else [begin]
        if len(begins) == 1 and not begins[0][1]:
            return (yield from self.go_on(begins[0][0]))
        yield from self.fan_out(begins)
        return DONE

    def fan_out(self, begins: list[tuple[Message, int]]) -> Work:
        yield from self.send(*self.outbox.start([run for run, _ in begins], [delay_ms for _, delay_ms in begins]))

    def admit(self, function: Function, event: Message, accepted_at_ms: int) -> Any:
        """Return the first message of a run and how long it is held back, or None."""
        own = run_id(event.event_id, function.id)
        for kind in function.names:
            holder = yield from self.occupy(f"{kind}:{function.id}", own, kind)
            if holder != own and (yield from self.dismiss(own)):
                self.world.observer.unstarted.add(own)
                return None
        run = self.outbox.first(event, function.id)
        if function.timeout_ms is not None:
            yield from self.send(self.outbox.remind(run, function.timeout_ms))
        if function.debounce_ms is None:
            return run, 0
        name = f"debounce:{function.id}"
        if (yield from self.latest(name, event.event_id, accepted_at_ms, own)) != event.event_id:
            self.world.observer.superseded.add(own)
            yield from self.dismiss(own)
            return None
        return run._replace(debounce=name), function.debounce_ms

    def occupy(self, name: str, own: str, kind: str) -> Work:
        return (yield from self.call(lambda: self.store.occupy(name, own, until_end=kind == "singleton")))

    def latest(self, name: str, event_id: str, accepted_at_ms: int, run: str) -> Work:
        return (yield from self.call(lambda: self.store.latest(name, event_id, accepted_at_ms, run)))

    def is_superseded(self, message: Message) -> Work:
        name = message.debounce
        if name is None or (yield from self.latest(name, message.event_id, 0, message.run_id)) == message.event_id:
            return False
        return (yield from self.dismiss(message.run_id))

    def dismiss(self, run: str) -> Work:
        """Return whether a run has not begun; end the mere record of a message that was given up and came again."""
        record: RunRecord | None = yield from self.call(lambda: self.store.get(run))
        if record is None:
            return True
        if record.epoch or record.steps or record.trouble is None:
            return False
        yield from self.call(lambda: self.world.cancel(run))
        return True

    def given_up(self) -> Work:
        """Record that the transport gave a message up; it decides nothing."""
        lost = self.message.lost
        assert lost is not None
        wanted = [each.id for each in self.world.functions.values() if lost.event == each.on.encode()]
        runs = [self.outbox.first(lost, each) for each in wanted] if lost.kind == "event" else [lost]
        for run in runs:
            yield from self.call(lambda run=run: self.store.trouble(run.run_id, Trouble("dead_letter", "x"), new(run)))
        return DONE

    # ---- runs

    def go_on(self, message: Message) -> Work:
        """Claim a run, and do what the answer asks for."""
        if (yield from self.is_superseded(message)):
            self.world.observer.superseded.add(message.run_id)
            return DONE
        offer = self.memory.borrow(message.run_id, message.epoch, message.path, self.world.clock_ms)
        self.running.heard.append(offer is not None)
        for _ in range(CLAIMS_MAX):
            claimed = yield from self.claim(message, inside=offer is not None)
            if isinstance(claimed, Started):
                status = yield from self.under_lease(message, claimed, offer)
                if status is not None:
                    return status
            elif isinstance(claimed, Finished):
                self.memory.remembered.forget(message.run_id)
                return (yield from self.met_the_end(message))
            elif isinstance(claimed, Busy):
                return (yield from self.met_another(message, claimed))
            elif isinstance(claimed, Waiting):
                return (yield from self.met_a_back_off(message, claimed))
            elif isinstance(claimed, Settled):
                return (yield from self.met_an_outcome(message, claimed))
            elif isinstance(claimed, Exhausted):
                yield from self.exhaust(message)
            else:
                return self.unknown(message)
        return TRY_AGAIN

    def claim(self, message: Message, *, inside: bool = False) -> Work:
        """Claim, and return the whole history whatever was read of it; or just what lies inside a step."""
        self._claims += 1
        message_id, retried = message.instead_of or (str(self.message.uid), self.message.retried)
        place = (message.run_id, message.path, message_id)
        owner = self.world.unanswered.pop(place, f"{self.running.number}.{self._claims}")
        self.running.heard.append(owner)
        known = 0 if inside else self.memory.remembered.known(message.run_id)
        asked = (message.run_id, owner, message_id, retried, LEASE_MS, new(message), message.path, message.once)
        self.asked = Claim(*asked, known, inside)
        try:
            return (yield from self.whole(self.asked, message.epoch))
        except Away:  # it may have taken the lease: the same owner asks when the message comes again
            self.world.unanswered[place] = owner
            raise

    def whole(self, claim: Claim, epoch: int) -> Work:
        answer = yield from self.call(lambda: self.store.claim(claim))
        if not isinstance(answer, Started):
            return answer
        if claim.inside:
            whole = answer if answer.epoch == epoch else None
        else:
            whole = self.memory.remembered.completed(claim.run_id, claim.known, answer)
        if whole is None:
            return (yield from self.call(lambda: self.store.claim(replace(claim, known=0, inside=False))))
        self.running.heard.append(whole)
        return whole

    def met_the_end(self, message: Message) -> Work:
        yield from self.report(message)
        return DONE

    def met_another(self, message: Message, busy: Busy) -> Work:
        carried = message._replace(uid=self.message.uid, retried=self.message.retried)
        yield from self.send(self.outbox.look_again(carried, busy))
        return DONE

    def met_a_back_off(self, message: Message, waiting: Waiting) -> Work:
        yield from self.send(self.outbox.retry(message, waiting.attempts, waiting.remaining_ms))
        return DONE

    def met_an_outcome(self, message: Message, settled: Settled) -> Work:
        """Send the wake again, whoever owed it."""
        yield from self.send(self.outbox.wake_body(message, settled.wake))
        return DONE

    def exhaust(self, message: Message) -> Work:
        outcome = INTERRUPTED if message.once else CRASH_LOOP
        yield from self.call(lambda: self.store.commit(Lease(message.run_id, 0, message.path), message.path, outcome))

    def unknown(self, message: Message) -> int:
        is_late = self.world.clock_ms > message.not_after_ms
        if message.hop and self.world.functions[message.function_id].timeout_ms is not None:
            is_late = True  # a reminder waits for nobody
        return DONE if is_late else TRY_AGAIN

    # ---- under the lease

    def under_lease(self, message: Message, started: Started, offer: Spec | None) -> Work:
        """Run the function as far as it gets; None when the run must be claimed once more."""
        function = self.world.functions[message.function_id]
        lease = Lease(message.run_id, started.token, message.path)
        if self.is_overdue(function, started) and message.path == BODY:
            return (yield from self.finish(message, lease, started, Outcome(False, b"timeout")))
        try:
            kind = function.cancel_on
            if kind is not None and (yield from self.watch_cancels(lease, kind, started)):
                return None
        except Away:
            yield from self.hand_back(lease)
            raise
        one = self.world.protocol.one_pass(self.world, self.running, self.asked, started, message.path)
        self.running.held[lease] = one.lose
        try:
            is_lent = offer is not None and started.epoch == message.epoch
            ending = yield from one.run(lent(offer) if offer is not None and is_lent else function.body)
        except Terminated:
            yield from self.hand_back(lease)
            raise
        finally:
            self.running.held.pop(lease, None)
            one.close()
        self.learn(started, one, is_inside=offer is not None)
        return (yield from self.conclude(message._replace(epoch=started.epoch), started, lease, ending))

    def learn(self, started: Started, one: Pass, *, is_inside: bool) -> None:
        """Keep what the next delivery in this process need not read or ask for again."""
        if not is_inside:
            self.memory.remembered.learn(one.run_id, started, one.recorded)
        if one.offers:
            until_ms = self.world.clock_ms + KEPT_MS
            self.memory.kept[one.run_id] = Kept(started.epoch, until_ms, one.offers)
        elif one.lease.path == BODY:
            self.memory.kept.pop(one.run_id, None)

    def is_overdue(self, function: Function, started: Started) -> bool:
        return function.timeout_ms is not None and self.world.clock_ms >= started.created_at_ms + function.timeout_ms

    def watch_cancels(self, lease: Lease, kind: str, started: Started) -> Work:
        """Register, then look whether the event is there already; return whether it is, and has cancelled the run."""
        yield from self.call(lambda: self.store.watch(lease, (CANCEL, "0"), [kind], ANY))
        if not (yield from self.call(lambda: self.store.letters([kind], started.created_at_ms))):
            return False
        record: RunRecord | None = yield from self.call(lambda: self.store.get(lease.run_id))
        if record is None or record.epoch:
            return False
        return (yield from self.call(lambda: self.world.cancel(lease.run_id))) == "cancelled"

    def conclude(self, message: Message, started: Started, lease: Lease, ending: Ending) -> Work:
        if isinstance(ending, LeaseLost):
            return None
        if isinstance(ending, Faulted):
            yield from self.hand_back(lease)
            raise ending.error
        if isinstance(ending, Returned):
            return (yield from self.finish(message, lease, started, Outcome(True, repr(ending.value).encode())))
        if isinstance(ending, Raised):
            function = self.world.functions[message.function_id]
            if isinstance(ending.error, Oops) and started.attempts + 1 < function.attempts:
                return (yield from self.try_later(message, lease, function.pause_ms))
            return (yield from self.finish(message, lease, started, Outcome(False, str(ending.error).encode())))
        if isinstance(ending, Concluded):
            return (yield from self.concluded(message, ending))
        if isinstance(ending, Missing):
            return (yield from self.miss(lease))
        yield from self.remind(message, started)
        return (yield from self.set_aside(message, lease, ending))

    def remind(self, message: Message, started: Started) -> Work:
        """Have a run that waits looked at when its time is over, which counts from its creation."""
        timeout_ms = self.world.functions[message.function_id].timeout_ms
        if timeout_ms is not None:
            left_ms = started.created_at_ms + timeout_ms - self.world.clock_ms
            body = message._replace(path=BODY, once=False)
            yield from self.send(self.outbox.remind(body, max(0, left_ms), started.created_at_ms))

    def concluded(self, message: Message, ending: Concluded) -> Work:
        if ending.wake:
            yield from self.send(self.outbox.wake_body(message, ending.wake))
        return DONE

    def set_aside(self, message: Message, lease: Lease, ending: Suspended) -> Work:
        """Hand over what has to be done: each obligation to a message that is accepted before this one is answered."""
        scheduled = dict(ending.scheduled)
        alone = self.alone(ending)
        if scheduled and alone is None:
            yield from self.hand_out(message, lease, scheduled)
        if not (ending.postponed or ending.awaits or scheduled or ending.has_left):
            yield from self.hand_back(lease)
            self.world.observer.blame("the function waits for nothing that is known")
            return TRY_AGAIN
        released = yield from self.call(lambda: self.store.release(lease, "suspended"))
        if released is None or (not ending.has_left and self.must_look_again(lease, released)):
            return None
        if ending.has_left:
            yield from self.leave(message, lease.token)
            return DONE
        if alone is not None:
            once = scheduled[alone]
            return (yield from self.go_on(self.outbox.fresh(message)._replace(path=alone, once=once)))
        if ending.postponed:
            yield from self.postpone(message, ending)
        return DONE

    def alone(self, ending: Suspended) -> Path | None:
        """Return the one step that this delivery can go on as, with nothing else to be done."""
        if len(ending.scheduled) != 1 or ending.postponed or ending.awaits or ending.has_left:
            return None
        return next(iter(ending.scheduled))

    def leave(self, message: Message, token: int) -> Work:
        """Have another delivery go on: this one's time is over."""
        yield from self.send(self.outbox.leave(message, token))

    def hand_out(self, message: Message, lease: Lease, scheduled: dict[Path, bool]) -> Work:
        yield from self.send(*self.outbox.steps(message, scheduled))
        yield from self.call(lambda: self.store.sent(lease, list(scheduled)))

    def must_look_again(self, lease: Lease, released: Any) -> bool:
        return released.is_dirty and lease.path == BODY

    def postpone(self, message: Message, ending: Suspended) -> Work:
        """Send one message for the first of the steps that are due later: its pass meets the others."""
        first = min(ending.postponed, key=lambda postponed: postponed.due_at_ms)
        delay_ms = max(0, first.due_at_ms - self.world.clock_ms)
        yield from self.send(self.outbox.retry(message, first.attempts, delay_ms, first.path))

    def miss(self, lease: Lease) -> Work:
        if not self.store.epoch(lease.run_id):  # opened again, a run may not have come so far again
            self.world.observer.blame(f"the function does not come to {lease.path}")
        yield from self.hand_back(lease)
        yield from self.call(lambda: self.store.trouble(lease.run_id, Trouble("missing_step", "x")))
        return TRY_AGAIN

    def try_later(self, message: Message, lease: Lease, pause_ms: int) -> Work:
        due_ms = self.world.clock_ms + pause_ms
        released = yield from self.call(lambda: self.store.release(lease, "failed", due_at_ms=due_ms, error="Oops"))
        if released is None:
            return None
        yield from self.send(self.outbox.retry(message, released.attempts, pause_ms))
        return DONE

    def hand_back(self, lease: Lease) -> Work:
        try:
            yield from self.call(lambda: self.store.release(lease, "shutdown"))
        except Away:  # then it ends by itself
            return

    # ---- the end of a run

    def finish(self, message: Message, lease: Lease, started: Started, outcome: Outcome) -> Work:
        answer = yield from self.call(lambda: self.store.commit(lease, BODY, outcome))
        if isinstance(answer, Stale):
            return None
        self.memory.remembered.forget(lease.run_id)
        if b'"parent"' in started.options or not outcome.ok:
            yield from self.report(message)
        return DONE

    def report(self, message: Message) -> Work:
        """Tell whoever waits for the end of a run: its parent, and its failure handler."""
        record: RunRecord | None = yield from self.call(lambda: self.store.get(message.run_id))
        if record is None or record.status not in ("completed", "failed", "cancelled"):
            return
        parent = json.loads(record.options).get("parent")
        if parent is not None:
            yield from self.answer_parent(parent[0], tuple(parent[1]), tuple(parent[2]), record)
        function = self.world.functions[message.function_id]
        if function.on_failure is not None and record.outcome is not None and not record.outcome.ok:
            yield from self.send(self.outbox.fail(record.run_id, f"{function.id}.failed", record.epoch))

    def answer_parent(self, parent_id: str, path: Path, seat: Path, child: RunRecord) -> Work:
        outcome = child.outcome or Outcome(False, b"cancelled")
        answer = yield from self.call(lambda: self.store.take(parent_id, path, child.run_id, outcome))
        parent: RunRecord | None = yield from self.call(lambda: self.store.get(parent_id))
        if parent is not None and not (isinstance(answer, Lost) and answer.outcome is None):
            yield from self.send(self.outbox.wake(parent.event_id, parent.function_id, seat, parent.epoch, path))


def lent(offer: Spec) -> Body:
    """Return a body that does nothing but run a step that another body asked for."""

    async def body(x: Context) -> Any:
        return await x.lent(offer)

    return body


def new(message: Message) -> NewRun | None:
    """Return what a message creates its run with, if it does."""
    if message.event is None:
        return None
    options = {} if message.parent is None else {"parent": message.parent}
    return NewRun(message.event_id, message.function_id, message.event, json.dumps(options).encode())
