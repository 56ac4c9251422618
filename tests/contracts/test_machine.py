"""Any sequence of operations, against the model: every answer of a store must be the model's."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from dataclasses import replace
from random import Random
from typing import Any, TypeVar

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from idioteque.database import open_database
from idioteque.store import (
    Busy,
    Claim,
    Done,
    Exhausted,
    Finished,
    Go,
    Gone,
    Lease,
    Lost,
    NewRun,
    Outcome,
    ReleaseKind,
    Stale,
    Started,
    Store,
    Trouble,
    Unknown,
    Waiting,
    Won,
)
from idioteque.stores import MemoryStore, SqlStore
from idioteque.stores.redis import RedisStore
from idioteque.testing import ManualClock
from tests.contracts.model import LEASE_MS, ModelRun
from tests.redis_server import RedisServer

T = TypeVar("T")

runs = st.sampled_from(["run_a", "run_b"])
paths = st.sampled_from([("a",), ("a", "b"), ("a", "b", "c"), ("a/b",), ("b",)])
tokens = st.integers(0, 5)
outcomes = st.builds(Outcome, st.booleans(), st.sampled_from([b"1", b"2", b"", b"null"]))
delays = st.sampled_from([0, 1, 1500, 1501, 5000, 9999, 10_000, 20_000])


def pair(outcome: Outcome | None) -> Any:
    return None if outcome is None else (outcome.ok, outcome.payload)


def flat(answer: Any) -> tuple[Any, ...]:
    """Return a store's answer as the model gives it."""
    match answer:
        case Unknown():
            return ("unknown",)
        case Finished():
            return "finished", answer.status, pair(answer.outcome)
        case Busy():
            return "busy", answer.token, answer.remaining_ms
        case Waiting():
            return "waiting", answer.attempts, answer.remaining_ms
        case Started():
            done = [(entry.seq, entry.path, pair(entry.outcome)) for entry in answer.outcomes]
            unfinished = {path: (step.attempts, step.due_at_ms) for path, step in answer.unfinished.items()}
            return "started", answer.token, answer.attempts, answer.strikes, done, unfinished
        case Won():
            return "won", answer.held
        case Lost():
            return "lost", pair(answer.outcome), answer.held
        case Stale():
            return ("stale",)
        case Go():
            return "go", answer.attempts
        case Done():
            return "done", pair(answer.outcome)
        case Exhausted():
            return "exhausted", answer.strikes
        case Gone():
            return ("gone",)
        case _:
            raise AssertionError(answer)


class StoreMachine(RuleBasedStateMachine):
    """Drives one store and the model side by side."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.clock = ManualClock()
        self.store = self.make(self.clock)
        self.model: dict[str, ModelRun] = {}
        self.owners = 0

    def make(self, clock: ManualClock) -> Store:
        raise NotImplementedError

    def do(self, coroutine: Coroutine[Any, Any, T]) -> T:
        return self.loop.run_until_complete(coroutine)

    def teardown(self) -> None:
        self.do(self.store.close())
        self.loop.close()

    @property
    def now(self) -> int:
        return self.clock.now_ms()

    @rule(
        run=runs,
        message=st.sampled_from(["msg_1", "msg_2"]),
        retried=st.integers(0, 2),
        is_new=st.booleans(),
        is_repeated=st.booleans(),
    )
    def claim(self, run: str, message: str, retried: int, is_new: bool, is_repeated: bool) -> None:
        self.owners += not is_repeated
        owner = f"owner_{self.owners}"
        new = NewRun("evt", "f", b"{}") if is_new else None
        answer = flat(self.do(self.store.claim(Claim(run, owner, message, retried, LEASE_MS, new))))
        if run not in self.model and not is_new:
            assert answer == ("unknown",)
            return
        assert answer == self.model.setdefault(run, ModelRun()).claim(owner, message, retried, self.now)

    @rule(run=runs, token=tokens, path=paths, outcome=outcomes)
    def commit_step(self, run: str, token: int, path: tuple[str, ...], outcome: Outcome) -> None:
        answer = flat(self.do(self.store.commit(Lease(run, token), path, outcome)))
        model = self.model.get(run)
        known = model and model.commit_step(token, path, pair(outcome), outcome.ok, self.now)
        assert answer == (known or ("lost", None, False))

    @rule(run=runs, token=tokens, outcome=outcomes)
    def commit_body(self, run: str, token: int, outcome: Outcome) -> None:
        answer = flat(self.do(self.store.commit(Lease(run, token), (), outcome)))
        model = self.model.get(run)
        assert answer == (
            (model and model.commit_body(token, pair(outcome), outcome.ok, self.now)) or ("lost", None, False)
        )

    @rule(run=runs, token=tokens, path=paths, at_most_once=st.booleans())
    def begin(self, run: str, token: int, path: tuple[str, ...], at_most_once: bool) -> None:
        answer = flat(self.do(self.store.begin(Lease(run, token), path, at_most_once=at_most_once)))
        model = self.model.get(run)
        assert answer == (model.begin(token, path, at_most_once) if model else ("gone",))

    @rule(run=runs, token=tokens, path=paths, attempts=st.integers(1, 5), delay=delays)
    def fail(self, run: str, token: int, path: tuple[str, ...], attempts: int, delay: int) -> None:
        due = self.now + delay
        answer = flat(self.do(self.store.fail(Lease(run, token), path, attempts, due, "Error: no")))
        model = self.model.get(run)
        assert answer == (model.fail(token, path, attempts, due, self.now) if model else ("gone",))

    @rule(run=runs, token=tokens, kind=st.sampled_from(["suspended", "failed", "shutdown"]), delay=delays)
    def release(self, run: str, token: int, kind: ReleaseKind, delay: int) -> None:
        released = self.do(self.store.release(Lease(run, token), kind, due_at_ms=self.now + delay, error="no"))
        answer = None if released is None else released.attempts
        model = self.model.get(run)
        assert answer == (model.release(token, kind, self.now + delay) if model else None)

    @rule(leases=st.lists(st.tuples(runs, tokens), max_size=4))
    def renew(self, leases: list[tuple[str, int]]) -> None:
        answers = list(self.do(self.store.renew([Lease(*lease) for lease in leases], LEASE_MS)))
        known = [run in self.model and self.model[run].renew(token, self.now) for run, token in leases]
        assert answers == known

    @rule(run=runs)
    def cancel(self, run: str) -> None:
        answer = self.do(self.store.cancel(run))
        assert answer == (self.model[run].cancel() if run in self.model else None)

    @rule(run=runs)
    def reopen(self, run: str) -> None:
        answer = self.do(self.store.reopen(run))
        assert answer == (self.model[run].reopen() if run in self.model else None)

    @rule(milliseconds=delays)
    def wait(self, milliseconds: int) -> None:
        self.do(self.clock.advance(milliseconds / 1000))

    @precondition(lambda self: self.model)
    @invariant()
    def what_people_see_is_what_is(self) -> None:
        for run, model in self.model.items():
            record = self.do(self.store.get(run))
            assert record is not None
            assert (record.status, pair(record.outcome)) == (model.status, model.out)
            assert (record.attempts, record.strikes, record.epoch) == (model.attempts, model.strikes, model.epoch)
            assert record.lease_until_ms == (model.until if model.holder else 0)
            steps = {
                step.path: (pair(step.outcome), step.seq or 0, step.attempts, step.strikes, step.due_at_ms)
                for step in record.steps
            }
            assert steps == {
                path: (step.out, step.seq, step.attempts, step.strikes, step.due) for path, step in model.steps.items()
            }


class MemoryMachine(StoreMachine):
    def make(self, clock: ManualClock) -> Store:
        return MemoryStore(clock)


class SqliteMachine(StoreMachine):
    def make(self, clock: ManualClock) -> Store:
        return SqlStore(open_database("sqlite://:memory:", threads=False), clock)


TestMemoryMachine = MemoryMachine.TestCase
TestMemoryMachine.settings = settings(max_examples=150, stateful_step_count=60, deadline=None)
TestSqliteMachine = SqliteMachine.TestCase
TestSqliteMachine.settings = settings(max_examples=80, stateful_step_count=60, deadline=None)


def test_redis_machine(redis_server: RedisServer) -> None:
    class RedisMachine(StoreMachine):
        def make(self, clock: ManualClock) -> Store:
            return RedisStore(redis_server.room(), clock)

    run_state_machine_as_test(  # type: ignore[no-untyped-call]
        RedisMachine, settings=settings(max_examples=40, stateful_step_count=50, deadline=None)
    )


# ---- the rules are written twice, in ledger.py and in Lua: side by side, every answer and every record is the same


class Pair:
    """Asks two stores the same and lets nobody see a difference."""

    def __init__(self, one: Store, other: Store) -> None:
        self._stores = one, other

    def __getattribute__(self, name: str) -> Any:
        if name.startswith("_"):
            return super().__getattribute__(name)

        async def both(*args: Any, **kwargs: Any) -> Any:
            first, second = [await getattr(store, name)(*args, **kwargs) for store in self._stores]
            assert first == second, (name, args)
            return first

        return both


STEPS: list[tuple[str, ...]] = [("a",), ("a", "b"), ("b",)]
KINDS: list[ReleaseKind] = ["suspended", "failed", "shutdown"]


@given(chance=st.randoms(use_true_random=False))
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_redis_and_memory_never_differ(redis_server: RedisServer, chance: Random) -> None:
    asyncio.run(differ(redis_server, chance))


async def differ(redis_server: RedisServer, chance: Random) -> None:
    clock = ManualClock()
    store = Pair(MemoryStore(clock), RedisStore(redis_server.room(), clock))
    for n in range(60):
        run, path, seat = chance.choice(["run_a", "run_b"]), chance.choice(STEPS), chance.choice([(), *STEPS[:2]])
        lease = Lease(run, chance.randint(0, 6), seat)
        outcome = Outcome(chance.random() < 0.7, b"1")
        due_at_ms = clock.now_ms() + chance.choice([0, 1, 5000])
        match chance.randrange(16):
            case 0 | 1 | 2 | 3:
                place = chance.choice([(), (), path])
                request = Claim(run, f"o{n}", f"m{chance.randint(1, 2)}", chance.randint(0, 2), LEASE_MS)
                new = NewRun("evt", "f", b"{}") if place == () else None
                await store.claim(replace(request, path=place, new=new, at_most_once=chance.random() < 0.2))
            case 4 | 5:
                await store.commit(lease, chance.choice([path, seat]) or path, outcome)
            case 6:
                await store.commit(lease, (), outcome)
            case 7:
                await store.begin(lease, path, at_most_once=chance.random() < 0.3)
            case 8:
                await store.fail(lease, path, chance.randint(1, 3), due_at_ms, "Error: no")
            case 9:
                await store.release(lease, chance.choice(KINDS), due_at_ms=due_at_ms, error="no")
            case 10:
                await store.schedule(lease, path, due_at_ms, chance.choice([None, "an event"]))
                await store.watch(lease, path, ["paid"], b"{}")
            case 11:
                await store.renew([lease, replace(lease, path=())], LEASE_MS)
            case 12:
                await store.sent(lease, [path])
                await store.trouble(run, Trouble("missing_step", "x"))
            case 13:
                await store.take(run, path, f"evt_{chance.randint(1, 3)}", outcome)
            case 14:
                await chance.choice([store.cancel, store.reopen])(run)
            case _:
                await clock.advance(chance.choice([0.001, 1.501, 10]))
        await store.get(run)
        await store.list(status=chance.choice([None, "running", "waiting", "failed", "cancelled"]))
        by_memory, by_redis = [await one.arrive(f"evt_{n}", "paid", b"{}") for one in store._stores]
        assert sorted(by_memory[1], key=repr) == sorted(by_redis[1], key=repr)
    await store.close()
