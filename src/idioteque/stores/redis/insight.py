"""What Redis tells of many runs at once."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import cast

from idioteque import snapshots
from idioteque.function import run_id as run_id_of
from idioteque.insight import EFFECTS_MAX, Effects
from idioteque.paths import Path, path_of, path_text
from idioteque.store import NewRun, Status, StepRecord
from idioteque.stores.redis.calls import Calls
from idioteque.stores.redis.server import Part


class RedisInsight(Calls):
    """The part of `RedisStore` that tells of many runs.

    The runs that an event started are found by their ids, which follow from the event's and the functions'.
    """

    async def counts(self, function_id: str | None, limit: int) -> Mapping[Status, int]:
        return await self._index.counts(function_id, limit)

    async def functions(self, limit: int) -> Sequence[str]:
        return (await self._index.functions())[:limit]

    async def effects(self, event_ids: Sequence[str]) -> Sequence[Effects]:
        functions = await self._index.functions()
        return await asyncio.gather(*(self._effects(event_id, functions) for event_id in event_ids))

    async def _effects(self, event_id: str, functions: Sequence[str]) -> Effects:
        dumps = await self._index.headers([run_id_of(event_id, function) for function in functions])
        [answered] = await self._server.read([["SMEMBERS", self._key("took", event_id)]])
        taken = sorted(one.decode() for one in cast("set[bytes]", answered))[:EFFECTS_MAX]
        runs = [snapshots.record(dump.run, dump.event) for dump in dumps if dump and dump.run.event_id == event_id]
        runs.sort(key=lambda record: (record.created_at_ms, record.run_id))
        return Effects(runs[:EFFECTS_MAX], [(one.partition(" ")[0], path_of(one.partition(" ")[2])) for one in taken])

    async def seed(self, run_id: str, new: NewRun, steps: Sequence[StepRecord]) -> bool:
        history: list[Part] = []
        for step in steps:
            if step.outcome is not None:
                took_ms = -1 if step.took_ms is None else step.took_ms
                history += [path_text(step.path), int(step.outcome.ok), step.outcome.payload, took_ms]
        return await self._on(self._scripts.seed, run_id, *await self._entered(run_id, new), *history) == 1

    async def _note_taken(self, event_id: str, run_id: str, path: Path) -> None:
        kept_ms = self._server.options.retention_ms
        await self._server.run(self._scripts.took, self._key("took", event_id), f"{run_id} {path_text(path)}", kept_ms)
