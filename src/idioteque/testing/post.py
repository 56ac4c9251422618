"""The store and the dispatcher of a harness: in memory, watched, and with the faults of a rehearsal."""

from __future__ import annotations

import asyncio
import json
import threading
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar, cast

from idioteque.dispatcher import Envelope, EventEnvelope, Outgoing, RunEnvelope, decode
from idioteque.dispatchers.local import InlineDispatcher
from idioteque.errors import EventRejected, IdiotequeError
from idioteque.events import EventsSchema, type_of
from idioteque.function import failure_event_id, run_id
from idioteque.ids import new_id
from idioteque.paths import BODY, Path, path_text
from idioteque.store import Claim, Lease, Started, StepRecord, Store, Won
from idioteque.stores import MemoryStore
from idioteque.testing.chaos import Rehearsal
from idioteque.testing.clock import ManualClock
from idioteque.testing.movement import Crashed, Delivery, HarnessError, Movement, activity_here, delivery_here
from idioteque.transport import HttpRequest, HttpResponse

DELIVERIES_MAX = 20_000
UNWATCHED = frozenset({"get", "list", "renew", "stalled", "close", "note_lines", "lines"})
"""Operations that change nothing which a function could notice."""
WORDS = {"begin": "start", "fail": "record of a failure", "letters": "look into the mailbox"}
"""What operations are called in a report, when it is not their name."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class PublishedEvent:
    """An event as it was published; `run_id` is the run whose code did it, None when it was the test itself."""

    event: Any
    event_id: str
    message_id: str
    delay_s: float
    run_id: str | None


BEFORE, AFTER = "before", "after"


async def at_boundary(
    rehearsal: Rehearsal | None, name: str, what: str, call: Callable[[], Awaitable[T]], spared: Sequence[str] = ()
) -> T:
    """Make a call out of a delivery, whose process may be lost before it or after it, unless these are spared."""
    delivery = delivery_here.get()
    if rehearsal is None or delivery is None:
        return await call()
    if delivery.is_dead:
        raise Crashed("the process was lost")
    if BEFORE not in spared and rehearsal.reach(f"before {name}", f"the process was lost before {what}"):
        await delivery.die()
    result = await call()
    if AFTER not in spared and rehearsal.reach(f"after {name}", f"the process was lost after {what}"):
        await delivery.die()
    return result


class WatchedStore:
    """A store in memory; remembers the runs in the order of their beginnings, and how often each outcome was recorded.

    `histories` are what the runs of an event begin with, by the event's id.
    """

    def __init__(self, store: MemoryStore, rehearsal: Rehearsal | None) -> None:
        self.histories: dict[str, Sequence[StepRecord]] = {}
        self.run_ids: dict[str, None] = {}
        self.recorded: Counter[tuple[str, Path]] = Counter()
        self._store = store
        self._rehearsal = rehearsal
        self._functions: dict[str, str] = {}
        self._at_most_once: set[tuple[str, Path]] = set()

    async def purge(self, before_ms: int, limit: int) -> int:
        """Delete nothing: a test sees every run, however far it advances the clock."""
        return 0

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._store, name)
        if name in UNWATCHED:
            return method

        async def watched(*args: Any, **kwargs: Any) -> Any:
            delivery = delivery_here.get()
            if name == "release" and delivery is not None and delivery.is_dead:
                return None

            async def call() -> Any:
                if name == "claim":
                    await self._give_history(args[0])
                answer = await method(*args, **kwargs)
                self._note(name, args, answer, delivery)
                return answer

            spared = self._spared(name, args, kwargs)
            return await at_boundary(self._rehearsal, name, self._named(name, args), call, spared)

        return watched

    async def _give_history(self, claim: Claim) -> None:
        history = None if claim.new is None else self.histories.get(claim.new.event_id)
        if history is not None and claim.new is not None:
            await self._store.seed(claim.run_id, claim.new, history)
            self.histories[failure_event_id(claim.run_id, 0)] = history

    def _spared(self, name: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Sequence[str]:
        """Return where no process is lost: a step at most once is interrupted then, which it was asked to be."""
        path = args[0].path if name == "claim" else args[1] if name == "begin" else BODY
        if kwargs.get("at_most_once") or (name == "claim" and args[0].at_most_once):
            self._at_most_once.add((args[0].run_id, path))
            return (AFTER,)
        return (BEFORE,) if name == "commit" and (args[0].run_id, args[1]) in self._at_most_once else ()

    def _note(self, name: str, args: Sequence[Any], answer: object, delivery: Delivery | None) -> None:
        if name in ("claim", "trouble"):
            self.run_ids.setdefault(args[0].run_id if name == "claim" else args[0])
        if isinstance(answer, Started) and delivery is not None:
            self._functions[args[0].run_id] = answer.function_id
            delivery.leases.add(Lease(args[0].run_id, answer.token, args[0].path))
        elif isinstance(answer, Won):
            self.recorded[args[0].run_id if isinstance(args[0], Lease) else args[0], args[1]] += 1
        elif name == "reopen":
            for key in [key for key in self.recorded if key[0] == args[0]]:
                del self.recorded[key]

    def _named(self, name: str, args: Sequence[Any]) -> str:
        """Say what an operation is about, without ids: those are others in every pass."""
        run = next((one if isinstance(one, str) else one.run_id for one in args if isinstance(one, str | Lease)), "")
        path: Path | None = next((cast(Path, one) for one in args if isinstance(one, tuple)), None)
        if isinstance(args[0], Claim):
            claim = args[0]
            run, path = claim.run_id, claim.path or None
            if claim.new is not None:
                self._functions[run] = claim.new.function_id
        of = f" of {self._functions[run]!r}" if run in self._functions else ""
        if name == "arrive":
            return f"arrival of event {args[1]!r}"
        what = WORDS.get(name, name)
        if path == BODY:
            return f"{what} of the result{of}"
        return f"{what} of step {path_text(path)!r}{of}" if path else f"{what}{of}"


class HarnessDispatcher(InlineDispatcher):
    """Delivers in this process; takes messages from any thread and delivers on the loop that it was made on."""

    def __init__(
        self, clock: ManualClock, movement: Movement, store: Store, schema: EventsSchema, rehearsal: Rehearsal | None
    ) -> None:
        super().__init__(clock=clock)
        self.published: list[PublishedEvent] = []
        self.refusals: list[str] = []
        """The answers to deliveries that were no success, with what was delivered."""
        self._loop = asyncio.get_running_loop()
        self._movement = movement
        self._store = store
        self._schema = schema
        self._rehearsal = rehearsal
        self._lock = threading.Lock()
        self._queued: dict[str, int] = {}  # message ids and when each is due
        self._in_progress: set[Delivery] = set()
        self._waiting: list[asyncio.Future[bool]] = []  # for a delivery of the same run to end
        self._overtaken: list[asyncio.Future[bool]] = []
        self._deliveries = 0

    @property
    def pending(self) -> int:
        return len(self._queued)

    async def send(self, messages: Sequence[Outgoing]) -> Sequence[str]:
        async def call() -> Sequence[str]:
            return await InlineDispatcher.send(self, messages)

        named = _message_name(messages[0].body) if len(messages) == 1 else f"{len(messages)} messages"
        return await at_boundary(self._rehearsal, "dispatch", f"dispatch of {named}", call)

    def release_held(self) -> bool:
        """Let deliveries that were held back come now, since everything rests; return whether there were any."""
        return _release(self._waiting, all_rests=True) or _release(self._overtaken, all_rests=True)

    def _accept(self, message: Outgoing) -> str:
        with self._lock:
            known = self._accepted.get(message.deduplication_id)
            if known is not None:
                return known
            message_id = new_id("msg", self._clock.now_ms())
            self._accepted[message.deduplication_id] = message_id
            self._queued[message_id] = self._clock.now_ms() + round(message.delay_s * 1000)
            self._note_event(message, message_id)
        self._loop.call_soon_threadsafe(self._begin, message_id, message)
        return message_id

    def _note_event(self, message: Outgoing, message_id: str) -> None:
        envelope = _read(message.body)
        if isinstance(envelope, EventEnvelope):
            activity = activity_here.get()
            try:
                event = self._schema.decode(envelope.event)
            except EventRejected:  # sent around the worker; whoever receives it refuses it
                return
            publisher = None if activity is None else activity.run_id
            self.published.append(PublishedEvent(event, envelope.event_id, message_id, message.delay_s, publisher))

    def _begin(self, message_id: str, message: Outgoing) -> None:
        """Start a delivery that has nothing to do with whatever sent its message."""
        delivery_here.set(None)
        activity_here.set(None)
        task = self._loop.create_task(self._deliver(message_id, message))
        self._tasks.add(task)

        def ended(_: object) -> None:
            self._tasks.discard(task)
            del self._queued[message_id]
            self._movement.touch()

        task.add_done_callback(ended)
        self._movement.touch()

    async def _attempt(self, headers: list[tuple[str, str]], body: bytes) -> HttpResponse:
        self._deliveries += 1
        if self._deliveries > DELIVERIES_MAX:
            self._movement.fail(HarnessError(f"more than {DELIVERIES_MAX} deliveries: do functions start each other?"))
            return HttpResponse(503, body=b"too many deliveries")
        named = _message_name(body)
        repeats = False
        if self._rehearsal is not None:
            if self._has_others(dict(headers)["Upstash-Message-Id"]):
                await self._let_others_pass(self._rehearsal, named)
            repeats = self._rehearsal.reach("repeated", f"the delivery of {named} was repeated")
        await self._let_its_run_rest(body)
        try:
            response = await self._delivered(headers, body)
            if repeats:
                await self._delivered(headers, body)
        except HarnessError as error:
            self._movement.fail(error)
            raise
        self._movement.touch()
        if not response.ok:
            self.refusals.append(f"{named} was answered {response.status}: {response.body[:500].decode()}")
        return response

    def _has_others(self, message_id: str) -> bool:
        now_ms = self._clock.now_ms()
        return any(due_ms <= now_ms for other, due_ms in self._queued.items() if other != message_id)

    async def _let_others_pass(self, rehearsal: Rehearsal, named: str) -> None:
        if rehearsal.reach("overtaken", f"the delivery of {named} was overtaken by all others"):
            future: asyncio.Future[bool] = self._loop.create_future()
            self._overtaken.append(future)
            await future

    async def _let_its_run_rest(self, body: bytes) -> None:
        """Hold a message back while another delivery is at work on the same, which would send it away for a second."""
        envelope = _read(body)
        if not isinstance(envelope, RunEnvelope):
            return
        wanted = (run_id(envelope.event_id, envelope.function_id), envelope.path)
        while any((lease.run_id, lease.path) == wanted for each in self._in_progress for lease in each.leases):
            future: asyncio.Future[bool] = self._loop.create_future()
            self._waiting.append(future)
            if await future:
                return

    async def _delivered(self, headers: list[tuple[str, str]], body: bytes) -> HttpResponse:
        """Deliver; a process that is lost is followed by another delivery at once, as if its lease had just ended."""
        while True:
            delivery = Delivery(self._loop.create_future())
            self._in_progress.add(delivery)
            task = self._loop.create_task(self._handled(delivery, headers, body))
            try:
                either: set[asyncio.Future[Any]] = {task, delivery.died}
                await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
                if not delivery.is_dead:
                    return await task
            finally:
                await _ended(task)
                delivery.bury()
                self._in_progress.discard(delivery)
                _release(self._waiting, all_rests=False)
            await self._movement.threads_ended(delivery)
            for lease in delivery.leases:
                await self._store.release(lease, "shutdown")

    async def _handled(self, delivery: Delivery, headers: list[tuple[str, str]], body: bytes) -> HttpResponse:
        delivery_here.set(delivery)
        if self._mount is None:
            raise HarnessError("nothing is mounted")
        return await self._mount.handle(HttpRequest("POST", "/", headers, body))


def _read(body: bytes) -> Envelope | None:
    try:
        return decode(body, "message")
    except IdiotequeError:
        return None


def _message_name(body: bytes) -> str:
    envelope = _read(body)
    if envelope is None:
        return "a message"
    if isinstance(envelope, EventEnvelope):
        return f"event {type_of(json.loads(envelope.event))!r}"
    return f"a message of {envelope.function_id!r}"


def _release(held: list[asyncio.Future[bool]], *, all_rests: bool) -> bool:
    waiting = [future for future in held if not future.done()]
    held.clear()
    for future in waiting:
        future.set_result(all_rests)
    return bool(waiting)


async def _ended(task: asyncio.Task[HttpResponse]) -> None:
    """Cancel a task; whatever it raises on its way out is of no interest any more."""
    task.cancel()
    await asyncio.wait({task})
    if not task.cancelled():
        task.exception()
