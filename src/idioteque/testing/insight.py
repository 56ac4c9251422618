"""What a store must tell of the past and of many runs: subclass `InsightContract` as one does `StoreContract`."""

from __future__ import annotations

from dataclasses import replace

from idioteque.function import run_id
from idioteque.insight import Effects, insight_into
from idioteque.paths import BODY
from idioteque.records import ATTEMPTS_KEPT, DELIVERIES_KEPT, AttemptRecord
from idioteque.store import Lease, NewRun, Outcome, Recorded, Store, Won
from idioteque.testing.clock import ManualClock
from idioteque.testing.leases import FAILURE, LEASE_MS, OK, OTHER, RUN, STEP, claim, held, recorded, started

LIMIT = 100
EVENT = "evt_9"


async def begun(store: Store, function_id: str, event_id: str = EVENT) -> Lease:
    """Begin the run of a function for an event, under the id that follows from them."""
    run = run_id(event_id, function_id)
    new = NewRun(event_id, function_id, b'{"type":"order"}')
    return Lease(run, started(await store.claim(claim(run, run=run, new=new))).token)


class InsightContract:
    """The rules of what is told of a run's past, and of many runs at once."""

    # ---- the past of a run

    async def test_failed_attempts_are_told_with_their_times(self, store: Store, clock: ManualClock) -> None:
        lease = await held(store, "a")
        first_ms = clock.now_ms()
        await store.fail(lease, STEP, 1, first_ms + 500, "ValueError: no", 120)
        await store.fail(lease, STEP, 1, first_ms + 500, "ValueError: no", 120)
        await clock.advance(0.5)
        await store.fail(lease, STEP, 2, first_ms + 900, "ValueError: still no")
        await clock.advance(0.1)
        await store.release(lease, "failed", due_at_ms=first_ms + 2000, error="KeyError: 'x'")
        assert list((await recorded(store)).failed_attempts) == [
            AttemptRecord(STEP, 0, 1, first_ms, 120, "ValueError: no"),
            AttemptRecord(STEP, 0, 2, first_ms + 500, None, "ValueError: still no"),
            AttemptRecord(BODY, 0, 1, first_ms + 600, None, "KeyError: 'x'"),
        ]

    async def test_only_the_latest_attempts_of_a_step_are_kept(self, store: Store, clock: ManualClock) -> None:
        lease = await held(store, "a")
        await store.fail(lease, ("other",), 1, 0, "ValueError")
        for attempt in range(1, ATTEMPTS_KEPT + 4):
            await clock.advance(0.001)
            await store.fail(lease, STEP, attempt, 0, "ValueError", attempt)
        kept = [one.attempt for one in (await recorded(store)).failed_attempts if one.path == STEP]
        assert kept == list(range(4, ATTEMPTS_KEPT + 4))
        assert [one.path for one in (await recorded(store)).failed_attempts].count(("other",)) == 1

    async def test_failures_that_a_retry_takes_out_are_told_as_attempts(self, store: Store, clock: ManualClock) -> None:
        lease = await held(store, "a")
        odd = Outcome(False, b"\xff no JSON", 7)
        declined = Outcome(False, b'{"type":"Declined","message":"no\\nfunds"}', 30)
        await store.fail(lease, STEP, 1, 0, "TimeoutError")
        await store.commit(lease, STEP, declined)
        await store.commit(lease, ("odd",), odd)
        await store.commit(lease, ("number",), Outcome(False, b"2"))
        await store.commit(lease, ("fine",), OK)
        await store.commit(lease, BODY, FAILURE)
        await clock.advance(60)
        await store.reopen(RUN)
        again = await held(store, "b")
        await store.fail(again, STEP, 1, 0, "TimeoutError: again")
        told = {(one.path, one.epoch, one.attempt): one for one in (await recorded(store)).failed_attempts}
        assert told.keys() == {
            *((STEP, 0, 1), (STEP, 0, 2), (("odd",), 0, 1), (("number",), 0, 1), (BODY, 0, 1), (STEP, 1, 1)),
        }
        assert (told[STEP, 0, 2].error, told[STEP, 0, 2].took_ms) == ("Declined: no funds", 30)
        assert told[BODY, 0, 1].error == "Declined"
        assert "no JSON" in told[("odd",), 0, 1].error
        assert told[("number",), 0, 1].error == "2"

    async def test_the_latest_deliveries_are_told_in_their_order(self, store: Store, clock: ManualClock) -> None:
        for number in range(DELIVERIES_KEPT + 3):
            lease = await held(store, f"owner-{number}", message=f"msg_{number}", retried=number)
            await clock.advance(0.001)
            assert await store.release(lease, "suspended")
        record = await recorded(store)
        assert record.messages == DELIVERIES_KEPT + 3
        told = [(one.message_id, one.retried) for one in record.deliveries][-DELIVERIES_KEPT:]
        assert told == [(f"msg_{n}", n) for n in range(3, DELIVERIES_KEPT + 3)]
        assert all(one.path == BODY for one in record.deliveries)

    async def test_a_claim_that_is_repeated_is_one_delivery(self, store: Store) -> None:
        for _ in range(2):
            await store.claim(claim("a"))
        seat = replace(claim("s", message="msg_s"), path=STEP)
        await store.claim(seat)
        record = await recorded(store)
        assert [(one.path, one.message_id) for one in record.deliveries] == [(BODY, "msg_1"), (STEP, "msg_s")]
        assert record.messages == 2

    # ---- many runs

    async def test_runs_are_counted_by_status_and_no_further_than_asked(self, store: Store) -> None:
        look = insight_into(store)
        nothing = {"running": 0, "waiting": 0, "completed": 0, "failed": 0, "cancelled": 0}
        assert await look.counts(None, LIMIT) == nothing
        for number in range(3):
            await store.commit(await begun(store, "pay", f"evt_{number}"), BODY, OK)
        await store.commit(await begun(store, "mail"), BODY, FAILURE)
        await store.release(await begun(store, "mail", "evt_w"), "suspended")
        await begun(store, "pay", "evt_r")
        await store.cancel((await begun(store, "pay", "evt_c")).run_id)
        counted = {"running": 1, "waiting": 1, "completed": 3, "failed": 1, "cancelled": 1}
        assert await look.counts(None, LIMIT) == counted
        assert await look.counts(None, 2) == {**counted, "completed": 2}
        assert await look.counts("mail", LIMIT) == {**nothing, "waiting": 1, "failed": 1}
        assert await look.counts("none", LIMIT) == nothing

    async def test_functions_that_have_runs_are_named_once(self, store: Store) -> None:
        look = insight_into(store)
        assert list(await look.functions(LIMIT)) == []
        for function_id, event_id in (("pay", "evt_1"), ("mail", "evt_1"), ("pay", "evt_2"), ("zip", "evt_1")):
            await begun(store, function_id, event_id)
        assert list(await look.functions(LIMIT)) == ["mail", "pay", "zip"]
        assert list(await look.functions(2)) == ["mail", "pay"]

    async def test_an_event_tells_what_it_started_and_which_waits_it_ended(
        self, store: Store, clock: ManualClock
    ) -> None:
        look = insight_into(store)
        mail = await begun(store, "mail")
        await clock.advance(1)
        pay = await begun(store, "pay")
        waiting = await begun(store, "wait", "evt_1")
        await store.schedule(waiting, ("a", "b/c"), clock.now_ms() + 1000, "an order")
        assert await store.take(waiting.run_id, ("a", "b/c"), EVENT, OTHER) == Won(held=False)
        unknown, told = await look.effects(["evt_0", EVENT])
        assert unknown == Effects((), ()) or (list(unknown.runs), list(unknown.woke)) == ([], [])
        assert [(run.run_id, run.function_id) for run in told.runs] == [(mail.run_id, "mail"), (pay.run_id, "pay")]
        assert told.runs[0].event == b'{"type":"order"}'
        assert list(told.woke) == [(waiting.run_id, ("a", "b/c"))]

    async def test_a_seeded_run_begins_with_a_history(self, store: Store, clock: ManualClock) -> None:
        lease = await held(store, "a")
        await store.commit(lease, ("one",), replace(OK, took_ms=40))
        await store.fail(lease, ("failed",), 1, 0, "ValueError")
        await store.commit(lease, ("two", "in it"), FAILURE)
        steps = (await recorded(store)).steps
        new = NewRun("evt_2", "pay", b'{"n":2}', b'{"retries":1}')
        assert await insight_into(store).seed("run_2", new, steps)
        assert not await insight_into(store).seed("run_2", new, ()), "it is there already"
        record = await recorded(store, "run_2")
        assert (record.status, record.event, record.options, record.messages) == ("waiting", b'{"n":2}', new.options, 0)
        assert record.created_at_ms == clock.now_ms()
        assert [(step.path, step.took_ms) for step in record.steps] == [(("one",), 40), (("two", "in it"), None)]
        seen = started(await store.claim(claim("b", run="run_2", new=None)))
        assert list(seen.outcomes) == [
            Recorded(("one",), OK, 1),
            Recorded(("two", "in it"), FAILURE, 2),
        ]
        assert (seen.token, dict(seen.unfinished), seen.event) == (1, {}, b'{"n":2}')
        after = Lease("run_2", seen.token)
        assert await store.commit(after, ("three",), OK) == Won(held=True)
        assert list(await store.renew([after], LEASE_MS)) == [True]
