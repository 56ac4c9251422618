"""Old runs in Redis: finding those that nothing holds, and deleting those that ended long ago."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import cast

from idioteque import snapshots
from idioteque.store import RunRecord
from idioteque.stores.redis.calls import Calls
from idioteque.stores.redis.replies import Reply

LOOK_RUNS_MAX = 100


class OldRuns(Calls):
    """The part of `RedisStore` that looks after old runs.

    Without it a run that has ended goes all the same, when the retention in the store's URL is over; what it leaves in
    the index goes with later runs.
    """

    async def stalled(self, before_ms: int, limit: int) -> Sequence[RunRecord]:
        found: list[str] = []
        start = 0
        while len(found) < limit:
            page = await self._index.open_since(before_ms, start, LOOK_RUNS_MAX)
            answers = await asyncio.gather(*(self._on(self._scripts.stalled, run_id, before_ms) for run_id in page))
            found += [run_id for run_id, answer in zip(page, answers, strict=True) if answer]
            start += len(page)
            if len(page) < LOOK_RUNS_MAX:
                break
        headers = await self._index.headers(found[:limit])
        return [snapshots.record(dump.run, dump.event) for dump in headers if dump is not None]

    async def forget_sent(self, run_id: str) -> None:
        await self._on(self._scripts.forget_sent, run_id)

    async def purge(self, before_ms: int, limit: int) -> int:
        deleted = kept = 0
        while deleted < limit:
            wanted = limit - deleted
            page = await self._index.ended(before_ms, kept, wanted)
            answers = await asyncio.gather(*(self._purged(run_id, before_ms) for run_id in page))
            deleted += answers.count("deleted")
            kept += answers.count("kept")
            if len(page) < wanted:
                break
        return deleted

    async def _purged(self, run_id: str, before_ms: int) -> str:
        """Delete a run that ended before a time, then what is kept beside it; return what became of it.

        A death in between leaves an event and names, which go by themselves after the retention in the store's URL.
        """
        answered = await self._on(self._scripts.purge, run_id, before_ms)
        if answered == 0:
            return "kept"
        if answered == 1:
            await self._index.forget(run_id)
            return "missing"
        reply = Reply.of(answered)
        names = [self._key("name", name.decode()) for name in cast("list[bytes]", reply.parts[1])]
        await asyncio.gather(
            # Each run keeps the event itself; this one is for functions that the event has still to start.
            self._server.run(self._scripts.drop, self._key("event", reply.text(0))),
            *(self._server.run(self._scripts.vacate, name, run_id) for name in names),
            self._mailbox.unwatch(run_id),
            self._index.forget(run_id),
        )
        return "deleted"
