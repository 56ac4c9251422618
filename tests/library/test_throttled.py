"""Why a run waits that a limit holds back: its transport knows, here a real server of this process."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from idioteque import Context, HttpResponse, Rate
from idioteque.dispatcher import throttling_of
from idioteque.dispatchers import InlineDispatcher
from idioteque.errors import ConnectFailed
from idioteque.testing import ScriptedTransport
from tests.library.test_qstash import dispatcher
from tests.library.test_schedule_sync import Shop
from tests.server.house import House, open_house


@pytest.fixture
async def house() -> AsyncIterator[House]:
    async with open_house() as opened:
        yield opened


async def test_a_run_whose_message_waits_for_a_limit_is_throttled(house: House) -> None:
    shop = Shop(house)

    @shop.worker.function("f", on=lambda event: True, rate=Rate(1, per="1h"))
    async def f(event: dict[str, Any], ctx: Context) -> str:
        await ctx.sleep("nap", "10m")
        return "rested"

    house.wire.answers = shop.dispatcher.mount(shop.worker).handle
    run_id = (await shop.worker.publish({"id": "1"})).run_id("f")
    await house.clock.advance(60)
    why = await shop.worker.runs.why(run_id)
    assert why is not None
    assert why.cause == "sleeping"

    await house.clock.advance(1200)
    why = await shop.worker.runs.why(run_id)
    assert why is not None
    assert why.cause == "throttled", why
    assert why.text.startswith("its message waits for a slot of ")
    assert why.text.endswith("(rate=1, period=3600s); waiting there: 1")

    await house.clock.advance(3600)
    assert await shop.worker.runs.result(run_id) == "rested"


@pytest.mark.parametrize(
    ("answer", "count"),
    [
        (HttpResponse(200, body=b'{"flowControlKey":"k","waitListSize":3}'), 3),
        (HttpResponse(200, body=b"{}"), None),
        (HttpResponse(200, body=b"no JSON"), None),
        (HttpResponse(404, body=b"{}"), None),
        (ConnectFailed("refused"), None),
    ],
    ids=["said", "unsaid", "no JSON", "unknown", "away"],
)
async def test_what_qstash_does_not_say_is_not_known(answer: Any, count: int | None) -> None:
    wire = ScriptedTransport([answer])
    assert await dispatcher(wire).waiting_behind("k") == count
    assert wire.requests[0].url == "https://qstash.test/v2/flowControl/k"


def test_a_dispatcher_without_limits_cannot_tell() -> None:
    assert throttling_of(InlineDispatcher()) is None
