"""`/status`, `/waiting` and `/pending`: what a server tells beyond the protocol, and that it scans no table."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from idioteque.database import Transaction, open_database
from idioteque.histogram import quantile
from idioteque.server.config import ServerConfig
from idioteque.server.core.status import COUNTED_MAX
from idioteque.server.storage.activity import count_dead_letters, count_retrying
from idioteque.server.storage.lines import waiting_for_key, waiting_in_queue
from idioteque.server.wire.filters import PENDING, PENDING_COUNT_MAX, parse_selection
from idioteque.transport import HttpRequest
from tests.server.house import READONLY, SHOP, House, open_house

MINUTES = 60


async def status(house: House) -> dict[str, object]:
    reply = await house.call("GET", "/status")
    assert reply.status == 200, reply.text
    found: dict[str, object] = reply.json
    return found


async def test_what_there_is_and_what_happened_is_told() -> None:
    async with open_house([200, 500, 500]) as house:
        await house.publish()
        await house.publish(retries="1", retry_delay="3600000")
        await house.publish(retries="0")
        await house.publish(delay="1h")
        found = await status(house)
        tables = {"messages": "messages", "logs": "logs", "deadLetters": "dead_letters"}
        for name, table in tables.items():
            rows = await house.server.database.read(lambda tx, table=table: tx.execute(f"SELECT COUNT(*) FROM {table}"))
            assert found["rows"][name] == rows[0][0] > 0, name  # type: ignore[index]
    assert (found["pending"], found["retrying"], found["deadLetters"], found["inFlight"]) == (2, 1, 1, 0)
    [stretch] = found["activity"]  # type: ignore[misc]
    assert {name: stretch[name] for name in ("accepted", "delivered", "retried", "deadLettered")} == {
        "accepted": 4, "delivered": 1, "retried": 1, "deadLettered": 1,
    }  # fmt: skip
    assert stretch["p95Seconds"] <= 0.001


async def test_a_retry_that_succeeds_or_is_cancelled_is_none_any_more() -> None:
    async with open_house([500, 500, 200]) as house:
        await house.publish(retries="1", retry_delay="1000")
        other = await house.publish(retries="1", retry_delay="3600000")
        assert (await status(house))["retrying"] == 2
        await house.clock.advance(2)
        assert (await status(house))["retrying"] == 1
        await house.call("DELETE", f"/v2/messages/{other}")
        assert (await status(house))["retrying"] == 0


async def test_the_last_day_outlives_a_restart_and_what_is_older_goes(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'server.db'}"
    async with open_house(database=open_database(url, threads=False)) as house:
        await house.publish()
        await house.clock.advance(10 * MINUTES)
        await house.publish()
        began_ms = house.clock.now_ms()
    async with open_house(database=open_database(url, threads=False)) as house:
        stretches = (await status(house))["activity"]
        assert [one["delivered"] for one in stretches] == [1, 1]  # type: ignore[attr-defined]
        await house.clock.advance((began_ms - house.clock.now_ms()) / 1000 + 86_400 - 5 * MINUTES)
        await house.publish()
        await house.server.activity.tick()
        assert [one["delivered"] for one in (await status(house))["activity"]] == [1, 1]  # type: ignore[attr-defined]
        rows = await house.server.database.read(lambda tx: tx.execute("SELECT COUNT(*) FROM activity"))
        assert rows[0][0] == 2


async def test_a_server_at_rest_writes_nothing(house: House) -> None:
    await house.publish()
    assert await house.server.activity.tick() == 1
    assert await house.server.activity.tick() == 0
    await status(house)
    assert await house.server.activity.tick() == 0


async def test_who_waits_for_a_key_is_told_in_the_order_of_their_turns() -> None:
    release = asyncio.Event()

    async def answer(request: HttpRequest) -> int:
        await release.wait()
        return 200

    async with open_house(answer) as house:
        limits = {"flow_control_key": "k", "flow_control_value": "parallelism=1"}
        sent = []
        for _ in range(3):
            sent.append(await house.publish(**limits))
            await house.clock.advance(1)
        reply = await house.call("GET", "/waiting?flowControlKey=k")
        assert [one["messageId"] for one in reply.json["waiting"]] == sent[1:]
        assert [one["place"] for one in reply.json["waiting"]] == [1, 2]
        assert (await house.call("GET", "/waiting?flowControlKey=other")).json == {"waiting": []}
        release.set()
        await house.clock.settle()
        assert (await house.call("GET", "/waiting?flowControlKey=k")).json == {"waiting": []}


async def test_what_is_in_a_queue_is_told_in_its_order(house: House) -> None:
    await house.call("POST", "/v2/queues", document={"queueName": "q", "parallelism": 1, "paused": True})
    sent = [(await house.call("POST", f"/v2/enqueue/q/{SHOP}")).json["messageId"] for _ in range(3)]
    reply = await house.call("GET", "/waiting?queueName=q")
    assert [one["messageId"] for one in reply.json["waiting"]] == sent
    assert not any(one["isUnderWay"] for one in reply.json["waiting"])


async def test_what_a_cancellation_would_find_is_told_and_is_what_it_finds() -> None:
    async with open_house([200]) as house:
        await house.publish(label="a")
        meant: list[str] = []
        for _ in range(3):
            meant.append(await house.publish(label="a", delay="1h"))
            await house.clock.advance(1)
        other = await house.publish(label="b", delay="1h")
        assert (await house.call("GET", "/pending?label=a")).json == {"pending": meant}
        assert (await house.call("GET", f"/pending?messageId={other}")).json == {"pending": [other]}
        assert (await house.call("GET", "/pending?label=a&count=2")).json == {"pending": meant[:2]}
        assert (await house.call("GET", "/pending?label=none")).json == {"pending": []}
        assert (await house.call("GET", "/pending")).json == {"pending": [*meant, other]}
        assert (await house.call("DELETE", "/v2/messages?label=a")).json == {"cancelled": 3}
        assert (await house.call("GET", "/pending")).json == {"pending": [other]}


@pytest.mark.parametrize("query", ["state=RETRY", "lable=a", "label=", "count=0", "messageIds=msg_1", "cursor=x"])
async def test_what_a_cancellation_does_not_understand_finds_nothing(house: House, query: str) -> None:
    await house.publish(delay="1h")
    assert (await house.call("GET", f"/pending?{query}")).status == 400


def test_no_more_pending_messages_are_told_than_the_bound() -> None:
    _, page = parse_selection(PENDING, "count=999999999")
    assert page.count == PENDING_COUNT_MAX


@pytest.mark.parametrize("path", ["/status", "/waiting?queueName=q", "/pending"])
async def test_a_token_is_needed_and_the_readonly_one_will_do(house: House, path: str) -> None:
    assert (await house.call("GET", path, token=None)).status == 401
    assert (await house.call("GET", path, token="wrong")).status == 401
    assert (await house.call("GET", path, token=READONLY)).status == 200
    assert (await house.call("POST", path)).status == 405


@pytest.mark.parametrize("query", ["", "?queueName=a&flowControlKey=b", "?queueName=a&other=b", "?queueName="])
async def test_one_line_is_asked_for_at_a_time(house: House, query: str) -> None:
    assert (await house.call("GET", f"/waiting{query}")).status == 400


async def test_counts_stop_at_their_bound_and_no_table_is_scanned() -> None:
    database = open_database("sqlite://:memory:", threads=False)
    async with open_house(config=ServerConfig(), database=database) as house:
        columns = "message_id, origin, visible_at_ms, token, retried, leased, cancelled, unreached"
        count = COUNTED_MAX + 500

        def fill(tx: Transaction) -> None:
            tx.execute(
                f"""WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {count})
                INSERT INTO deliveries ({columns}) SELECT 'msg_' || i, 'o', {2**61}, 0, 1, 0, 0, 0 FROM n"""
            )
            tx.execute(
                f"""WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {count})
                INSERT INTO dead_letters (id, message_id, time_ms, status, headers, body)
                SELECT 'dlq_' || i, 'msg', i, 500, '', x'' FROM n"""
            )

        await database.write(fill)
        found = await status(house)
        assert (found["retrying"], found["deadLetters"]) == (COUNTED_MAX, COUNTED_MAX)
        assert found["rows"] == {"messages": 0, "logs": 0, "deadLetters": count}
        plans = await database.read(_plans)
    scans = [line for line in plans if line.startswith("SCAN") and "CONSTANT" not in line and "some" not in line]
    assert all("USING COVERING INDEX" in line for line in scans), plans  # counted up to the bound
    assert sum("deliveries_retried" in line for line in plans) == 1, plans
    assert sum("deliveries_flow (flow_key=? AND leased=? AND visible_at_ms<?)" in line for line in plans) == 1, plans
    assert sum("deliveries_queue (queue_name=? AND holds=?)" in line for line in plans) == 2, plans
    assert not any("TEMP B-TREE" in line for line in plans), plans


def _plans(tx: Transaction) -> list[str]:
    """The query plans of everything that `/status` and `/waiting` read."""
    asked: list[str] = []

    class Explained:
        def execute(self, sql: str, parameters: dict[str, object] | None = None) -> list[tuple[object, ...]]:
            rows = tx.execute(f"EXPLAIN QUERY PLAN {sql}", parameters or {})  # type: ignore[arg-type]
            asked.extend(str(row[3]) for row in rows)
            return [(0,)] if "COUNT" in sql else []

    explained: Transaction = Explained()  # type: ignore[assignment]
    count_retrying(explained, 10)
    count_dead_letters(explained, 10)
    waiting_for_key(explained, "k", 1, 10)
    waiting_in_queue(explained, "q", 10)
    return asked


def test_a_quantile_lies_where_the_values_do() -> None:
    bounds = (1.0, 2.0, 4.0)
    assert quantile(bounds, (), 0.5) is None
    assert quantile(bounds, (0, 0, 0, 0), 0.5) is None
    assert quantile(bounds, (4, 0, 0, 0), 0.5) == 0.5
    assert quantile(bounds, (1, 1, 2, 0), 0.75) == 3.0
    assert quantile(bounds, (0, 0, 0, 5), 0.5) == 4.0
