"""Code that does not let go: refusals caught over and over, threads that outlive their delivery, lost answers."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any, TypeVar

import pytest

from idioteque import Context, Retry
from idioteque.database import Transaction, open_database
from idioteque.dispatcher import EventEnvelope
from idioteque.engine import Delivery, inline
from idioteque.errors import CommitUnknown
from idioteque.store import Claim, Lease, Lost, NewRun, Outcome, Started, Store
from idioteque.stores import SqlStore
from tests.library.engine.rig import STORES, Order, Rig

T = TypeVar("T")
EVENT = EventEnvelope("evt-1", Order().model_dump_json().encode())
DEADLINE_S = 30


@pytest.fixture(params=STORES)
def rig(request: pytest.FixtureRequest) -> Rig:
    return Rig(request.param)


async def test_code_that_uses_a_key_again_and_again_fails_its_run(rig: Rig) -> None:
    @rig.worker.function("f", on="order")
    async def f(event: Order, ctx: Context) -> None:
        while True:
            try:
                await ctx.execute("same", rig.effect, "same")
            except Exception:
                continue

    run = await rig.run()

    assert run.status == "failed"
    assert "DuplicateStepKey" in (run.error or "")
    assert rig.effects == {"same": 1}


async def test_code_that_asks_again_after_its_pass_has_ended_does_not_spin(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inline, "CLEANUP_S", 0.01)
    refused: list[BaseException] = []

    @rig.worker.function("f", on="order")
    async def f(event: Order, ctx: Context) -> str:
        while True:
            try:
                await ctx.sleep("nap", "1h")
                return "awake"
            except asyncio.CancelledError:
                break
        while True:
            try:
                return await ctx.execute("again", rig.effect, "again")
            except BaseException as error:
                if isinstance(error, asyncio.CancelledError):
                    raise  # of the loop, which is closed
                refused.append(error)

    rig.mount()
    published = await rig.worker.publish(Order())
    await rig.clock.advance(1)
    async with asyncio.timeout(DEADLINE_S):
        while (run := await rig.worker.runs.get(published.run_id("f"))) is None or run.status != "waiting":
            await asyncio.sleep(0)
    await rig.finish()

    assert (await rig.worker.runs.result(published.run_id("f"))) == "awake"
    assert 0 < len(refused) <= inline.REFUSALS_MAX + 1
    assert rig.effects == {}


async def test_a_cancelled_error_that_a_step_lets_out_is_tried_again(rig: Rig) -> None:
    async def leaky() -> str:
        rig.effects["leaky"] += 1
        if rig.effects["leaky"] < 3:
            raise asyncio.CancelledError("of a pool that was closed")
        return "there"

    @rig.worker.function("f", on="order")
    async def f(event: Order, ctx: Context) -> str:
        return await ctx.execute("leaky", leaky, retry=Retry(initial_delay_s=0.01))

    assert (await rig.run()).result == "there"


async def test_a_cancelled_error_is_as_final_as_the_policy_says(rig: Rig) -> None:
    async def leaky() -> None:
        rig.effects["leaky"] += 1
        raise asyncio.CancelledError

    @rig.worker.function("f", on="order")
    async def f(event: Order, ctx: Context) -> None:
        await ctx.execute("leaky", leaky, retry=Retry(retry_on=(OSError,)))

    run = await rig.run()
    assert (run.status, "CancelledError" in (run.error or "")) == ("failed", True)
    assert rig.effects == {"leaky": 1}


async def test_a_cancelled_delivery_keeps_its_lease_until_its_thread_has_ended(rig: Rig) -> None:
    entered, leave = threading.Event(), threading.Event()

    def slow() -> str:
        rig.effects["slow"] += 1
        if rig.effects["slow"] == 1:
            entered.set()
            assert leave.wait(DEADLINE_S)
        return "slow"

    @rig.worker.function("f", on="order")
    async def f(event: Order, ctx: Context) -> str:
        return await ctx.execute("slow", slow)

    engine = rig.mount().engine
    delivery = asyncio.create_task(engine.deliver(EVENT, Delivery("msg-1")))
    await asyncio.to_thread(entered.wait, DEADLINE_S)
    delivery.cancel()
    await asyncio.gather(delivery, return_exceptions=True)

    await rig.clock.advance(30)  # longer than a lease: signs of life go on
    again = await engine.deliver(EVENT, Delivery("msg-1", 1))
    assert "another delivery" in again.text
    assert rig.effects == {"slow": 1}

    leave.set()
    async with asyncio.timeout(DEADLINE_S):
        while "release" not in rig.faults.names:
            await asyncio.sleep(0)
    await rig.clock.settle()
    assert (await engine.deliver(EVENT, Delivery("msg-1", 2))).text == "completed"
    assert rig.effects == {"slow": 2}
    await rig.dispatcher.close()


# ---- answers that a database lost


class ForgetfulDatabase:
    """A database whose next commits are done, and not answered."""

    def __init__(self) -> None:
        self._inner = open_database("sqlite://:memory:", threads=False)
        self.to_lose = 0

    async def write(self, operation: Callable[[Transaction], T], *, is_long: bool = False) -> T:
        result = await self._inner.write(operation)
        if self.to_lose:
            self.to_lose -= 1
            raise CommitUnknown("the connection broke during the commit")
        return result

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)


async def test_an_operation_whose_answer_was_lost_is_repeated_once() -> None:
    database = ForgetfulDatabase()
    store: Store = SqlStore(database)  # type: ignore[arg-type]
    await store.get("run_1")
    claim = Claim("run_1", "owner", "msg", 0, 10_000, NewRun("evt", "f", b"{}"))
    database.to_lose = 1
    answer = await store.claim(claim)
    assert isinstance(answer, Started)
    assert (answer.token, answer.strikes) == (1, 1)
    database.to_lose = 1
    outcome = Outcome(True, b"1")
    assert await store.commit(Lease("run_1", 1), ("a",), outcome) == Lost(outcome, held=True)
    database.to_lose = 2
    with pytest.raises(CommitUnknown):
        await store.commit(Lease("run_1", 1), ("b",), outcome)
