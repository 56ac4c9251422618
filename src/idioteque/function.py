"""A durable function: what starts it, how it is run, and the code; it runs nothing itself."""

from __future__ import annotations

import functools
import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from idioteque.controls import Controls
from idioteque.errors import ConfigurationError
from idioteque.events import Trigger
from idioteque.ids import derived_id, is_id
from idioteque.retry import Retry
from idioteque.values import ANY, Codec, codec_of

Handler = Callable[[Any, Any], Awaitable[Any]]
"""`async def handler(event, ctx)`; what it returns is the result of the run."""


@dataclass(frozen=True, slots=True)
class Function:
    """A handler under an id that must stay the same from deploy to deploy: runs are stored under it."""

    id: str
    trigger: Trigger
    handler: Handler
    retry: Retry = field(default_factory=Retry)
    codec: Codec = ANY
    on_failure: Handler | None = None
    controls: Controls = field(default_factory=Controls)
    cron: str | None = None
    """When its schedule is due, if that is what starts it, and no event."""

    def __post_init__(self) -> None:
        if not is_id(self.id):
            raise ConfigurationError(f"function id {self.id!r} must match [A-Za-z0-9_.-]{{1,128}}")

    def run_id(self, event_id: str) -> str:
        """Return the id of this function's run for an event."""
        return run_id(event_id, self.id)


FAILURE_SUFFIX = ".on-failure"
NO_EVENT = Trigger(lambda _: False)
"""The trigger of what no event starts."""


@dataclass(frozen=True, slots=True)
class RunFailure:
    """What a failure handler is given: the event and the run that failed, and its `error` as `Type: message`."""

    event: Any
    event_id: str
    run_id: str
    function_id: str
    error: str


@dataclass(frozen=True, slots=True)
class Published:
    """What `publish` returns: the event's id, and the id of the message that carries it."""

    event_id: str
    message_id: str

    def run_id(self, function_id: str) -> str:
        """Return the id of the run that this event starts of a function; it can be asked for before it exists."""
        return run_id(self.event_id, function_id)


def failure_handler(function: Function) -> Function | None:
    """Return the function that runs when another one's run has failed: a durable function like any other."""
    if function.on_failure is None:
        return None
    codec = codec_of(function.on_failure)
    return Function(function.id + FAILURE_SUFFIX, NO_EVENT, function.on_failure, codec=codec)


def failure_event_id(run: str, epoch: int) -> str:
    """Return the id of the event that a failed run is for its failure handler, anew in each epoch of the run."""
    return f"{run}.{epoch}" if epoch else run


_TIMED = re.compile(r"evt_([0-9a-f]{12})[0-9a-f]{20}\Z")


@functools.lru_cache(maxsize=1024)
def run_id(event_id: str, function_id: str) -> str:
    """Return the id of the one run of a function for an event; it can be told before the run starts.

    It begins with the time that an event's id begins with, so that runs of one time lie together in a store's indexes.
    """
    derived = derived_id("run", event_id, function_id)
    timed = _TIMED.match(event_id)
    return derived if timed is None else f"run_{timed[1]}{derived[-20:]}"
