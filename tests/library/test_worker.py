"""Publishing events, declaring functions, and looking at runs, through the worker."""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from pydantic import BaseModel, Field

from idioteque import (
    ConfigurationError,
    Context,
    DispatchError,
    EventRejected,
    HttpResponse,
    InlineDispatcher,
    InvalidValue,
    NonRetryableError,
    QStashDispatcher,
    Retry,
    RunFailed,
    Worker,
)
from idioteque.dispatcher import EventEnvelope, Outgoing, decode
from idioteque.ids import is_id
from idioteque.stores import MemoryStore, SqlStore
from idioteque.testing import ManualClock, ScriptedTransport


class Signup(BaseModel):
    type: Literal["signup"] = "signup"
    user_id: str = "1"


class Email(BaseModel):
    type: Literal["email"] = "email"
    to: str


class Receipt(BaseModel):
    number: int
    at: datetime


Event = Annotated[Signup | Email, Field(discriminator="type")]


class Recording(InlineDispatcher):
    """Keeps what it was given, and delivers it."""

    def __init__(self, clock: ManualClock) -> None:
        super().__init__(clock=clock)
        self.sent: list[Outgoing] = []

    async def send(self, messages: Any) -> Any:
        self.sent.extend(messages)
        return await super().send(messages)


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def dispatcher(clock: ManualClock) -> Recording:
    return Recording(clock)


@pytest.fixture
def worker(clock: ManualClock, dispatcher: Recording) -> Worker:
    return Worker(events_schema=Event, store="memory:", dispatcher=dispatcher, clock=clock)


def envelope(outgoing: Outgoing) -> EventEnvelope:
    read = decode(outgoing.body, "msg_1")
    assert isinstance(read, EventEnvelope)
    return read


# ---- publishing


@pytest.mark.parametrize(
    "event", [Signup(user_id="7"), {"type": "signup", "user_id": "7"}, {"user_id": "7", "type": "signup"}]
)
async def test_an_event_is_an_instance_or_its_data(worker: Worker, dispatcher: Recording, event: object) -> None:
    published = await worker.publish(event)
    [message] = dispatcher.sent
    assert json.loads(envelope(message).event) == {"type": "signup", "user_id": "7"}
    assert envelope(message).event_id == published.event_id
    assert is_id(published.event_id)
    assert published.message_id.startswith("msg_")
    assert (message.delay_s, message.retries) == (0, None)


class Unrelated(BaseModel):
    type: Literal["signup"] = "signup"
    user_id: str = "1"


@pytest.mark.parametrize(
    "event", [None, 5, "signup", {}, {"type": "other"}, Unrelated(), {"type": "email"}, [Signup()]]
)
async def test_what_does_not_fit_the_schema_is_rejected_before_anything_is_sent(
    worker: Worker, dispatcher: Recording, event: object
) -> None:
    with pytest.raises(EventRejected):
        await worker.publish(event)
    with pytest.raises(EventRejected):
        await worker.publish_many([Signup(), event])
    with pytest.raises(EventRejected):
        worker.publish_sync(event)
    assert dispatcher.sent == []


@pytest.mark.parametrize(
    "options",
    [
        {"retries": -1},
        {"retries": 2.5},
        {"retries": "3"},
        {"retries": True},
        {"delay": -1},
        {"delay": "soon"},
        {"delay": float("nan")},
        {"not_before": datetime(2026, 1, 1)},  # noqa: DTZ001 - what is refused
        {"not_before": datetime(2026, 1, 1, tzinfo=UTC), "delay": 5},
        {"deduplication_id": ""},
    ],
    ids=repr,
)
async def test_an_option_that_makes_no_sense_is_refused_before_anything_is_sent(
    worker: Worker, dispatcher: Recording, options: dict[str, Any]
) -> None:
    with pytest.raises(InvalidValue):
        await worker.publish(Signup(), **options)
    assert dispatcher.sent == []


async def test_retries_zero_is_kept_in_message_and_envelope(worker: Worker, dispatcher: Recording) -> None:
    await worker.publish(Signup(), retries=0)
    await worker.publish_many([Signup(), Signup()], retries=10)
    assert [(message.retries, envelope(message).retries) for message in dispatcher.sent] == [(0, 0), (10, 10), (10, 10)]


@pytest.mark.parametrize(
    ("options", "delay_s"),
    [
        ({"delay": "1h30m"}, 5400),
        ({"delay": timedelta(seconds=2.5)}, 2.5),
        ({"delay": 0}, 0),
        ({"not_before": datetime(2023, 11, 14, 22, 14, 20, tzinfo=UTC)}, 60),
        ({"not_before": datetime(1999, 1, 1, tzinfo=UTC)}, 0),
    ],
    ids=repr,
)
async def test_an_event_may_start_later(
    worker: Worker, dispatcher: Recording, options: dict[str, Any], delay_s: float
) -> None:
    await worker.publish(Signup(), **options)
    assert dispatcher.sent[0].delay_s == delay_s


@pytest.mark.parametrize("deduplication_id", ["order-1", "a:b/c é", "x" * 500, "\ud800"])
async def test_one_deduplication_id_is_one_event_for_good(
    worker: Worker, dispatcher: Recording, clock: ManualClock, deduplication_id: str
) -> None:
    ran: list[str] = []

    @worker.function("f", on="signup")
    async def f(event: Signup, ctx: Context) -> None:
        ran.append(event.user_id)

    dispatcher.mount(worker)
    first = await worker.publish(Signup(user_id="1"), deduplication_id=deduplication_id)
    await clock.settle()
    dispatcher._accepted.clear()  # the transport's window is over
    second = await worker.publish(Signup(user_id="2"), deduplication_id=deduplication_id)
    await clock.settle()
    assert first.event_id == second.event_id
    assert (first.event_id == deduplication_id) is is_id(deduplication_id)
    assert first.message_id != second.message_id
    assert ran == ["1"]
    assert [":" in message.deduplication_id for message in dispatcher.sent] == [False, False]


async def test_events_without_a_deduplication_id_are_events_of_their_own(worker: Worker) -> None:
    many = await worker.publish_many([Signup()] * 50)
    assert len({published.event_id for published in many}) == 50
    assert len({published.message_id for published in many}) == 50
    assert await worker.publish_many([]) == []


async def test_a_run_can_be_named_before_it_begins(worker: Worker, dispatcher: Recording, clock: ManualClock) -> None:
    @worker.function("f", on="signup")
    async def f(event: Signup, ctx: Context) -> str:
        return ctx.run_id

    dispatcher.mount(worker)
    published = await worker.publish(Signup())
    assert await worker.runs.get(published.run_id("f")) is None
    await clock.settle()
    assert await worker.runs.result(published.run_id("f"), timeout=1) == f.run_id(published.event_id)


async def test_a_refused_event_is_an_error_with_its_status(worker: Worker, clock: ManualClock) -> None:
    refusing = QStashDispatcher(
        mount_url="https://app.test/", token="t", url="https://q.test", transport=ScriptedTransport([412]), clock=clock
    )
    worker.configure(dispatcher=refusing)
    for publish in (worker.publish(Signup()), worker.publish_many([Signup(), Signup()])):
        with pytest.raises(DispatchError) as refusal:
            await publish
        assert refusal.value.status == 412


async def test_publishing_synchronously_inside_a_running_loop_works() -> None:
    wire = ScriptedTransport([HttpResponse(200, body=b'{"messageId":"msg_1"}')])
    dispatcher = QStashDispatcher(mount_url="https://app.test/", token="t", url="https://q.test", transport=wire)
    worker = Worker(events_schema=Event, store="memory:", dispatcher=dispatcher)
    inside = worker.publish_sync(Signup(), deduplication_id="a", retries=1, delay=2)
    beside = await asyncio.to_thread(worker.publish_sync, Signup(), deduplication_id="a", retries=1, delay=2)
    awaited = await worker.publish(Signup(), deduplication_id="a", retries=1, delay=2)
    assert inside == beside == awaited
    assert len({(request.body, tuple(request.headers)) for request in wire.requests}) == 1


# ---- functions and options


async def handler(event: Any, ctx: Context) -> None: ...


@pytest.mark.parametrize(
    ("id_", "on", "call"),
    [
        ("a b", "signup", handler),
        ("", "signup", handler),
        ("x" * 101, "signup", handler),
        ("f", "signups", handler),
        ("f", [], handler),
        ("f", int, handler),
        ("f", "signup", lambda event, ctx: (yield)),
        ("f", "signup", "no handler at all"),
        ("taken", "signup", handler),
    ],
    ids=repr,
)
def test_a_declaration_that_cannot_work_is_refused(worker: Worker, id_: str, on: Any, call: Any) -> None:
    worker.create_function("taken", "signup", handler)
    with pytest.raises(ConfigurationError):
        worker.create_function(id_, on, call)


def test_a_result_that_has_no_json_form_is_refused_at_the_declaration(worker: Worker) -> None:
    async def opaque(event: Any, ctx: Context) -> Recording: ...  # type: ignore[empty-body]

    with pytest.raises(ConfigurationError, match=r"'opaque'.*Recording"):
        worker.create_function("opaque", "signup", opaque)


async def test_a_declared_function_can_be_called_in_a_unit_test(worker: Worker) -> None:
    @worker.function("f", on=Signup)
    async def f(event: Signup, ctx: Context) -> str:
        return event.user_id

    unused: Any = None
    assert await f(Signup(user_id="9"), unused) == "9"
    assert worker.functions == (f,)


@pytest.mark.parametrize("url", ["sqlite", "redis:/x", "mysql://host/db", "", "sqlite:///a.db?mode=ro", "sqlite:///"])
def test_a_store_that_no_url_names_is_refused(dispatcher: Recording, url: str) -> None:
    with pytest.raises(ConfigurationError):
        Worker(events_schema=Event, store=url, dispatcher=dispatcher)


def test_making_a_worker_opens_nothing(dispatcher: Recording, tmp_path: Path) -> None:
    worker = Worker(events_schema=Event, store=f"sqlite:///{tmp_path}/runs.db", dispatcher=dispatcher)
    assert isinstance(worker.store, SqlStore)
    assert list(tmp_path.iterdir()) == []


async def test_options_can_be_seen_and_changed_before_mounting(worker: Worker, dispatcher: Recording) -> None:
    assert worker.options["events_schema"] is Event
    assert worker.options["dispatcher"] is dispatcher
    store = MemoryStore()
    worker.configure(events_schema=Email, store=store)
    assert worker.options["store"] is store
    with pytest.raises(EventRejected):
        await worker.publish(Signup())
    worker.configure(store="memory:")
    assert worker.options["store"] is not store
    assert worker.options["dispatcher"] is dispatcher, "what is not named stays"


# ---- runs


async def test_results_come_back_as_their_type_here_and_as_json_elsewhere(
    worker: Worker, dispatcher: Recording, clock: ManualClock
) -> None:
    made = Receipt(number=1, at=datetime(2026, 1, 1, tzinfo=UTC))

    @worker.function("f", on="signup")
    async def f(event: Signup, ctx: Context) -> Receipt:
        return made

    dispatcher.mount(worker)
    run_id = (await worker.publish(Signup())).run_id("f")
    await clock.settle()
    stranger = Worker(events_schema=Event, store=worker.store, dispatcher=dispatcher, clock=clock)
    assert await worker.runs.result(run_id) == made
    assert await stranger.runs.result(run_id) == {"number": 1, "at": "2026-01-01T00:00:00Z"}
    run = await worker.runs.get(run_id)
    assert run is not None
    assert run.result == {"number": 1, "at": "2026-01-01T00:00:00Z"}


async def test_waiting_for_a_result_takes_as_long_as_it_is_given(worker: Worker, clock: ManualClock) -> None:
    waiting = asyncio.create_task(worker.runs.result("run_unknown", timeout="10s"))
    await clock.advance(9.99)
    assert not waiting.done()
    await clock.advance(0.02)
    with pytest.raises(TimeoutError, match="run run_unknown is not known yet after 10s"):
        await waiting
    with pytest.raises(TimeoutError):
        await worker.runs.result("run_unknown", timeout=0)


async def test_a_result_is_waited_for_until_it_is_there(
    worker: Worker, dispatcher: Recording, clock: ManualClock
) -> None:
    @worker.function("f", on="signup")
    async def f(event: Signup, ctx: Context) -> str:
        await ctx.sleep("a while", "2m")
        return "rested"

    dispatcher.mount(worker)
    run_id = (await worker.publish(Signup())).run_id("f")
    waiting = asyncio.create_task(worker.runs.result(run_id))
    await clock.advance(119)
    assert not waiting.done()
    await clock.advance(2)
    assert await waiting == "rested"


async def test_a_failed_run_raises_what_it_failed_of(worker: Worker, dispatcher: Recording, clock: ManualClock) -> None:
    @worker.function("f", on="signup")
    async def f(event: Signup, ctx: Context) -> None:
        raise NonRetryableError("no such user")

    dispatcher.mount(worker)
    run_id = (await worker.publish(Signup())).run_id("f")
    await clock.settle()
    with pytest.raises(RunFailed, match="NonRetryableError: no such user") as failure:
        await worker.runs.result(run_id)
    assert (failure.value.run_id, failure.value.type, failure.value.message) == (
        run_id,
        "NonRetryableError",
        "no such user",
    )


@pytest.mark.parametrize("run_id", ["", "a b", "../x", "x" * 129, "run_1\n"])
async def test_an_id_that_is_none_is_refused(worker: Worker, run_id: str) -> None:
    for asked in (worker.runs.get(run_id), worker.runs.result(run_id), worker.runs.why(run_id)):
        with pytest.raises(InvalidValue):
            await asked


async def test_runs_are_listed_in_pages(worker: Worker, dispatcher: Recording, clock: ManualClock) -> None:
    @worker.function("good", on="signup")
    async def good(event: Signup, ctx: Context) -> None: ...

    @worker.function("bad", on="email", retry=Retry(max_attempts=1))
    async def bad(event: Email, ctx: Context) -> None:
        raise ValueError("no")

    dispatcher.mount(worker)
    for n in range(12):
        await worker.publish(Signup() if n % 3 else Email(to="x"))
        await clock.advance(0.001)
    ids: list[str] = []
    cursor = None
    while True:
        page = await worker.runs.list(limit=5, cursor=cursor)
        ids += [run.id for run in page.runs]
        cursor = page.cursor
        if cursor is None:
            break
        assert len(page.runs) == 5
    assert len(set(ids)) == len(ids) == 12
    assert len((await worker.runs.list(function=good)).runs) == 8
    assert {run.function_id for run in (await worker.runs.list(status="failed")).runs} == {"bad"}
    assert (await worker.runs.list(function="good", status="failed")).runs == []
    exactly = await worker.runs.list(limit=12)
    assert (len(exactly.runs), exactly.cursor) == (12, None)


@pytest.mark.parametrize("limit", [0, -1, 1001])
async def test_a_page_has_a_size(worker: Worker, limit: int) -> None:
    with pytest.raises(InvalidValue):
        await worker.runs.list(limit=limit)
