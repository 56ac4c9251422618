"""The schedules of functions with `cron=`, in a real server of this process."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from idioteque import ConfigurationError, Context, QStashDispatcher, Tick, Worker
from idioteque.dispatchers.schedules import SyncedSchedules
from idioteque.transport import HttpRequest, HttpResponse
from tests.server.house import CURRENT_KEY, NEXT_KEY, TOKEN, House, call_app, open_house

MOUNT = "https://shop.example.com/api/worker"


@pytest.fixture
async def house() -> AsyncIterator[House]:
    async with open_house() as opened:
        yield opened


class ToHouse:
    """Takes requests to the house's door."""

    def __init__(self, house: House) -> None:
        self._house = house

    async def send(self, request: HttpRequest, **_: Any) -> HttpResponse:
        target = request.url.removeprefix("https://qstash.test")
        reply = await call_app(self._house.server.app, request.method, target, list(request.headers), request.body)
        return HttpResponse(reply.status, list(reply.headers.items()), reply.text.encode())

    async def probe(self, url: str, *, timeout_s: float = 2.0) -> bool:
        return True

    async def close(self) -> None:
        return


class Shop:
    """A worker over the house, in whose time it lives."""

    def __init__(self, house: House, mount_url: str = MOUNT, **options: Any) -> None:
        self.house = house
        self.dispatcher = QStashDispatcher(
            mount_url=mount_url,
            token=TOKEN,
            url="https://qstash.test",
            current_signing_key=CURRENT_KEY,
            next_signing_key=NEXT_KEY,
            transport=ToHouse(house),
            clock=house.clock,
            **options,
        )
        self.worker = Worker(
            events_schema=dict[str, Any], store="memory:", dispatcher=self.dispatcher, clock=house.clock
        )

    def declare(self, function_id: str, cron: str) -> None:
        @self.worker.function(function_id, cron=cron)
        async def function(tick: Tick, ctx: Context) -> str:
            return tick.message_id

    async def sync(self, **options: Any) -> SyncedSchedules:
        return await self.dispatcher.sync_schedules(self.worker, **options)


async def schedules(house: House) -> dict[str, dict[str, Any]]:
    reply = await house.call("GET", "/v2/schedules")
    return {each["scheduleId"]: each for each in reply.json}


async def test_a_schedule_fires_and_the_function_runs(house: House) -> None:
    shop = Shop(house)
    shop.declare("nightly", "0 4 * * *")
    assert await shop.sync() == SyncedSchedules(created=("nightly",))
    mount = shop.dispatcher.mount(shop.worker)

    async def deliver(request: HttpRequest) -> HttpResponse:
        responses = [await mount.handle(request) for _ in range(2)]  # the answer to the first is lost
        return responses[-1]

    house.wire.answers = deliver
    await house.clock.advance(2 * 86_400)
    ticks = house.wire.sent_to(MOUNT)
    assert len(ticks) == 2
    runs = (await shop.worker.runs.list()).runs
    assert sorted(run.result for run in runs) == sorted(str(each.header("Upstash-Message-Id")) for each in ticks)
    assert await house.dead_letters() == []


async def test_what_is_right_is_left_alone_and_the_rest_brought_in_line(house: House) -> None:
    shop = Shop(house)
    shop.declare("nightly", "0 4 * * *")
    shop.declare("hourly", "0 * * * *")
    await shop.sync()
    before = await schedules(house)

    again = Shop(house)
    again.declare("nightly", "0 4 * * *")
    again.declare("weekly", "0 0 * * 0")
    planned = await again.sync(dry_run=True)
    assert await schedules(house) == before
    done = await again.sync()
    assert done == planned == SyncedSchedules(created=("weekly",), removed=("hourly",), unchanged=("nightly",))

    moved = Shop(house)
    moved.declare("nightly", "0 5 * * *")
    moved.declare("weekly", "0 0 * * 0")
    assert await moved.sync() == SyncedSchedules(updated=("nightly",), unchanged=("weekly",))
    assert await moved.sync() == SyncedSchedules(unchanged=("nightly", "weekly"))
    assert sorted(each["cron"] for each in (await schedules(house)).values()) == ["0 0 * * 0", "0 5 * * *"]


async def test_other_options_of_the_dispatcher_change_the_schedule(house: House) -> None:
    for retries, word in ((3, "created"), (3, "unchanged"), (7, "updated")):
        shop = Shop(house, retries=retries)
        shop.declare("nightly", "0 4 * * *")
        assert getattr(await shop.sync(), word) == ("nightly",)
    [schedule] = (await schedules(house)).values()
    assert schedule["retries"] == 7


async def test_schedules_of_others_and_of_other_mounts_are_never_touched(house: House) -> None:
    await house.call("POST", "/v2/schedules/https://a.test", headers={"Upstash-Cron": "0 4 * * *"})
    elsewhere = Shop(house, "https://elsewhere.example.com/worker")
    elsewhere.declare("nightly", "0 4 * * *")
    await elsewhere.sync()
    before = await schedules(house)
    assert await Shop(house).sync() == SyncedSchedules()
    assert await schedules(house) == before


async def test_one_that_was_paused_stays_paused(house: House) -> None:
    shop = Shop(house)
    shop.declare("nightly", "0 4 * * *")
    await shop.sync()
    [schedule_id] = await schedules(house)
    await house.call("PATCH", f"/v2/schedules/{schedule_id}/pause")
    changed = Shop(house)
    changed.declare("nightly", "0 5 * * *")
    assert (await changed.sync()).updated == ("nightly",)
    assert (await schedules(house))[schedule_id]["isPaused"] is True


async def test_the_longest_function_id_has_a_schedule(house: House) -> None:
    shop = Shop(house)
    shop.declare("n" * 100, "0 4 * * *")
    assert (await shop.sync()).created == ("n" * 100,)
    assert (await shop.sync()).unchanged == ("n" * 100,)


async def test_without_a_token_nothing_is_asked(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("QSTASH_TOKEN", raising=False)
    dispatcher = QStashDispatcher(mount_url=MOUNT, url="https://qstash.test", transport=ToHouse(house))
    worker = Worker(events_schema=dict[str, Any], store="memory:", dispatcher=dispatcher)
    with pytest.raises(ConfigurationError, match="QSTASH_TOKEN"):
        await dispatcher.sync_schedules(worker)
