"""The last third of what every store must do: timers, events that runs wait for, names, and operating runs."""

from __future__ import annotations

import asyncio

from idioteque.paths import BODY
from idioteque.store import (
    MAILBOX_MS,
    Done,
    Due,
    Finished,
    Gone,
    Lease,
    Letter,
    Lost,
    NewRun,
    Outcome,
    Stale,
    Store,
    Trouble,
    Unfinished,
    Won,
)
from idioteque.testing.clock import ManualClock
from idioteque.testing.leases import (
    CLAIMERS,
    FAILURE,
    LEASE_MS,
    OK,
    OTHER,
    RUN,
    STEP,
    claim,
    held,
    recorded,
    started,
    step_of,
    taken_over,
)

TAKEN = Outcome(True, b'{"type":"paid"}')
WHERE = b'{"id":"1"}'


class OperationsContract:
    """The rules of what comes from outside a run."""

    # ---- timers

    async def test_the_first_time_that_a_timer_was_given_stands(self, store: Store) -> None:
        lease = await held(store, "a")
        assert await store.schedule(lease, STEP, 1000) == Due(1000)
        assert await store.schedule(lease, STEP, 2000) == Due(1000)
        assert started(await store.claim(claim("a"))).unfinished == {STEP: Unfinished(0, 1000)}
        assert await store.commit(lease, STEP, OK) == Won(held=True)
        assert await store.schedule(lease, STEP, 3000) == Done(OK)

    async def test_only_the_holder_sets_timers(self, store: Store, clock: ManualClock) -> None:
        zombie = await held(store, "a")
        holder = await taken_over(store, clock)
        for lease in (zombie, Lease(RUN, 0), Lease("run_2", 1)):
            assert await store.schedule(lease, STEP, 1000) == Gone()
        assert (await recorded(store)).steps == []
        await store.commit(holder, BODY, OK)
        assert await store.schedule(holder, STEP, 1000) == Gone()

    async def test_a_wait_says_what_for(self, store: Store) -> None:
        lease = await held(store, "a")
        await store.schedule(lease, STEP, 1000, "an event 'paid'")
        assert (await step_of(store)).waits_for == "an event 'paid'"

    # ---- events that runs wait for

    async def test_an_event_finds_whoever_watches_for_its_type(self, store: Store, clock: ManualClock) -> None:
        lease = await held(store, "a")
        await store.watch(lease, STEP, ["paid", "refunded"], WHERE)
        await store.watch(lease, STEP, ["paid", "refunded"], b"{}")
        letter, watchers = await store.arrive("evt_9", "paid", b'{"type":"paid"}')
        assert letter == Letter("evt_9", b'{"type":"paid"}', clock.now_ms())
        [watcher] = watchers
        assert (watcher.run_id, watcher.path, watcher.event_id, watcher.function_id) == (RUN, STEP, "evt_1", "pay")
        assert (watcher.where, watcher.created_at_ms, watcher.epoch) == (WHERE, clock.now_ms(), 0), "the first stands"
        assert len((await store.arrive("evt_10", "refunded", b"{}"))[1]) == 1
        assert (await store.arrive("evt_11", "shipped", b"{}"))[1] == []

    async def test_a_watcher_that_is_forgotten_finds_nothing(self, store: Store) -> None:
        lease = await held(store, "a")
        await store.watch(lease, STEP, ["paid"], WHERE)
        await store.watch(lease, ("other",), ["paid"], WHERE)
        await store.unwatch(RUN, STEP)
        await store.unwatch("run_2", STEP)
        assert [each.path for each in (await store.arrive("evt_9", "paid", b"{}"))[1]] == [("other",)]

    async def test_only_the_holder_watches(self, store: Store, clock: ManualClock) -> None:
        zombie = await held(store, "a")
        await taken_over(store, clock)
        await store.watch(zombie, STEP, ["paid"], WHERE)
        await store.watch(Lease("run_2", 1), STEP, ["paid"], WHERE)
        assert (await store.arrive("evt_9", "paid", b"{}"))[1] == []

    async def test_a_run_that_has_ended_is_found_no_more_also_when_it_goes_on(self, store: Store) -> None:
        for run, end in (("run_a", "commit"), ("run_b", "cancel")):
            lease = await held(store, run, run=run)
            await store.watch(lease, STEP, ["paid"], WHERE)
            if end == "commit":
                await store.commit(lease, BODY, FAILURE)
            else:
                await store.cancel(run)
            await store.reopen(run)
        assert (await store.arrive("evt_9", "paid", b"{}"))[1] == []

    async def test_a_wait_that_is_over_is_found_no_more(self, store: Store) -> None:
        lease = await held(store, "a")
        await store.schedule(lease, STEP, 1000, "an event")
        await store.watch(lease, STEP, ["paid"], WHERE)
        await store.commit(lease, STEP, OK)
        assert (await store.arrive("evt_9", "paid", b"{}"))[1] == []

    async def test_an_event_is_kept_as_it_came_first(self, store: Store, clock: ManualClock) -> None:
        first, _ = await store.arrive("evt_9", "paid", b'{"n":1}')
        await clock.advance(10)
        again, _ = await store.arrive("evt_9", "other", b'{"n":2}')
        assert again == first
        assert list(await store.letters(["other"], 0)) == []

    async def test_an_event_that_comes_again_after_days_is_still_the_same(
        self, store: Store, clock: ManualClock
    ) -> None:
        first, _ = await store.arrive("evt_9", "paid", b"{}")
        await clock.advance(3 * MAILBOX_MS / 1000)
        again, _ = await store.arrive("evt_9", "paid", b"{}")
        assert again == first

    async def test_the_mailbox_gives_events_in_the_order_in_which_they_came(
        self, store: Store, clock: ManualClock
    ) -> None:
        began_ms = clock.now_ms()
        for n, type_name in enumerate(("paid", "shipped", "paid", "refunded")):
            await store.arrive(f"evt_{n}", type_name, f"{n}".encode())
            await clock.advance(0.001)
        both = await store.letters(["refunded", "paid"], began_ms)
        assert [letter.event_id for letter in both] == ["evt_0", "evt_2", "evt_3"]
        assert [letter.event for letter in await store.letters(["paid"], began_ms + 1)] == [b"2"]
        assert list(await store.letters([], 0)) == []

    async def test_old_events_are_forgotten(self, store: Store, clock: ManualClock) -> None:
        for n in range(15):
            await store.arrive(f"evt_{n}", "paid", b"{}")
        await clock.advance(MAILBOX_MS / 1000 + 1)
        for n in range(2):
            await store.arrive(f"evt_new_{n}", "shipped", b"{}")
        assert list(await store.letters(["paid"], 0)) == []
        assert len(await store.letters(["shipped"], 0)) == 2

    async def test_a_run_takes_an_event_once(self, store: Store) -> None:
        await store.release(await held(store, "a"), "suspended")
        assert await store.take(RUN, ("one",), "evt_9", TAKEN) == Won(held=False)
        assert await store.take(RUN, ("one",), "evt_9", TAKEN) == Lost(TAKEN, held=False)
        assert await store.take(RUN, ("two",), "evt_9", TAKEN) == Stale()
        assert await store.take(RUN, ("two",), "evt_10", OTHER) == Won(held=False)
        assert await store.take("run_2", ("one",), "evt_9", TAKEN) == Lost(None, held=False)
        seen = started(await store.claim(claim("b"))).outcomes
        assert [(entry.path, entry.outcome) for entry in seen] == [(("one",), TAKEN), (("two",), OTHER)]

    async def test_what_comes_from_elsewhere_has_its_place_among_the_steps(self, store: Store) -> None:
        lease = await held(store, "a")
        await store.commit(lease, STEP, OK)
        for answer, kind in (
            (await store.take(RUN, ("one",), "evt_9", TAKEN), Won),
            (await store.take(RUN, ("one",), "evt_10", OTHER), Lost),
            (await store.commit(lease, ("one",), OTHER), Lost),
        ):
            assert isinstance(answer, kind)
            assert answer.seq == 2
        after = await store.commit(lease, ("two",), OK)
        assert isinstance(after, Won)
        assert after.seq == 3

    async def test_a_step_that_takes_nothing_leaves_no_trace(self, store: Store) -> None:
        lease = await held(store, "a")
        await store.take(RUN, ("one",), "evt_9", TAKEN)
        await store.take(RUN, ("two",), "evt_9", TAKEN)
        await store.commit(lease, BODY, OK)
        assert await store.take(RUN, ("three",), "evt_10", TAKEN) == Lost(None, held=False)
        assert [step.path for step in (await recorded(store)).steps] == [("one",)]

    async def test_of_an_event_and_the_end_of_its_wait_one_wins(self, store: Store) -> None:
        lease = await held(store, "a")
        await store.schedule(lease, STEP, 1000, "an event")
        answers = await asyncio.gather(store.take(RUN, STEP, "evt_9", TAKEN), store.commit(lease, STEP, OK))
        stored = (await step_of(store)).outcome
        assert sorted(type(answer).__name__ for answer in answers) == ["Lost", "Won"]
        assert stored in (TAKEN, OK)

    # ---- names

    async def test_a_name_is_the_first_ones(self, store: Store) -> None:
        holders = await asyncio.gather(*(store.occupy("n", f"run_{n}", until_end=False) for n in range(CLAIMERS)))
        assert len(set(holders)) == 1
        assert await store.occupy("another", "run_x", until_end=False) == "run_x"

    async def test_a_name_until_the_end_is_handed_on_then_and_not_before(self, store: Store) -> None:
        assert await store.occupy("n", RUN, until_end=True) == RUN
        assert await store.occupy("n", "run_2", until_end=True) == RUN, "not begun yet"
        lease = await held(store, "a")
        assert await store.occupy("n", "run_3", until_end=True) == RUN
        await store.release(lease, "suspended")
        assert await store.occupy("n", "run_4", until_end=True) == RUN
        await store.cancel(RUN)
        assert await store.occupy("n", "run_5", until_end=False) == RUN, "a name for ever"
        assert await store.occupy("n", "run_6", until_end=True) == "run_6"
        assert await store.occupy("n", RUN, until_end=True) == "run_6"

    async def test_who_was_dismissed_once_is_dismissed_when_the_name_is_free_as_well(self, store: Store) -> None:
        assert await store.occupy("n", RUN, until_end=True) == RUN
        assert await store.occupy("n", "run_2", until_end=True) == RUN
        await store.commit(await held(store, "a"), BODY, OK)
        assert await store.occupy("n", "run_2", until_end=True) == RUN
        assert await store.occupy("n", "run_3", until_end=True) == "run_3"
        assert await store.occupy("n", "run_2", until_end=True) == RUN
        assert await store.occupy("another", "run_2", until_end=True) == "run_2"
        assert await store.occupy("n", "run_4", until_end=True) == "run_3"

    async def test_what_is_told_late_of_a_dismissed_run_does_not_create_it(self, store: Store) -> None:
        assert await store.occupy("n", RUN, until_end=True) == RUN
        assert await store.occupy("n", "run_2", until_end=True) == RUN
        assert await store.latest("d", "evt_4", 2, "run_4") == "evt_4"
        assert await store.latest("d", "evt_3", 1, "run_3") == "evt_4"
        for number in (2, 3):
            trouble = Trouble("dead_letter", "503")
            await store.trouble(f"run_{number}", trouble, NewRun(f"evt_{number}", "pay", b"{}"))
            assert await store.get(f"run_{number}") is None
        assert await store.list() == []

    async def test_who_was_dismissed_and_never_begins_keeps_no_name(self, store: Store) -> None:
        assert await store.occupy("first", "run_2", until_end=False) == "run_2"
        assert await store.occupy("n", RUN, until_end=True) == RUN
        assert await store.occupy("n", "run_2", until_end=True) == RUN
        assert await store.occupy("first", "run_3", until_end=False) == "run_3"
        assert await store.occupy("first", "run_2", until_end=False) == "run_3"

    async def test_a_run_that_has_begun_keeps_its_name_though_it_meets_another_at_a_second_one(
        self, store: Store
    ) -> None:
        assert await store.occupy("for ever", RUN, until_end=False) == RUN
        await store.commit(await held(store, "a"), BODY, OK)
        assert await store.occupy("n", "run_2", until_end=True) == "run_2"
        assert await store.occupy("n", RUN, until_end=True) == "run_2"
        assert await store.occupy("for ever", "run_3", until_end=False) == RUN

    async def test_many_who_ask_for_a_name_while_it_is_given_up_hear_the_same_when_they_ask_again(
        self, store: Store
    ) -> None:
        assert await store.occupy("n", RUN, until_end=True) == RUN
        lease = await held(store, "a")
        runs = [f"run_x{n}" for n in range(CLAIMERS)] * 2
        asks = [store.occupy("n", run, until_end=True) for run in runs]
        _, *answers = await asyncio.gather(store.commit(lease, BODY, OK), *asks)
        holders = {run for run, holder in zip(runs, answers, strict=True) if run == holder}
        assert len(holders) <= 1
        for run, holder in zip(runs, answers, strict=True):
            assert (holder == run) == (run in holders), "two copies of one message"
            assert await store.occupy("n", run, until_end=True) == holder

    async def test_the_latest_event_is_the_one_that_was_accepted_last(self, store: Store) -> None:
        assert await store.latest("n", "evt_b", 10, "run_b") == "evt_b"
        assert await store.latest("n", "evt_a", 10, "run_a") == "evt_b", "of one moment the greater"
        assert await store.latest("n", "evt_c", 9, "run_c") == "evt_b"
        assert await store.latest("n", "evt_a", 11, "run_a") == "evt_a"
        assert await store.latest("n", "evt_b", 0, "run_b") == "evt_a"
        assert await store.latest("another", "evt_z", 0, "run_z") == "evt_z"

    async def test_a_run_whose_event_is_not_the_latest_keeps_no_name_unless_it_has_begun(self, store: Store) -> None:
        assert await store.occupy("a", "run_a", until_end=False) == "run_a"
        assert await store.occupy("b", RUN, until_end=False) == RUN
        for event_id, run_id in (("evt_a", "run_a"), ("evt_b", RUN)):
            assert await store.latest("n", event_id, 10, run_id) == event_id
        await held(store, "a")
        assert await store.latest("n", "evt_c", 11, "run_c") == "evt_c"
        assert await store.occupy("a", "run_x", until_end=True) == "run_a", "it has not heard of that yet"
        for event_id, run_id in (("evt_a", "run_a"), ("evt_b", RUN)):
            assert await store.latest("n", event_id, 0, run_id) == "evt_c"
        assert await store.occupy("a", "run_d", until_end=False) == "run_d"
        assert await store.occupy("b", "run_d", until_end=False) == RUN

    async def test_the_record_of_a_dead_letter_keeps_no_name_once_it_was_dismissed(self, store: Store) -> None:
        assert await store.occupy("first", "run_2", until_end=False) == "run_2"
        await store.trouble("run_2", Trouble("dead_letter", "503"), NewRun("evt_2", "pay", b"{}"))
        assert await store.occupy("first", "run_3", until_end=False) == "run_2"
        assert await store.occupy("n", RUN, until_end=True) == RUN
        assert await store.occupy("n", "run_2", until_end=True) == RUN
        await store.cancel("run_2")
        assert await store.occupy("first", "run_4", until_end=False) == "run_4"

    # ---- operating

    async def test_a_cancelled_run_ends_without_an_outcome(self, store: Store, clock: ManualClock) -> None:
        lease = await held(store, "a")
        assert await store.cancel(RUN) == "cancelled"
        assert await store.cancel(RUN) == "cancelled"
        assert await store.cancel("run_2") is None
        record = await recorded(store)
        assert (record.status, record.outcome, record.finished_at_ms) == ("cancelled", None, clock.now_ms())
        assert await store.claim(claim("b")) == Finished("cancelled", None, "pay")
        assert await store.commit(lease, STEP, OK) == Lost(None, held=False)
        assert await store.commit(lease, BODY, OK) == Lost(None, held=False)
        assert list(await store.renew([lease], LEASE_MS)) == [False]
        assert await store.release(lease, "suspended") is None

    async def test_a_run_that_has_ended_is_not_cancelled(self, store: Store) -> None:
        await store.commit(await held(store, "a"), BODY, OK)
        assert await store.cancel(RUN) == "completed"

    async def test_a_failed_run_goes_on_with_its_results_and_without_its_failures(
        self, store: Store, clock: ManualClock
    ) -> None:
        lease = await held(store, "a")
        await store.commit(lease, ("good",), OK)
        await store.commit(lease, ("bad",), FAILURE)
        await store.fail(lease, ("tried",), 3, clock.now_ms() + 5000, "ValueError")
        await store.commit(lease, BODY, FAILURE)
        assert await store.reopen(RUN) == 1
        assert await store.reopen(RUN) is None, "it goes on already"
        record = await recorded(store)
        assert (record.status, record.outcome, record.finished_at_ms, record.epoch) == ("waiting", None, None, 1)
        again = started(await store.claim(claim("b")))
        assert [(entry.path, entry.outcome) for entry in again.outcomes] == [(("good",), OK)]
        assert again.unfinished == {("bad",): Unfinished(0, 0), ("tried",): Unfinished(0, 0)}
        assert (again.attempts, again.token > lease.token) == (0, True)
        await store.commit(Lease(RUN, again.token), ("bad",), OTHER)
        assert [entry.path for entry in started(await store.claim(claim("b"))).outcomes] == [("good",), ("bad",)]

    async def test_a_failure_from_before_the_run_was_opened_again_comes_too_late(self, store: Store) -> None:
        zombie = await held(store, "a")
        await store.commit(zombie, BODY, FAILURE)
        await store.reopen(RUN)
        assert await store.commit(zombie, ("bad",), FAILURE) == Stale()
        assert await store.commit(zombie, BODY, FAILURE) == Stale()
        assert (await recorded(store)).status == "waiting"
        lease = await held(store, "b", message="msg_2")
        assert await store.commit(lease, ("bad",), FAILURE) == Won(held=True, seq=1)
        assert await store.commit(lease, BODY, FAILURE) == Won(held=False)

    async def test_what_has_not_failed_is_not_opened_again(self, store: Store) -> None:
        assert await store.reopen("run_2") is None
        lease = await held(store, "a")
        assert await store.reopen(RUN) is None
        await store.commit(lease, BODY, OK)
        assert await store.reopen(RUN) is None
        assert (await recorded(store)).epoch == 0

    async def test_a_trouble_is_told_until_the_run_is_claimed(self, store: Store) -> None:
        trouble = Trouble("dead_letter", "503: no\nmore — é")
        await store.trouble(RUN, trouble)
        assert await store.get(RUN) is None
        await store.trouble(RUN, trouble, NewRun("evt_1", "pay", b"{}"))
        assert (await recorded(store)).trouble == trouble
        assert (await recorded(store)).status == "running"
        lease = await held(store, "a")
        assert (await recorded(store)).trouble is None
        await store.trouble(RUN, Trouble("missing_step", "x"))
        assert (await recorded(store)).trouble == Trouble("missing_step", "x")
        await store.commit(lease, BODY, OK)
        await store.trouble(RUN, Trouble("dead_letter", "late"))
        assert (await recorded(store)).trouble != Trouble("dead_letter", "late")
