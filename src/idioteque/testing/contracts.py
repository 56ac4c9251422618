"""What every store must do, as tests: subclass `StoreContract` beside the fixtures `store` and `clock`.

    @pytest.fixture
    def clock() -> ManualClock: ...

    @pytest.fixture
    def store(clock: ManualClock) -> Store: ...      # empty, and reading the time from this clock

    class TestMyStore(StoreContract): ...

The tests are coroutines: pytest-asyncio in its mode `auto`, or anything like it, has to run them.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace

from idioteque.paths import BODY, Path
from idioteque.store import (
    MAX_STRIKES,
    Done,
    Exhausted,
    Finished,
    Go,
    Gone,
    Lease,
    Lost,
    Outcome,
    Stale,
    Store,
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
    LeaseContract,
    claim,
    held,
    recorded,
    started,
    step_of,
    taken_over,
)
from idioteque.testing.operations import OperationsContract
from idioteque.testing.seats import SeatContract

PATHS: tuple[Path, ...] = (
    ("a",),
    ("a", "b"),
    ("a/b",),
    ("a%2Fb",),
    ("a%",),
    ("A",),
    ("a ",),
    ("ab",),
    ("a", "b", "c"),
    ("a", "b/c"),
    ("a:b",),
    ("\x00",),
    ("a\x00b",),
    ("\n",),
    ("é",),
    ("e\u0301",),
    ("\U0001f600",),
    ("'; DROP TABLE runs; --",),
    ("x" * 512,),
    tuple("deep" for _ in range(32)),
)
"""Keys that a store may confuse: prefixes of one another, separators, case, and characters with a meaning elsewhere."""


class StoreContract(LeaseContract, OperationsContract, SeatContract):
    """Every rule that the engine leans on: what is here, and what the classes it comes from hold."""

    # ---- commit

    async def test_an_outcome_is_in_the_next_snapshot_in_the_order_of_the_commits(
        self, store: Store, clock: ManualClock
    ) -> None:
        lease = await held(store, "a")
        for path, outcome in ((("b",), OK), (("a",), FAILURE), (("a", "c"), OTHER)):
            assert await store.commit(lease, path, outcome) == Won(held=True)
        seen = started(await store.claim(claim("a"))).outcomes
        assert [(entry.path, entry.outcome) for entry in seen] == [
            (("b",), OK),
            (("a",), FAILURE),
            (("a", "c"), OTHER),
        ]
        assert [entry.seq for entry in seen] == [1, 2, 3]
        assert (await step_of(store, ("a", "c"))).committed_at_ms == clock.now_ms()

    async def test_a_claimer_who_knows_the_beginning_is_told_the_rest_and_what_he_knew_last(self, store: Store) -> None:
        lease = await held(store, "a")
        for n in range(4):
            await store.commit(lease, (f"s{n}",), Outcome(n != 2, f"{n}".encode()))
        await store.fail(lease, ("s9",), 1, 0, "ValueError")
        for known, wanted in ((0, [1, 2, 3, 4]), (3, [3, 4]), (4, [4]), (9, [])):
            seen = started(await store.claim(replace(claim("a"), known=known)))
            assert [(entry.seq, entry.outcome.payload) for entry in seen.outcomes] == [
                (n, f"{n - 1}".encode()) for n in wanted
            ]
            assert seen.unfinished == {("s9",): Unfinished(1, 0)}, "whatever is known"
            assert seen.epoch == 0

    async def test_the_holder_who_claims_again_learns_what_others_recorded(self, store: Store) -> None:
        lease = await held(store, "a")
        await store.commit(lease, ("mine",), OK)
        await store.take(RUN, ("theirs",), "evt_9", OTHER)
        seen = started(await store.claim(replace(claim("a"), new=None, known=1)))
        assert (seen.token, seen.strikes) == (lease.token, 1)
        assert [(entry.path, entry.seq) for entry in seen.outcomes] == [(("mine",), 1), (("theirs",), 2)]
        assert await store.commit(lease, ("next",), OK) == Won(held=True)

    async def test_a_run_that_was_opened_again_says_so(self, store: Store) -> None:
        lease = await held(store, "a")
        await store.commit(lease, STEP, FAILURE)
        await store.commit(lease, ("two",), OK)
        await store.commit(lease, BODY, FAILURE)
        await store.reopen(RUN)
        seen = started(await store.claim(replace(claim("b"), known=2)))
        assert (seen.epoch, [entry.path for entry in seen.outcomes]) == (1, [("two",)])

    async def test_a_commit_tells_the_place_of_what_is_on_record(self, store: Store) -> None:
        """Also to who comes late: what a pass may show its function depends on it."""
        lease = await held(store, "a")
        for outcome in (OK, OTHER):
            for n in range(1, 4):
                answer = await store.commit(lease, (f"s{n}",), outcome)
                assert isinstance(answer, Won if outcome == OK else Lost)
                assert answer.seq == n
        await store.commit(lease, BODY, OK)
        late = await store.commit(lease, ("s2",), OTHER)
        assert isinstance(late, Lost)
        assert late.seq == 2

    async def test_places_are_counted_over_failures_and_openings(self, store: Store) -> None:
        lease = await held(store, "a")
        await store.commit(lease, ("bad",), FAILURE)
        await store.commit(lease, BODY, FAILURE)
        await store.reopen(RUN)
        again = Lease(RUN, started(await store.claim(claim("b"))).token)
        answer = await store.commit(again, ("bad",), OK)
        assert isinstance(answer, Won)
        assert answer.seq == 2

    async def test_the_first_outcome_stays_whoever_brings_another(self, store: Store) -> None:
        lease = await held(store, "a")
        await store.commit(lease, STEP, OK)
        for later in (OTHER, FAILURE, OK):
            assert await store.commit(lease, STEP, later) == Lost(OK, held=True)
        assert (await step_of(store)).outcome == OK

    async def test_of_many_commits_exactly_one_wins(self, store: Store) -> None:
        lease = await held(store, "a")
        outcomes = [Outcome(True, f"{n}".encode()) for n in range(CLAIMERS)]
        answers = await asyncio.gather(*(store.commit(lease, STEP, outcome) for outcome in outcomes))
        stored = (await step_of(store)).outcome
        assert answers.count(Won(held=True)) == 1
        assert answers.count(Lost(stored, held=True)) == CLAIMERS - 1

    async def test_a_success_is_taken_from_a_holder_that_was_replaced(self, store: Store, clock: ManualClock) -> None:
        zombie = await held(store, "a")
        successor = await taken_over(store, clock)
        assert await store.commit(zombie, STEP, OK) == Won(held=False)
        assert await store.commit(successor, STEP, OTHER) == Lost(OK, held=True)
        assert await store.commit(zombie, STEP, OTHER) == Lost(OK, held=False)

    async def test_a_failure_of_a_replaced_holder_is_refused_while_the_other_is_alive(
        self, store: Store, clock: ManualClock
    ) -> None:
        zombie = await held(store, "a")
        await taken_over(store, clock)
        assert await store.commit(zombie, STEP, FAILURE) == Stale()
        assert await store.commit(zombie, BODY, FAILURE) == Stale()
        assert (await recorded(store)).steps == []
        await clock.advance(LEASE_MS / 1000)
        assert await store.commit(zombie, STEP, FAILURE) == Won(held=False)

    async def test_the_outcome_of_the_body_ends_the_run(self, store: Store, clock: ManualClock) -> None:
        lease = await held(store, "a")
        assert await store.commit(lease, BODY, OK) == Won(held=False)
        record = await recorded(store)
        assert (record.status, record.outcome, record.finished_at_ms) == ("completed", OK, clock.now_ms())
        assert record.lease_until_ms == 0
        assert await store.claim(claim("b")) == Finished("completed", OK, "pay")
        assert await store.commit(lease, BODY, FAILURE) == Lost(OK, held=False)
        assert await store.commit(lease, STEP, OK) == Lost(None, held=False)
        assert (await recorded(store)).steps == []

    async def test_a_body_that_fails_ends_the_run_as_well(self, store: Store) -> None:
        lease = await held(store, "a")
        await store.commit(lease, STEP, OK)
        assert await store.commit(lease, BODY, FAILURE) == Won(held=False)
        assert await store.claim(claim("b")) == Finished("failed", FAILURE, "pay")
        assert await store.commit(lease, STEP, OTHER) == Lost(OK, held=False)

    async def test_the_body_of_a_replaced_holder_may_succeed_first(self, store: Store, clock: ManualClock) -> None:
        zombie = await held(store, "a")
        successor = await taken_over(store, clock)
        assert await store.commit(zombie, BODY, OK) == Won(held=False)
        assert await store.commit(successor, BODY, OTHER) == Lost(OK, held=False)
        assert list(await store.renew([successor], LEASE_MS)) == [False]

    async def test_every_path_has_an_outcome_of_its_own(self, store: Store) -> None:
        lease = await held(store, "a")
        for n, path in enumerate(PATHS):
            assert await store.commit(lease, path, Outcome(True, f"{n}".encode())) == Won(held=True), path
        seen = started(await store.claim(claim("a"))).outcomes
        assert [(entry.path, entry.outcome.payload) for entry in seen] == [
            (path, f"{n}".encode()) for n, path in enumerate(PATHS)
        ]

    async def test_a_payload_comes_back_byte_for_byte(self, store: Store) -> None:
        lease = await held(store, "a")
        payloads = [b"null", b"0", b"false", b'""', b"[]", b"", b"\x00", b"\xff\xfe", "é".encode(), b"x" * 1_000_000]
        for n, payload in enumerate(payloads):
            assert await store.commit(lease, (str(n),), Outcome(True, payload)) == Won(held=True)
        seen = started(await store.claim(claim("a"))).outcomes
        assert [entry.outcome.payload for entry in seen] == payloads

    # ---- begin

    async def test_a_step_that_begins_is_charged_instead_of_the_body(self, store: Store, clock: ManualClock) -> None:
        await held(store, "a")
        lease = await taken_over(store, clock)
        assert await store.begin(lease, STEP) == Go(0)
        assert await store.begin(lease, STEP) == Go(0), "its reply was lost"
        assert ((await recorded(store)).strikes, (await step_of(store)).strikes) == (1, 1)

    async def test_a_step_that_never_ends_is_exhausted(self, store: Store, clock: ManualClock) -> None:
        lease = await held(store, "a")
        for _ in range(MAX_STRIKES):
            assert await store.begin(lease, STEP) == Go(0)
            lease = await taken_over(store, clock)
        assert await store.begin(lease, STEP) == Exhausted(MAX_STRIKES)
        assert await store.begin(lease, ("another",)) == Go(0)

    async def test_a_step_at_most_once_begins_once(self, store: Store, clock: ManualClock) -> None:
        lease = await held(store, "a")
        assert await store.begin(lease, STEP, at_most_once=True) == Go(0)
        assert await store.begin(lease, STEP, at_most_once=True) == Go(0), "its reply was lost"
        successor = await taken_over(store, clock)
        assert await store.begin(successor, STEP, at_most_once=True) == Exhausted(1)

    async def test_a_step_at_most_once_keeps_its_start_through_a_shutdown(self, store: Store) -> None:
        lease = await held(store, "a")
        await store.begin(lease, STEP, at_most_once=True)
        await store.release(lease, "shutdown")
        assert await store.begin(await held(store, "b"), STEP, at_most_once=True) == Exhausted(1)

    async def test_a_step_inside_clears_those_around_it_of_suspicion(self, store: Store, clock: ManualClock) -> None:
        lease = await held(store, "a")
        for inner in [("outer", "middle", f"inner-{n}") for n in range(2 * MAX_STRIKES)]:
            assert await store.begin(lease, ("outer",)) == Go(0)
            assert await store.begin(lease, ("outer", "middle")) == Go(0)
            assert await store.begin(lease, inner) == Go(0)
            for around in (("outer",), ("outer", "middle")):
                assert (await step_of(store, around)).strikes == 0
            await store.commit(lease, inner, OK)
            lease = await taken_over(store, clock)

    async def test_a_recorded_end_clears_a_step(self, store: Store, clock: ManualClock) -> None:
        lease = await held(store, "a")
        for attempt in range(1, 2 * MAX_STRIKES):
            assert await store.begin(lease, STEP) == Go(attempt - 1)
            assert await store.fail(lease, STEP, attempt, clock.now_ms(), "ValueError") == Go(attempt)
            lease = await taken_over(store, clock)
        await store.begin(lease, STEP)
        await store.commit(lease, STEP, OK)
        assert (await step_of(store)).strikes == 0

    async def test_only_the_holder_begins_or_fails(self, store: Store, clock: ManualClock) -> None:
        zombie = await held(store, "a")
        holder = await taken_over(store, clock)
        strangers = [zombie, Lease(RUN, holder.token + 1), Lease(RUN, 0), Lease("run_2", holder.token)]
        for lease in strangers:
            assert await store.begin(lease, STEP) == Gone()
            assert await store.fail(lease, STEP, 1, 0, "ValueError") == Gone()
        await store.release(holder, "suspended")
        assert await store.begin(holder, STEP) == Gone()
        assert await store.fail(holder, STEP, 1, 0, "ValueError") == Gone()
        assert (await recorded(store)).steps == []
        holder = await held(store, "b")
        await store.commit(holder, BODY, OK)
        assert await store.begin(holder, STEP) == Gone()
        assert await store.fail(holder, STEP, 1, 0, "ValueError") == Gone()

    # ---- fail

    async def test_a_failed_attempt_is_in_the_next_snapshot(self, store: Store, clock: ManualClock) -> None:
        lease = await held(store, "a")
        due_at_ms = clock.now_ms() + 60_000
        assert await store.fail(lease, STEP, 2, due_at_ms, "ValueError: no — \U0001f600") == Go(2)
        assert await store.fail(lease, STEP, 1, due_at_ms, "ValueError: no — \U0001f600") == Go(2), "attempts only grow"
        assert started(await store.claim(claim("a"))).unfinished == {STEP: Unfinished(2, due_at_ms)}
        step = await step_of(store)
        assert (step.outcome, step.seq, step.attempts) == (None, None, 2)
        assert (step.due_at_ms, step.error, step.committed_at_ms) == (due_at_ms, "ValueError: no — \U0001f600", None)

    async def test_a_step_that_has_its_outcome_neither_begins_nor_fails(self, store: Store) -> None:
        lease = await held(store, "a")
        await store.commit(lease, STEP, FAILURE)
        assert await store.begin(lease, STEP) == Done(FAILURE)
        assert await store.begin(lease, STEP, at_most_once=True) == Done(FAILURE)
        assert await store.fail(lease, STEP, 1, 0, "ValueError") == Done(FAILURE)
        assert started(await store.claim(claim("a"))).unfinished == {}
