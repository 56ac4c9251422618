"""The messages that the engine sends; their ids name their cause, so that repetitions are swallowed, news never."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from idioteque.clock import Clock
from idioteque.dispatcher import RETRY_HORIZON_S, Dispatcher, EventEnvelope, Outgoing, RunEnvelope
from idioteque.engine.endings import Postponed
from idioteque.events import EventsSchema
from idioteque.function import Published, failure_event_id, run_id
from idioteque.ids import derived_id, jittered
from idioteque.paths import Path, path_text
from idioteque.store import Busy, RunRecord, Watcher

CHECK_BACK_SPREAD = 0.1
MESSAGE_DELAY_MAX_S = 6 * 86_400.0
"""A longer wait is a chain of messages: some plans of the hosted service accept a delay of seven days at most."""


class Outbox:
    """Sends what deliveries leave behind; every method returns once the transport has accepted it."""

    def __init__(self, dispatcher: Dispatcher, schema: EventsSchema, clock: Clock) -> None:
        self._dispatcher = dispatcher
        self._schema = schema
        self._clock = clock

    def encode(self, event: object) -> bytes:
        """Return the JSON of an event; raise `EventRejected` when it does not fit the schema."""
        return self._schema.encode(event)

    async def publish(self, event_id: str, event: bytes) -> Published:
        """Send an event under an id that the sender derived from itself."""
        body = EventEnvelope(event_id, event).encode()
        sent = await self._dispatcher.send([Outgoing(body, derived_id("dd", "event", event_id))])
        return Published(event_id, sent[0])

    def first(self, function_id: str, envelope: EventEnvelope) -> RunEnvelope:
        """Return the first message of a run, which carries the event."""
        not_after_ms = self._not_after_ms(0)
        return RunEnvelope(envelope.event_id, function_id, not_after_ms, envelope.event, retries=envelope.retries)

    async def start(self, runs: Sequence[RunEnvelope], delays_s: Sequence[float] = ()) -> None:
        """Send the first messages of runs, all or none, each after its delay if there are any."""
        delays = delays_s or [0.0] * len(runs)
        await self._dispatcher.send(
            [_outgoing(run, delay_s, "start") for run, delay_s in zip(runs, delays, strict=True)]
        )

    async def remind(self, first: RunEnvelope, delay_s: float, created_at_ms: int = 0) -> None:
        """Have a run looked at when its time is over, or on the way there if that is far; it may never have begun.

        The time of creation (0: not created yet) and the hop make news of a reminder that follows one which came too
        early.
        """
        follower = self._following(first, 0.0, instead_of=None)
        reminder = replace(follower, not_after_ms=self._clock.now_ms(), flow=None, debounce=None)
        legs = math.ceil(delay_s / MESSAGE_DELAY_MAX_S)
        cause = ("deadline", str(legs), str(first.hop), str(created_at_ms))
        await self._dispatcher.send([_outgoing(reminder, delay_s / max(1, legs), *cause)])

    async def retry(self, envelope: RunEnvelope, attempts: int, delay_ms: int) -> None:
        """Have the function tried again after a while."""
        await self._dispatcher.send([self._again(envelope, "", attempts, delay_ms)])

    async def postpone(self, envelope: RunEnvelope, postponed: Sequence[Postponed]) -> None:
        """Have steps tried again when they are due.

        One message for the first of them is enough: the pass that it starts meets the others, and postpones them anew.
        """
        first = min(postponed, key=_due_at_ms)
        delay_ms = max(0, first.due_at_ms - self._clock.now_ms())
        await self._dispatcher.send([self._again(envelope, path_text(first.path), first.attempts, delay_ms)])

    async def leave(self, envelope: RunEnvelope, token: int) -> None:
        """Have a run go on that this delivery has no more time for, under a lease with this token."""
        await self._dispatcher.send([_outgoing(self._following(envelope, 0.0, None), 0.0, "continue", str(token))])

    async def look_again(self, envelope: RunEnvelope, busy: Busy, instead_of: tuple[str, int]) -> None:
        """Have a message look again instead of this one, which met a lease.

        Soon at first, since that delivery may have died or may end without an answer that anybody hears, and at the
        latest when its lease ends.
        """
        delay_s = jittered(min(busy.remaining_ms / 1000, 2.0 ** min(envelope.hop, 10)), CHECK_BACK_SPREAD)
        again = self._following(envelope, delay_s, instead_of=envelope.instead_of or instead_of)
        await self._dispatcher.send([_outgoing(again, delay_s, "check-back", str(busy.token), str(envelope.hop))])

    async def reopen(self, run: RunRecord) -> None:
        """Have a run that failed go on."""
        await self._dispatcher.send([_outgoing(self._of(run), 0.0, "reopen")])

    async def repair(self, run: RunRecord, hour: int) -> None:
        """Have a run go on that no message holds any more; within one hour of the clock, this is one message."""
        await self._dispatcher.send([_outgoing(self._of(run), 0.0, "repair", str(hour))])

    def _of(self, run: RunRecord) -> RunEnvelope:
        """Return the message of a run that is told by nothing but what is stored."""
        options: dict[str, Any] = json.loads(run.options)
        flow = options.get("flow")
        return RunEnvelope(
            *(run.event_id, run.function_id, self._not_after_ms(0)),
            retries=options.get("retries"),
            epoch=run.epoch,
            flow=None if flow is None else (flow[0], flow[1]),
        )

    async def wake(self, watcher: Watcher) -> None:
        """Have a run go on whose wait is over."""
        options: dict[str, Any] = json.loads(watcher.options)
        await self._send_wake(watcher.event_id, watcher.function_id, watcher.path, watcher.seat, watcher.epoch, options)

    async def invoke(
        self, parent: tuple[str, Path, Path], function_id: str, event: bytes, options: Mapping[str, Any], epoch: int
    ) -> None:
        """Start a run whose outcome is that of a step of another run.

        In each epoch of the parent anew: the run may have ended while nobody was there to be told.
        """
        event_id = derived_id("evt", parent[0], *parent[1])
        envelope = RunEnvelope(event_id, function_id, self._not_after_ms(0), event, options.get("retries"))
        await self.start([replace(envelope, parent=parent, epoch=epoch)])

    async def answer_parent(self, parent: RunRecord, path: Path, seat: Path) -> None:
        """Have a run go on whose invoked run has ended."""
        options: dict[str, Any] = json.loads(parent.options)
        await self._send_wake(parent.event_id, parent.function_id, path, seat, parent.epoch, options)

    async def _send_wake(
        self, event_id: str, function_id: str, path: Path, seat: Path, epoch: int, options: Mapping[str, Any]
    ) -> None:
        not_after_ms = self._not_after_ms(0)
        flow = options.get("flow")
        envelope = RunEnvelope(
            *(event_id, function_id, not_after_ms),
            retries=options.get("retries"),
            epoch=epoch,
            path=seat,
            flow=None if flow is None else (flow[0], flow[1]),
        )
        await self._dispatcher.send([_outgoing(envelope, 0.0, "wake", path_text(path))])

    async def steps(self, envelope: RunEnvelope, scheduled: Mapping[Path, bool]) -> None:
        """Have steps run in deliveries of their own."""
        body = replace(envelope, event=None, hop=0, instead_of=None, not_after_ms=self._not_after_ms(0))
        await self._dispatcher.send(
            [
                _outgoing(replace(body, path=path, at_most_once=at_most_once), 0.0, "step")
                for path, at_most_once in scheduled.items()
            ]
        )

    async def wake_body(self, envelope: RunEnvelope, generation: int) -> None:
        """Have the body go on after a step that ran in a delivery of its own. The generation makes news of it."""
        body = replace(
            envelope,
            event=None,
            hop=0,
            instead_of=None,
            path=(),
            at_most_once=False,
            not_after_ms=self._not_after_ms(0),
        )
        await self._dispatcher.send([_outgoing(body, 0.0, "step-ended", str(generation))])

    async def fail(self, run: str, handler_id: str, failure: bytes, epoch: int) -> None:
        """Start the failure handler of a run that failed: a run of its own, whose event is the failure."""
        event_id = failure_event_id(run, epoch)
        await self.start([RunEnvelope(event_id, handler_id, self._not_after_ms(0), failure)])

    def _again(self, envelope: RunEnvelope, path: str, attempts: int, delay_ms: int) -> Outgoing:
        """Make the message of the next attempt.

        Its id names the failure, so that a delivery which is repeated sends it once, and the hop of the message being
        delivered, so that a retry which arrives before its time (clocks differ) is not taken for a duplicate of itself.
        """
        delay_s = min(delay_ms / 1000, MESSAGE_DELAY_MAX_S)
        again = self._following(envelope, delay_s, instead_of=None)
        return _outgoing(again, delay_s, "retry", path, str(attempts), str(envelope.hop))

    def _following(self, envelope: RunEnvelope, delay_s: float, instead_of: tuple[str, int] | None) -> RunEnvelope:
        return replace(
            envelope,
            event=None,
            not_after_ms=self._not_after_ms(delay_s),
            hop=envelope.hop + 1,
            instead_of=instead_of,
        )

    def _not_after_ms(self, delay_s: float) -> int:
        return self._clock.now_ms() + math.ceil((delay_s + RETRY_HORIZON_S) * 1000)


def _due_at_ms(postponed: Postponed) -> int:
    return postponed.due_at_ms


def _outgoing(envelope: RunEnvelope, delay_s: float, kind: str, *cause: str) -> Outgoing:
    run = run_id(envelope.event_id, envelope.function_id)
    deduplication_id = derived_id("dd", kind, run, path_text(envelope.path), str(envelope.epoch), *cause)
    headers = (
        []
        if envelope.flow is None
        else [
            ("Upstash-Flow-Control-Key", envelope.flow[0]),
            ("Upstash-Flow-Control-Value", envelope.flow[1]),
        ]
    )
    return Outgoing(envelope.encode(), deduplication_id, delay_s, envelope.retries, headers, kind == "wake")
