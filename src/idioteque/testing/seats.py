"""What every store must do for steps that run in deliveries of their own; a part of `StoreContract`."""

from __future__ import annotations

from idioteque.paths import BODY, Path
from idioteque.store import (
    MAX_STRIKES,
    Busy,
    Claimed,
    Exhausted,
    Finished,
    Go,
    Lease,
    Lost,
    Released,
    Settled,
    Stale,
    Started,
    Store,
    Trouble,
    Waiting,
    Won,
)
from idioteque.testing.clock import ManualClock
from idioteque.testing.leases import FAILURE, LEASE_MS, OK, OTHER, RUN, held, recorded, started
from idioteque.testing.leases import claim as body_claim

ONE: Path = ("one",)
TWO: Path = ("two",)


async def claimed(
    store: Store, owner: str, path: Path = ONE, *, message: str = "", at_most_once: bool = False, known: int = 0
) -> Claimed:
    """Claim a step of the contract's run; every claim is a message of its own unless told otherwise."""
    request = body_claim(owner)
    return await store.claim(
        type(request)(
            *(request.run_id, owner, message or f"msg-{owner}", 0, LEASE_MS),
            path=path,
            at_most_once=at_most_once,
            known=known,
        )
    )


async def seated(store: Store, owner: str, path: Path = ONE) -> Lease:
    """Claim a step and return its lease."""
    answer = await claimed(store, owner, path)
    assert isinstance(answer, Started)
    return Lease(RUN, answer.token, path)


class SeatContract:
    """A step with deliveries of its own has a lease of its own, and owes the body a wake when it ends."""

    async def test_a_step_and_the_body_are_held_apart(self, store: Store) -> None:
        body = await held(store, "a")
        one, two = await seated(store, "b"), await seated(store, "c", TWO)
        assert len({body.token, one.token, two.token}) == 3
        assert isinstance(await claimed(store, "d"), Busy)
        assert list(await store.renew([body, one, two], LEASE_MS)) == [True, True, True]

    async def test_the_trouble_of_a_step_is_told_until_its_own_message_comes(self, store: Store) -> None:
        path = ("a b@/\n", "%é")
        trouble = Trouble("dead_letter", "503: no\nmore @one\n", path)
        await held(store, "a")
        await store.trouble(RUN, trouble)
        assert (await recorded(store)).trouble == trouble
        assert isinstance(await claimed(store, "b", TWO), Started)
        await store.release(Lease(RUN, 1), "suspended")
        body = await held(store, "c", message="msg_2")
        assert (await recorded(store)).trouble == trouble, "neither is its message"
        lease = await seated(store, "d", path)
        assert (await recorded(store)).trouble is None
        await store.commit(lease, path, OK)
        await store.trouble(RUN, trouble)
        assert isinstance(await claimed(store, "e", path), Settled)
        assert (await recorded(store)).trouble is None, "its wake was all that was missing"
        await store.trouble(RUN, Trouble("dead_letter", "@one\n"))
        await seated(store, "f")
        assert (await recorded(store)).trouble is not None, "the body's is not the step's"
        await store.trouble(RUN, trouble)
        await store.commit(body, BODY, FAILURE)
        await store.reopen(RUN)
        assert (await recorded(store)).trouble is None

    async def test_the_first_step_to_end_owes_the_body_a_wake_and_those_after_it_do_not(self, store: Store) -> None:
        await held(store, "a")
        one, two = await seated(store, "b"), await seated(store, "c", TWO)
        assert await store.commit(one, ONE, OK) == Won(held=False, wake=1)
        assert await store.commit(two, TWO, FAILURE) == Won(held=False, wake=0)
        assert await claimed(store, "d") == Settled(wake=1)
        assert await claimed(store, "e", TWO) == Settled(wake=1)

    async def test_a_claim_of_the_body_makes_the_next_wake_news(self, store: Store, clock: ManualClock) -> None:
        await held(store, "a")
        one, two = await seated(store, "b"), await seated(store, "c", TWO)
        assert await store.commit(one, ONE, OK) == Won(held=False, wake=1)
        await clock.advance(LEASE_MS / 1000 + 1)
        seen = started(await store.claim(body_claim("d")))
        assert [entry.path for entry in seen.outcomes] == [ONE]
        assert await store.commit(two, TWO, OK) == Won(held=False, wake=2)

    async def test_the_body_hears_at_its_release_of_steps_that_ended_meanwhile(self, store: Store) -> None:
        body = await held(store, "a")
        one = await seated(store, "b")
        await store.commit(one, ONE, OK)
        assert await store.release(body, "suspended") == Released(0, is_dirty=True)

    async def test_a_step_that_ended_tells_the_same_wake_to_whoever_comes_late(self, store: Store) -> None:
        await held(store, "a")
        one = await seated(store, "b")
        await store.commit(one, ONE, OK)
        answer = await store.commit(one, ONE, OTHER)
        assert answer == Lost(OK, held=False, wake=1)
        assert isinstance(answer, Lost)
        assert answer.seq == 1

    async def test_a_failure_of_a_replaced_holder_of_a_step_is_refused(self, store: Store, clock: ManualClock) -> None:
        await held(store, "a")
        zombie = await seated(store, "b")
        await clock.advance(LEASE_MS / 1000 + 1)
        await seated(store, "c")
        assert await store.commit(zombie, ONE, FAILURE) == Stale()
        assert isinstance(await store.commit(zombie, ONE, OK), Won)

    async def test_a_failed_attempt_of_a_step_holds_its_next_claim_back(self, store: Store, clock: ManualClock) -> None:
        await held(store, "a")
        one = await seated(store, "b")
        await store.fail(one, ONE, 1, clock.now_ms() + 60_000, "Error: no")
        await store.release(one, "suspended")
        assert await claimed(store, "c") == Waiting(1, 60_000)

    async def test_steps_inside_a_step_run_under_its_lease(self, store: Store) -> None:
        await held(store, "a")
        one = await seated(store, "b")
        assert await store.commit(one, (*ONE, "inner"), OK) == Won(held=True)
        assert await store.commit(Lease(RUN, 999, ONE), (*ONE, "other"), OK) == Won(held=False)

    async def test_a_step_that_kills_its_process_is_exhausted(self, store: Store, clock: ManualClock) -> None:
        await held(store, "a")
        for n in range(MAX_STRIKES):
            assert isinstance(await claimed(store, f"owner-{n}"), Started)
            await clock.advance(LEASE_MS / 1000 + 1)
        assert isinstance(await claimed(store, "last"), Exhausted)

    async def test_a_step_that_may_start_once_and_has_is_exhausted_by_its_second_claim(
        self, store: Store, clock: ManualClock
    ) -> None:
        await held(store, "a")
        one = await seated(store, "b")
        assert await store.begin(one, ONE, at_most_once=True) == Go(0)
        assert isinstance(await claimed(store, "b", at_most_once=True), Started), "the same claim, its answer lost"
        await clock.advance(LEASE_MS / 1000 + 1)
        assert isinstance(await claimed(store, "c", at_most_once=True), Exhausted)

    async def test_a_run_that_has_ended_is_not_watched_for(self, store: Store) -> None:
        await held(store, "a")
        one = await seated(store, "b")
        await store.cancel(RUN)
        await store.watch(one, (*ONE, "late"), ["paid"], b"{}")
        assert (await store.arrive("evt_2", "paid", b"{}"))[1] == []

    async def test_a_step_that_may_start_once_and_never_began_is_claimed_again(
        self, store: Store, clock: ManualClock
    ) -> None:
        await held(store, "a")
        assert isinstance(await claimed(store, "b", at_most_once=True), Started)
        await clock.advance(LEASE_MS / 1000 + 1)
        assert isinstance(await claimed(store, "c", at_most_once=True), Started)

    async def test_a_claim_of_a_step_tells_what_its_holder_does_not_know_yet(self, store: Store) -> None:
        body = await held(store, "a")
        for n in range(3):
            await store.commit(body, (f"s{n}",), OK)
        answer = await claimed(store, "b", known=2)
        assert isinstance(answer, Started)
        assert [entry.path for entry in answer.outcomes] == [("s1",), ("s2",)]

    async def test_only_a_step_whose_message_was_accepted_counts_as_sent(
        self, store: Store, clock: ManualClock
    ) -> None:
        body = await held(store, "a")
        await seated(store, "b")
        await store.sent(body, [TWO])
        await clock.advance(LEASE_MS / 1000 + 1)
        seen = started(await store.claim(body_claim("c"))).unfinished
        assert (seen[ONE].is_sent, seen[TWO].is_sent) == (False, True)

    async def test_a_run_that_is_opened_again_does_not_rely_on_messages_that_were_sent_before(
        self, store: Store
    ) -> None:
        body = await held(store, "a")
        await store.sent(body, [ONE, TWO])
        await seated(store, "b")
        await store.cancel(RUN)
        assert await store.reopen(RUN) == 1
        unfinished = started(await store.claim(body_claim("c"))).unfinished
        assert [path for path, step in unfinished.items() if step.is_sent] == []

    async def test_a_step_of_a_run_that_has_ended_is_not_claimed(self, store: Store) -> None:
        body = await held(store, "a")
        one = await seated(store, "b")
        await store.commit(body, BODY, OK)
        assert isinstance(await claimed(store, "c"), Finished)
        assert await store.commit(one, ONE, OK) == Lost(None, held=False)
