"""Restarts, leases, full disks, and destinations that come back."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import pytest

from idioteque.database import Transaction, open_database
from idioteque.errors import ConnectFailed, ConnectionCut, DatabaseFull
from idioteque.server.config import ServerConfig
from idioteque.testing import ManualClock
from idioteque.transport import HttpRequest
from tests.server.house import SHOP, House, open_house

T = TypeVar("T")


def path_url(directory: Path) -> str:
    return f"sqlite:///{directory / 'server.db'}"


async def test_a_restart_resumes_everything(tmp_path: Path) -> None:
    clock = ManualClock()
    async with open_house([500], database=open_database(path_url(tmp_path), threads=False), clock=clock) as house:
        retrying = await house.publish()
        waiting = await house.publish("https://later.test/", delay="1h")
    async with open_house(database=open_database(path_url(tmp_path), threads=False), clock=clock) as house:
        await clock.advance(3700)
        assert [(r.header("Upstash-Message-Id"), r.header("Upstash-Retried")) for r in house.wire.requests] == [
            (retrying, "1"),
            (waiting, "0"),
        ]
        assert (await house.states(retrying))[-1] == (await house.states(waiting))[-1] == "DELIVERED"


async def test_a_lease_lost_to_a_crash_is_not_counted_as_an_attempt(tmp_path: Path) -> None:
    clock = ManualClock()
    database = open_database(path_url(tmp_path), threads=False)

    async def never(_: HttpRequest) -> int:
        await asyncio.Event().wait()
        return 200

    async with open_house(never, database=database, clock=clock) as house:
        message_id = await house.publish(retries="0")
        assert len(house.wire.requests) == 1
        as_at_a_crash = shutil.copytree(tmp_path, tmp_path / "copy")
    async with open_house([500], database=open_database(path_url(as_at_a_crash), threads=False), clock=clock) as house:
        await clock.settle()
        (request,) = house.wire.requests
        assert request.header("Upstash-Retried") == "0"
        assert await house.states(message_id) == ["CREATED", "ACTIVE", "ACTIVE", "ERROR", "FAILED"]


async def test_a_stop_waits_for_attempts_and_hands_back_those_that_take_too_long(tmp_path: Path) -> None:
    clock = ManualClock()

    async def answer(request: HttpRequest) -> int:
        await clock.sleep(3 if "quick" in request.url else 3600)
        return 200

    house: House
    async with open_house(answer, database=open_database(path_url(tmp_path), threads=False), clock=clock) as house:
        quick = await house.publish("https://quick.test/")
        slow = await house.publish("https://slow.test/")
        stopping = asyncio.ensure_future(house.server.stop())
        await clock.advance(house.server.config.drain_s)
        await stopping
    async with open_house(database=open_database(path_url(tmp_path), threads=False), clock=clock) as house:
        await clock.settle()
        assert [r.header("Upstash-Message-Id") for r in house.wire.requests] == [slow]
        assert house.wire.requests[0].header("Upstash-Retried") == "0"
        assert (await house.states(quick))[-1] == "DELIVERED"


async def test_an_attempt_that_takes_minutes_keeps_its_lease() -> None:
    async def answer(request: HttpRequest) -> int:
        await house.clock.sleep(600)
        return 200

    async with open_house(answer) as house:
        message_id = await house.publish()
        await house.clock.advance(700)
        assert len(house.wire.requests) == 1
        assert await house.states(message_id) == ["CREATED", "ACTIVE", "DELIVERED"]


async def test_a_message_whose_lease_ran_out_unnoticed_is_not_sent_twice_by_its_own_holder() -> None:
    async def answer(request: HttpRequest) -> int:
        await house.clock.sleep(100)
        return 500

    async with open_house(answer, config=ServerConfig(lease_s=30)) as house:
        house.server.deliverer.renew = lambda: asyncio.sleep(0, 0)  # type: ignore[method-assign]
        message_id = await house.publish(retries="0")
        await house.clock.advance(300)
        assert len(house.wire.requests) == 1
        assert (await house.states(message_id))[-2:] == ["ERROR", "FAILED"]


class FullDisk:
    """A database whose disk is full for a while."""

    def __init__(self) -> None:
        self._inner = open_database("sqlite://:memory:", threads=False)
        self.full = False

    async def write(self, operation: Callable[[Transaction], T], *, is_long: bool = False) -> T:
        if self.full:
            raise DatabaseFull("no room left for the database")
        return await self._inner.write(operation)

    async def read(self, operation: Callable[[Transaction], T]) -> T:
        return await self._inner.read(operation)

    async def close(self) -> None:
        await self._inner.close()


async def test_a_full_disk_refuses_publishes_and_forgets_no_outcome() -> None:
    disk = FullDisk()

    async def answer(request: HttpRequest) -> int:
        await house.clock.sleep(1)
        return 200

    async with open_house(answer, database=disk) as house:
        message_id = await house.publish()
        await house.publish("https://later.test/", delay="5s")
        disk.full = True
        await house.clock.advance(10)
        reply = await house.call("POST", f"/v2/publish/{SHOP}")
        assert (reply.status, "no room" in reply.json["error"]) == (507, True)
        assert (await house.call("GET", "/v2/events")).status == 200
        assert 'idioteque_requests_refused_total{status="507"} 1.0' in (await house.call("GET", "/metrics")).text
        disk.full = False
        await house.clock.advance(10)
        assert len(house.wire.requests) == 2
        assert (await house.states(message_id))[-1] == "DELIVERED"
        assert house.server.deliverer.in_flight == 0
        assert (await house.call("POST", f"/v2/publish/{SHOP}")).status == 200


@pytest.mark.parametrize("failure", [ConnectFailed("refused"), ConnectionCut("reset")])
async def test_a_destination_that_comes_back_gets_its_messages_within_a_second(failure: Exception) -> None:
    down = True

    def answer(request: HttpRequest) -> Any:
        return failure if down else 200

    async with open_house(answer) as house:
        for _ in range(10):
            await house.publish()
        assert len(house.wire.requests) == 10
        await house.clock.advance(5)
        assert len(house.wire.requests) == 10
        down, house.wire.accepts_connections = False, True
        back_ms = house.clock.now_ms()
        await house.clock.advance(2)
        later = house.wire.times_ms[10:]
        assert len(later) == 10
        assert max(later) - back_ms <= 1600
        assert {r.header("Upstash-Retried") for r in house.wire.requests[10:]} == {"1"}


async def test_a_refused_destination_is_probed_again_after_a_restart(tmp_path: Path) -> None:
    clock = ManualClock()
    database = open_database(path_url(tmp_path), threads=False)
    async with open_house([ConnectFailed("refused")], database=database, clock=clock) as house:
        await house.publish()
    async with open_house(database=open_database(path_url(tmp_path), threads=False), clock=clock) as house:
        house.wire.accepts_connections = True
        await clock.advance(1)
        assert len(house.wire.requests) == 1


async def test_a_destination_that_accepts_and_cuts_does_not_burn_its_retries() -> None:
    async with open_house([ConnectionCut("reset")]) as house:
        house.wire.accepts_connections = True
        await house.publish(retries="5")
        await house.clock.advance(200)
        first_s, second_s = house.wire.gaps_s
        assert first_s <= 1  # once, for its sudden return
        assert second_s == 148  # then by the curve


async def test_a_destination_that_dies_at_every_message_is_given_more_and_more_time() -> None:
    async def come_and_go(request: HttpRequest) -> Any:
        house.wire.accepts_connections = False
        return ConnectionCut("died")

    async with open_house(come_and_go) as house:
        await house.publish(retries="100", retry_delay="86400000")
        for _ in range(600):
            await house.clock.advance(1)
            house.wire.accepts_connections = True
        assert len(house.wire.requests) <= 12


async def test_answers_with_errors_are_no_absence() -> None:
    async with open_house([503]) as house:
        house.wire.accepts_connections = True
        await house.publish()
        await house.clock.advance(11)
        assert len(house.wire.requests) == 1
