"""What a store must do that looks after old runs, as tests: subclass `UpkeepContract` as one does `StoreContract`."""

from __future__ import annotations

from typing import cast

from idioteque.paths import BODY
from idioteque.store import NEVER_MS, NewRun, Store, Trouble
from idioteque.testing.clock import ManualClock
from idioteque.testing.leases import FAILURE, LEASE_MS, OK, OTHER, RUN, STEP, claim, held, recorded, started
from idioteque.upkeep import Upkeep

OTHER_RUN = "run_2"
DAY_S = 86_400.0
LIMIT = 100


def upkeep(store: Store) -> Upkeep:
    return cast(Upkeep, store)


async def stalled(store: Store, before_ms: int, limit: int = LIMIT) -> list[str]:
    return [record.run_id for record in await upkeep(store).stalled(before_ms, limit)]


class UpkeepContract:
    """The rules of runs that nothing holds, and of those that ended long ago."""

    # ---- stalled

    async def test_a_run_is_stalled_once_its_lease_is_over(self, store: Store, clock: ManualClock) -> None:
        await held(store, "a")
        assert await stalled(store, clock.now_ms()) == [], "it began at this very moment"
        assert await stalled(store, clock.now_ms() + LEASE_MS) == [], "its lease"
        assert await stalled(store, clock.now_ms() + LEASE_MS + 1) == [RUN]

    async def test_a_run_that_was_handed_back_is_stalled_after_its_last_sign_of_life(
        self, store: Store, clock: ManualClock
    ) -> None:
        lease = await held(store, "a")
        await clock.advance(60)
        await store.commit(lease, STEP, OK)
        await store.release(lease, "suspended")
        assert await stalled(store, clock.now_ms()) == []
        assert await stalled(store, clock.now_ms() + 1) == [RUN]

    async def test_a_run_of_which_something_falls_due_is_held_until_then(
        self, store: Store, clock: ManualClock
    ) -> None:
        due_at_ms = clock.now_ms() + 3_600_000
        tried = await held(store, "run_tried", run="run_tried")
        await store.fail(tried, STEP, 1, due_at_ms, "ValueError")
        await store.release(tried, "suspended")
        failed = await held(store, "run_failed", run="run_failed")
        await store.release(failed, "failed", due_at_ms=due_at_ms, error="ValueError")
        asleep = await held(store, "run_asleep", run="run_asleep")
        await store.schedule(asleep, STEP, due_at_ms)
        await store.release(asleep, "suspended")
        waiting = await held(store, "run_waiting", run="run_waiting")
        await store.schedule(waiting, STEP, NEVER_MS, "an event")
        await store.release(waiting, "suspended")
        await clock.advance(7200)
        assert await stalled(store, due_at_ms) == []
        assert await stalled(store, due_at_ms + 1) == ["run_asleep", "run_failed", "run_tried"], "in one order"
        assert await stalled(store, due_at_ms + 1, limit=2) == ["run_asleep", "run_failed"]

    async def test_a_wait_without_an_end_holds_a_run_that_has_nothing_else_to_do(
        self, store: Store, clock: ManualClock
    ) -> None:
        wait = ("wait",)
        waiting = await held(store, "waiting", run="run_waiting")
        await store.commit(waiting, STEP, OK)
        await store.schedule(waiting, wait, NEVER_MS, "an event")
        await store.release(waiting, "suspended")
        died = await held(store, "died", run="run_died")
        await store.schedule(died, wait, NEVER_MS, "an event")
        beside = await held(store, "beside", run="run_beside")
        await store.schedule(beside, wait, NEVER_MS, "an event")
        await store.fail(beside, STEP, 1, clock.now_ms(), "ValueError")
        await store.release(beside, "suspended")
        apart = await held(store, "apart", run="run_apart")
        await store.schedule(apart, wait, NEVER_MS, "an event")
        await store.sent(apart, [STEP])
        await store.release(apart, "suspended")
        both = await held(store, "both", run="run_both")
        await store.schedule(both, wait, NEVER_MS, "an event")
        await store.schedule(both, STEP, clock.now_ms() + 3_600_000)
        await store.release(both, "suspended")
        await clock.advance(3600)
        assert await stalled(store, clock.now_ms()) == ["run_apart", "run_beside", "run_died"]
        assert await stalled(store, clock.now_ms() + 1) == ["run_apart", "run_beside", "run_both", "run_died"]

    async def test_the_lease_of_a_step_of_its_own_holds_the_run(self, store: Store, clock: ManualClock) -> None:
        body = await held(store, "a")
        await store.release(body, "suspended")
        await clock.advance(60)
        asked = claim("b")
        await store.claim(type(asked)(RUN, "b", "msg_2", 0, LEASE_MS, None, STEP))
        assert await stalled(store, clock.now_ms() + LEASE_MS) == []
        assert await stalled(store, clock.now_ms() + LEASE_MS + 1) == [RUN]

    async def test_a_run_that_has_ended_is_not_stalled(self, store: Store, clock: ManualClock) -> None:
        await store.commit(await held(store, "a"), BODY, OK)
        await held(store, "b", run=OTHER_RUN)
        await store.cancel(OTHER_RUN)
        assert await stalled(store, clock.now_ms() + 10 * LEASE_MS) == []

    async def test_a_run_that_was_given_up_before_it_began_is_stalled(self, store: Store, clock: ManualClock) -> None:
        await store.trouble(RUN, Trouble("dead_letter", "503"), NewRun("evt_1", "pay", b"{}"))
        assert await stalled(store, clock.now_ms() + 1) == [RUN]

    async def test_what_was_sent_can_be_forgotten(self, store: Store) -> None:
        lease = await held(store, "a")
        await store.sent(lease, [STEP])
        await upkeep(store).forget_sent(RUN)
        await upkeep(store).forget_sent(OTHER_RUN)
        assert not any(each.is_sent for each in started(await store.claim(claim("a"))).unfinished.values())

    # ---- purge

    async def test_a_run_goes_when_it_ended_before_the_time_and_never_before_it_ends(
        self, store: Store, clock: ManualClock
    ) -> None:
        ended = await held(store, "a")
        unfinished = await held(store, "b", run=OTHER_RUN)
        await store.commit(ended, STEP, OK)
        await clock.advance(DAY_S)
        await store.commit(ended, BODY, FAILURE)
        await clock.advance(100 * DAY_S)
        end_ms = (await recorded(store)).finished_at_ms or 0
        assert await upkeep(store).purge(end_ms, LIMIT) == 0
        assert await upkeep(store).purge(end_ms + 1, LIMIT) == 1
        assert await upkeep(store).purge(clock.now_ms(), LIMIT) == 0
        assert await store.get(RUN) is None
        assert (await recorded(store, OTHER_RUN)).event == b'{"n":1}', "the event that both had stays"
        assert not await store.list(status="failed")
        await store.commit(unfinished, BODY, OK)
        await clock.advance(1)
        assert await upkeep(store).purge(clock.now_ms(), LIMIT) == 1
        other = NewRun("evt_1", "pay", b'{"n":2}')
        begun = started(await store.claim(claim("c", new=other)))
        assert (begun.event, list(begun.outcomes), dict(begun.unfinished)) == (b'{"n":2}', [], {}), "nothing is left"

    async def test_no_more_go_at_once_than_asked_for(self, store: Store, clock: ManualClock) -> None:
        for n in range(5):
            await store.commit(await held(store, f"{n}", run=f"run_{n}"), BODY, OK)
        await clock.advance(1)
        assert [await upkeep(store).purge(clock.now_ms(), 2) for _ in range(4)] == [2, 2, 1, 0]
        assert not await store.list()

    async def test_a_cancelled_run_goes_as_well_and_so_do_its_names(self, store: Store, clock: ManualClock) -> None:
        await held(store, "a")
        for name, until_end in (("singleton", True), ("idempotency", False)):
            await store.occupy(name, RUN, until_end=until_end)
        await store.latest("debounce", "evt_1", 1, RUN)
        await store.cancel(RUN)
        await clock.advance(1)
        assert await upkeep(store).purge(clock.now_ms(), LIMIT) == 1
        for name, until_end in (("singleton", True), ("idempotency", False)):
            assert await store.occupy(name, OTHER_RUN, until_end=until_end) == OTHER_RUN
        assert await store.latest("debounce", "evt_0", 0, "run_0") == "evt_1"

    async def test_a_run_that_goes_on_is_kept(self, store: Store, clock: ManualClock) -> None:
        lease = await held(store, "a")
        await store.commit(lease, ("good",), OTHER)
        await store.commit(lease, BODY, FAILURE)
        await store.reopen(RUN)
        await clock.advance(DAY_S)
        assert await upkeep(store).purge(clock.now_ms(), LIMIT) == 0
        assert [step.path for step in (await recorded(store)).steps] == [("good",)]
