"""What comes with a delivery, and what is answered to it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Delivery:
    """What the transport says of a message: its id, the same over redeliveries, and how often it was tried before.

    `deadline_s` is the monotonic time from which on nothing new is to start in it.
    """

    message_id: str
    retried: int = 0
    deadline_s: float | None = None


@dataclass(frozen=True, slots=True)
class Answer:
    """The HTTP answer to a delivery; `is_final` asks the transport not to try again."""

    status: int
    text: str
    is_final: bool = False

    @property
    def ok(self) -> bool:
        return 200 <= self.status < 300
