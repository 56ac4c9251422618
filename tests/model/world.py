"""The world around the engine: time, the transport with its messages, the deliveries in progress, and who watches."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Generator, Hashable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from idioteque.store import Lease
from tests.model.memory import Memory
from tests.model.messages import HORIZON_MS, Message, Outgoing
from tests.model.observer import Observer
from tests.model.store import ModelStore

if TYPE_CHECKING:
    from tests.model.programs import Program
    from tests.model.protocol import Protocol

LEASE_MS = 10_000
OVERDUE_MS = 1_501
"""Without a sign of life for so long, a lease may be taken over."""
REDELIVERY_MS = (1_000, 45_000, 2_025_000)
START_MS = 1_000_000

Moves = Sequence[tuple[int, str, int]]
"""The tasks of a delivery that can move: number, what it did last, and the time before which it sleeps."""
Work = Generator[Moves, tuple[str, int], Any]


class Away(Exception):
    """The store or the transport failed: whether the call took effect is unknown."""


class Died(BaseException):
    """A callable took its process with it."""


class Terminated(BaseException):
    """The process was told to stop, and ends its deliveries without an answer."""


@dataclass(slots=True)
class Running:
    """One delivery in progress, or an operator's command, which is never disturbed."""

    number: int
    work: Work
    message: Message | None
    moves: Moves = ((0, "new", 0),)
    is_frozen: bool = False
    is_late: bool = False
    """Whether the time is over in which its caller waits for an answer."""
    fails_next: bool = False
    held: dict[Lease, Any] = field(default_factory=dict)
    """The leases that it renews, each with what to call when it is lost."""
    heard: list[Any] = field(default_factory=list)
    """What it was told since it was last looked at."""
    past: int = 0
    """What it was told before that, as a number."""


class World:
    """Everything there is, at one moment."""

    def __init__(self, protocol: Protocol, program: Program, mode: str, *, deduplicates: bool = True) -> None:
        self.protocol, self.program = protocol, program
        self.is_isolated = mode == "isolated"
        self.deduplicates = deduplicates
        self.clock_ms = START_MS
        self.observer = Observer(self)
        self.store: ModelStore = protocol.store(self)
        self.outbox = protocol.outbox()
        self.functions = {each.id: each for function in program.functions for each in function.with_handler()}
        self.queue: list[Message] = []
        self.delayed: list[Message] = []
        self.running: list[Running] = []
        self.history: list[Message] = []
        self.dead: list[Message] = []
        self.acknowledged: set[int] = set()
        self.given_up: set[int] = set()
        self.retried: Counter[int] = Counter()
        self.accepted: set[Hashable] = set()
        self.unanswered: dict[Hashable, str] = {}
        """The owners of claims whose answers were lost, as a process remembers them."""
        self.memories = (Memory(), Memory())
        """What two processes remember, which take deliveries in turns: one may know what the other does not."""
        self.deleted = 0
        """How many messages an operator has deleted since somebody looked for runs that nothing holds."""
        self.sent_count = self.sent_state = 0
        """How much of the history has been looked at, and what that comes to."""
        self._deliveries = 0
        for number, kind in enumerate(program.events):
            event = Message("event", f"{kind}-{number}", event=kind.encode())
            self.accept(Outgoing(event, ("event", event.event_id)))

    def now_ms(self) -> int:
        return self.clock_ms

    # ---- the transport: durable, at least once, in any order

    def accept(self, outgoing: Outgoing, not_after_ms: int = 0) -> None:
        if self.deduplicates and outgoing.cause in self.accepted:
            return
        self.accepted.add(outgoing.cause)
        due_ms = self.clock_ms + outgoing.delay_ms
        not_after_ms = not_after_ms or due_ms + HORIZON_MS
        message = outgoing.message._replace(uid=len(self.history) + 1, due_ms=due_ms, not_after_ms=not_after_ms)
        self.history.append(message)
        (self.delayed if outgoing.delay_ms > 0 else self.queue).append(message)

    def deliver(self, message: Message) -> None:
        self._deliveries += 1
        running = Running(self._deliveries, iter(()), message)
        running.work = self.protocol.delivery(self, message, running).run()
        self.running.append(running)

    def command(self, work: Work) -> None:
        """Let an operator do something, beside the deliveries."""
        self._deliveries += 1
        self.running.append(Running(self._deliveries, work, None))

    def redeliver(self, message: Message, *, counts: bool = True, at_once: bool = False) -> None:
        """Send an attempt again that was not acknowledged, so many times."""
        if message.uid in self.acknowledged | self.given_up:
            return
        retried = self.retried[message.uid] = self.retried[message.uid] + counts
        again = message._replace(retried=retried)
        if retried > len(REDELIVERY_MS):
            self.give_up(message)
        elif at_once:
            self.queue.append(again)
        elif all(other.uid != message.uid for other in (*self.queue, *self.delayed)):
            pause_ms = REDELIVERY_MS[retried - 1]
            self.delayed.append(again._replace(due_ms=self.clock_ms + pause_ms))

    def give_up(self, message: Message) -> None:
        """Put a message among the dead letters; a failure callback is a message of its own."""
        self.given_up.add(message.uid)
        self._forget(message)
        self.dead.append(message)
        if message.kind != "given_up":
            callback = Message("given_up", message.event_id, lost=message)
            self.accept(Outgoing(callback, ("given-up", message.uid)))

    def redrive(self) -> None:
        """Send every dead letter again, each as a new message with the same content."""
        dead, self.dead = self.dead, []
        for message in dead:
            self.accept(Outgoing(message._replace(retried=0), ("redriven", message.uid)), message.not_after_ms)

    def delete(self, message: Message) -> None:
        """Let a message that waits be gone, as when an operator deletes it."""
        self.deleted += 1
        self.acknowledged.add(message.uid)
        self._forget(message)

    def _forget(self, message: Message) -> None:
        self.queue = [other for other in self.queue if other.uid != message.uid]
        self.delayed = [other for other in self.delayed if other.uid != message.uid]

    def cancel(self, run_id: str) -> str | None:
        """Cancel a run, by an operator or an event."""
        status = self.store.now(self.store.cancel(run_id))
        if status == "cancelled":
            self.observer.cancelled(run_id)
        return status

    # ---- deliveries

    def move(self, running: Running, command: str, task: int) -> None:
        """Let a task of a delivery go on to its next step."""
        running.heard.append((command, task, self.clock_ms))
        try:
            running.moves = running.work.send((command, task)) if running.moves[0][1] != "new" else next(running.work)
        except StopIteration as end:
            self.running.remove(running)
            self._answered(running, end.value)
        except Died:
            self.observer.deaths += 1
            self.lose(running)
        except Terminated:
            self.lose(running)

    def _answered(self, running: Running, status: int | None) -> None:
        message = running.message
        if message is None:
            return
        if status == 200:
            self.acknowledged.add(message.uid)
            self._forget(message)
        else:
            self.observer.refused(message, status)
            self.redeliver(message)

    def lose(self, running: Running) -> None:
        """End a delivery without an answer, as when its process is killed."""
        if running in self.running:
            self.running.remove(running)
        running.work.close()
        if running.message is not None and all(other.message != running.message for other in self.running):
            self.redeliver(running.message)

    def terminate(self, running: Running) -> None:
        with contextlib.suppress(Terminated, Away, StopIteration):
            running.work.throw(Terminated())
        self.lose(running)

    # ---- time

    def next_ms(self) -> int | None:
        """When something falls due, if anything does."""
        sleeping = [until for running in self.running for _, _, until in running.moves if until > self.clock_ms]
        return min((*sleeping, *(message.due_ms for message in self.delayed)), default=None)

    def pass_time(self, now_ms: int, without: Running | None = None) -> None:
        """Let it be later, while everybody (`without` one) gives signs of life."""
        self.clock_ms = max(self.clock_ms, now_ms)
        for running in self.running:
            if running is not without and not running.is_frozen:
                self.renew(running)
        due = [message for message in self.delayed if message.due_ms <= self.clock_ms]
        self.delayed = [message for message in self.delayed if message.due_ms > self.clock_ms]
        self.queue += sorted(due, key=lambda message: (message.due_ms, message.uid))

    def renew(self, running: Running) -> None:
        leases = list(running.held)
        if leases:
            answers = self.store.now(self.store.renew(leases, LEASE_MS))
            for lease, is_held in zip(leases, answers, strict=True):
                if not is_held:
                    running.heard.append(lease)
                    running.held.pop(lease)()
