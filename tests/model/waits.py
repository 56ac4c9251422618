"""Events that runs wait for: a wait registers, then looks; an event enters the mailbox, then looks for who waits."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from idioteque.engine.starts import CANCEL
from idioteque.paths import Path
from idioteque.store import Letter, Lost, Outcome, Recorded, Watcher, Won
from tests.model.messages import Message

if TYPE_CHECKING:
    from tests.model.passes import Pass, Spec
    from tests.model.world import World

Call = Callable[[Callable[[], Any]], Any]
"""Makes one round trip: a generator of whichever kind its caller is."""
ANY = b"{}"


class Watch:
    """One step that waits for an event."""

    def __init__(self, one: Pass, spec: Spec, call: Call) -> None:
        self.one, self.spec, self.world = one, spec, one.world
        self.call = call

    def prepare(self) -> Any:
        """Register, then look whether the event is there already."""
        yield from self.register()
        for letter in (yield from self.letters()):
            recorded = yield from take(self.world, self.call, self.one.run_id, self.spec.path, letter)
            if recorded is not None:
                return recorded
        return None

    def register(self) -> Any:
        yield from self.call(lambda: self.world.store.watch(self.one.lease, self.spec.path, [self.spec.of], ANY))

    def letters(self) -> Any:
        """Return the events that came since the run was created; a lease that was lost matters to nobody here."""
        since_ms = self.one.started.created_at_ms
        return (yield from self.call(lambda: self.world.store.letters([self.spec.of], since_ms)))


def take(world: World, call: Call, run_id: str, path: Path, letter: Letter) -> Any:
    """Record an event as a wait's outcome; return what is on record, or None when the event is not for this wait."""
    outcome = Outcome(True, letter.event_id.encode())
    answer = yield from call(lambda: world.store.take(run_id, path, letter.event_id, outcome))
    if isinstance(answer, Won):
        return Recorded(path, outcome, answer.seq)
    if isinstance(answer, Lost) and answer.outcome is not None:
        return Recorded(path, answer.outcome, answer.seq)
    return None


class Arrival:
    """An event that goes into the mailbox, and to every run that waits for it."""

    def __init__(self, world: World, event: Message, call: Call) -> None:
        self.world, self.event, self.call = world, event, call

    def wake_watchers(self) -> Any:
        """Return the event as it first came."""
        assert self.event.event is not None
        kind, event_id = self.event.event.decode(), self.event.event_id
        letter, watchers = yield from self.post(kind, event_id)
        for watcher in watchers:
            if letter.accepted_at_ms < watcher.created_at_ms or event_id == watcher.event_id:
                continue
            if watcher.path[0] == CANCEL:
                yield from self.cancel(watcher)
            else:
                yield from self.wake(watcher, letter)
        return letter

    def post(self, kind: str, event_id: str) -> Any:
        """A store may put the event there in one step and look for who waits in another: so it is done here."""
        yield from self.call(lambda: self.world.store.arrive(event_id, kind, kind.encode()))
        return (yield from self.call(lambda: self.world.store.arrive(event_id, kind, kind.encode())))

    def cancel(self, watcher: Watcher) -> Any:
        yield from self.call(lambda: self.world.cancel(watcher.run_id))
        yield from self.notify(watcher)

    def wake(self, watcher: Watcher, letter: Letter) -> Any:
        recorded = yield from take(self.world, self.call, watcher.run_id, watcher.path, letter)
        if recorded is not None:
            yield from self.notify(watcher)
            yield from self.call(lambda: self.world.store.unwatch(watcher.run_id, watcher.path))

    def notify(self, watcher: Watcher) -> Any:
        wake = self.world.outbox.wake(watcher.event_id, watcher.function_id, watcher.seat, watcher.epoch, watcher.path)
        yield from self.call(lambda: self.world.accept(wake))
