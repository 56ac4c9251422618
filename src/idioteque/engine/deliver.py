"""What becomes of one delivered message.

The rule of the acknowledgement: an answer is 2xx only when all that the message stands for is finished, or handed to
another message that the transport has accepted.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from idioteque.clock import Clock
from idioteque.context import Context
from idioteque.dispatcher import Dispatcher, Envelope, EventEnvelope, RunEnvelope, TickEnvelope
from idioteque.engine.answers import Answer, Delivery
from idioteque.engine.asks import Asks
from idioteque.engine.claims import Asked, Claims, Held, Job, inherited, new_run
from idioteque.engine.endings import Concluded, Ending, Faulted, LeaseLost, Missing, Raised, Returned, Suspended
from idioteque.engine.failures import CRASH_LOOP, INTERRUPTED, failure, overdue, pause_s, returned
from idioteque.engine.inline import InlinePass
from idioteque.engine.inputs import Inputs
from idioteque.engine.kept import KeptBodies, run_offer
from idioteque.engine.leases import Leases
from idioteque.engine.lines import beside
from idioteque.engine.outbox import Outbox
from idioteque.engine.reporting import StepReport, fields_of, run_span, tell_ending, unknown
from idioteque.engine.reports import Reports
from idioteque.engine.retention import Retention
from idioteque.engine.starts import Arrival, Begin, Starts
from idioteque.errors import EventRejected, IdiotequeError, counted, first_line
from idioteque.events import EventsSchema
from idioteque.function import Function, failure_handler, run_id
from idioteque.metrics import SILENT, Metrics
from idioteque.paths import BODY, path_text
from idioteque.store import (
    MAX_STRIKES,
    Busy,
    Exhausted,
    Finished,
    Lease,
    Outcome,
    Settled,
    Stale,
    Started,
    Store,
    Trouble,
    Waiting,
    Won,
)

CLAIMS_MAX = 10

_log = logging.getLogger("idioteque")


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
        isolated: bool = False,
        retention_s: float | None = None,
        metrics: Metrics = SILENT,
    ) -> None:
        self._isolated = isolated
        self._metrics = metrics
        handlers = [handler for function in functions if (handler := failure_handler(function)) is not None]
        self.functions: Mapping[str, Function] = {function.id: function for function in (*functions, *handlers)}
        self._inputs = Inputs(schema, self.functions)
        self._store = store
        self._outbox = Outbox(dispatcher, schema, clock)
        self._starts = Starts(self.functions, schema, store, self._outbox, clock, metrics)
        self._reports = Reports(store, self._outbox)
        self._clock = clock
        self._leases = Leases(store, clock)
        self._retention = Retention(store, clock, retention_s)
        self._claims = Claims(store)
        self._ending: set[asyncio.Future[None]] = set()
        self._kept = KeptBodies(clock, self._end_later)

    async def deliver(self, envelope: Envelope, delivery: Delivery) -> Answer:
        """Do all that a message asks for, and say whether it may be acknowledged; infrastructure's failures are 503."""
        answer = await self._delivered(envelope, delivery)
        await self._retention.tend()
        return answer

    async def _delivered(self, envelope: Envelope, delivery: Delivery) -> Answer:
        try:
            if isinstance(envelope, EventEnvelope):
                return await self._start(self._starts.read(envelope), delivery)
            if isinstance(envelope, TickEnvelope):
                return await self._tick(envelope, delivery)
            return await self._go_on(envelope, delivery)
        except EventRejected as error:
            return Answer(489, str(error), is_final=True)
        except Exception as error:
            expected = isinstance(error, IdiotequeError)  # the transport or the store is away: it comes back
            _log.warning(
                "delivery %s: %s",
                delivery.message_id,
                first_line(error),
                exc_info=None if expected else error,
                extra={"message_id": delivery.message_id},
            )
            return Answer(503, f"the delivery could not be finished: {type(error).__name__}")

    async def given_up(self, envelope: Envelope, reason: str) -> Answer:
        """Record that the transport gave a message up. It decides nothing: the run waits until it is sent again."""
        if isinstance(envelope, EventEnvelope):
            runs = [self._outbox.first(function.id, envelope) for function in self._starts.read(envelope).wanted]
        elif isinstance(envelope, TickEnvelope):
            runs = [self._outbox.first(envelope.function_id, self._starts.event_of(envelope))]
        else:
            runs = [envelope]
        for run in runs:
            trouble = Trouble("dead_letter", reason, run.path)
            name = run_id(run.event_id, run.function_id)
            await self._store.trouble(name, trouble, new_run(run))
            _log.error("a message of run %s was given up: %s", name, reason, extra=fields_of(name, run))
        return Answer(200, f"recorded for {counted(len(runs), 'run')}")

    async def _start(self, arrival: Arrival, delivery: Delivery) -> Answer:
        """Let an event arrive. A run that it begins in any case is claimed beside that, in one trip to the disk."""
        envelope, function = arrival.envelope, arrival.sole
        if function is None:
            return await self._begin(envelope, *await self._starts.arrive(arrival), delivery)
        first = self._outbox.first(function.id, envelope)
        run = run_id(envelope.event_id, function.id)
        claiming = self._claims.ask(run, first, delivery)
        claiming.answer = asyncio.ensure_future(claiming.answer)
        try:
            await self._starts.post(arrival)
        except BaseException as error:
            ended = self._end_later(self._unclaimed(run, claiming))
            if isinstance(error, Exception):
                await ended  # before the answer, after which others may deal with the run
            raise
        return await self._go_on(first, delivery, claiming)

    async def _unclaimed(self, run: str, claiming: Asked) -> None:
        """Hand back what a claim that nobody goes on from has taken."""
        with contextlib.suppress(Exception):  # it took nothing, as far as anybody knows
            claimed = await self._claims.answered(claiming)
            if isinstance(claimed, Held):
                await self._hand_back(Lease(run, claimed.started.token, BODY))

    def _end_later(self, work: Coroutine[Any, Any, None]) -> asyncio.Future[None]:
        ended = asyncio.ensure_future(work)
        self._ending.add(ended)
        ended.add_done_callback(self._ending.discard)
        return ended

    async def _tick(self, envelope: TickEnvelope, delivery: Delivery) -> Answer:
        function = self.functions.get(envelope.function_id)
        if function is None or function.cron is None:
            text = f"no function {envelope.function_id!r} with cron= is mounted here; deploy it, or sync the schedules"
            _log.error("%s", text)
            return Answer(503, text)
        event = self._starts.event_of(envelope)
        return await self._begin(event, *await self._starts.tick(function, event), delivery)

    async def _begin(self, envelope: EventEnvelope, begins: Sequence[Begin], notes: str, delivery: Delivery) -> Answer:
        """Begin the runs of an event: a single one in this very delivery, several each with a message of its own."""
        if len(begins) == 1 and not begins[0].needs_message:
            return await self._go_on(begins[0].run, delivery)
        if begins:
            await self._outbox.start([begin.run for begin in begins], [begin.delay_s for begin in begins])
            notes = f"started {counted(len(begins), 'function')}" + (f"; {notes}" if notes else "")
        fields = {"event_id": envelope.event_id, "message_id": delivery.message_id}
        _log.info("event %s: %s", envelope.event_id, notes, extra=fields)
        return Answer(200, notes)

    # ---- runs

    async def _go_on(self, envelope: RunEnvelope, delivery: Delivery, claiming: Asked | None = None) -> Answer:
        function = self.functions.get(envelope.function_id)
        if function is None:
            _log.error("no function %r is mounted here; deploy it, or mount it", envelope.function_id)
            return Answer(503, f"no function {envelope.function_id!r} is mounted here")
        run = run_id(envelope.event_id, function.id)
        if await self._starts.is_superseded(envelope):
            return Answer(200, "superseded: a later event came while this one was held back")
        with self._kept.borrowed(run, envelope.epoch, envelope.path) as offer:
            return await self._claim(Job(run, function, envelope, delivery, offer), claiming)

    async def _claim(self, job: Job, claiming: Asked | None) -> Answer:
        run, envelope, delivery = job.run, job.envelope, job.delivery
        for _ in range(CLAIMS_MAX):
            if claiming is None:
                claiming = self._claims.ask(run, envelope, delivery, inside=job.offer is not None)
            claimed = await self._claims.answered(claiming)
            claiming = None
            if isinstance(claimed, Held):
                answer = await self._under_lease(job, claimed)
                if answer is not None:
                    return answer
                continue
            if isinstance(claimed, Finished):
                self._claims.forget(run)
                await self._reports.tell(run, job.function)
                return Answer(200, f"the run is {claimed.status}")
            if isinstance(claimed, Busy):
                await self._outbox.look_again(envelope, claimed, (delivery.message_id, delivery.retried))
                return Answer(200, "another delivery is at work on this run")
            if isinstance(claimed, Waiting):
                await self._outbox.retry(envelope, claimed.attempts, claimed.remaining_ms)
                return Answer(200, "the function's back-off is not over")
            if isinstance(claimed, Settled):
                await self._outbox.wake_body(envelope, claimed.wake)
                return Answer(200, "the step has an outcome")
            if isinstance(claimed, Exhausted):
                await self._store.commit(Lease(run, 0, envelope.path), envelope.path, _spent(claimed))
                continue
            return unknown(run, envelope, self._clock.now_ms())
        return Answer(503, "the run changed hands too often")

    # ---- under the lease

    async def _under_lease(self, job: Job, held: Held) -> Answer | None:
        """Run the function as far as it gets; None when the run must be claimed once more."""
        run, function, envelope, started = job.run, job.function, job.envelope, held.started
        lease = Lease(run, started.token, envelope.path)
        report = StepReport(run, function.id, self._metrics, self._clock)
        one = InlinePass(
            *(run, started, self._store, self._clock, report, partial(self._claims.later, held)),
            target=envelope.path,
            isolated=self._isolated,
            deadline_s=job.delivery.deadline_s,
        )
        if envelope.path == BODY:
            (self._metrics.run_started if started.token == 1 else self._metrics.run_replayed)(function.id)
        late = overdue(function, started, self._clock.now_ms())
        if late is not None and envelope.path == BODY:
            return await self._finish(function, lease, failure(late), started)
        try:
            event = self._inputs.of(function, started.event)
            if await self._starts.is_called_off(envelope, lease, function, event, started):
                return None
        except Exception:
            await self._hand_back(lease)
            raise
        self._leases.hold(lease, one.lose)
        try:
            ending = await self._run(one, job, event, started)
        except asyncio.CancelledError:
            ended = self._end_later(self._let_go(one))
            if not one.has_threads:
                await asyncio.shield(ended)
            raise
        self._leases.drop(lease)
        if job.offer is None:
            self._claims.learn(run, started, one.meanwhile.recorded)
        if one.offers:
            self._kept.keep(run, started.epoch, one)
        elif envelope.path == BODY:
            self._kept.drop(run)
        answer = await beside(one.lines, self._conclude(function, envelope, started, lease, ending))
        return await self._go_on(answer, job.delivery) if isinstance(answer, RunEnvelope) else answer

    async def _remind(self, function: Function, envelope: RunEnvelope, started: Started) -> None:
        """Have a run that waits looked at when its time is over, counted from its creation, or on the way there."""
        timeout_s = function.controls.timeout_s
        if timeout_s is not None:
            left_s = timeout_s - (self._clock.now_ms() - started.created_at_ms) / 1000
            body = replace(envelope, path=BODY, at_most_once=False)
            await self._outbox.remind(body, max(0.0, left_s), started.created_at_ms)

    async def _run(self, one: InlinePass, job: Job, event: Any, started: Started) -> Ending:
        run, function = job.run, job.function
        asks = Asks(one, started, self._outbox)
        context = Context(
            asks,
            self._clock,
            event_id=started.event_id,
            run_id=run,
            function_id=function.id,
            attempt=started.attempts + 1,
            log=partial(asks.logger, job.delivery),
        )
        with run_span(run, started) as mark:
            body: Callable[[], Awaitable[object]] = partial(function.handler, event, context)
            if job.offer is not None and started.epoch == job.envelope.epoch:
                body = run_offer(job.offer, one.lease.path[0], asks.execute)
            ending = await one.run(body)
            tell_ending(mark, self._metrics, function.id, ending)
            return ending

    async def _conclude(
        self, function: Function, envelope: RunEnvelope, started: Started, lease: Lease, ending: Ending
    ) -> Answer | RunEnvelope | None:
        if isinstance(ending, LeaseLost):
            return None
        if isinstance(ending, Faulted):
            await self._hand_back(lease)
            raise ending.error
        if isinstance(ending, Returned):
            return await self._finish(function, lease, returned(function, ending.value), started)
        envelope = inherited(envelope, started)
        if isinstance(ending, Raised):
            wait_s = pause_s(function, ending.error, started.attempts + 1)
            if wait_s is not None:
                return await self._try_later(envelope, lease, ending.error, math.ceil(wait_s * 1000))
            text = first_line(ending.error)
            told = fields_of(lease.run_id, started)
            _log.error("run %s of %s failed: %s", lease.run_id, function.id, text, exc_info=ending.error, extra=told)
            return await self._finish(function, lease, failure(ending.error), started)
        if isinstance(ending, Concluded):
            if ending.wake:
                await self._outbox.wake_body(envelope, ending.wake)
            return Answer(200, "the step has an outcome")
        if isinstance(ending, Missing):
            return await self._miss(function, lease)
        await self._remind(function, envelope, started)
        return await self._set_aside(envelope, lease, ending)

    async def _set_aside(self, envelope: RunEnvelope, lease: Lease, ending: Suspended) -> Answer | RunEnvelope | None:
        """Hand over what has to be done: each obligation to a message that is accepted before this one is answered."""
        alone = list(ending.scheduled) if not (ending.postponed or ending.awaits or ending.has_left) else []
        if len(alone) != 1 and ending.scheduled:
            await self._outbox.steps(envelope, ending.scheduled)
            await self._store.sent(lease, list(ending.scheduled))
        if not (ending.postponed or ending.awaits or ending.scheduled or ending.has_left):
            await self._hand_back(lease)
            raise RuntimeError("the function waits for nothing that is known")
        released = await self._store.release(lease, "suspended")
        if released is None or (released.is_dirty and lease.path == BODY and not ending.has_left):
            return None
        if ending.has_left:  # whoever goes on meets what is postponed as well
            await self._outbox.leave(envelope, lease.token)
            return Answer(200, "the delivery's time is over: another message goes on")
        if len(alone) == 1:  # one step and nothing else: this delivery goes on as that step's
            path = alone[0]
            return replace(envelope, event=None, hop=0, instead_of=None, path=path, at_most_once=ending.scheduled[path])
        if ending.postponed:
            await self._outbox.postpone(envelope, ending.postponed)
        return Answer(200, "the run waits")

    async def _miss(self, function: Function, lease: Lease) -> Answer:
        key = path_text(lease.path)
        text = f"function {function.id!r} does not come to step {key!r} any more; deploy the code that does"
        _log.error("run %s: %s", lease.run_id, text, extra={"run_id": lease.run_id, "function_id": function.id})
        await self._hand_back(lease)
        await self._store.trouble(lease.run_id, Trouble("missing_step", text, lease.path))
        return Answer(503, text)

    async def _finish(self, function: Function, lease: Lease, outcome: Outcome, started: Started) -> Answer | None:
        answer = await self._store.commit(lease, BODY, outcome)
        if isinstance(answer, Stale):
            return None
        self._claims.forget(lease.run_id)
        status = "completed" if outcome.ok else "failed"
        if isinstance(answer, Won):
            age_s = max(0, self._clock.now_ms() - started.created_at_ms) / 1000
            self._metrics.run_ended(function.id, status, age_s)
        if b'"parent"' in started.options or not outcome.ok:
            await self._reports.tell(lease.run_id, function)
        return Answer(200, status)

    async def _try_later(
        self, envelope: RunEnvelope, lease: Lease, error: BaseException, pause_ms: int
    ) -> Answer | None:
        due_at_ms = self._clock.now_ms() + pause_ms
        released = await self._store.release(lease, "failed", due_at_ms=due_at_ms, error=first_line(error))
        if released is None:
            return None
        await self._outbox.retry(envelope, released.attempts, pause_ms)
        return Answer(
            200, f"attempt {released.attempts} failed: {type(error).__name__}; tried again in {pause_ms / 1000:g} s"
        )

    async def _let_go(self, one: InlinePass) -> None:
        """Hand the lease of a cancelled delivery back, once no thread of a plain step is at work under it."""
        try:
            await one.threads_ended()
        finally:
            self._leases.drop(one.lease)
        await beside(one.lines, self._hand_back(one.lease))

    async def _hand_back(self, lease: Lease) -> None:
        try:
            await self._store.release(lease, "shutdown")
        except Exception as error:  # then it ends by itself
            _log.warning("could not hand back the lease of %s: %s", lease.run_id, type(error).__name__)


def _spent(exhausted: Exhausted) -> Outcome:
    return CRASH_LOOP if exhausted.strikes > MAX_STRIKES else INTERRUPTED
