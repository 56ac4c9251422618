"""The first third of what every store must do: leases, strikes and records."""

from __future__ import annotations

import asyncio

from idioteque.paths import BODY, Path
from idioteque.store import (
    TAKEOVER_AFTER_MS,
    Busy,
    Claim,
    Claimed,
    Go,
    Lease,
    NewRun,
    Outcome,
    Released,
    RunRecord,
    Started,
    StepRecord,
    Store,
    Unfinished,
    Unknown,
    Waiting,
    Won,
)
from idioteque.testing.clock import ManualClock

RUN = "run_1"
STEP: Path = ("charge",)
LEASE_MS = 10_000
CLAIMERS = 16
OK = Outcome(True, b'"paid"')
OTHER = Outcome(True, b'"paid twice"')
FAILURE = Outcome(False, b'{"type":"Declined"}')


def claim(
    owner: str,
    *,
    run: str = RUN,
    message: str = "msg_1",
    retried: int = 0,
    new: NewRun | None = NewRun("evt_1", "pay", b'{"n":1}', b'{"retries":5}'),  # noqa: B008 - frozen
) -> Claim:
    """Return a claim as the delivery of a message makes it."""
    return Claim(run, owner, message, retried, LEASE_MS, new)


async def held(store: Store, owner: str, *, run: str = RUN, message: str = "msg_1", retried: int = 0) -> Lease:
    """Claim a run and return the lease, which must be free."""
    return Lease(run, started(await store.claim(claim(owner, run=run, message=message, retried=retried))).token)


async def taken_over(store: Store, clock: ManualClock) -> Lease:
    """Let the lease of the run end and return that of another message."""
    await clock.advance(LEASE_MS / 1000)
    return await held(store, f"successor-{clock.now_ms()}", message="msg_2")


def started(claimed: Claimed) -> Started:
    assert isinstance(claimed, Started), claimed
    return claimed


async def recorded(store: Store, run: str = RUN) -> RunRecord:
    record = await store.get(run)
    assert record is not None
    return record


async def step_of(store: Store, path: Path = STEP) -> StepRecord:
    return {step.path: step for step in (await recorded(store)).steps}[path]


class LeaseContract:
    """The rules of who may work on a run, and what is told of it."""

    # ---- claim

    async def test_a_claim_creates_a_run_with_what_it_brings(self, store: Store, clock: ManualClock) -> None:
        first = started(await store.claim(claim("a")))
        assert (first.event_id, first.function_id, first.event) == ("evt_1", "pay", b'{"n":1}')
        assert (first.options, first.attempts, first.strikes) == (b'{"retries":5}', 0, 1)
        assert (list(first.outcomes), dict(first.unfinished)) == ([], {})
        assert first.token > 0
        record = await recorded(store)
        assert (record.status, record.created_at_ms, record.finished_at_ms) == ("running", clock.now_ms(), None)
        assert record.lease_until_ms == clock.now_ms() + LEASE_MS

    async def test_what_a_later_claim_brings_changes_nothing(self, store: Store) -> None:
        await store.release(await held(store, "a"), "suspended")
        forged = NewRun("evt_2", "steal", b'{"n":2}', b"{}")
        second = started(await store.claim(claim("b", new=forged)))
        assert (second.event_id, second.function_id, second.event) == ("evt_1", "pay", b'{"n":1}')
        assert len(await store.list()) == 1

    async def test_one_event_is_the_same_for_all_functions_that_it_starts(self, store: Store) -> None:
        await store.claim(claim("a"))
        other = started(await store.claim(claim("b", run="run_2", new=NewRun("evt_1", "mail", b'{"n":2}'))))
        assert (other.event, other.options) == (b'{"n":1}', b"{}")

    async def test_a_run_that_nobody_created_is_unknown(self, store: Store) -> None:
        assert await store.claim(claim("a", new=None)) == Unknown()
        assert await store.get(RUN) is None

    async def test_the_same_owner_asking_again_gets_the_same_token(self, store: Store) -> None:
        lease = await held(store, "a")
        await store.begin(lease, STEP)
        again = started(await store.claim(claim("a")))
        assert (again.token, again.strikes) == (lease.token, 1)
        assert again.unfinished == {STEP: Unfinished(0, 0)}

    async def test_a_lease_that_is_alive_is_busy(self, store: Store, clock: ManualClock) -> None:
        lease = await held(store, "a")
        await clock.advance(4)
        assert await store.claim(claim("b", message="msg_2")) == Busy(lease.token, LEASE_MS - 4000)

    async def test_of_many_claimers_exactly_one_starts(self, store: Store) -> None:
        claims = [store.claim(claim(f"owner-{n}", message=f"msg_{n}")) for n in range(CLAIMERS)]
        answers = await asyncio.gather(*claims)
        [only] = [answer for answer in answers if isinstance(answer, Started)]
        assert answers.count(Busy(only.token, LEASE_MS)) == CLAIMERS - 1

    async def test_a_lease_that_has_ended_is_anybodys(self, store: Store, clock: ManualClock) -> None:
        lease = await held(store, "a")
        await clock.advance(LEASE_MS / 1000 - 0.001)
        assert await store.claim(claim("b", message="msg_2")) == Busy(lease.token, 1)
        await clock.advance(0.001)
        second = started(await store.claim(claim("b", message="msg_2")))
        assert (second.token > lease.token, second.strikes) == (True, 2)

    async def test_the_message_itself_takes_over_from_a_silent_holder(self, store: Store, clock: ManualClock) -> None:
        lease = await held(store, "a", retried=1)
        await clock.advance(TAKEOVER_AFTER_MS / 1000)
        assert isinstance(await store.claim(claim("b", retried=2)), Busy)
        await clock.advance(0.001)
        assert isinstance(await store.claim(claim("c", message="msg_2", retried=2)), Busy), "another message"
        assert isinstance(await store.claim(claim("d", retried=0)), Busy), "an older attempt"
        second = started(await store.claim(claim("e", retried=1)))
        assert (second.token > lease.token, second.strikes) == (True, 2)

    async def test_every_sign_of_life_keeps_the_message_from_taking_over(
        self, store: Store, clock: ManualClock
    ) -> None:
        lease = await held(store, "a")
        await clock.advance(1.2)
        assert list(await store.renew([lease], LEASE_MS)) == [True]
        await clock.advance(1.2)
        assert await store.commit(lease, ("one",), OK) == Won(held=True)
        await clock.advance(1.2)
        assert await store.fail(lease, ("two",), 1, clock.now_ms(), "ValueError") == Go(1)
        await clock.advance(1.2)
        assert isinstance(await store.claim(claim("b", retried=1)), Busy)

    # ---- release and strikes

    async def test_a_suspended_run_waits_and_is_anybodys(self, store: Store) -> None:
        lease = await held(store, "a")
        assert await store.release(lease, "suspended") == Released(0)
        record = await recorded(store)
        assert (record.status, record.strikes, record.lease_until_ms) == ("waiting", 0, 0)
        assert await store.release(lease, "suspended") is None, "it is held no longer"
        assert started(await store.claim(claim("a"))).token > lease.token, "a lease given back is not had again"
        assert (await recorded(store)).status == "running"

    async def test_a_function_that_failed_waits_until_it_is_due(self, store: Store, clock: ManualClock) -> None:
        lease = await held(store, "a")
        due_at_ms = clock.now_ms() + 30_000
        assert await store.release(lease, "failed", due_at_ms=due_at_ms, error="ValueError: no") == Released(1)
        await clock.advance(10)
        assert await store.claim(claim("b")) == Waiting(1, 20_000)
        record = await recorded(store)
        assert (record.status, record.attempts, record.due_at_ms) == ("waiting", 1, due_at_ms)
        assert record.error == "ValueError: no"
        await clock.advance(20)
        second = started(await store.claim(claim("c")))
        assert (second.attempts, second.strikes) == (1, 1)
        assert await store.release(Lease(RUN, second.token), "failed", due_at_ms=clock.now_ms()) == Released(2)

    async def test_a_shutdown_takes_the_strike_of_its_claim_back(self, store: Store, clock: ManualClock) -> None:
        await held(store, "a")
        lease = await taken_over(store, clock)
        assert (await recorded(store)).strikes == 2
        assert await store.release(lease, "shutdown") == Released(0)
        record = await recorded(store)
        assert (record.strikes, record.lease_until_ms, record.attempts) == (1, 0, 0)
        assert started(await store.claim(claim("b"))).strikes == 2

    async def test_a_recorded_result_clears_the_body(self, store: Store, clock: ManualClock) -> None:
        await held(store, "a")
        lease = await taken_over(store, clock)
        await store.commit(lease, STEP, OK)
        assert (await recorded(store)).strikes == 1, "the claim that is still at work"

    async def test_what_is_not_held_is_not_released(self, store: Store, clock: ManualClock) -> None:
        zombie = await held(store, "a")
        holder = await taken_over(store, clock)
        for lease in (zombie, Lease(RUN, 0), Lease("run_2", 1)):
            assert await store.release(lease, "failed", due_at_ms=clock.now_ms(), error="no") is None
        assert ((await recorded(store)).attempts, (await recorded(store)).error) == (0, None)
        await store.commit(holder, BODY, OK)
        assert await store.release(holder, "suspended") is None
        assert (await recorded(store)).status == "completed"

    # ---- renew

    async def test_a_renewed_lease_lasts_longer(self, store: Store, clock: ManualClock) -> None:
        lease = await held(store, "a")
        await clock.advance(9)
        assert list(await store.renew([lease], LEASE_MS)) == [True]
        await clock.advance(9)
        assert await store.claim(claim("b", message="msg_2")) == Busy(lease.token, 1000)

    async def test_signs_of_life_are_answered_one_by_one(self, store: Store, clock: ManualClock) -> None:
        zombie = await held(store, "a")
        holder = await taken_over(store, clock)
        other = await held(store, "b", run="run_2", message="msg_3")
        await store.release(other, "suspended")
        ended = await held(store, "c", run="run_3", message="msg_4")
        await store.commit(ended, BODY, OK)
        leases = [zombie, holder, Lease("run_4", 1), other, ended, Lease(RUN, 0)]
        assert list(await store.renew(leases, LEASE_MS)) == [False, True, False, False, False, False]
        assert list(await store.renew([], LEASE_MS)) == []

    # ---- looking

    async def test_a_record_has_its_steps_in_the_order_of_their_ends(self, store: Store, clock: ManualClock) -> None:
        lease = await held(store, "a")
        await store.fail(lease, ("a",), 1, clock.now_ms(), "ValueError")
        await store.commit(lease, ("z",), OK)
        await store.commit(lease, ("b",), FAILURE)
        steps = (await recorded(store)).steps
        assert [(step.path, step.seq, step.outcome) for step in steps] == [
            (("z",), 1, OK),
            (("b",), 2, FAILURE),
            (("a",), None, None),
        ]

    async def test_runs_are_listed_newest_first_in_pages_without_a_gap(self, store: Store, clock: ManualClock) -> None:
        for n in range(7):  # by twos in one millisecond
            await held(store, f"owner-{n}", run=f"run_{n}", message=f"msg_{n}")
            await clock.advance(0.001 * (n % 2))
        wanted, seen, before = [f"run_{n}" for n in reversed(range(7))], list[str](), None
        while page := [record.run_id for record in await store.list(limit=3, before=before)]:
            await held(store, f"late-{before}", run=f"run_late_{before}", message=f"msg_{before}")
            seen, before = [*seen, *page], page[-1]
        assert seen == wanted
        assert await store.list(before="run_unknown") == []

    async def test_a_list_is_of_one_status_and_function_and_without_steps(self, store: Store) -> None:
        for n, function in enumerate(("pay", "mail", "pay", "mail")):
            run, new = f"run_{n}", NewRun("evt_1", function, b"{}")
            lease = Lease(run, started(await store.claim(claim("a", run=run, new=new))).token)
            await store.commit(lease, STEP, OK)
            if n < 2:
                await store.commit(lease, BODY, OK)
        of_pay = {record.run_id for record in await store.list(function_id="pay")}
        assert of_pay == {"run_0", "run_2"}
        [only] = await store.list(status="completed", function_id="mail")
        assert (only.run_id, only.outcome, list(only.steps)) == ("run_1", OK, [])
        assert await store.list(status="failed") == []
        assert await store.list(function_id="unknown") == []
