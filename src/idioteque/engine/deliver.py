"""What becomes of one delivered message.

The rule of the acknowledgement: an answer is 2xx only when all that the message stands for is finished, or handed to
another message that the transport has accepted.
"""

from __future__ import annotations

import asyncio
import json
import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from idioteque.clock import Clock
from idioteque.context import Context
from idioteque.dispatcher import RETRY_HORIZON_S, Dispatcher, Envelope, EventEnvelope, Outgoing, RunEnvelope
from idioteque.engine.endings import Ending, Faulted, LeaseLost, Postponed, Raised, Returned
from idioteque.engine.failures import UNSERIALIZABLE, failure
from idioteque.engine.inline import InlinePass
from idioteque.engine.leases import LEASE_MS, Leases
from idioteque.engine.step import NoJsonForm
from idioteque.errors import DuplicateStepKey, EventRejected, IdiotequeError, first_line
from idioteque.events import EventsSchema, type_of
from idioteque.function import Function, run_id
from idioteque.ids import derived_id, jittered, nonce
from idioteque.store import (
    BODY,
    Busy,
    Claim,
    Finished,
    Lease,
    NewRun,
    Outcome,
    Stale,
    Started,
    Store,
    Unknown,
    Waiting,
    path_text,
)
from idioteque.values import NotSerializable

CLAIMS_MAX = 10
CHECK_BACK_SPREAD = 0.1
MESSAGE_DELAY_MAX_S = 6 * 86_400.0
"""A longer wait is a chain of messages: some plans of the hosted service accept a delay of seven days at most."""

_log = logging.getLogger("idioteque")


@dataclass(frozen=True, slots=True)
class Delivery:
    """What the transport says of a message: its id, the same over redeliveries, and how often it was tried before."""

    message_id: str
    retried: int = 0


@dataclass(frozen=True, slots=True)
class Answer:
    """The HTTP answer to a delivery; `is_final` asks the transport not to try again."""

    status: int
    text: str
    is_final: bool = False

    @property
    def ok(self) -> bool:
        return 200 <= self.status < 300


class Engine:
    """Runs the functions of one mount; one object serves any number of deliveries at once."""

    def __init__(
        self,
        functions: Sequence[Function],
        *,
        schema: EventsSchema,
        store: Store,
        dispatcher: Dispatcher,
        clock: Clock,
    ) -> None:
        self.functions: Mapping[str, Function] = {function.id: function for function in functions}
        self._schema = schema
        self._store = store
        self._dispatcher = dispatcher
        self._clock = clock
        self._leases = Leases(store, clock)

    async def deliver(self, envelope: Envelope, delivery: Delivery) -> Answer:
        """Do all that a message asks for, and say whether it may be acknowledged; infrastructure's failures are 503."""
        try:
            if isinstance(envelope, EventEnvelope):
                return await self._start(envelope, delivery)
            return await self._go_on(envelope, delivery)
        except EventRejected as error:
            return Answer(489, str(error), is_final=True)
        except Exception as error:
            expected = isinstance(error, IdiotequeError)  # the transport or the store is away: it comes back
            _log.warning(
                "delivery %s: %s", delivery.message_id, first_line(error), exc_info=None if expected else error
            )
            return Answer(503, f"the delivery could not be finished: {type(error).__name__}")

    async def _start(self, envelope: EventEnvelope, delivery: Delivery) -> Answer:
        event = self._schema.decode(envelope.event)
        wanted = [function for function in self.functions.values() if function.trigger.matches(event)]
        if not wanted:
            name = type_of(event) or type(event).__name__
            _log.info("event %s (%s) started nothing: no mounted function wants it", envelope.event_id, name)
            return Answer(200, f"started nothing: no mounted function wants {name!r}")
        first = [self._first_message(function, envelope) for function in wanted]
        if len(first) == 1:
            return await self._go_on(first[0], delivery)
        await self._dispatcher.send(
            [
                Outgoing(run.encode(), _message_id("start", run_id(run.event_id, run.function_id)), retries=run.retries)
                for run in first
            ]
        )
        return Answer(200, f"started {len(first)} functions")

    def _first_message(self, function: Function, envelope: EventEnvelope) -> RunEnvelope:
        return RunEnvelope(
            envelope.event_id, function.id, self._not_after_ms(0), envelope.event, retries=envelope.retries
        )

    async def _go_on(self, envelope: RunEnvelope, delivery: Delivery) -> Answer:
        function = self.functions.get(envelope.function_id)
        if function is None:
            _log.error("no function %r is mounted here; deploy it, or mount it", envelope.function_id)
            return Answer(503, f"no function {envelope.function_id!r} is mounted here")
        run = run_id(envelope.event_id, function.id)
        for _ in range(CLAIMS_MAX):
            claimed = await self._store.claim(self._claim(run, envelope, delivery))
            if isinstance(claimed, Finished):
                return Answer(200, f"the run is {claimed.status}")
            if isinstance(claimed, Unknown):
                return self._unknown(run, envelope)
            if isinstance(claimed, Busy):
                return await self._look_again(run, envelope, delivery, claimed)
            if isinstance(claimed, Waiting):
                await self._send_retry(run, envelope, "", claimed.attempts, claimed.remaining_ms / 1000)
                return Answer(200, "the function's back-off is not over")
            answer = await self._under_lease(run, function, envelope, claimed)
            if answer is not None:
                return answer
        return Answer(503, "the run changed hands too often")

    def _claim(self, run: str, envelope: RunEnvelope, delivery: Delivery) -> Claim:
        new = None
        if envelope.event is not None:
            options = json.dumps({} if envelope.retries is None else {"retries": envelope.retries}).encode()
            new = NewRun(envelope.event_id, envelope.function_id, envelope.event, options)
        message_id, retried = envelope.instead_of or (delivery.message_id, delivery.retried)
        return Claim(run, nonce(), message_id, retried, LEASE_MS, new)

    def _unknown(self, run: str, envelope: RunEnvelope) -> Answer:
        if self._clock.now_ms() > envelope.not_after_ms:
            _log.warning("run %s is not stored (any more), and its message is past its time: dropped", run)
            return Answer(200, "the run is past its retention")
        _log.error("run %s is not stored: was the store lost, or is this the wrong one?", run)
        return Answer(503, f"RunUnknown: no run {run!r} is stored")

    # ---- under the lease

    async def _under_lease(
        self, run: str, function: Function, envelope: RunEnvelope, started: Started
    ) -> Answer | None:
        """Run the function as far as it gets; None when the run must be claimed once more."""
        lease = Lease(run, started.token)
        one = InlinePass(run, started, self._store, self._clock, careful=started.strikes > 1)
        self._leases.hold(lease, one.lose)
        try:
            ending = await self._run(one, function, started, run)
        except asyncio.CancelledError:
            await asyncio.shield(self._hand_back(lease))
            raise
        finally:
            self._leases.drop(lease)
        return await self._conclude(run, function, envelope, started, lease, ending)

    async def _run(self, one: InlinePass, function: Function, started: Started, run: str) -> Ending:
        event = self._schema.decode(started.event)
        log = logging.LoggerAdapter(_log.getChild(function.id), {"run_id": run, "event_id": started.event_id})
        context = Context(
            one,
            self._clock,
            event_id=started.event_id,
            run_id=run,
            function_id=function.id,
            attempt=started.attempts + 1,
            log=log,
        )
        return await one.run(lambda: function.handler(event, context))

    async def _conclude(
        self,
        run: str,
        function: Function,
        envelope: RunEnvelope,
        started: Started,
        lease: Lease,
        ending: Ending,
    ) -> Answer | None:
        if isinstance(ending, LeaseLost):
            return None
        if isinstance(ending, Faulted):
            await self._hand_back(lease)
            raise ending.error
        if isinstance(ending, Returned):
            return await self._finish(lease, _result(function, ending.value))
        if isinstance(ending, Raised):
            attempts = started.attempts + 1
            pause_s = _pause_s(function, ending.error, attempts)
            if pause_s is None:
                _log.error("run %s of %s failed: %s", run, function.id, first_line(ending.error), exc_info=ending.error)
                return await self._finish(lease, failure(ending.error))
            return await self._try_later(run, envelope, started, lease, ending.error, pause_s)
        if not ending.postponed:
            await self._hand_back(lease)
            raise RuntimeError("the function waits for nothing that is known")
        if await self._store.release(lease, "suspended") is None:
            return None
        await self._postpone(run, envelope, started, ending.postponed)
        return Answer(200, f"waiting: {len(ending.postponed)} steps are tried again later")

    async def _finish(self, lease: Lease, outcome: Outcome) -> Answer | None:
        answer = await self._store.commit(lease, BODY, outcome)
        if isinstance(answer, Stale):
            return None
        return Answer(200, "completed" if outcome.ok else "failed")

    async def _try_later(
        self,
        run: str,
        envelope: RunEnvelope,
        started: Started,
        lease: Lease,
        error: BaseException,
        pause_s: float,
    ) -> Answer | None:
        pause_ms = math.ceil(pause_s * 1000)  # whole, so that the message is not due before the run is
        due_at_ms = self._clock.now_ms() + pause_ms
        attempts = await self._store.release(lease, "failed", due_at_ms=due_at_ms, error=first_line(error))
        if attempts is None:
            return None
        await self._send_retry(run, self._inherited(envelope, started), "", attempts, pause_ms / 1000)
        return Answer(200, f"attempt {attempts} failed: {type(error).__name__}; tried again in {pause_s:.0f} s")

    async def _hand_back(self, lease: Lease) -> None:
        try:
            await self._store.release(lease, "shutdown")
        except Exception as error:  # then it ends by itself
            _log.warning("could not hand back the lease of %s: %s", lease.run_id, type(error).__name__)

    # ---- messages

    async def _postpone(
        self, run: str, envelope: RunEnvelope, started: Started, postponed: Sequence[Postponed]
    ) -> None:
        now_ms = self._clock.now_ms()
        inherited = self._inherited(envelope, started)
        await self._dispatcher.send(
            [
                self._retry_message(
                    run, inherited, path_text(step.path), step.attempts, max(0, step.due_at_ms - now_ms) / 1000
                )
                for step in postponed
            ]
        )

    async def _send_retry(self, run: str, envelope: RunEnvelope, path: str, attempts: int, delay_s: float) -> None:
        await self._dispatcher.send([self._retry_message(run, envelope, path, attempts, delay_s)])

    def _retry_message(self, run: str, envelope: RunEnvelope, path: str, attempts: int, delay_s: float) -> Outgoing:
        """Make the message of the next attempt.

        Its id names the failure, so that a delivery which is repeated sends it once, and the hop of the message being
        delivered, so that a retry which arrives before its time (clocks differ) is not taken for a duplicate of itself.
        """
        again = replace(
            envelope, event=None, not_after_ms=self._not_after_ms(delay_s), hop=envelope.hop + 1, instead_of=None
        )
        delay_s = min(delay_s, MESSAGE_DELAY_MAX_S)
        deduplication_id = _message_id("retry", run, path, str(attempts), str(envelope.hop))
        return Outgoing(again.encode(), deduplication_id, delay_s=delay_s, retries=again.retries)

    async def _look_again(self, run: str, envelope: RunEnvelope, delivery: Delivery, busy: Busy) -> Answer:
        """Another delivery is at work: have a message look again instead of this one.

        Soon at first, since that delivery may have died or may end without an answer that anybody hears, and at the
        latest when its lease ends.
        """
        delay_s = jittered(min(busy.remaining_ms / 1000, 2.0 ** min(envelope.hop, 10)), CHECK_BACK_SPREAD)
        again = replace(
            envelope,
            event=None,
            not_after_ms=self._not_after_ms(delay_s),
            hop=envelope.hop + 1,
            instead_of=envelope.instead_of or (delivery.message_id, delivery.retried),
        )
        deduplication_id = _message_id("check-back", run, str(busy.token), str(envelope.hop))
        await self._dispatcher.send(
            [Outgoing(again.encode(), deduplication_id, delay_s=delay_s, retries=again.retries)]
        )
        return Answer(200, "another delivery is at work on this run")

    def _inherited(self, envelope: RunEnvelope, started: Started) -> RunEnvelope:
        """Take a message's options from the run, where the publisher's are kept."""
        options: dict[str, Any] = json.loads(started.options)
        return replace(envelope, retries=options.get("retries"))

    def _not_after_ms(self, delay_s: float) -> int:
        return self._clock.now_ms() + round((delay_s + RETRY_HORIZON_S) * 1000)


def _message_id(kind: str, run: str, *versions: str) -> str:
    return derived_id("dd", kind, run, *versions)


def _result(function: Function, value: object) -> Outcome:
    try:
        return Outcome(True, function.codec.encode(value))
    except NotSerializable as error:
        return failure(NoJsonForm(f"function {function.id!r} returned {error}"), kind=UNSERIALIZABLE)


def _pause_s(function: Function, error: BaseException, attempts: int) -> float | None:
    if isinstance(error, DuplicateStepKey):
        return None
    return function.retry.after(error, attempts)
