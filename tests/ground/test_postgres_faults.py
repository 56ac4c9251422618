"""PostgreSQL that fails: sessions that are killed at every statement, cut connections, and servers that crash."""

from __future__ import annotations

import asyncio
import contextlib
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import psycopg
import pytest

from idioteque.database import Row, SqlValue, Transaction
from idioteque.database.postgres import PostgresDatabase
from idioteque.errors import CommitUnknown, DatabaseError
from idioteque.store import Claim, Finished, Go, Lease, Lost, NewRun, Outcome, Started, Trouble, Unknown, Won
from idioteque.stores import SqlStore
from tests.ground.test_postgres import CREATE, count, counters
from tests.ground.test_sqlite import Held, insert, texts
from tests.services import PrivatePostgres, wait_until
from tests.workers import until

T = TypeVar("T")
KILL = "SELECT pg_terminate_backend(pg_backend_pid())"
OK = Outcome(True, b"1")


@pytest.fixture
async def database(postgres_url: str) -> AsyncIterator[PostgresDatabase]:
    opened = PostgresDatabase(postgres_url)
    await opened.write(lambda tx: tx.script(CREATE))
    yield opened
    await opened.close()


# ---- sessions that are killed


async def test_a_group_whose_session_is_killed_is_run_again_once(database: PostgresDatabase) -> None:
    kills = iter([True, True])

    def killed(tx: Transaction) -> None:
        count("a")(tx)
        if next(kills, False):
            tx.execute(KILL)

    held = Held(database)  # type: ignore[arg-type]
    await held.begun()
    writes = asyncio.gather(*(database.write(one) for one in (count("b"), killed, count("b"), insert("x"))))
    await asyncio.sleep(0)
    await held.let_go()
    await writes
    assert await database.read(counters) == {"a": 1, "b": 2}
    assert await database.read(texts) == ["x"]


async def test_an_operation_that_always_kills_its_session_fails_in_the_end(database: PostgresDatabase) -> None:
    def poison(tx: Transaction) -> None:
        count("a")(tx)
        tx.execute(KILL)

    with pytest.raises(DatabaseError):
        await database.write(poison)
    with pytest.raises(DatabaseError):
        await database.read(lambda tx: tx.execute(KILL))
    await database.write(count("b"))
    assert await database.read(counters) == {"a": 0, "b": 1}


async def test_sessions_that_were_killed_while_idle_are_replaced_unnoticed(
    database: PostgresDatabase, postgres_url: str
) -> None:
    await asyncio.gather(*(database.read(texts) for _ in range(10)))
    with psycopg.connect(postgres_url, autocommit=True) as admin:
        idle = "application_name = 'idioteque' AND state = 'idle'"
        admin.execute(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE {idle}".encode())
    await database.write(count("a"))
    assert await asyncio.gather(*(database.read(counters) for _ in range(10))) == [{"a": 1, "b": 0}] * 10


class Killing:
    """A database whose every operation has its session killed before its first statement, then before its second, …"""

    def __init__(self, database: PostgresDatabase) -> None:
        self._database = database
        self.kills = 0

    async def write(self, operation: Callable[[Transaction], T], *, is_long: bool = False) -> T:
        return await self._database.write(self._killed(operation))

    async def read(self, operation: Callable[[Transaction], T]) -> T:
        return await self._database.read(self._killed(operation))

    async def close(self) -> None:
        await self._database.close()

    def _killed(self, operation: Callable[[Transaction], T]) -> Callable[[Transaction], T]:
        survives = iter(range(1000))

        def killed(tx: Transaction) -> T:
            dying = DyingTransaction(tx, next(survives))
            result = operation(dying)
            if dying.left == 0:  # it has survived all its statements, so now behind the last one
                self.kills += 1
                tx.execute(KILL)
            return result

        def counted(tx: Transaction) -> T:
            try:
                return killed(tx)
            except psycopg.Error:
                self.kills += 1
                raise

        return counted


class DyingTransaction:
    """A transaction that survives so many statements."""

    def __init__(self, tx: Transaction, left: int) -> None:
        self._tx = tx
        self.left = left
        self.lock_row, self.lock_rows, self.now_ms = tx.lock_row, tx.lock_rows, tx.now_ms
        self.writers_take_turns = tx.writers_take_turns

    def execute(self, sql: str, parameters: Mapping[str, SqlValue] | None = None) -> list[Row]:
        self._live()
        return self._tx.execute(sql, parameters)

    def changed(self, sql: str, parameters: Mapping[str, SqlValue]) -> int:
        self._live()
        return self._tx.changed(sql, parameters)

    def execute_many(self, sql: str, parameters: Any) -> None:
        self._live()
        self._tx.execute_many(sql, parameters)

    def script(self, sql: str) -> None:
        self._tx.script(sql)

    def _live(self) -> None:
        if self.left == 0:
            self._tx.execute(KILL)
        self.left -= 1


async def test_a_run_lives_through_the_death_of_the_session_at_every_statement(
    database: PostgresDatabase, postgres_url: str
) -> None:
    await SqlStore(database).list()  # makes the tables
    killing = Killing(database)
    store = SqlStore(killing)

    new = NewRun("evt_1", "pay", b"{}")
    assert await store.claim(Claim("run_0", "a", "msg_0", 0, 10_000)) == Unknown()
    started = await store.claim(Claim("run_1", "a", "msg_1", 0, 10_000, new))
    assert isinstance(started, Started)
    lease = Lease("run_1", started.token)
    assert await store.begin(lease, ("one",)) == Go(0)
    assert await store.fail(lease, ("one",), 1, 5, "no") == Go(1)
    assert await store.commit(lease, ("one",), OK) == Won(held=True)
    await store.schedule(lease, ("two",), 1000, "an event")
    await store.watch(lease, ("two",), ["paid"], b"{}")
    letter, watchers = await store.arrive("evt_9", "paid", b"{}")
    assert [each.path for each in watchers] == [("two",)]
    assert list(await store.letters(["paid"], 0)) == [letter]
    assert await store.take("run_1", ("two",), "evt_9", OK) == Won(held=False)
    await store.unwatch("run_1", ("two",))
    await store.sent(lease, [("three",)])
    assert await store.occupy("name", "run_1", until_end=True) == "run_1"
    assert await store.latest("name 2", "evt_1", 5, "run_1") == "evt_1"
    assert list(await store.renew([lease], 10_000)) == [True]
    await store.trouble("run_1", Trouble("dead_letter", "no"))
    assert await store.release(lease, "suspended") is not None
    again = await store.claim(Claim("run_1", "b", "msg_2", 0, 10_000))
    assert isinstance(again, Started)
    assert [(one.path, one.outcome, one.seq) for one in again.outcomes] == [(("one",), OK, 1), (("two",), OK, 2)]
    assert await store.commit(Lease("run_1", again.token), (), Outcome(False, b"no")) == Won(held=False)
    assert await store.reopen("run_1") == 1
    assert await store.cancel("run_1") == "cancelled"
    assert await store.claim(Claim("run_1", "c", "msg_3", 0, 10_000)) == Finished("cancelled", None, "pay")
    record = await store.get("run_1")
    assert record is not None
    assert [(step.path, step.seq) for step in record.steps] == [(("one",), 1), (("two",), 2)]
    assert [run.run_id for run in await store.list()] == ["run_1"]
    assert killing.kills > 60


# ---- connections that are cut around a commit


class Cutting:
    """A way to a server that cuts the next connection on which a commit comes, when it is armed: `before` the server
    gets it, or `after` so that only the answer is lost."""

    def __init__(self, url: str) -> None:
        port = re.search(r":(\d+)/", url)
        assert port
        self._server_port = int(port[1])
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = url.replace(f":{port[1]}/", f":{self._listener.getsockname()[1]}/")
        self.armed: str | None = None
        self.cuts = 0
        self._sockets = [self._listener]
        self._threads: list[threading.Thread] = []
        self._start(self._accept)

    def _start(self, what: Callable[..., None], *args: object) -> None:
        thread = threading.Thread(target=what, args=args)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                server = socket.create_connection(("127.0.0.1", self._server_port))
                self._sockets += [client, server]
                self._start(self._requests, client, server)
                self._start(self._answers, client, server)

    def _requests(self, client: socket.socket, server: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while raw := client.recv(65536):
                if self.armed and b"; COMMIT" in raw:
                    how, self.armed = self.armed, None
                    self.cuts += 1
                    end(client)
                    if how == "after":
                        server.sendall(raw)
                    break
                server.sendall(raw)
            server.shutdown(socket.SHUT_WR)

    def _answers(self, client: socket.socket, server: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while raw := server.recv(65536):
                client.sendall(raw)
        end(client)

    def close(self) -> None:
        for one in self._sockets:
            end(one)
        for thread in self._threads:
            thread.join(30)
        for one in self._sockets:
            one.close()


def end(one: socket.socket) -> None:
    with contextlib.suppress(OSError):
        one.shutdown(socket.SHUT_RDWR)


@pytest.fixture
def cutting(postgres_url: str) -> Iterator[Cutting]:
    way = Cutting(postgres_url)
    yield way
    way.close()


@pytest.mark.parametrize(("when", "stored"), [("before", False), ("after", True)])
async def test_a_commit_without_an_answer_is_reported_as_unknown_and_not_repeated(
    database: PostgresDatabase, cutting: Cutting, when: str, stored: bool
) -> None:
    far = PostgresDatabase(cutting.url)
    await far.write(lambda tx: tx.execute("SELECT 1"))
    cutting.armed = when
    with pytest.raises(CommitUnknown, match="ask again"):
        await far.write(count("a"))

    async def arrived() -> bool:
        return (await database.read(counters))["a"] == int(stored)

    await until(arrived, 20, "the server to commit, or not")
    await far.write(count("b"))
    assert await database.read(counters) == {"a": int(stored), "b": 1}
    assert cutting.cuts == 1
    await far.close()


@pytest.mark.parametrize("when", ["before", "after"])
async def test_a_store_operation_whose_commit_got_no_answer_is_repeated_without_harm(
    cutting: Cutting, when: str
) -> None:
    store = SqlStore(cutting.url)
    await store.list()

    async def repeated(operation: Callable[[], Any]) -> Any:
        cutting.armed = when
        answer = await operation()  # by the store itself
        assert cutting.armed is None, "the commit was not cut"
        return answer

    claim = Claim("run_1", "a", "msg_1", 0, 10_000, NewRun("evt_1", "pay", b"{}"))
    started = await repeated(lambda: store.claim(claim))
    assert isinstance(started, Started)
    assert started.token == 1
    lease = Lease("run_1", started.token)
    assert await repeated(lambda: store.begin(lease, ("one",), at_most_once=True)) == Go(0)
    answer = await repeated(lambda: store.commit(lease, ("one",), OK))
    assert answer == (Won(held=True) if when == "before" else Lost(OK, held=True))
    answer = await repeated(lambda: store.commit(lease, (), OK))
    assert answer == (Won(held=False) if when == "before" else Lost(OK, held=False))
    await store.close()


# ---- servers that crash

WRITER = """
import asyncio, sys
from idioteque.database import open_database
from idioteque.errors import DatabaseError

async def main(url, start):
    database = open_database(url)
    async def write(first):
        for n in range(first, 10**9, 20):
            try:
                await database.write(lambda tx: tx.execute("INSERT INTO numbers VALUES (:n)", {"n": n}))
            except DatabaseError:
                continue
            sys.stdout.write(f"{n}\\n")
            sys.stdout.flush()
    await asyncio.gather(*(write(start + n) for n in range(20)))

asyncio.run(main(sys.argv[1], int(sys.argv[2])))
"""


def test_a_server_that_crashes_under_load_keeps_all_that_was_answered(
    private_postgres: PrivatePostgres, tmp_path: Path
) -> None:
    url = private_postgres.create_schema()
    room = url.rpartition("%3D")[2]
    private_postgres.execute(f"CREATE TABLE {room}.numbers (n BIGINT PRIMARY KEY)")
    files = [tmp_path / "one", tmp_path / "two"]

    def answered() -> list[int]:
        return [int(line) for path in files for line in path.read_text().split("\n")[:-1]]

    writers = []
    for n, path in enumerate(files):
        with path.open("wb") as output:
            command = [sys.executable, "-c", WRITER, url, str(n * 1_000_000)]
            writers.append(subprocess.Popen(command, stdout=output))
    try:
        for _ in range(3):
            seen = len(answered())
            wait_until(lambda seen=seen: len(answered()) > seen + 300, 30, "the writers to go on")  # type: ignore[misc]
            private_postgres.kill()
            private_postgres.start()
        seen = len(answered())
        wait_until(lambda: len(answered()) > seen + 300, 30, "the writers to go on")
        for writer in writers:
            assert writer.poll() is None
            writer.send_signal(signal.SIGKILL)
            writer.wait(30)
    finally:
        for writer in writers:
            writer.kill()
    stored = {row[0] for row in private_postgres.execute(f"SELECT n FROM {room}.numbers")}
    assert set(answered()) <= stored
    assert len(answered()) > 1200
    private_postgres.drop_schema(url)
