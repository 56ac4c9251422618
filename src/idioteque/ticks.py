"""What starts a function that was declared with `cron=`: a message of its schedule."""

from __future__ import annotations

from datetime import UTC, datetime

from pydantic import AwareDatetime, BaseModel, ConfigDict
from pydantic_core import ValidationError

from idioteque.errors import EventRejected


class Tick(BaseModel):
    """One time at which a schedule was due; the function is given this in place of an event.

    `message_id` is that of the schedule's message, `received_at` when it first arrived, in UTC: later than it was due
    if the app was away.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    function_id: str
    message_id: str
    received_at: AwareDatetime


def tick(function_id: str, message_id: str, now_ms: int) -> Tick:
    """Return the tick of a message that arrives now."""
    return Tick(function_id=function_id, message_id=message_id, received_at=datetime.fromtimestamp(now_ms / 1000, UTC))


def read_tick(stored: bytes) -> Tick:
    """Read what was stored as the event of a run; raise `EventRejected` when it is none of a schedule."""
    try:
        return Tick.model_validate_json(stored)
    except ValidationError:
        raise EventRejected("the run was not started by a schedule") from None
