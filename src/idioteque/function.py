"""A durable function: what starts it, how it is run, and the code; it runs nothing itself."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from idioteque.errors import ConfigurationError
from idioteque.events import Trigger
from idioteque.ids import derived_id, is_id
from idioteque.retry import Retry
from idioteque.values import ANY, Codec

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

    def __post_init__(self) -> None:
        if not is_id(self.id):
            raise ConfigurationError(f"function id {self.id!r} must match [A-Za-z0-9_.-]{{1,128}}")

    def run_id(self, event_id: str) -> str:
        """Return the id of this function's run for an event."""
        return run_id(event_id, self.id)


def run_id(event_id: str, function_id: str) -> str:
    """Return the id of the one run of a function for an event; it can be told before the run starts."""
    return derived_id("run", event_id, function_id)
