"""Flow-control keys as operators deal with them. How their limits are kept stands in `lines.py`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from idioteque.clock import Clock
from idioteque.database import Database, Transaction
from idioteque.errors import DatabaseFull
from idioteque.server.core.deliverer import Deliverer
from idioteque.server.errors import NotFound, StorageFull
from idioteque.server.model import FlowKey
from idioteque.server.storage.flow_keys import (
    find_flow_key,
    hold_flow_key,
    list_flow_keys,
    make_flow_key,
    save_flow_key,
)
from idioteque.server.wire.flow import Pin, checked_key

LISTED_MAX = 1000


class FlowKeys:
    """Keeps flow-control keys; messages make them, and so do a pause and a pin that come before any message."""

    def __init__(self, database: Database, clock: Clock, deliverer: Deliverer) -> None:
        self._database = database
        self._clock = clock
        self._deliverer = deliverer

    async def key(self, key: str) -> FlowKey:
        """Return a key; raise `NotFound` when there is none, or nobody used it lately."""
        now_ms = self._clock.now_ms()
        flow = await self._database.read(lambda tx: find_flow_key(tx, key, now_ms))
        if flow is None:
            raise _unknown(key)
        return flow

    async def keys(self, search: str) -> list[FlowKey]:
        """Return keys that contain a text, at most `LISTED_MAX`, by name."""
        now_ms = self._clock.now_ms()
        return await self._database.read(lambda tx: list_flow_keys(tx, search, LISTED_MAX, now_ms))

    async def pause(self, key: str) -> None:
        """Let no attempt begin that belongs to a key."""
        await self._change(checked_key(key), lambda flow: replace(flow, paused=True), make=True)

    async def resume(self, key: str) -> None:
        """Let attempts begin again."""
        await self._change(key, lambda flow: replace(flow, paused=False))

    async def pin(self, key: str, pin: Pin) -> None:
        """Set limits that messages do not change. A rate and its period are pinned together."""
        pins_rate = pin.rate is not None or pin.period_s is not None

        def change(flow: FlowKey) -> FlowKey:
            limits = replace(
                flow.limits,
                parallelism=pin.parallelism or flow.limits.parallelism,
                rate=pin.rate or flow.limits.rate,
                period_s=pin.period_s or flow.limits.period_s,
            )
            return replace(
                flow,
                limits=limits,
                pinned_parallelism=flow.pinned_parallelism or pin.parallelism is not None,
                pinned_rate=flow.pinned_rate or pins_rate,
            )

        await self._change(checked_key(key), change, make=True)

    async def unpin(self, key: str, *, parallelism: bool, rate: bool) -> None:
        """Let messages set limits again; until one does, they stay as they are."""
        await self._change(
            key,
            lambda flow: replace(
                flow,
                pinned_parallelism=flow.pinned_parallelism and not parallelism,
                pinned_rate=flow.pinned_rate and not rate,
            ),
        )

    async def reset_rate(self, key: str) -> None:
        """Begin a new period now, with nothing of the rate used."""
        now_ms = self._clock.now_ms()
        await self._change(key, lambda flow: replace(flow, period_began_ms=now_ms, rate_used=0))

    async def _change(self, key: str, change: Callable[[FlowKey], FlowKey], *, make: bool = False) -> None:
        now_ms = self._clock.now_ms()

        def operation(tx: Transaction) -> None:
            if make:
                make_flow_key(tx, key, now_ms)
            flow = hold_flow_key(tx, key)
            if flow is None:
                raise _unknown(key)
            save_flow_key(tx, change(flow), now_ms)

        try:
            await self._database.write(operation)
        except DatabaseFull as error:
            raise StorageFull("there is no room left to store this; nothing was changed") from error
        self._deliverer.note_room(key)


def _unknown(key: str) -> NotFound:
    return NotFound(f"flow-control key {key[:100]} not found")
