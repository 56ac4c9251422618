"""What finished attempts change in the database: many of them in one transaction, each conditional on its lease."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from idioteque.database import Transaction
from idioteque.ids import new_id
from idioteque.server.config import ServerConfig
from idioteque.server.core.admission import Admission, Admitted
from idioteque.server.core.outcomes import Buried, Delivered, Retried, Verdict, after_attempt
from idioteque.server.model import Answer, DeadLetter, Lease, LogRow, States
from idioteque.server.storage.dead_letters import insert_dead_letters
from idioteque.server.storage.deliveries import end_delivered, end_failed, put_off
from idioteque.server.storage.logs import insert_logs
from idioteque.server.wire.publish import PublishReader
from idioteque.server.wire.shapes import callback_body

ERROR_AND_RETRY = States.ERROR | States.RETRY
ERROR_AND_FAILED = States.ERROR | States.FAILED
ERROR_AND_CANCELED = States.ERROR | States.CANCELED
# Flags of an enum cost ten times as much to test as integers.
RETRY, FAILED, CANCELED = int(States.RETRY), int(States.FAILED), int(States.CANCELED)


@dataclass(slots=True, unsafe_hash=True)
class Finished:
    """An attempt that ended; `unreached` when its connection was refused or cut."""

    lease: Lease
    origin: str
    answer: Answer
    unreached: bool
    time_ms: int


@dataclass(slots=True, unsafe_hash=True)
class Outcome:
    """A finished attempt with its verdict, and the messages that report on it, ready to be stored."""

    finished: Finished
    verdict: Verdict
    dead_letter_id: str
    callbacks: Sequence[Admitted]


class Settlement:
    """Decides outcomes outside of the transaction, and applies them inside."""

    def __init__(self, config: ServerConfig, reader: PublishReader, admission: Admission) -> None:
        self._config = config
        self._reader = reader
        self._admission = admission

    def decide(self, finished: Finished) -> Outcome:
        """Return the outcome of an attempt; the callbacks it asks for hold their slots already."""
        verdict = after_attempt(finished.lease, finished.answer, finished.time_ms)
        dead_letter_id = new_id("dlq", finished.time_ms) if isinstance(verdict, Buried) else ""
        options = finished.lease.message.options
        if options.callback is None and options.failure_callback is None:
            return Outcome(finished, verdict, dead_letter_id, ())
        return Outcome(finished, verdict, dead_letter_id, tuple(self._callbacks(finished, dead_letter_id)))

    def apply(self, tx: Transaction, outcomes: Sequence[Outcome]) -> list[States | None]:
        """Store outcomes; return the states that each began, or None for one that came too late to change anything."""
        begun = [_end(tx, outcome) for outcome in outcomes]
        effective = [(o, states) for o, states in zip(outcomes, begun, strict=True) if states is not None]
        insert_logs(tx, [self._log(outcome, states) for outcome, states in effective])
        letters = [self._letter(outcome) for outcome, states in effective if int(states) & FAILED]
        if letters:
            insert_dead_letters(tx, letters)
        reported = [outcome for outcome, states in effective if outcome.callbacks and reports(states)]
        callbacks = [callback for outcome in reported for callback in outcome.callbacks]
        if callbacks:
            self._admission.store(tx, callbacks)
        return begun

    def _callbacks(self, finished: Finished, dead_letter_id: str) -> Iterator[Admitted]:
        lease, options = finished.lease, finished.lease.message.options
        if options.callback is not None:
            body = callback_body(lease.message, lease.retried, finished.answer, None)
            yield self._admission.admit(self._reader.callback_draft(options.callback, lease.message, body), lease.slot)
        if dead_letter_id and options.failure_callback is not None:
            body = callback_body(lease.message, lease.retried, finished.answer, dead_letter_id)
            draft = self._reader.callback_draft(options.failure_callback, lease.message, body)
            yield self._admission.admit(draft, lease.slot)

    def _log(self, outcome: Outcome, states: States) -> LogRow:
        finished, verdict = outcome.finished, outcome.verdict
        next_at_ms = verdict.due_at_ms if isinstance(verdict, Retried) and int(states) & RETRY else None
        return LogRow(finished.lease.message.id, finished.time_ms, states, self._kept(finished.answer), next_at_ms)

    def _letter(self, outcome: Outcome) -> DeadLetter:
        finished = outcome.finished
        return DeadLetter(outcome.dead_letter_id, finished.lease.message, finished.time_ms, self._kept(finished.answer))

    def _kept(self, answer: Answer) -> Answer:
        limit = self._config.logged_bytes_max
        return answer if len(answer.body) <= limit else replace(answer, body=answer.body[:limit])


def reports(states: States | None) -> bool:
    """Whether callbacks tell of an attempt: not of one that changed nothing, nor of a message that was cancelled."""
    return states is not None and not int(states) & CANCELED


def _end(tx: Transaction, outcome: Outcome) -> States | None:
    """Change where the message stands; return the states that begin, or None when somebody else decided already."""
    finished, verdict = outcome.finished, outcome.verdict
    if isinstance(verdict, Delivered):
        return States.DELIVERED if end_delivered(tx, finished.lease.message.id) else None
    if isinstance(verdict, Retried) and put_off(tx, finished.lease, verdict.due_at_ms, unreached=finished.unreached):
        return ERROR_AND_RETRY
    # A retry that could not be put off was cancelled meanwhile, or its lease is lost.
    ended = end_failed(tx, finished.lease)
    if ended is None:
        return None
    return ERROR_AND_CANCELED if ended == "cancelled" else ERROR_AND_FAILED
