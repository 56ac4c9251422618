"""Several workers on one PostgreSQL: forced interleavings, clocks that disagree, real processes."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import threading
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

import psycopg
import pytest

from idioteque.clock import SystemClock
from idioteque.database import Row, SqlValue, Transaction, open_database
from idioteque.database.postgres import PostgresDatabase
from idioteque.paths import BODY
from idioteque.store import Busy, Claim, Lease, Letter, Started
from idioteque.stores import SqlStore
from idioteque.testing.leases import LEASE_MS, OK, RUN, STEP, claim, held, recorded, started
from tests.services import PostgresServer, wait_until

T = TypeVar("T")


# ---- forced interleavings

# As one statement this looks the same as a claim: it locks the run, and reads its steps.
IN_ONE_STATEMENT = """WITH run AS (SELECT run_id FROM runs WHERE run_id = 'run_1' FOR UPDATE)
    SELECT path FROM steps WHERE run_id = (SELECT run_id FROM run) AND outcome_ok IS NOT NULL"""


def waiting_for_a_lock(postgres: PostgresServer, count: int) -> Callable[[], bool]:
    sql = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
    return lambda: postgres.execute(sql) == [(count,)]


async def test_a_claim_that_waits_for_a_commit_sees_it(postgres: PostgresServer, postgres_url: str) -> None:
    """The wake-up that would be lost: the claim answers for whoever commits while it waits for the run's row."""
    store = SqlStore(postgres_url)
    lease = await held(store, "a")
    await store.release(lease, "suspended")
    with psycopg.connect(postgres_url) as committer, psycopg.connect(postgres_url) as control:
        committer.execute("SELECT 1 FROM runs WHERE run_id = 'run_1' FOR UPDATE")
        committer.execute(
            "INSERT INTO steps (run_id, path, outcome_ok, outcome, seq, attempts, strikes, begun, due_at_ms)"
            " VALUES ('run_1', 'charge', 1, '1', 1, 0, 0, 0, 0)"
        )
        committer.execute("UPDATE runs SET seq = 1 WHERE run_id = 'run_1'")
        claiming = asyncio.ensure_future(store.claim(claim("b", message="msg_2")))
        missing = asyncio.create_task(asyncio.to_thread(lambda: control.execute(IN_ONE_STATEMENT).fetchall()))
        await asyncio.to_thread(wait_until, waiting_for_a_lock(postgres, 2), 20, "both to wait for the row")
        assert not claiming.done()
        assert not missing.done()
        committer.commit()
        assert await missing == [], "what is avoided: a snapshot from before the wait"
        control.rollback()
        again = started(await claiming)
    assert [entry.path for entry in again.outcomes] == [STEP]
    await store.commit(Lease(RUN, again.token), ("next",), OK)
    assert [(step.path, step.seq) for step in (await recorded(store)).steps] == [(STEP, 1), (("next",), 2)]
    await store.close()


class PausingTransaction:
    """A transaction that stops before the first statement that holds a text."""

    def __init__(self, tx: Transaction, text: str, pause: Callable[[], None]) -> None:
        self._tx, self._text, self._pause = tx, text, pause
        self.lock_row, self.lock_rows, self.now_ms = tx.lock_row, tx.lock_rows, tx.now_ms
        self.writers_take_turns = tx.writers_take_turns

    def execute(self, sql: str, parameters: Mapping[str, SqlValue] | None = None) -> list[Row]:
        if self._text in sql:
            self._pause()
        return self._tx.execute(sql, parameters)

    def changed(self, sql: str, parameters: Mapping[str, SqlValue]) -> int:
        if self._text in sql:
            self._pause()
        return self._tx.changed(sql, parameters)

    def execute_many(self, sql: str, parameters: Iterable[Mapping[str, SqlValue]]) -> None:
        self._tx.execute_many(sql, parameters)

    def script(self, sql: str) -> None:
        self._tx.script(sql)


class Pausing:
    """A database that stops once, before its next commit or before a statement, until it is told to go on."""

    def __init__(self, database: PostgresDatabase) -> None:
        self._database = database
        self.before: str | None = None
        self.reached, self.go_on = threading.Event(), threading.Event()

    async def write(self, operation: Callable[[Transaction], T], *, is_long: bool = False) -> T:
        before, self.before = self.before, None

        def pause() -> None:
            self.reached.set()
            assert self.go_on.wait(30)

        def paused(tx: Transaction) -> T:
            if before is None:
                return operation(tx)
            result = operation(PausingTransaction(tx, before, pause))
            if before == "COMMIT":
                pause()
            return result

        return await self._database.write(paused)

    async def read(self, operation: Callable[[Transaction], T]) -> T:
        return await self._database.read(operation)

    async def close(self) -> None:
        await self._database.close()

    async def is_reached(self) -> None:
        assert await asyncio.to_thread(self.reached.wait, 30)


@pytest.mark.parametrize("first", ["the wait", "the event"])
async def test_of_a_wait_and_an_event_at_one_moment_one_finds_the_other(postgres_url: str, first: str) -> None:
    pausing = Pausing(PostgresDatabase(postgres_url))
    waiter, sender = SqlStore(pausing), SqlStore(postgres_url)
    if first == "the event":
        waiter, sender = sender, waiter
    lease = await held(waiter, "a")
    await sender.list()

    async def wait() -> bool:
        await waiter.watch(lease, STEP, ["paid"], b"{}")
        return [letter.event_id for letter in await waiter.letters(["paid"], 0)] == ["evt_9"]

    async def send() -> bool:
        letter, watchers = await sender.arrive("evt_9", "paid", b"{}")
        assert isinstance(letter, Letter)
        return [watcher.run_id for watcher in watchers] == [RUN]

    pausing.before = "COMMIT"
    held_back, other = (wait, send) if first == "the wait" else (send, wait)
    pending = asyncio.create_task(held_back())
    await pausing.is_reached()
    found_meanwhile = await other()
    pausing.go_on.set()
    assert await pending or found_meanwhile
    await asyncio.gather(waiter.close(), sender.close())


async def done_or_waiting(task: asyncio.Task[Any], postgres: PostgresServer) -> None:
    """Return once a task is done, or waits for a row."""
    is_waiting = waiting_for_a_lock(postgres, 1)
    await asyncio.to_thread(wait_until, lambda: task.done() or is_waiting(), 20, "a lock, or the end")


async def test_a_run_that_is_created_twice_at_once_is_one_ones(postgres: PostgresServer, postgres_url: str) -> None:
    pausing = Pausing(PostgresDatabase(postgres_url))
    one, two = SqlStore(pausing), SqlStore(postgres_url)
    await asyncio.gather(one.list(), two.list())
    pausing.before = "COMMIT"
    first = asyncio.ensure_future(one.claim(claim("a")))
    await pausing.is_reached()
    second = asyncio.ensure_future(two.claim(claim("b", message="msg_2")))
    await done_or_waiting(second, postgres)
    pausing.go_on.set()
    assert isinstance(await first, Started)
    assert isinstance(await second, Busy)
    await asyncio.gather(one.close(), two.close())


async def test_a_seat_that_is_noted_while_it_is_claimed_stays_noted(
    postgres: PostgresServer, postgres_url: str
) -> None:
    pausing = Pausing(PostgresDatabase(postgres_url))
    body, step = SqlStore(postgres_url), SqlStore(pausing)
    lease = await held(body, "a")
    await step.list()
    pausing.before = "INSERT INTO seats"
    claiming = asyncio.ensure_future(step.claim(Claim(RUN, "b", "msg_2", 0, LEASE_MS, path=STEP)))
    await pausing.is_reached()
    noting = asyncio.create_task(body.sent(lease, [STEP]))
    await done_or_waiting(noting, postgres)
    pausing.go_on.set()
    await asyncio.gather(claiming, noting)
    assert started(await body.claim(claim("a"))).unfinished[STEP].is_sent
    await asyncio.gather(body.close(), step.close())


async def test_a_name_that_is_handed_on_twice_at_once_is_one_ones(postgres: PostgresServer, postgres_url: str) -> None:
    """Whoever asks for a name locks it before looking who has it: what is read without that may be over at once."""
    pausing = Pausing(PostgresDatabase(postgres_url))
    one, two = SqlStore(pausing), SqlStore(postgres_url)
    assert await one.occupy("n", RUN, until_end=True) == RUN
    await two.commit(await held(two, "a"), BODY, OK)
    pausing.before = "UPDATE marks SET value"
    first = asyncio.create_task(one.occupy("n", "run_2", until_end=True))
    await pausing.is_reached()
    second = asyncio.create_task(two.occupy("n", "run_3", until_end=True))
    await done_or_waiting(second, postgres)
    pausing.go_on.set()
    assert [await first, await second] == ["run_2", "run_2"]
    assert await two.occupy("n", "run_3", until_end=True) == "run_2", "as it was told before"
    await asyncio.gather(one.close(), two.close())


# ---- clocks that disagree


class Skewed(SystemClock):
    """The clock of a host that is wrong."""

    def __init__(self, by_ms: int) -> None:
        self._by_ms = by_ms

    def now_ms(self) -> int:
        return super().now_ms() + self._by_ms


async def test_workers_whose_clocks_disagree_agree_on_leases(postgres_url: str) -> None:
    early, late = SqlStore(postgres_url, Skewed(-3_600_000)), SqlStore(postgres_url, Skewed(3_600_000))
    for n, (first, second) in enumerate([(early, late), (late, early)]):
        lease = await held(first, "a", run=f"run_{n}")
        busy = await second.claim(claim("b", run=f"run_{n}", message="msg_2"))
        assert isinstance(busy, Busy)
        assert 0 < busy.remaining_ms <= LEASE_MS
        assert list(await first.renew([lease], LEASE_MS)) == [True]
        assert abs((await recorded(second, f"run_{n}")).created_at_ms - SystemClock().now_ms()) < 60_000
    await asyncio.gather(early.close(), late.close())


# ---- processes

PROCESS = """
import asyncio, json, random, sys
from idioteque.store import Busy, Claim, Lease, Finished, Lease, Lost, NewRun, Outcome, Started, Won
from idioteque.stores import open_store

RUNS, STEPS = range(12), range(12)

async def main(url, me):
    store, chance = open_store(url), random.Random(me)
    async def work(run):
        claim = Claim(f"run_{run}", f"{me}", f"msg_{me}", 0, 60_000, NewRun(f"evt_{run}", "pay", b"{}"))
        claimed = await store.claim(claim)
        print(json.dumps(["claim", run, type(claimed).__name__, getattr(claimed, "token", 0)]))
        async def commit(step):
            answer = await store.commit(Lease(f"run_{run}", me), (f"{step}",), Outcome(True, b"%d" % me))
            value = me if isinstance(answer, Won) else int(answer.outcome.payload)
            print(json.dumps(["commit", run, step, type(answer).__name__, value]))
        await asyncio.gather(*(commit(step) for step in chance.sample(STEPS, len(STEPS))))
    print(json.dumps(["ready"]), flush=True)
    sys.stdin.readline()
    await asyncio.gather(*(work(run) for run in chance.sample(RUNS, len(RUNS))))
    await store.close()

asyncio.run(main(sys.argv[1], int(sys.argv[2])))
"""


async def test_of_several_processes_each_run_is_one_ones_and_each_outcome_one_ones(postgres_url: str) -> None:
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", PROCESS, postgres_url, str(me)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for me in (1, 2, 3)
    ]
    try:
        for process in processes:
            assert process.stdout is not None
            assert process.stdout.readline() == '["ready"]\n'
        for process in processes:
            assert process.stdin is not None
            process.stdin.write("go\n")
            process.stdin.flush()
        outputs = [process.communicate(timeout=60)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
            process.wait(30)
    lines = [json.loads(line) for output in outputs for line in output.splitlines()]
    claims: dict[int, list[str]] = defaultdict(list)
    commits: dict[tuple[int, int], list[tuple[str, int]]] = defaultdict(list)
    for kind, run, *rest in lines:
        if kind == "claim":
            claims[run].append(rest[0])
        else:
            commits[run, rest[0]].append((rest[1], rest[2]))
    assert len(claims) == 12
    assert {tuple(sorted(answers)) for answers in claims.values()} == {("Busy", "Busy", "Started")}
    assert len(commits) == 144
    for answers in commits.values():
        assert sorted(name for name, _ in answers) == ["Lost", "Lost", "Won"]
        assert len({value for _, value in answers}) == 1, "all adopt the outcome that was first"
    store = SqlStore(open_database(postgres_url))
    for run in range(12):
        assert [step.seq for step in (await recorded(store, f"run_{run}")).steps] == list(range(1, 13))
    await store.close()


FORKING = """
import asyncio, os, sys
from idioteque.stores import SqlStore

async def session(store):
    return await store._database.write(lambda tx: tx.execute("SELECT pg_backend_pid()"))

store = SqlStore(sys.argv[1])
mine = asyncio.run(session(store))
children = []
for n in range(3):
    pid = os.fork()
    if pid == 0:
        assert asyncio.run(session(store)) != mine
        asyncio.run(store.list())
        os._exit(0) if n else sys.exit(0)
    children.append(pid)
assert asyncio.run(session(store)) == mine
assert [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in children] == [0, 0, 0]
assert asyncio.run(session(store)) == mine, "a child that ends leaves its parent's session alone"
asyncio.run(store.close())
print("forked well")
"""


def test_a_forked_child_opens_the_store_anew_and_leaves_its_parents_session_alone(postgres_url: str) -> None:
    command = [sys.executable, "-c", FORKING, postgres_url]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (0, "forked well\n"), done.stderr
