"""Runs that nothing holds are found and mended; runs that ended long ago are deleted, by deliveries that come later."""

from __future__ import annotations

import logging
from datetime import UTC, datetime, timedelta
from typing import cast

import pytest

from idioteque import ConfigurationError, Context, InlineDispatcher, InvalidValue, Run, RunUnknown, Worker
from idioteque.store import Store
from idioteque.stores import MemoryStore
from idioteque.testing import ManualClock
from tests.library.engine.rig import STORES, Order, Rig


@pytest.fixture(params=STORES)
def rig(request: pytest.FixtureRequest) -> Rig:
    return Rig(request.param)


async def sleeper(rig: Rig, *, isolate: bool = False) -> str:
    """Publish an event whose run sleeps an hour, and let its message be deleted."""

    @rig.worker.function("f", on="order")
    async def f(event: Order, ctx: Context) -> str:
        if isolate:
            return await ctx.execute("alone", rig.effect, "alone", isolate=True)
        await ctx.sleep("nap", "1h")
        return "awake"

    rig.mount()
    published = await rig.worker.publish(Order())
    await rig.clock.advance(5)
    await rig.dispatcher.close()
    return published.run_id("f")


async def stalled(rig: Rig) -> list[Run]:
    return list(await rig.worker.runs.stalled())


async def test_a_run_whose_message_was_deleted_is_found_and_goes_on_when_it_is_repaired(
    rig: Rig, caplog: pytest.LogCaptureFixture
) -> None:
    run_id = await sleeper(rig)
    await rig.clock.advance(3600)
    assert await stalled(rig) == [], "it was asleep a moment ago"
    await rig.clock.advance(3601)
    assert [run.id for run in await stalled(rig)] == [run_id]

    await rig.worker.runs.repair(run_id)
    assert [record.levelno for record in caplog.records if run_id in record.getMessage()] == [logging.ERROR]
    await rig.finish()
    assert await rig.worker.runs.result(run_id) == "awake"
    assert await stalled(rig) == []


async def test_repairing_is_one_message_within_an_hour(rig: Rig) -> None:
    run_id = await sleeper(rig)
    await rig.clock.advance(3 * 3600)
    before = len(rig.dispatcher.sent)
    for _ in range(3):
        await rig.worker.runs.repair(run_id)
    assert len({message.deduplication_id for message in rig.dispatcher.sent[before:]}) == 1
    await rig.clock.advance(3600)
    await rig.finish()
    assert await rig.worker.runs.result(run_id) == "awake"


async def test_the_message_of_a_step_of_its_own_is_sent_again(rig: Rig) -> None:
    rig.faults.fail_on = {("claim", n) for n in range(3, 40)}  # the step's delivery never gets hold of it
    run_id = await sleeper(rig, isolate=True)
    rig.faults.fail_on = set()
    await rig.clock.advance(2 * 3600)
    assert [run.id for run in await stalled(rig)] == [run_id]

    await rig.worker.runs.repair(run_id)
    await rig.finish()
    assert await rig.worker.runs.result(run_id) == "alone"


async def test_only_an_unfinished_run_is_repaired(rig: Rig) -> None:
    @rig.worker.function("f", on="order")
    async def f(event: Order, ctx: Context) -> str:
        return "done"

    run = await rig.run()
    with pytest.raises(InvalidValue, match="completed"):
        await rig.worker.runs.repair(run.id)
    with pytest.raises(RunUnknown):
        await rig.worker.runs.repair("run_none")


async def test_what_to_look_for_is_checked(rig: Rig) -> None:
    with pytest.raises(InvalidValue, match="time zone"):
        await rig.worker.runs.stalled(before=datetime(2030, 1, 1))  # noqa: DTZ001 - the mistake
    with pytest.raises(InvalidValue, match="limit"):
        await rig.worker.runs.stalled(limit=0)
    now = datetime.fromtimestamp(rig.clock.now_ms() / 1000, UTC)
    assert await rig.worker.runs.stalled(before=now + timedelta(days=9)) == []


class Plain:
    """A store that keeps what is promised, and nothing else."""

    def __init__(self, clock: ManualClock) -> None:
        self._inner = MemoryStore(clock)
        for name in ("claim", "commit", "release", "renew", "get", "list", "arrive", "close"):
            setattr(self, name, getattr(self._inner, name))


async def test_a_store_that_does_not_look_after_old_runs_says_so_and_works() -> None:
    clock = ManualClock()
    dispatcher = InlineDispatcher(clock=clock)
    worker = Worker(events_schema=Order, store=cast(Store, Plain(clock)), dispatcher=dispatcher, clock=clock)

    @worker.function("f", on="order")
    async def f(event: Order, ctx: Context) -> str:
        return "done"

    dispatcher.mount(worker)
    published = await worker.publish(Order())
    await clock.settle()
    assert await worker.runs.result(published.run_id("f")) == "done"
    with pytest.raises(ConfigurationError, match="Plain"):
        await worker.runs.stalled()


# ---- retention


def worker_that_keeps(rig: Rig, retention: str | None) -> Worker:
    return Worker(
        events_schema=Order,
        store=cast(Store, rig.store),
        dispatcher=rig.dispatcher,
        clock=rig.clock,
        retention=retention,
    )


@pytest.mark.parametrize(("retention", "is_kept"), [("30d", False), ("60d", True), (None, True)])
async def test_a_run_is_deleted_by_a_delivery_after_its_retention(
    rig: Rig, retention: str | None, is_kept: bool
) -> None:
    worker = worker_that_keeps(rig, retention)

    @worker.function("f", on="order")
    async def f(event: Order, ctx: Context) -> None:
        if event.id == "sleeps":
            await ctx.sleep("long", "100d")

    rig.dispatcher.mount(worker)
    ended = (await worker.publish(Order())).run_id("f")
    unfinished = (await worker.publish(Order(id="sleeps"))).run_id("f")
    await rig.clock.advance(40 * 86_400)
    await worker.publish(Order(id="later"))
    await rig.clock.advance(1)

    assert (await worker.runs.get(ended) is not None) == is_kept
    assert await worker.runs.get(unfinished) is not None


async def test_old_runs_are_looked_for_once_an_hour(rig: Rig) -> None:
    worker = worker_that_keeps(rig, "1s")

    @worker.function("f", on="order")
    async def f(event: Order, ctx: Context) -> None:
        return None

    rig.dispatcher.mount(worker)
    for _ in range(5):
        await worker.publish(Order())
        await rig.clock.advance(60)
    assert len((await worker.runs.list()).runs) == 5
    await rig.clock.advance(3600)
    await worker.publish(Order())
    await rig.clock.advance(1)
    assert len((await worker.runs.list()).runs) == 1


async def test_a_store_that_cannot_delete_fails_no_delivery(rig: Rig, caplog: pytest.LogCaptureFixture) -> None:
    async def purge(before_ms: int, limit: int) -> int:
        raise OSError("the disk is full")

    rig.store.purge = purge  # type: ignore[attr-defined]

    @rig.worker.function("f", on="order")
    async def f(event: Order, ctx: Context) -> str:
        return "done"

    assert (await rig.run()).result == "done"
    assert rig.dispatcher.dead_letters == []
    assert "the disk is full" in caplog.text
