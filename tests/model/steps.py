"""One step in one pass: its attempts, one after the other, to an outcome that is on record."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Generator
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeVar

from idioteque.engine.endings import Postponed
from idioteque.engine.failures import CRASH_LOOP, INTERRUPTED
from idioteque.engine.step import BACKOFF_IN_PLACE_MAX_S
from idioteque.engine.timers import NOTHING
from idioteque.store import NEVER_MS, Done, Exhausted, Gone, Lost, Outcome, Recorded, Stale, Started, Unfinished
from tests.model.usercode import StepFailed, Task
from tests.model.world import Away, Died, Running, World

if TYPE_CHECKING:
    from tests.model.passes import Pass, Spec

T = TypeVar("T")
IN_PLACE_MAX_MS = int(BACKOFF_IN_PLACE_MAX_S * 1000)

Did = Generator[tuple[str, int], str, T]
"""Yields what was done last and until when it sleeps; is told `go`, or what befell the answer."""


def call(world: World, running: Running, operation: Callable[[], Any]) -> Did[Any]:
    """Make one round trip to the store or the transport."""
    if running.fails_next:
        running.fails_next = False
        running.heard.append("away")
        raise Away("it did not take effect")
    answer = operation()
    if isinstance(answer, Coroutine):
        answer = world.store.now(answer)
    running.heard.append(answer)
    command = yield "answer", 0
    if command == "lost":
        raise Away("its answer was lost")
    if command == "away":
        running.fails_next = True
    return answer


class StepTask:
    """A step at work."""

    def __init__(self, one: Pass, spec: Spec) -> None:
        self.one, self.spec, self.world = one, spec, one.world
        self.did, self.until_ms = "begun", 0
        self.attempts = self.due_ms = 0
        self.inner: Task | None = None
        self.wants_turn = False
        self._work = self.to_its_end()

    # ---- for the pass

    @property
    def is_active(self) -> bool:
        """Whether it moves by itself: a step that runs steps does not, they do."""
        return self.inner is None or self.inner.is_done

    def can_take_turn(self, one: Pass) -> bool:
        return not self.wants_turn or one.turn is None

    def go_on(self, command: str) -> bool:
        """Go on to the next thing it does; return whether it has ended."""
        try:
            self.did, self.until_ms = self._work.send(None if self.did == "begun" else command)
        except StopIteration:
            self._rest()
            return True
        except Away as error:
            self.one.fault(error)
            self._rest()
            return True
        return False

    def _rest(self) -> None:
        if self.one.turn is self:
            self.one.turn = None

    def _call(self, operation: Callable[[], Any]) -> Did[Any]:
        return (yield from call(self.world, self.one.running, operation))

    # ---- its life

    def to_its_end(self) -> Did[Outcome | None]:
        one, spec = self.one, self.spec
        known = one.unfinished.get(spec.path)
        if known is not None:
            self.attempts, self.due_ms = known.attempts, known.due_at_ms
        while not one.is_stopping:
            yield from self.take_turn()
            if not (yield from self.is_due()) or one.leaves(spec.path):
                return None
            if self.must_begin():
                is_begun, outcome = yield from self.begin()
                if not is_begun:
                    return outcome
            if one.is_stopping:
                return None
            outcome = yield from self.attempt()
            if outcome is not None:
                return (yield from self.commit(outcome))
        return None

    def must_begin(self) -> bool:
        return self.spec.once or (self.one.is_careful and self.spec.path != self.one.lease.path)

    def take_turn(self) -> Did[None]:
        """One step at a time when the delivery is careful."""
        if self.one.is_careful and self.one.turn is not self:
            self.wants_turn = self.one.turn is not None
            while self.one.turn is not None:
                yield "turn", 0
            self.one.turn, self.wants_turn = self, False

    def is_due(self) -> Did[bool]:
        """Wait for a back-off in place if it is short; a longer one is for another delivery."""
        wait_ms = self.due_ms - self.world.clock_ms
        if wait_ms <= 0:
            return True
        if wait_ms > IN_PLACE_MAX_MS:
            self.one.postponed[self.spec.path] = Postponed(self.spec.path, self.attempts, self.due_ms)
            return False
        yield "sleep", self.due_ms
        return not self.one.is_stopping

    def begin(self) -> Did[tuple[bool, Outcome | None]]:
        one, spec = self.one, self.spec
        answer = yield from self._call(lambda: self.world.store.begin(one.lease, spec.path, at_most_once=spec.once))
        if isinstance(answer, Gone):
            one.lose()
            return False, None
        if isinstance(answer, Done):
            return False, (yield from self.commit(answer.outcome))
        if isinstance(answer, Exhausted):
            return False, (yield from self.commit(INTERRUPTED if spec.once else CRASH_LOOP))
        return True, None

    def attempt(self) -> Did[Outcome | None]:
        """Call the callable once; None when it failed and will be tried again."""
        spec = self.spec
        if spec.body is not None:
            return (yield from self.container())
        count = self.world.observer.ran(self.one.run_id, spec.path, spec)
        self.one.running.heard.append(count)
        if self.due_ms > self.world.clock_ms:
            self.world.observer.blame(f"{spec.path} started before its back-off was over")
        if spec.is_poison:
            raise Died
        yield "effect", 0
        if count > spec.fails:
            return Outcome(True, f"{spec.path[-1]}#{count}".encode())
        return (yield from self.failed(f"{spec.path[-1]} failed#{count}"))

    def container(self) -> Did[Outcome]:
        """Run a step that runs steps; while they are at work, it gives up its turn."""
        assert self.spec.body is not None
        self.inner = self.one.spawn(self.spec.body, self.spec.path)
        self._rest()
        yield "inner", 0
        inner, self.inner = self.inner, None
        if inner.error is not None:
            if not isinstance(inner.error, StepFailed):
                raise inner.error
            return Outcome(False, str(inner.error).encode())
        return Outcome(True, repr(inner.value).encode())

    def failed(self, text: str) -> Did[Outcome | None]:
        one, spec = self.one, self.spec
        if self.attempts + 1 >= spec.attempts:
            return Outcome(False, text.encode())
        due_ms = self.world.clock_ms + spec.pause_ms
        answer = yield from self._call(
            lambda: self.world.store.fail(one.lease, spec.path, self.attempts + 1, due_ms, text)
        )
        if isinstance(answer, Gone):
            one.lose()
            return None
        if isinstance(answer, Done):
            return (yield from self.commit(answer.outcome))
        one.allow()
        self.attempts, self.due_ms = answer.attempts, due_ms
        one.unfinished[spec.path] = Unfinished(answer.attempts, due_ms)
        return None

    def commit(self, outcome: Outcome) -> Did[Outcome | None]:
        one, spec = self.one, self.spec
        one.arrivals.expect(spec.path)
        answer = yield from self._call(lambda: self.world.store.commit(one.lease, spec.path, outcome))
        if spec.path == one.lease.path and not isinstance(answer, Stale):
            one.conclude(answer.wake)
            return None
        if isinstance(answer, Stale) or not answer.held:
            self.lost(answer)
            return None
        if isinstance(answer, Lost):
            if answer.outcome is None:
                one.lose()
                return None
            outcome = self.adopt(answer.outcome, outcome)
        one.remember(Recorded(spec.path, outcome, answer.seq))
        return outcome

    def lost(self, _: object) -> None:
        """The lease is somebody else's: start nothing more."""
        self.one.lose()

    def adopt(self, on_record: Outcome, _: Outcome) -> Outcome:
        return on_record


class SleepTask(StepTask):
    """A step that is done when its time has come."""

    def to_its_end(self) -> Did[Outcome | None]:
        answer = yield from self.schedule(self.world.clock_ms + self.spec.for_ms, None)
        if not isinstance(answer, int):
            return answer
        self.due_ms = answer
        if not (yield from self.is_due()):
            return None
        if self.world.clock_ms < self.due_ms:
            self.world.observer.blame(f"{self.spec.path} woke early")
        return (yield from self.commit(NOTHING))

    def schedule(self, due_ms: int, waits_for: str | None) -> Did[int | Outcome | None]:
        """Fix when it ends; an outcome, or None, is the end of it."""
        one = self.one
        answer = yield from self._call(lambda: self.world.store.schedule(one.lease, self.spec.path, due_ms, waits_for))
        if isinstance(answer, Gone):
            one.lose()
            return None
        return (yield from self.commit(answer.outcome)) if isinstance(answer, Done) else answer.at_ms


class WaitTask(SleepTask):
    """A step whose outcome comes from elsewhere, or is nothing once its time is over."""

    def to_its_end(self) -> Did[Outcome | None]:
        until_ms = min(NEVER_MS, self.world.clock_ms + self.spec.for_ms)
        answer = yield from self.schedule(until_ms if self.spec.for_ms < NEVER_MS else NEVER_MS, self.spec.of)
        if not isinstance(answer, int):
            return answer
        self.due_ms = answer
        self.one.arrivals.expect(self.spec.path)
        recorded = yield from self.prepare()
        if recorded is not None:
            self.one.remember(recorded)
            return recorded.outcome
        self.one.arrivals.expect_no_more(self.spec.path)
        self.one.show(())
        if self.due_ms >= NEVER_MS:
            self.one.awaits = True
            return None
        return (yield from self.commit(NOTHING)) if (yield from self.is_due()) else None

    def prepare(self) -> Did[Recorded | None]:
        """Register, then look whether the event is there already."""
        return (yield from self.world.protocol.watch(self.one, self.spec, self._call).prepare())


class InvokeTask(WaitTask):
    """A step whose outcome is that of another run."""

    def prepare(self) -> Did[Recorded | None]:
        parent = (self.one.run_id, self.spec.path, self.one.lease.path)
        yield from self._call(lambda: self.world.accept(self.world.outbox.invoke(parent, self.spec.of, self.one.epoch)))
        return None


class CatchUp(StepTask):
    """Learns what others have recorded: the claim made once more, which takes nothing."""

    def to_its_end(self) -> Did[None]:
        one = self.one
        claim = replace(one.claim, new=None, known=one.arrivals.last)
        answer = yield from self._call(lambda: self.world.store.claim(claim))
        one.is_catching_up = False
        if isinstance(answer, Started) and answer.token == one.lease.token:
            one.show(one.arrivals.fill(answer.outcomes))
            return
        if isinstance(answer, Started):
            taken = replace(one.lease, token=answer.token)
            yield from self._call(lambda: self.world.store.release(taken, "shutdown"))
        one.lose()


def task_of(one: Pass, spec: Spec) -> StepTask:
    """Return the task of a step."""
    kinds: dict[str, type[StepTask]] = {"call": StepTask, "sleep": SleepTask, "wait": WaitTask, "invoke": InvokeTask}
    return (one.world.protocol.step if spec.kind == "call" else kinds[spec.kind])(one, spec)
