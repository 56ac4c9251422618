"""Events that runs wait for or are cancelled by, when their schema has aliases and values that JSON has no type for."""

from __future__ import annotations

import datetime as dt
import json
from typing import Any, Literal

import pytest
from pydantic import BaseModel, ConfigDict, Field

from idioteque import Context, HttpRequest, InlineDispatcher, Run, Worker
from idioteque.testing import ManualClock

AT = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)


class Begin(BaseModel):
    type: Literal["begin"] = "begin"
    user_id: str = Field("1", alias="userId")
    at: dt.datetime = AT


class Paid(BaseModel):
    type: Literal["paid"] = "paid"
    user_id: str = Field(alias="userId")
    at: dt.datetime = AT


class Loose(BaseModel):
    model_config = ConfigDict(extra="allow")

    type: Literal["loose"] = "loose"


class House:
    """A worker in virtual time."""

    def __init__(self) -> None:
        self.clock = ManualClock()
        self.dispatcher = InlineDispatcher(clock=self.clock)
        self.worker = Worker(
            events_schema=Begin | Paid | Loose, store="memory:", dispatcher=self.dispatcher, clock=self.clock
        )

    async def begin(self) -> str:
        """Start the function `f` and return the id of its run."""
        self.mount = self.dispatcher.mount(self.worker)
        published = await self.worker.publish(Begin(userId="1"))
        await self.clock.settle()
        return published.run_id("f")

    async def post(self, event: dict[str, Any]) -> None:
        """Let an event arrive as somebody else wrote it."""
        request = HttpRequest("POST", "/", [("Upstash-Message-Id", "msg_9")], json.dumps(event).encode())
        assert (await self.mount.handle(request)).ok
        await self.clock.settle()

    async def run(self, run_id: str) -> Run:
        found = await self.worker.runs.get(run_id)
        assert found is not None
        return found


@pytest.fixture
def house() -> House:
    return House()


@pytest.mark.parametrize("name", ["user_id", "userId"])
@pytest.mark.parametrize("at", ["2026-01-01T00:00:00Z", "2026-01-01T00:00:00+00:00", "2026-01-01 00:00:00.000Z"])
async def test_a_condition_speaks_of_fields_and_values_however_the_event_was_written(
    house: House, name: str, at: str
) -> None:
    @house.worker.function("f", on=Begin)
    async def f(event: Begin, ctx: Context) -> Any:
        return await ctx.wait_for_event("paid", Paid, where={"user_id": event.user_id, "at": AT}, timeout="1h")

    run_id = await house.begin()
    await house.post({"type": "paid", name: "2", "at": at})
    assert (await house.run(run_id)).status == "waiting"
    await house.worker.publish(Paid(userId="1", at=AT))
    await house.clock.settle()
    assert (await house.run(run_id)).result == {"user_id": "1", "at": "2026-01-01T00:00:00Z", "type": "paid"}


@pytest.mark.parametrize("name", ["user_id", "userId"])
async def test_an_event_of_somebody_else_is_found_under_its_names_and_its_aliases(house: House, name: str) -> None:
    @house.worker.function("f", on=Begin)
    async def f(event: Begin, ctx: Context) -> bool:
        found = await ctx.wait_for_event("paid", Paid, where={"user_id": "1", "at": AT}, timeout="1h")
        return found == Paid(userId="1")

    run_id = await house.begin()
    await house.post({"type": "paid", name: "1", "at": "2026-01-01T00:00:00+00:00"})
    assert (await house.run(run_id)).result is True


@pytest.mark.parametrize("where", [{"userId": "1"}, {"nothing": 1}])
async def test_a_condition_on_no_field_fails_instead_of_waiting_for_ever(house: House, where: Any) -> None:
    @house.worker.function("f", on=Begin)
    async def f(event: Begin, ctx: Context) -> None:
        await ctx.wait_for_event("paid", Paid, where=where)

    assert "which is no field of Paid" in str((await house.run(await house.begin())).error)


async def test_a_model_that_takes_any_field_may_be_asked_for_any(house: House) -> None:
    @house.worker.function("f", on=Begin)
    async def f(event: Begin, ctx: Context) -> bool:
        return await ctx.wait_for_event("loose", Loose, where={"colour": "red"}) is not None

    run_id = await house.begin()
    await house.post({"type": "loose", "colour": "red"})
    assert (await house.run(run_id)).result is True


@pytest.mark.parametrize("name", ["user_id", "userId"])
async def test_what_cancels_a_run_is_compared_by_names_and_values(house: House, name: str) -> None:
    @house.worker.function("f", on=Begin, cancel_on=[(Paid, {"user_id": "user_id", "at": "at"})])
    async def f(event: Begin, ctx: Context) -> None:
        await ctx.sleep("a while", "1h")

    run_id = await house.begin()
    await house.post({"type": "paid", name: "1", "at": "2026-01-01T00:00:00+00:00"})
    assert (await house.run(run_id)).status == "cancelled"
