"""Messages, and the ids by which the transport takes two of them for one: each id names its message's cause."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from idioteque.dispatcher import RETRY_HORIZON_S
from idioteque.paths import BODY, Path
from idioteque.store import Busy

HORIZON_MS = int(RETRY_HORIZON_S * 1000)
LOOK_AGAIN_MS = 1000

Parent = tuple[str, Path, Path]
"""The run and its step that wait for another run's end, and whose delivery runs that step."""


class Message(NamedTuple):
    """An event, a run to go on with, or word that the transport has given up another message."""

    kind: Literal["event", "run", "given_up"]
    event_id: str
    function_id: str = ""
    event: bytes | None = None
    path: Path = BODY
    once: bool = False
    hop: int = 0
    instead_of: tuple[str, int] | None = None
    epoch: int = 0
    parent: Parent | None = None
    debounce: str | None = None
    not_after_ms: int = 0
    uid: int = 0
    retried: int = 0
    due_ms: int = 0
    lost: Message | None = None

    @property
    def run_id(self) -> str:
        return run_id(self.event_id, self.function_id)


@dataclass(frozen=True, slots=True)
class Outgoing:
    """A message to hand over: two with one `cause` are one, where the transport looks for that."""

    message: Message
    cause: Hashable
    delay_ms: int = 0


def run_id(event_id: str, function_id: str) -> str:
    return f"{event_id}/{function_id}"


class Outbox:
    """Makes the messages that deliveries leave behind. Each method is a rule that a mutant may break."""

    def first(self, event: Message, function_id: str) -> Message:
        return event._replace(kind="run", function_id=function_id, uid=0, retried=0, due_ms=0)

    def start(self, runs: Sequence[Message], delays_ms: Sequence[int]) -> list[Outgoing]:
        return [
            Outgoing(run, self.cause(run, "start"), delay_ms) for run, delay_ms in zip(runs, delays_ms, strict=True)
        ]

    def remind(self, first: Message, delay_ms: int, created_at_ms: int = 0) -> Outgoing:
        reminder = self.following(first, None)._replace(debounce=None)
        return Outgoing(reminder, self.cause(reminder, "deadline", first.hop, created_at_ms), delay_ms)

    def retry(self, message: Message, attempts: int, delay_ms: int, path: Path = BODY) -> Outgoing:
        """Of a function with `path` empty, else of a step that was postponed."""
        again = self.following(message, None)
        return Outgoing(again, self.cause(again, "retry", path, attempts, message.hop), delay_ms)

    def leave(self, message: Message, token: int) -> Outgoing:
        again = self.following(message, None)
        return Outgoing(again, self.cause(again, "continue", token))

    def repair(self, event_id: str, function_id: str, epoch: int, hour: int) -> Outgoing:
        message = Message("run", event_id, function_id, epoch=epoch)
        return Outgoing(message, self.cause(message, "repair", hour))

    def look_again(self, message: Message, busy: Busy) -> Outgoing:
        delay_ms = min(busy.remaining_ms, LOOK_AGAIN_MS * 2 ** min(message.hop, 10))
        again = self.following(message, message.instead_of or (str(message.uid), message.retried))
        return Outgoing(again, self.cause(again, "check-back", busy.token, message.hop), delay_ms)

    def reopen(self, event_id: str, function_id: str, epoch: int) -> Outgoing:
        message = Message("run", event_id, function_id, epoch=epoch)
        return Outgoing(message, self.cause(message, "reopen"))

    def wake(self, event_id: str, function_id: str, seat: Path, epoch: int, path: Path) -> Outgoing:
        """For a step whose outcome came from elsewhere, and the seat in whose delivery it was asked for."""
        message = Message("run", event_id, function_id, epoch=epoch, path=seat)
        return Outgoing(message, self.cause(message, "wake", path))

    def invoke(self, parent: Parent, function_id: str, epoch: int) -> Outgoing:
        event_id = f"{parent[0]}:{'.'.join(parent[1])}"
        child = Message("run", event_id, function_id, event=b"invoked", parent=parent, epoch=epoch)
        return Outgoing(child, self.cause(child, "start"))

    def steps(self, message: Message, scheduled: dict[Path, bool]) -> list[Outgoing]:
        body = self.fresh(message)
        runs = [body._replace(path=path, once=once) for path, once in scheduled.items()]
        return [Outgoing(run, self.cause(run, "step")) for run in runs]

    def wake_body(self, message: Message, generation: int) -> Outgoing:
        body = self.fresh(message)._replace(path=BODY, once=False)
        return Outgoing(body, self.cause(body, "step-ended", generation))

    def fail(self, run: str, handler_id: str, epoch: int) -> Outgoing:
        handler = Message("run", f"{run}.{epoch}" if epoch else run, handler_id, event=b"failure")
        return Outgoing(handler, self.cause(handler, "start"))

    def fresh(self, message: Message) -> Message:
        return message._replace(event=None, hop=0, instead_of=None)

    def following(self, message: Message, instead_of: tuple[str, int] | None) -> Message:
        return message._replace(event=None, hop=message.hop + 1, instead_of=instead_of)

    def cause(self, message: Message, kind: str, *cause: Hashable) -> Hashable:
        return (kind, message.run_id, message.path, message.epoch, *cause)
