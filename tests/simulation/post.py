"""The transport of the world: it delivers at least once, tries again, and buries; it loses nothing."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from idioteque.dispatcher import CALLBACK_HEADER, FAILURE_CALLBACK, Outgoing
from idioteque.transport import HttpRequest, HttpResponse

if TYPE_CHECKING:
    from tests.simulation.world import Process, World

WINDOW_US = 600 * 1_000_000
BACKOFF_S = (1.0, 45.0, 2025.0)
RETRIES = 3
OPERATOR_S = 3600.0
"""How long a dead letter lies until an operator sends it again."""


@dataclass(eq=False, slots=True)
class Letter:
    """A message that was accepted; `state` is waiting, flying, delivered or dead.

    `claimed_when_dead`: a delivery of it claimed its run when it had been given up, and nobody will repeat that one: a
    late duplicate, or one whose process had stood still.
    """

    id: str
    outgoing: Outgoing
    is_callback: bool = False
    state: str = "waiting"
    retried: int = 0
    reason: str = ""
    claimed_when_dead: bool = False

    @property
    def retries(self) -> int:
        return RETRIES if self.outgoing.retries is None else self.outgoing.retries


@dataclass(eq=False, slots=True)
class Flight:
    """One attempt to deliver a letter; an `echo` is a duplicate, whose answer decides nothing."""

    letter: Letter
    process: Process
    is_echo: bool = False
    is_over: bool = False


flight_here: ContextVar[Flight | None] = ContextVar("simulation-flight", default=None)
"""The delivery that the code at hand belongs to."""


@dataclass(eq=False)
class Post:
    """Letters, those under way, and the dead."""

    world: World
    letters: dict[str, Letter] = field(default_factory=dict[str, Letter])
    flights: dict[Flight, None] = field(default_factory=dict[Flight, None])
    deduplicated: int = 0
    buried: int = 0
    _seen: dict[str, tuple[str, int]] = field(default_factory=dict[str, tuple[str, int]])
    _count: int = 0

    # ---- what comes in

    def accept(self, messages: Sequence[Outgoing]) -> list[str]:
        """Keep messages, each unless it is known by its deduplication id, and return their ids."""
        return [self._accept(message) for message in messages]

    def _accept(self, message: Outgoing) -> str:
        known = self._seen.get(message.deduplication_id)
        if known is not None and self.world.timers.now_us - known[1] < WINDOW_US:
            self.deduplicated += 1
            return known[0]
        letter = self._letter(message)
        self._seen[message.deduplication_id] = letter.id, self.world.timers.now_us
        self._later(letter, message.delay_s)
        return letter.id

    def _letter(self, message: Outgoing, *, is_callback: bool = False) -> Letter:
        self._count += 1
        letter = Letter(f"msg_{self._count}", message, is_callback)
        self.letters[letter.id] = letter
        return letter

    def _later(self, letter: Letter, delay_s: float) -> None:
        self.world.timers.after(delay_s, lambda: self._send(letter))

    # ---- what goes out

    def _send(self, letter: Letter) -> None:
        if letter.state != "waiting":
            return
        letter.state = "flying"
        self._fly(letter)

    def echo(self, letter: Letter, delay_s: float) -> None:
        """Deliver a letter once more, as a duplicate that came about somewhere on the way."""
        self.world.timers.after(delay_s, lambda: self._fly(letter, is_echo=True))

    def _fly(self, letter: Letter, *, is_echo: bool = False) -> None:
        process = self.world.pick()
        if process is None:
            if not is_echo:
                self._failed(letter, HttpResponse(503, body=b"no process listens"))
            return
        flight = Flight(letter, process, is_echo)
        self.flights[flight] = None
        headers = [("Upstash-Message-Id", letter.id), ("Upstash-Retried", str(letter.retried))]
        if letter.is_callback:
            headers.append((CALLBACK_HEADER, FAILURE_CALLBACK))
        process.receive(flight, HttpRequest("POST", "/", headers, letter.outgoing.body))

    # ---- what is answered

    def answered(self, flight: Flight, response: HttpResponse) -> None:
        """Take the answer to a delivery, unless nobody waits for it any more."""
        if flight.is_over:
            return
        self._end(flight)
        letter = flight.letter
        if flight.is_echo or letter.state != "flying":
            return
        if response.ok:
            letter.state = "delivered"
        else:
            self._failed(letter, response)

    def cut(self, process: Process) -> None:
        """The process has died, or stands still: nothing more is heard of the deliveries that it has."""
        for flight in [flight for flight in self.flights if flight.process is process]:
            self.answered(flight, HttpResponse(502, body=b"the connection was cut"))

    def restart(self) -> None:
        """Lose the answers to all deliveries in progress: they come again, and do not count as having been tried."""
        for flight in list(self.flights):
            self._end(flight)
            if not flight.is_echo and flight.letter.state == "flying":
                flight.letter.state = "waiting"
                self._later(flight.letter, 0.5)

    def _end(self, flight: Flight) -> None:
        flight.is_over = True
        self.flights.pop(flight, None)

    def _failed(self, letter: Letter, response: HttpResponse) -> None:
        self.world.note(f"{letter.id} was answered {response.status}: {response.body[:200].decode()}")
        if letter.retried < letter.retries and response.header("Upstash-NonRetryable-Error") != "true":
            delay_s = BACKOFF_S[min(letter.retried, len(BACKOFF_S) - 1)]
            letter.retried += 1
            letter.state = "waiting"
            self._later(letter, delay_s)
            return
        letter.state = "dead"
        letter.reason = f"{response.status}: {response.body[:200].decode()}"
        self.buried += 1
        self.world.note(f"{letter.id} was given up")
        self.world.timers.after(OPERATOR_S, lambda: self._send_again(letter))
        if not letter.is_callback:
            self._tell_failure(letter, response)

    def _tell_failure(self, letter: Letter, response: HttpResponse) -> None:
        document = {
            "sourceMessageId": letter.id,
            "status": response.status,
            "body": base64.b64encode(response.body).decode(),
            "sourceBody": base64.b64encode(letter.outgoing.body).decode(),
            "dlqId": f"dlq_{letter.id}",
        }
        callback = self._letter(Outgoing(json.dumps(document).encode(), f"callback-{letter.id}"), is_callback=True)
        self._later(callback, 0.0)

    # ---- what an operator does

    @property
    def dead(self) -> list[Letter]:
        """The letters that were given up and not sent again since."""
        return [letter for letter in self.letters.values() if letter.state == "dead"]

    def redrive(self) -> int:
        """Send all dead letters again, as new messages; return how many there were."""
        return sum(self._send_again(letter) for letter in self.dead)

    def _send_again(self, letter: Letter) -> bool:
        if letter.state != "dead":
            return False
        letter.state = "delivered"  # as far as this one goes
        self._later(self._letter(letter.outgoing, is_callback=letter.is_callback), 0.0)
        return True

    def pending(self, wanted: Callable[[Letter], bool] = lambda _: True) -> list[Letter]:
        """Return the letters that are still to be delivered, or dead."""
        return [letter for letter in self.letters.values() if letter.state != "delivered" and wanted(letter)]
