"""What a program of the simulation is: functions, a script for the outside, and what it is to be held to."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, replace
from datetime import datetime
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel

from idioteque import Context, InlineDispatcher, StepFailed, Worker
from idioteque.durations import Duration, seconds
from idioteque.engine.step import current
from idioteque.events import EventsSchema
from idioteque.function import Function, Handler
from idioteque.paths import Path
from idioteque.stores import MemoryStore

if TYPE_CHECKING:
    from tests.simulation.client import Client
    from tests.simulation.world import Process, World


class Order(BaseModel):
    type: Literal["order"] = "order"
    id: str = "1"
    count: int = 3


class Paid(BaseModel):
    type: Literal["paid"] = "paid"
    id: str = "1"
    amount: int = 5


class Refunded(BaseModel):
    type: Literal["refunded"] = "refunded"
    id: str = "1"


class Stop(BaseModel):
    type: Literal["stop"] = "stop"
    id: str = "1"


EVENT_ID = "evt-1"
SCHEMA = Order | Paid | Refunded | Stop
Declare = Callable[[Worker], None]
Script = Callable[["Client"], Awaitable[None]]


async def publish_one(client: Client) -> None:
    """The usual script: one order."""
    await client.publish(Order(), EVENT_ID)


@dataclass(frozen=True, slots=True)
class Program:
    """`races` says that its results depend on which of two things comes first; `check` returns what is wrong."""

    name: str
    functions: Sequence[Function]
    schema: EventsSchema
    script: Script
    races: bool
    is_small: bool
    check: Callable[[World], str | None] | None
    deadline_s: float | None = None


PROGRAMS: dict[str, Program] = {}


def program(
    script: Script = publish_one,
    *,
    races: bool = False,
    small: bool = False,
    check: Callable[[World], str | None] | None = None,
    deadline_s: float | None = None,
) -> Callable[[Declare], Declare]:
    """Add what the decorated function declares to the programs."""

    def add(declare: Declare) -> Declare:
        worker = Worker(events_schema=SCHEMA, store=MemoryStore(), dispatcher=InlineDispatcher())
        declare(worker)
        functions = [_under_watch(function) for function in worker.functions]
        name = declare.__name__.strip("_")
        PROGRAMS[name] = Program(name, functions, worker.schema, script, races, small, check, deadline_s)
        return declare

    return add


def _under_watch(function: Function) -> Function:
    on_failure = None if function.on_failure is None else _watched(function.on_failure)
    return replace(function, handler=_watched(function.handler), on_failure=on_failure)


def _watched(handler: Handler) -> Handler:
    async def watched(event: Any, ctx: Context) -> Any:
        run_here.set(ctx.run_id)
        return await handler(event, WatchedContext(ctx))

    watched.__annotations__ = {"return": inspect.get_annotations(handler, eval_str=False).get("return", Any)}
    if isinstance(watched.__annotations__["return"], str):
        watched.__annotations__ = {}
    return watched


# ---- what programs see and do

run_here: ContextVar[str] = ContextVar("simulation-run", default="")


def here() -> World:
    """Return the world that the code at hand runs in."""
    process: Process = asyncio.get_running_loop().process  # type: ignore[attr-defined]
    process.check_alive()
    return process.world


def path_here() -> Path:
    """Return the path of the step that the code at hand belongs to."""
    scope = current.get(None)
    return () if scope is None else scope.path


def times(*, once: bool = False) -> int:
    """Have an effect on the outside world; return how often the step at hand has had it by now."""
    return here().witness.effect(run_here.get(), path_here(), once=once)


async def effect(value: object = "") -> str:
    """A step that takes a while and whose result says which time it was, so that no two results are alike."""
    number = times()
    latency_s = here().plan.latency_s()
    await asyncio.sleep(latency_s)
    return f"{value}{path_here()[-1]}#{number}"


async def effect_once() -> str:
    """A step that may be started once only."""
    return f"once#{times(once=True)}"


def plain_effect() -> str:
    """A step that is no coroutine."""
    return f"plain#{here().witness.effect(run_here.get(), path_here(), once=False)}"


class Failing:
    """A step that fails for its first so many times, as the world counts them."""

    def __init__(self, failures: int, error: Callable[[], Exception]) -> None:
        self._failures = failures
        self._error = error

    async def __call__(self) -> str:
        number = times()
        await asyncio.sleep(here().plan.latency_s())
        if number <= self._failures:
            raise self._error()
        return f"at last#{number}"


class WatchedContext(Context):
    """A context that tells the witness what each await gave."""

    def __init__(self, context: Context) -> None:
        vars(self).update(vars(context))

    def _saw(self, key: str, value: object) -> None:
        here().witness.saw(self.run_id, (*path_here(), key), value)

    async def execute(self, key: str, call: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:  # type: ignore[override]
        try:
            value = await super().execute(key, call, *args, **kwargs)
        except StepFailed as error:
            self._saw(key, error)
            raise
        self._saw(key, value)
        return value

    async def sleep(self, key: str, duration: Duration) -> None:
        await self._sleep(key, here().outside.now_ms() + round(seconds(duration) * 1000), super().sleep(key, duration))

    async def sleep_until(self, key: str, when: datetime) -> None:
        await self._sleep(key, round(when.timestamp() * 1000), super().sleep_until(key, when))

    async def _sleep(self, key: str, until_ms: int, sleeping: Awaitable[None]) -> None:
        path = (*path_here(), key)
        here().witness.asked_to_sleep(self.run_id, path, until_ms)
        await sleeping
        here().witness.slept(self.run_id, path)
        self._saw(key, None)

    async def wait_any(
        self,
        key: str,
        *event_classes: type[BaseModel],
        where: Mapping[str, object] | None = None,
        timeout: Duration | None = None,
    ) -> BaseModel | None:
        event = await super().wait_any(key, *event_classes, where=where, timeout=timeout)
        self._saw(key, event)
        return event

    async def invoke(self, key: str, function: Function, event: object) -> Any:
        try:
            value = await super().invoke(key, function, event)
        except StepFailed as error:
            self._saw(key, error)
            raise
        self._saw(key, value)
        return value
