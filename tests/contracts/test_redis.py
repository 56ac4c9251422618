"""Redis that fails, forgets its scripts, is set up wrongly, and serves several workers."""

from __future__ import annotations

import asyncio
import builtins
import itertools
import json
import re
import subprocess
import sys
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable
from typing import Literal

import pytest

from idioteque import Context, InlineDispatcher, Worker
from idioteque.clock import SystemClock
from idioteque.errors import ConfigurationError, DatabaseError, DatabaseFull, MissingExtra
from idioteque.paths import BODY
from idioteque.store import Busy, Lease, Lost, Outcome, Stale, Started, Won
from idioteque.stores import open_store
from idioteque.stores.redis import RedisStore
from idioteque.stores.redis import server as under
from idioteque.testing import ManualClock
from idioteque.testing.leases import FAILURE, LEASE_MS, OK, RUN, STEP, claim, held, recorded, started
from tests.contracts.test_postgres_nodes import PROCESS, Skewed
from tests.library.engine.rig import Order
from tests.redis_server import PrivateRedis, RedisServer
from tests.services import free_port

WRITERS = 8
COMMITS = 40


async def test_what_was_answered_survives_the_kill_of_the_server(private_redis: PrivateRedis) -> None:
    store = RedisStore(private_redis.room())
    lease = await held(store, "a")
    answered: set[int] = set()
    enough, is_over = asyncio.Event(), asyncio.Event()

    async def write(numbers: range) -> None:
        for n in numbers:
            if is_over.is_set():
                return
            try:
                answer = await store.commit(lease, (f"{n}",), Outcome(True, b"%d" % n))
            except DatabaseError:
                return
            assert isinstance(answer, Won | Lost)
            answered.add(n)
            if len(answered) >= COMMITS:
                enough.set()

    writers = [asyncio.create_task(write(range(n, 100_000, WRITERS))) for n in range(WRITERS)]
    await asyncio.wait_for(enough.wait(), 60)
    private_redis.kill()
    is_over.set()
    await asyncio.to_thread(private_redis.start)
    await asyncio.gather(*writers)
    stored = {step.path[0]: step.outcome for step in (await recorded(store)).steps}
    assert len(answered) >= COMMITS
    assert {str(n) for n in answered} <= set(stored)
    assert all(stored[str(n)] == Outcome(True, b"%d" % n) for n in answered)
    await store.close()


async def test_an_operation_waits_for_a_server_that_comes_back(private_redis: PrivateRedis) -> None:
    store = RedisStore(private_redis.room())
    lease = await held(store, "a")
    private_redis.kill()
    committing = asyncio.create_task(store.commit(lease, STEP, OK))
    await asyncio.to_thread(private_redis.start)
    assert await committing in (Won(held=True), Lost(OK, held=True))
    await store.close()


@pytest.mark.parametrize("is_down", [False, True], ids=["up", "down"])
async def test_who_is_cancelled_ends_at_once_and_the_others_go_on(private_redis: PrivateRedis, is_down: bool) -> None:
    store = RedisStore(private_redis.room())
    lease = await held(store, "a")
    enough, count = asyncio.Event(), itertools.count()

    async def write() -> None:
        while True:
            n = next(count)
            await store.commit(lease, (f"{n}",), OK)
            if n > COMMITS:
                enough.set()

    writers = [asyncio.create_task(write()) for _ in range(WRITERS)]
    await asyncio.wait_for(enough.wait(), 60)
    if is_down:
        private_redis.kill()
    for writer in writers:
        writer.cancel()
    _, pending = await asyncio.wait(writers, timeout=5)
    assert pending == set()
    assert all(writer.cancelled() for writer in writers)
    if not is_down:
        assert await store.commit(lease, STEP, OK) == Won(held=True)
    await store.close()


async def test_an_answer_waits_for_the_disk_where_that_was_asked_for(private_redis: PrivateRedis) -> None:
    told = str(private_redis.execute("INFO", "server"))
    version = tuple(int(part) for part in re.findall(r"redis_version'?:\s*'?(\d+)\.(\d+)", told)[0])
    store = RedisStore(private_redis.room(redis_wait_aof=1))
    if version < (7, 2):
        with pytest.raises(ConfigurationError, match=r"needs Redis 7\.2"):
            await store.claim(claim("a"))
    else:
        assert await store.commit(await held(store, "a"), STEP, OK) == Won(held=True)
        private_redis.execute("CONFIG", "SET", "appendonly", "no")
        with pytest.raises(ConfigurationError, match="appendonly yes"):
            await RedisStore(private_redis.room(redis_wait_aof=1)).claim(claim("a"))
    await store.close()


def test_of_several_processes_each_run_is_one_ones_and_each_outcome_one_ones(redis_url: str) -> None:
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", PROCESS, redis_url, str(me)],
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
        lines = [json.loads(line) for process in processes for line in process.communicate(timeout=60)[0].splitlines()]
    finally:
        for process in processes:
            process.kill()
            process.wait(30)
    claims, commits = defaultdict(list), defaultdict(list)
    for kind, run, *rest in lines:
        if kind == "claim":
            claims[run].append(rest[0])
        else:
            commits[run, rest[0]].append((rest[1], rest[2]))
    assert {tuple(sorted(answers)) for answers in claims.values()} == {("Busy", "Busy", "Started")}
    assert (len(claims), len(commits)) == (12, 144)
    for answers in commits.values():
        assert sorted(name for name, _ in answers) == ["Lost", "Lost", "Won"]
        assert len({value for _, value in answers}) == 1, "all adopt the outcome that was first"


def test_the_command_line_reads_runs_from_redis(redis_url: str) -> None:
    async def run() -> None:
        store = RedisStore(redis_url)
        await store.commit(await held(store, "a"), BODY, OK)
        await store.close()

    asyncio.run(run())
    command = [sys.executable, "-m", "idioteque", "runs", "list", "--store", redis_url, "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert [(run["id"], run["status"]) for run in json.loads(done.stdout)] == [(RUN, "completed")]


async def test_a_server_that_stays_away_is_an_error_of_the_store(
    unused_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(under, "RECONNECT_S", 0.2)
    store = RedisStore(f"redis://127.0.0.1:{unused_port}/0")
    with pytest.raises(DatabaseError, match=f"127.0.0.1:{unused_port}"):
        await store.claim(claim("a"))
    await store.close()


async def test_scripts_that_the_server_has_forgotten_are_sent_again(private_redis: PrivateRedis) -> None:
    store = RedisStore(private_redis.room())
    lease = await held(store, "a")
    private_redis.execute("SCRIPT", "FLUSH")
    assert await store.commit(lease, STEP, OK) == Won(held=True)
    assert started(await store.claim(claim("a"))).outcomes[0].path == STEP
    await store.close()


async def test_a_server_that_may_throw_runs_away_is_refused(private_redis: PrivateRedis) -> None:
    private_redis.execute("CONFIG", "SET", "maxmemory-policy", "allkeys-lru")
    store = RedisStore(private_redis.room())
    with pytest.raises(ConfigurationError, match=r"allkeys-lru.*noeviction"):
        await store.claim(claim("a"))
    private_redis.execute("CONFIG", "SET", "maxmemory-policy", "noeviction")
    assert isinstance(await store.claim(claim("a")), Started), "mended, and asked again"
    await store.close()


async def test_a_server_without_memory_is_full_and_keeps_what_it_has(private_redis: PrivateRedis) -> None:
    store = RedisStore(private_redis.room())
    lease = await held(store, "a")
    private_redis.execute("CONFIG", "SET", "maxmemory", "1")
    with pytest.raises(DatabaseFull):
        await store.commit(lease, STEP, OK)
    private_redis.execute("CONFIG", "SET", "maxmemory", "0")
    assert await store.commit(lease, STEP, OK) == Won(held=True)
    await store.close()


async def test_a_replica_is_not_written_to(private_redis: PrivateRedis, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(under, "RECONNECT_S", 0.2)
    store = RedisStore(private_redis.room())
    lease = await held(store, "a")
    private_redis.execute("CONFIG", "SET", "replica-serve-stale-data", "yes")
    private_redis.execute("REPLICAOF", "127.0.0.1", "1")
    with pytest.raises(DatabaseError):
        await store.commit(lease, STEP, OK)
    private_redis.execute("REPLICAOF", "NO", "ONE")
    assert await store.commit(lease, STEP, OK) == Won(held=True)
    await store.close()


async def test_only_a_run_that_has_ended_is_forgotten_and_then_its_traces_too(redis_server: RedisServer) -> None:
    url = f"redis://{redis_server.url.removeprefix('redis://')}?prefix={redis_server.prefix()}&retention=1s"
    store, prefix = RedisStore(url), url.partition("prefix=")[2].partition("&")[0]
    open_run, ended = await held(store, "a"), await held(store, "b", run="run_2")
    await store.commit(ended, BODY, OK)
    assert redis_server.execute("PTTL", f"{prefix}:{{{RUN}}}") == -1
    deadline_s = SystemClock().monotonic_s() + 30
    while await store.get("run_2") is not None:
        assert SystemClock().monotonic_s() < deadline_s
    assert [run.run_id for run in await store.list()] == [RUN]
    assert await store.commit(open_run, BODY, FAILURE) == Won(held=False)
    assert await store.reopen(RUN) == 1
    assert redis_server.execute("PTTL", f"{prefix}:{{{RUN}}}") == -1, "it goes on: it is kept"
    await store.close()


async def test_the_keys_of_a_script_lie_in_one_slot_of_a_cluster() -> None:
    server = PrivateRedis.create(cluster_enabled="yes", cluster_port=str(free_port()))
    try:
        server.execute("CLUSTER", "ADDSLOTSRANGE", 0, 16383)
        store = RedisStore(server.room())
        lease = await held(store, "a")
        await store.watch(lease, STEP, ["paid"], b"{}")
        assert len((await store.arrive("evt_9", "paid", b"{}"))[1]) == 1
        assert await store.occupy("a {name} }", RUN, until_end=True) == RUN
        assert await store.occupy("a {name} }", "run_2", until_end=True) == RUN
        assert await store.commit(lease, BODY, OK) == Won(held=False)
        assert [run.status for run in await store.list(status="completed")] == ["completed"]
        await store.close()
    finally:
        server.remove()


async def test_a_dismissal_expires_with_the_retention(redis_server: RedisServer) -> None:
    url = redis_server.room() + "&retention=1h"
    store, prefix = RedisStore(url), url.partition("prefix=")[2].partition("&")[0]
    assert await store.occupy("n", RUN, until_end=True) == RUN
    assert await store.occupy("n", "run_2", until_end=True) == RUN
    keys = [f"{prefix}:name:{{n}}:dismissed:run_2", f"{prefix}:{{run_2}}:dismissed"]
    assert all(3_590_000 < redis_server.execute("PTTL", key) <= 3_600_000 for key in keys)
    for key in keys:
        redis_server.execute("DEL", key)
    await store.commit(await held(store, "a"), BODY, OK)
    assert await store.occupy("n", "run_2", until_end=True) == "run_2"
    await store.close()


async def test_workers_whose_clocks_disagree_agree_on_leases(redis_url: str) -> None:
    early, late = RedisStore(redis_url, Skewed(-3_600_000)), RedisStore(redis_url, Skewed(3_600_000))
    lease = await held(early, "a")
    busy = await late.claim(claim("b", message="msg_2"))
    assert isinstance(busy, Busy)
    assert 0 < busy.remaining_ms <= LEASE_MS
    assert list(await early.renew([lease], LEASE_MS)) == [True]
    await asyncio.gather(early.close(), late.close())


async def test_a_death_between_the_end_and_the_index_is_mended_by_who_asks_again(redis_url: str) -> None:
    store = RedisStore(redis_url)
    lease = await held(store, "a")
    await store._server.run(store._scripts.commit, store._index.key_of(RUN), "", 60_000, "", lease.token, "", 0, b"no")
    assert [run.status for run in await store.list()] == ["failed"]
    assert await store.list(status="running") == []
    assert [run.run_id for run in await store.list(status="failed")] == [RUN]
    assert await store.commit(Lease(RUN, lease.token), BODY, FAILURE) != Stale()
    await store.close()


@pytest.mark.parametrize("query", ["redis_wait_aof=2", "retention=never", "retention=0s", "prefix=", "prefix={a}"])
def test_a_url_that_asks_in_vain_is_refused(query: str) -> None:
    with pytest.raises(ConfigurationError):
        open_store(f"redis://127.0.0.1:6379/0?{query}")


def test_a_missing_driver_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "redis" or ".stores.redis" in name]:
        monkeypatch.delitem(sys.modules, name)
    real = builtins.__import__

    def missing(name: str, *args: object, **kwargs: object) -> object:
        if name.partition(".")[0] == "redis":
            raise ModuleNotFoundError(name)
        return real(name, *args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(builtins, "__import__", missing)
    with pytest.raises(MissingExtra, match=r"idioteque\[redis\]"):
        open_store("rediss://127.0.0.1:6379/0")


@pytest.mark.parametrize("mode", ["inline", "isolated"])
async def test_a_worker_runs_its_functions_from_redis(redis_url: str, mode: Literal["inline", "isolated"]) -> None:
    dispatcher = InlineDispatcher()
    worker = Worker(events_schema=Order, store=redis_url, dispatcher=dispatcher)
    effects: Counter[str] = Counter()

    async def effect(name: str) -> str:
        effects[name] += 1
        return name

    @worker.function("f", on="order", singleton="id", timeout="1h")
    async def f(event: Order, ctx: Context) -> list[str]:
        both = await asyncio.gather(*(ctx.execute(name, effect, name) for name in "ab"))
        await ctx.sleep("moment", 1)
        return [*both, await ctx.execute("c", effect, "c")]

    dispatcher.mount(worker, mode=mode)
    published = await worker.publish(Order())
    assert await worker.runs.result(published.run_id("f"), timeout=60) == ["a", "b", "c"]
    await dispatcher.close()
    await worker.store.close()
    assert effects == {"a": 1, "b": 1, "c": 1}


async def test_a_run_that_expired_by_itself_is_forgotten_by_the_next_purge(redis_server: RedisServer) -> None:
    clock = ManualClock()
    store = RedisStore(redis_server.room(retention="1d"), clock)
    await store.commit(await held(store, "a"), BODY, OK)
    redis_server.execute("DEL", store._index.key_of(RUN))  # as the server does when the time is over
    await clock.advance(2)
    assert await store.purge(clock.now_ms(), 10) == 0
    assert await store._index.ended(clock.now_ms(), 0, 10) == []
    assert await store._server.run(store._scripts.page, store._index._key, "all", "", "", 10) == []
    await store.close()


async def stored(worker: Worker, run_id: str, status: str | None) -> bool:
    run = await worker.runs.get(run_id)
    return (None if run is None else run.status) == status


async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    give_up_s = SystemClock().monotonic_s() + 30
    while not await condition():
        assert SystemClock().monotonic_s() < give_up_s


async def test_a_run_that_nothing_holds_is_woken_and_goes_after_its_retention(redis_url: str) -> None:
    clock = ManualClock()
    dispatcher = InlineDispatcher(clock=clock)
    store = RedisStore(redis_url, clock)
    worker = Worker(events_schema=Order, store=store, dispatcher=dispatcher, clock=clock, retention="2d")

    @worker.function("f", on="order")
    async def f(event: Order, ctx: Context) -> str:
        await ctx.sleep("nap", "1h")
        return "awake"

    dispatcher.mount(worker)
    run_id = (await worker.publish(Order())).run_id("f")
    await until(lambda: stored(worker, run_id, "waiting"))
    await dispatcher.close()  # its message is gone
    await clock.advance(3 * 3600)
    assert [run.id for run in await worker.runs.stalled()] == [run_id]
    await worker.runs.repair(run_id)
    await until(lambda: stored(worker, run_id, "completed"))
    assert await worker.runs.stalled() == []

    await clock.advance(3 * 86_400)
    later = (await worker.publish(Order(id="2"))).run_id("f")
    await until(lambda: stored(worker, later, "waiting"))
    await until(lambda: stored(worker, run_id, None))
    assert await worker.runs.get(later) is not None
    await dispatcher.close()
    await store.close()
