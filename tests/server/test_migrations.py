"""A database of an earlier release is taken over with everything in it."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from importlib import resources
from pathlib import Path

from idioteque.database import open_database
from idioteque.server.app import MIGRATIONS
from idioteque.server.model import States
from idioteque.testing import ManualClock
from tests.server.house import open_house

EARLIER = (
    "0001_messages.sql", "0002_queues_and_flow_control.sql", "0003_schedules_and_url_groups.sql", "0004_activity.sql"
)  # fmt: skip

MESSAGE = """INSERT INTO messages
    (id, created_at_ms, not_before_ms, url, host, path, method, headers, body, retries_max, caller_ip, labels)
    VALUES (:id, :at_ms, :at_ms, 'https://shop.test/hook', 'shop.test', '/hook', 'POST', '', :body, 3, '', ',old,')"""
DELIVERY = """INSERT INTO deliveries (message_id, origin, visible_at_ms, token, retried, leased, cancelled, unreached)
    VALUES (:id, 'https://shop.test', :at_ms, :token, :retried, :leased, 0, 0)"""
LOG = "INSERT INTO logs (time_ms, message_id, states, status) VALUES (:at_ms, :id, :states, :status)"


def log(database: sqlite3.Connection, message_id: str, at_ms: int, states: States, status: int | None = None) -> None:
    database.execute(LOG, {"at_ms": at_ms, "id": message_id, "states": states.value, "status": status})


def fill(path: Path, now_ms: int) -> None:
    """Make a database as the release before left it: one message each that is delivered, leased, and put off."""
    with closing(sqlite3.connect(path)) as database:
        for name in EARLIER:
            database.executescript(resources.files(MIGRATIONS).joinpath(name).read_text())
        database.execute("CREATE TABLE idioteque_migrations (component TEXT, version BIGINT)")
        database.executemany("INSERT INTO idioteque_migrations VALUES ('server', ?)", [(1,), (2,), (3,), (4,)])
        begun = States.CREATED | States.ACTIVE
        for place, id_ in enumerate(("msg_delivered", "msg_leased", "msg_later")):
            database.execute(MESSAGE, {"id": id_, "at_ms": now_ms - 5000, "body": id_.encode()})
            log(database, id_, now_ms - 5000, States.CREATED if id_ == "msg_later" else begun)
            if place:
                row = {"id": id_, "at_ms": now_ms + 20_000 * place, "retried": place - 1}
                database.execute(DELIVERY, {**row, "token": 1, "leased": int(id_ == "msg_leased")})
        log(database, "msg_delivered", now_ms - 4000, States.DELIVERED, 200)
        log(database, "msg_later", now_ms - 4000, States.ACTIVE)
        log(database, "msg_later", now_ms - 4000, States.ERROR | States.RETRY, 500)
        database.commit()


async def test_a_database_of_four_migrations_goes_on_where_it_was(tmp_path: Path) -> None:
    clock, path = ManualClock(), tmp_path / "server.db"
    now_ms = clock.now_ms()
    fill(path, now_ms)
    async with open_house(database=open_database(f"sqlite:///{path}", threads=False), clock=clock) as house:
        await clock.settle()
        assert [r.body for r in house.wire.requests] == [b"msg_leased"]
        assert await house.states("msg_delivered") == ["CREATED", "ACTIVE", "DELIVERED"]
        assert await house.states("msg_leased") == ["CREATED", "ACTIVE", "ACTIVE", "DELIVERED"]
        assert await house.states("msg_later") == ["CREATED", "ACTIVE", "ERROR", "RETRY"]
        await clock.advance(41)
        assert [(r.body, r.header("Upstash-Retried")) for r in house.wire.requests[1:]] == [(b"msg_later", "1")]
        times = [entry["time"] for entry in await house.events("?label=old&order=earliestFirst")]
        assert times == sorted(times)
        assert times.count(now_ms - 5000) == 5
        assert times.count(now_ms - 4000) == 4
        new = await house.publish()
        assert await house.states(new) == ["CREATED", "ACTIVE", "DELIVERED"]
