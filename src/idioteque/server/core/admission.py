"""How a message comes into being: a draft gets its id, and a slot if it is due now, and is stored with its first log.

What is due now is stored as leased already and handed to the deliverer after the commit: no search, no waiting.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from idioteque.clock import Clock
from idioteque.database import Transaction
from idioteque.ids import new_id
from idioteque.server.config import ServerConfig
from idioteque.server.core.destinations import Destinations
from idioteque.server.errors import QuotaExceeded
from idioteque.server.model import Accepted, Draft, Message, Slot, States
from idioteque.server.network import split_url
from idioteque.server.storage.deliveries import Standing, insert_deliveries, waiting
from idioteque.server.storage.messages import claim_deduplication, insert_messages

CREATED_AND_ACTIVE = States.CREATED | States.ACTIVE


@dataclass(slots=True, unsafe_hash=True)
class Admitted:
    """A draft on its way into the database, and where it will stand there."""

    draft: Draft
    standing: Standing


class Admission:
    """Turns drafts into messages."""

    def __init__(self, config: ServerConfig, clock: Clock, destinations: Destinations) -> None:
        self._config = config
        self._clock = clock
        self._destinations = destinations

    def check(self, draft: Draft) -> None:
        """Raise `QuotaExceeded` for a draft that lies too far in the future."""
        not_before_ms = draft.options.not_before_ms
        if not_before_ms is None:
            return
        limit_s = self._config.delay_max_s
        if not_before_ms - self._clock.now_ms() > limit_s * 1000:
            raise QuotaExceeded(f"quota maxDelay exceeded, current limit: {limit_s}")

    def admit(self, draft: Draft, slot: Slot | None = None) -> Admitted:
        """Make a message of a draft, and a place among those in flight for it if it is due now and there is room.

        A callback takes over its source's `slot` of a queue. What a queue or a flow-control key orders waits its turn.
        """
        now_ms, options = self._clock.now_ms(), draft.options
        due_ms = now_ms + options.delay_ms if options.not_before_ms is None else max(options.not_before_ms, now_ms)
        id_, caller_ip, source = new_id("msg", now_ms), draft.caller_ip, draft.source
        message = Message(id_, draft.url, draft.body, options, now_ms, due_ms, caller_ip, source, draft.queue)
        if draft.queue is not None or options.flow is not None:
            return Admitted(draft, waiting(message, due_ms, slot))
        origin = split_url(draft.url).origin
        if due_ms <= now_ms and self._destinations.reserve(origin, now_ms):
            return Admitted(draft, Standing(message, origin, now_ms + self._config.lease_ms, leased=True, slot=slot))
        return Admitted(draft, Standing(message, origin, due_ms, leased=False, slot=slot))

    def store(self, tx: Transaction, admitted: Sequence[Admitted]) -> list[Accepted]:
        """Store messages, but those whose deduplication id another one carries; return what became of each."""
        results = [self._accept(tx, each) for each in admitted]
        fresh = [each.standing for each, result in zip(admitted, results, strict=True) if not result.deduplicated]
        insert_messages(tx, [(each.message, CREATED_AND_ACTIVE if each.leased else States.CREATED) for each in fresh])
        insert_deliveries(tx, fresh)
        return results

    def _accept(self, tx: Transaction, admitted: Admitted) -> Accepted:
        message = admitted.standing.message
        if admitted.draft.deduplication_key is not None:
            window_ms = self._config.deduplication_window_s * 1000
            earlier = claim_deduplication(tx, admitted.draft, message.id, message.created_at_ms, window_ms)
            if earlier is not None:
                return earlier
        return Accepted(message.id, message.url)
