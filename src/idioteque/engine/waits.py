"""Events that runs wait for.

A wait registers, then looks into the mailbox; an event goes into the mailbox, then looks for who waits. So neither can
miss the other, whichever comes first and whoever dies in between.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, cast

from idioteque.dispatcher import EventEnvelope
from idioteque.engine.outbox import Outbox
from idioteque.metrics import Metrics
from idioteque.paths import Path
from idioteque.store import Lease, Letter, Lost, Outcome, Recorded, Started, Store, Won


class Watch:
    """One step that waits for an event: of one of these types, with these values in its fields."""

    def __init__(
        self, store: Store, lease: Lease, started: Started, types: Sequence[str], where: Mapping[str, object]
    ) -> None:
        self._store = store
        self._lease = lease
        self._since_ms = started.created_at_ms
        self._own_event_id = started.event_id
        self._types = types
        self._where = where

    async def prepare(self, path: Path) -> Recorded | None:
        """Register, then look whether the event is there already.

        The watcher stays when it is: this pass may be that of a stray copy of a message, which nobody repeats if it
        breaks off. Then the event's own message finds the watcher, and has the run go on.
        """
        await self._store.watch(self._lease, path, self._types, json.dumps(self._where).encode())
        for letter in await self._store.letters(self._types, self._since_ms):
            if letter.event_id == self._own_event_id:
                continue
            recorded = await deliver(self._store, self._lease.run_id, path, letter, self._where)
            if recorded is not None:
                return recorded
        return None


async def wake_watchers(
    store: Store, outbox: Outbox, envelope: EventEnvelope, type_name: str, cancel_key: str, metrics: Metrics
) -> tuple[Letter, int, int]:
    """Give an event to every run that waits for it; return it as it first came, and how many it woke and cancelled."""
    letter, watchers = await store.arrive(envelope.event_id, type_name, envelope.event)
    woken = cancelled = 0
    for watcher in watchers:
        if letter.accepted_at_ms < watcher.created_at_ms or letter.event_id == watcher.event_id:
            continue  # a late copy of an event that the run cannot have waited for, or the one that started it
        where = json.loads(watcher.where)
        if watcher.path[0] == cancel_key:
            if matches(letter.event, where):
                if await store.cancel(watcher.run_id) == "cancelled":
                    age_s = max(0, letter.accepted_at_ms - watcher.created_at_ms) / 1000
                    metrics.run_ended(watcher.function_id, "cancelled", age_s)
                await outbox.wake(watcher)
                cancelled += 1
            continue
        recorded = await deliver(store, watcher.run_id, watcher.path, letter, where)
        if recorded is not None:
            await outbox.wake(watcher)
            await store.unwatch(watcher.run_id, watcher.path)
            woken += 1
    return letter, woken, cancelled


async def deliver(
    store: Store, run_id: str, path: Path, letter: Letter, where: Mapping[str, object]
) -> Recorded | None:
    """Record an event as a wait's outcome; return what is on record, or None when the event is not for this wait."""
    if not matches(letter.event, where):
        return None
    outcome = Outcome(True, letter.event)
    answer = await store.take(run_id, path, letter.event_id, outcome)
    if isinstance(answer, Won):
        return Recorded(path, outcome, answer.seq)
    if isinstance(answer, Lost) and answer.outcome is not None:
        return Recorded(path, answer.outcome, answer.seq)
    return None


def matches(event: bytes, where: Mapping[str, object]) -> bool:
    """Whether an event has these values in its fields; values compare as JSON does."""
    document: object = json.loads(event)
    if not isinstance(document, dict):
        return not where
    fields = cast(dict[str, Any], document)
    return all(name in fields and _same(fields[name], value) for name, value in where.items())


def _same(left: object, right: object) -> bool:
    return json.dumps(left, sort_keys=True) == json.dumps(right, sort_keys=True)
