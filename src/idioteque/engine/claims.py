"""Claims as deliveries make them: nothing is read that this process remembers, and a lost answer is asked for again."""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Awaitable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from idioteque.dispatcher import RunEnvelope
from idioteque.engine.answers import Delivery
from idioteque.engine.kept import Offer
from idioteque.engine.leases import LEASE_MS
from idioteque.engine.remembered import Remembered
from idioteque.function import Function
from idioteque.ids import nonce
from idioteque.paths import Path
from idioteque.store import Claim, Claimed, Lease, NewRun, Recorded, Started, Store

UNANSWERED_MAX = 10_000


@dataclass(frozen=True, slots=True)
class Job:
    """A run that a delivery goes on with; `offer` is its step as the body asked for it, where that is still there."""

    run: str
    function: Function
    envelope: RunEnvelope
    delivery: Delivery
    offer: Offer | None


@dataclass(slots=True)
class Asked:
    """A claim, and the store's answer to it, which is on its way if the store makes a future of it."""

    request: Claim
    epoch: int
    place: tuple[str, Path, str]
    answer: Awaitable[Claimed]


@dataclass(frozen=True, slots=True)
class Held:
    """A lease that was taken: what its claim asked, and was told."""

    request: Claim
    started: Started


class Claims:
    """Makes the claims of one engine, and keeps what it may go on from."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._remembered = Remembered()
        self._unanswered: OrderedDict[tuple[str, Path, str], str] = OrderedDict()

    def ask(self, run: str, envelope: RunEnvelope, delivery: Delivery, *, inside: bool = False) -> Asked:
        """Make a claim, to be `answered` in any case.

        It brings the whole history, whatever was read of it; or, in the epoch of the message, just what is recorded
        `inside` its step. A claim whose answer was lost may have taken the lease. When its message comes again, it is
        asked under the same owner, so that it gets that lease, and no strike for a crash that was none.
        """
        message_id, retried = envelope.instead_of or (delivery.message_id, delivery.retried)
        place = (run, envelope.path, message_id)
        owner = self._unanswered.pop(place, None) or nonce()
        known = 0 if inside else self._remembered.known(run)
        new, path, at_most_once = new_run(envelope), envelope.path, envelope.at_most_once
        request = Claim(run, owner, message_id, retried, LEASE_MS, new, path, at_most_once, known, inside)
        return Asked(request, envelope.epoch, place, self._store.claim(request))

    async def answered(self, asked: Asked) -> Held | Claimed:
        """Return what came of a claim."""
        try:
            answer = await asked.answer
            if not isinstance(answer, Started):
                return answer
            answer = await self._whole(asked.request, asked.epoch, answer)
        except Exception:
            self._unanswered[asked.place] = asked.request.owner
            while len(self._unanswered) > UNANSWERED_MAX:
                self._unanswered.popitem(last=False)
            raise
        return Held(asked.request, answer) if isinstance(answer, Started) else answer

    async def _whole(self, request: Claim, epoch: int, answer: Started) -> Claimed:
        if request.inside:
            return answer if answer.epoch == epoch else await self._store.claim(replace(request, inside=False))
        whole = self._remembered.completed(request.run_id, request.known, answer)
        return whole if whole is not None else await self._store.claim(replace(request, known=0))

    async def later(self, held: Held, known: int) -> Sequence[Recorded] | None:
        """Read what was recorded since the outcome of that `seq`, which may be told again; None when the lease is lost.

        It is the claim made once more: by the same owner, it takes nothing.
        """
        answer = await self._store.claim(replace(held.request, new=None, known=known))
        if not isinstance(answer, Started):
            return None
        if answer.token != held.started.token:  # nobody held it, so that it was taken anew
            await self._store.release(Lease(held.request.run_id, answer.token, held.request.path), "shutdown")
            return None
        return answer.outcomes

    def learn(self, run: str, started: Started, later: Sequence[Recorded]) -> None:
        """Remember what a claim told, and what was recorded under it."""
        self._remembered.learn(run, started, later)

    def forget(self, run: str) -> None:
        """Let go of a run that has ended."""
        self._remembered.forget(run)


def new_run(envelope: RunEnvelope) -> NewRun | None:
    """Return what a message creates its run with; None for a message that does not carry the event."""
    if envelope.event is None:
        return None
    if envelope.retries is None and envelope.parent is None and envelope.flow is None:
        return NewRun(envelope.event_id, envelope.function_id, envelope.event, b"{}")
    options: dict[str, Any] = {} if envelope.retries is None else {"retries": envelope.retries}
    if envelope.parent is not None:
        options["parent"] = envelope.parent
    if envelope.flow is not None:
        options["flow"] = envelope.flow
    return NewRun(envelope.event_id, envelope.function_id, envelope.event, json.dumps(options).encode())


def inherited(envelope: RunEnvelope, started: Started) -> RunEnvelope:
    """Take a message's options from the run, where the publisher's are kept, and its epoch, which may be later."""
    options: dict[str, Any] = json.loads(started.options)
    flow = None if (flow := options.get("flow")) is None else (flow[0], flow[1])
    return replace(envelope, retries=options.get("retries"), flow=flow, epoch=started.epoch)
