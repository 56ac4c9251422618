"""The dispatchers of tests and of development: everything a QStash does but durability."""

from __future__ import annotations

import asyncio
import threading
from typing import Any, Literal

import pytest
from pydantic import BaseModel

from idioteque import ConfigurationError, Context, HttpDispatcher, HttpRequest, HttpResponse, InlineDispatcher, Worker
from idioteque.dispatcher import Outgoing
from idioteque.errors import ConnectFailed
from idioteque.store import Claim, Claimed
from idioteque.stores import MemoryStore
from idioteque.testing import ManualClock, ScriptedTransport

HANGS_AFTER_S = 10.0


class Ping(BaseModel):
    type: Literal["ping"] = "ping"


def outgoing(n: int, **options: Any) -> Outgoing:
    return Outgoing(f'{{"n":{n}}}'.encode(), f"dd_{n}", **options)


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


def posting(wire: ScriptedTransport, clock: ManualClock, **options: Any) -> HttpDispatcher:
    return HttpDispatcher(mount_url="http://127.0.0.1:9/worker", transport=wire, clock=clock, **options)


async def test_a_message_is_posted_until_it_is_accepted(clock: ManualClock) -> None:
    wire = ScriptedTransport([503, ConnectFailed("refused"), 200])
    dispatcher = posting(wire, clock)
    message_id = await dispatcher.dispatch({"a": 1})
    await clock.advance(1)
    assert len(wire.requests) == 2
    await clock.advance(45)
    assert dispatcher.pending == 0
    assert [request.header("Upstash-Retried") for request in wire.requests] == ["0", "1", "2"]
    assert {request.header("Upstash-Message-Id") for request in wire.requests} == {message_id}
    assert {request.body for request in wire.requests} == {b'{"a":1}'}
    assert dispatcher.dead_letters == []


async def test_what_is_refused_too_often_is_kept_as_a_dead_letter(clock: ManualClock) -> None:
    wire = ScriptedTransport([HttpResponse(500, body=b"no")])
    dispatcher = posting(wire, clock, retries=1)
    message_id = await dispatcher.dispatch({})
    await clock.advance(3600)
    [letter] = dispatcher.dead_letters
    assert (letter.message_id, letter.attempts, letter.reason, letter.body) == (message_id, 2, "500: no", b"{}")


async def test_what_is_refused_for_good_is_not_tried_again(clock: ManualClock) -> None:
    answer = HttpResponse(489, [("Upstash-NonRetryable-Error", "true")], b"never")
    dispatcher = posting(ScriptedTransport([answer]), clock)
    await dispatcher.dispatch({})
    await clock.settle()
    assert [letter.attempts for letter in dispatcher.dead_letters] == [1]


@pytest.mark.parametrize(("own", "asked", "attempts"), [(3, 0, 1), (0, None, 1), (0, 2, 3), (1, None, 2)])
async def test_retries_are_those_asked_for_and_zero_means_zero(
    clock: ManualClock, own: int, asked: int | None, attempts: int
) -> None:
    wire = ScriptedTransport([500])
    await posting(wire, clock, retries=own).dispatch({}, retries=asked)
    await clock.advance(10_000)
    callbacks = [request for request in wire.requests if request.header("Idioteque-Callback")]
    assert len(wire.requests) - len(callbacks) == attempts
    assert len(callbacks) == attempts, "what tells of it is tried as often, and its own end is told nobody"


@pytest.mark.parametrize("kind", ["inline", "http"])
async def test_a_run_whose_message_was_given_up_says_so(clock: ManualClock, kind: str) -> None:
    async def to_the_mount(request: HttpRequest) -> HttpResponse:
        return await mount.handle(request)

    dispatcher = InlineDispatcher(clock=clock) if kind == "inline" else posting(ScriptedTransport(to_the_mount), clock)
    store = MemoryStore(clock)
    worker = Worker(events_schema=Ping, store=store, dispatcher=dispatcher, clock=clock)

    @worker.function("f", on="ping")
    async def f(event: Ping, ctx: Context) -> str:
        return "pong"

    async def away(claim: Claim) -> Claimed:
        raise OSError("the store is away")

    claim, store.claim = store.claim, away  # type: ignore[method-assign]
    mount = dispatcher.mount(worker)
    run_id = (await worker.publish(Ping(), retries=0)).run_id("f")
    await clock.settle()
    why = await worker.runs.why(run_id)
    assert why is not None
    assert (why.cause, "503" in why.text) == ("dead_letter", True)

    store.claim = claim  # type: ignore[method-assign]
    await worker.runs.retry(run_id)
    await clock.settle()
    assert await worker.runs.result(run_id, timeout=1) == "pong"


async def test_a_delay_passes_before_the_first_attempt(clock: ManualClock) -> None:
    wire = ScriptedTransport([200])
    await posting(wire, clock).dispatch({}, delay="90s")
    await clock.advance(89)
    assert wire.requests == []
    await clock.advance(1)
    assert len(wire.requests) == 1


async def test_one_deduplication_id_is_one_message(clock: ManualClock) -> None:
    wire = ScriptedTransport([200])
    dispatcher = posting(wire, clock)
    first, second = [await dispatcher.dispatch({}, deduplication_id="a") for _ in range(2)]
    third = await dispatcher.dispatch({})
    await clock.settle()
    assert first == second != third
    assert len(wire.requests) == 2


async def test_closing_drops_what_is_queued(clock: ManualClock) -> None:
    wire = ScriptedTransport([200])
    dispatcher = posting(wire, clock)
    await dispatcher.dispatch({}, delay=10)
    await dispatcher.close()
    await clock.advance(20)
    assert (dispatcher.pending, wire.requests) == (0, [])


async def test_a_message_for_what_is_not_mounted_waits_for_it(clock: ManualClock) -> None:
    dispatcher = InlineDispatcher(clock=clock)
    worker = Worker(events_schema=Ping, store="memory:", dispatcher=dispatcher, clock=clock)

    @worker.function("f", on="ping")
    async def f(event: Ping, ctx: Context) -> str:
        return "pong"

    published = await worker.publish(Ping())
    await clock.settle()
    dispatcher.mount(worker)
    await clock.advance(1)
    assert await worker.runs.result(published.run_id("f"), timeout=1) == "pong"


async def test_a_mount_that_breaks_is_tried_again_like_any_server(
    clock: ManualClock, caplog: pytest.LogCaptureFixture
) -> None:
    class Breaking(InlineDispatcher):
        attempts = 0

        async def _attempt(self, headers: Any, body: bytes) -> HttpResponse:
            self.attempts += 1
            if self.attempts == 1:
                raise RuntimeError("broken")
            return HttpResponse(200)

    dispatcher = Breaking(clock=clock)
    await dispatcher.dispatch({})
    await clock.advance(1)
    assert (dispatcher.attempts, dispatcher.pending) == (2, 0)
    assert "the mount failed" in caplog.text


async def test_what_was_sent_from_other_loops_is_drained_as_well() -> None:
    dispatcher = InlineDispatcher()
    worker = Worker(events_schema=Ping, store="memory:", dispatcher=dispatcher)
    ran: list[str] = []

    @worker.function("f", on="ping")
    async def f(event: Ping, ctx: Context) -> None:
        ran.append(threading.current_thread().name)

    dispatcher.mount(worker)
    await asyncio.to_thread(lambda: [worker.publish_sync(Ping()) for _ in range(3)])
    await worker.publish(Ping())
    await asyncio.wait_for(dispatcher.drain(), HANGS_AFTER_S)
    assert (len(ran), dispatcher.pending) == (4, 0)
    assert len(set(ran)) == 2


def test_what_a_closed_loop_left_behind_keeps_nobody_waiting() -> None:
    dispatcher = InlineDispatcher()
    asyncio.run(send_later(dispatcher))
    asyncio.run(asyncio.wait_for(dispatcher.drain(), HANGS_AFTER_S))
    asyncio.run(send_later(dispatcher))
    asyncio.run(asyncio.wait_for(dispatcher.close(), HANGS_AFTER_S))
    assert dispatcher.pending == 0


async def send_later(dispatcher: InlineDispatcher) -> None:
    await dispatcher.dispatch({}, delay=3600)


@pytest.mark.parametrize("url", ["127.0.0.1:9/worker", "/worker", ""])
def test_a_url_that_is_not_absolute_is_refused(url: str) -> None:
    with pytest.raises(ConfigurationError):
        HttpDispatcher(mount_url=url)


async def test_an_unsigned_mount_takes_what_the_dispatcher_posts(clock: ManualClock) -> None:
    worker = Worker(events_schema=Ping, store="memory:", dispatcher=InlineDispatcher(clock=clock), clock=clock)

    @worker.function("f", on="ping")
    async def f(event: Ping, ctx: Context) -> str:
        return "pong"

    async def to_the_mount(request: HttpRequest) -> HttpResponse:
        return await mount.handle(request)

    dispatcher = posting(ScriptedTransport(to_the_mount), clock)
    worker.configure(dispatcher=dispatcher)
    mount = dispatcher.mount(worker)
    published = await worker.publish(Ping(), deduplication_id="p-1")
    await clock.settle()
    assert published.event_id == "p-1"
    assert await worker.runs.result(published.run_id("f"), timeout=1) == "pong"
    assert dispatcher.dead_letters == []


async def test_closing_drops_what_a_delivery_sends_while_it_ends() -> None:
    class Parting(InlineDispatcher):
        async def _attempt(self, headers: list[tuple[str, str]], body: bytes) -> HttpResponse:
            try:
                await asyncio.Event().wait()
            finally:
                await self.dispatch({}, delay="3d")
            raise AssertionError("never set")

    dispatcher = Parting()
    await dispatcher.dispatch({})
    await asyncio.sleep(0)
    await asyncio.wait_for(dispatcher.close(), 10)
    assert dispatcher.pending == 0
