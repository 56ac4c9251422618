"""Signs of life for every lease that this process holds: one statement for all of them, twice a second."""

from __future__ import annotations

import asyncio
import logging
import weakref
from collections.abc import Callable

from idioteque.clock import Clock
from idioteque.store import Lease, Store

LEASE_MS = 10_000
RENEW_EVERY_S = 0.5

_log = logging.getLogger("idioteque")
_Held = dict[Lease, Callable[[], None]]


class Leases:
    """The leases held on each event loop; a loop's task ends when it holds none."""

    def __init__(self, store: Store, clock: Clock) -> None:
        self._store = store
        self._clock = clock
        self._held: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, _Held] = weakref.WeakKeyDictionary()
        self._tasks: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Task[None]] = (
            weakref.WeakKeyDictionary()
        )

    def hold(self, lease: Lease, on_lost: Callable[[], None]) -> None:
        """Renew a lease until it is dropped; `on_lost` is called once when it turns out to be somebody else's."""
        loop = asyncio.get_running_loop()
        held = self._held.setdefault(loop, {})
        held[lease] = on_lost
        task = self._tasks.get(loop)
        if task is None or task.done():
            self._tasks[loop] = loop.create_task(self._renew(held))
            self._tasks[loop].add_done_callback(self._ended)

    def drop(self, lease: Lease) -> None:
        """Stop renewing a lease."""
        self._held.get(asyncio.get_running_loop(), {}).pop(lease, None)

    def _ended(self, task: asyncio.Task[None]) -> None:
        """Let go of a task that has ended: it would keep its loop for ever."""
        if self._tasks.get(task.get_loop()) is task:
            del self._tasks[task.get_loop()]

    async def close(self) -> None:
        """End this loop's task."""
        task = self._tasks.pop(asyncio.get_running_loop(), None)
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def _renew(self, held: _Held) -> None:
        known: set[Lease] = set()
        while held:
            await self._clock.sleep(RENEW_EVERY_S)
            leases = [lease for lease in held if lease in known]  # a younger one was claimed less than a beat ago
            known = set(held)
            if not leases:
                continue
            try:
                answers = await self._store.renew(leases, LEASE_MS)
            except Exception as error:  # the store is away: its own operations will say so
                _log.warning("could not renew %d leases: %s", len(leases), type(error).__name__)
                continue
            for lease, is_held in zip(leases, answers, strict=True):
                on_lost = None if is_held else held.pop(lease, None)
                if on_lost is not None:
                    on_lost()
