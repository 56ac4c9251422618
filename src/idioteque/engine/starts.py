"""What an event sets going: the runs of functions that want it, within what these ask for, and the waits it ends."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from pydantic_core import to_jsonable_python

from idioteque.clock import Clock
from idioteque.controls import field_of, key_of
from idioteque.dispatcher import EventEnvelope, RunEnvelope, TickEnvelope
from idioteque.engine.outbox import Outbox
from idioteque.engine.waits import matches, wake_watchers
from idioteque.errors import EventRejected, counted
from idioteque.events import EventsSchema, type_of
from idioteque.function import Function, run_id
from idioteque.metrics import Metrics
from idioteque.paths import Path
from idioteque.store import Lease, Letter, Started, Store
from idioteque.ticks import read_tick, tick

CANCEL = "\x00cancel"
"""The key of the watchers that cancel their run; no step can have it, since a step's path is never watched for that."""


@dataclass(frozen=True, slots=True)
class Begin:
    """A run to begin, after a while if `delay_s` says so; None of a function's controls stands against it."""

    run: RunEnvelope
    function: Function
    delay_s: float = 0.0

    @property
    def needs_message(self) -> bool:
        """Whether it cannot be run in the delivery of its event."""
        return self.delay_s > 0 or self.run.flow is not None


@dataclass(frozen=True, slots=True)
class Arrival:
    """An event that was read, and the functions that want it."""

    envelope: EventEnvelope
    event: Any
    wanted: Sequence[Function]

    @property
    def sole(self) -> Function | None:
        """The one function that it starts, if there is one and nothing that is on record can stand against it."""
        return self.wanted[0] if len(self.wanted) == 1 and self.wanted[0].controls.start_at_once else None


class Starts:
    """Decides about the events that arrive at one mount. Every operation may be repeated by a redelivery."""

    def __init__(
        self,
        functions: Mapping[str, Function],
        schema: EventsSchema,
        store: Store,
        outbox: Outbox,
        clock: Clock,
        metrics: Metrics,
    ) -> None:
        self._metrics = metrics
        self._functions = functions
        self._has_predicates = any(function.trigger.runs_code for function in functions.values())
        self._schema = schema
        self._clock = clock
        self._store = store
        self._outbox = outbox

    def read(self, envelope: EventEnvelope) -> Arrival:
        """Read an event; raise `EventRejected` for what is none of the schema."""
        event = self._schema.decode(envelope.event)
        wanted = [function for function in self._functions.values() if function.trigger.matches(event)]
        if self._has_predicates:  # which may have changed what they were shown
            event = self._schema.decode(envelope.event)
        return Arrival(envelope, event, wanted)

    async def arrive(self, arrival: Arrival) -> tuple[list[Begin], str]:
        """Put an event into the mailbox, end the waits that it ends, and return what it begins and what else it did."""
        envelope, event = arrival.envelope, arrival.event
        name, letter, woken, cancelled = await self.post(arrival)
        begins: list[Begin] = []
        notes = [f"woke {counted(woken, 'run')}"] if woken else []
        notes += [f"cancelled {counted(cancelled, 'run')}"] if cancelled else []
        for function in arrival.wanted:
            begin, note = await self._admit(function, envelope, event, letter.accepted_at_ms)
            begins += [begin] if begin is not None else []
            notes += [note] if note else []
        if not begins and not notes:
            notes.append(f"started nothing: no mounted function wants {name or 'this event'!r}")
        return begins, "; ".join(notes)

    async def post(self, arrival: Arrival) -> tuple[str, Letter, int, int]:
        """Put an event into the mailbox and end the waits that it ends; return its type, the letter, and how many runs
        it woke and cancelled."""
        envelope, event = arrival.envelope, arrival.event
        name = type_of(event) or type_of(json.loads(envelope.event)) or ""
        named = self._named(envelope, event)
        letter, woken, cancelled = await wake_watchers(self._store, self._outbox, named, name, CANCEL, self._metrics)
        return name, letter, woken, cancelled

    def event_of(self, envelope: TickEnvelope) -> EventEnvelope:
        """Return what a tick is to its run: an event that nobody else hears of."""
        event = tick(envelope.function_id, envelope.message_id, self._clock.now_ms())
        return EventEnvelope(envelope.event_id, event.model_dump_json().encode(), envelope.retries)

    async def tick(self, function: Function, envelope: EventEnvelope) -> tuple[list[Begin], str]:
        """Return what a tick begins, and what stands against it."""
        begin, note = await self._admit(function, envelope, read_tick(envelope.event), self._clock.now_ms())
        return [] if begin is None else [begin], note

    def _named(self, envelope: EventEnvelope, event: Any) -> EventEnvelope:
        """Return an event with its fields under their names, which is how conditions speak of them."""
        try:
            return EventEnvelope(envelope.event_id, self._schema.dump(event), envelope.retries)
        except EventRejected:  # of a schema that reads what it cannot write
            return envelope

    async def _admit(
        self, function: Function, envelope: EventEnvelope, event: Any, accepted_at_ms: int
    ) -> tuple[Begin | None, str]:
        controls = function.controls
        own = run_id(envelope.event_id, function.id)
        obstacle = await self._take_names(function, event, own)
        # One that has begun goes on: its end may have to be reported still, though another has its name by now.
        if obstacle is not None and await self._dismiss(own):
            return None, f"{function.id} not started: {obstacle}"
        run = self._outbox.first(function.id, envelope)
        flow = controls.flow(function.id, event)
        if flow is not None:
            run = replace(run, flow=flow)
        if controls.timeout_s is not None:
            await self._outbox.remind(run, controls.timeout_s)
        if controls.debounce_s is None:
            return Begin(run, function), ""
        name = f"debounce:{function.id}"
        if await self._store.latest(name, envelope.event_id, accepted_at_ms, own) != envelope.event_id:
            await self._dismiss(own)
            return None, f"{function.id} not started: a later event came"
        return Begin(replace(run, debounce=name), function, controls.debounce_s), ""

    async def _take_names(self, function: Function, event: Any, own: str) -> str | None:
        """Let a run have the names that its function asks for; say who has one of them otherwise."""
        controls = function.controls
        for kind, key in (("idempotency", controls.idempotency), ("singleton", controls.singleton)):
            if key is None:
                continue
            name = f"{kind}:{function.id}:{key_of(key, event)}"
            holder = await self._store.occupy(name, own, until_end=kind == "singleton")
            if holder != own:
                return f"its {kind} is held by {holder}"
        return None

    async def _dismiss(self, run: str) -> bool:
        """Return whether a run has not begun; end the mere record of a message that was given up and came again."""
        record = await self._store.get(run)
        if record is None:
            return True
        if record.epoch or record.steps or record.trouble is None:
            return False
        await self._store.cancel(run)
        return True

    async def is_superseded(self, envelope: RunEnvelope) -> bool:
        """Whether a later event came while this one's run was held back; a run that has begun is not."""
        if envelope.debounce is None:
            return False
        own = run_id(envelope.event_id, envelope.function_id)
        if await self._store.latest(envelope.debounce, envelope.event_id, 0, own) == envelope.event_id:
            return False
        return await self._dismiss(own)

    async def is_called_off(
        self, envelope: RunEnvelope, lease: Lease, function: Function, event: Any, started: Started
    ) -> bool:
        """Cancel a run, under its lease, that has lost a name or is cancelled by an event; return whether that was so.

        A run that was held back has lost its names if a later event came before its claim and after it had been looked
        whether one did. From its claim on it keeps those that it has.
        """
        is_fresh = not (started.outcomes or started.unfinished or started.epoch)
        if envelope.debounce is not None and is_fresh and await self._take_names(function, event, lease.run_id):
            return await self._store.cancel(lease.run_id) == "cancelled"
        return await self._watch_cancels(lease, function, event, started)

    async def _watch_cancels(self, lease: Lease, function: Function, event: Any, started: Started) -> bool:
        """Have the events found that cancel this run, and cancel it if one has come already; return whether it did.

        A run that was opened again is not cancelled by what came before that.
        """
        for number, (types, fields) in enumerate(function.controls.cancel_on):
            where = {theirs: to_jsonable_python(field_of(event, ours)) for theirs, ours in fields.items()}
            path: Path = (CANCEL, str(number))
            await self._store.watch(lease, path, types, json.dumps(where).encode())
            letters = await self._store.letters(types, started.created_at_ms)
            if any(each.event_id != started.event_id and matches(each.event, where) for each in letters):
                record = await self._store.get(lease.run_id)
                if record is not None and not record.epoch:
                    return await self._store.cancel(lease.run_id) == "cancelled"
        return False
