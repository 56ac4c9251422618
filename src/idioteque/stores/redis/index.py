"""Which runs there are: lists in the order of creation, which every look at them mends."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

from idioteque.ledger import RunRow
from idioteque.store import Status
from idioteque.stores.redis.replies import HEADER, Dump, Reply, header_of
from idioteque.stores.redis.scripts import Scripts
from idioteque.stores.redis.server import RedisServer

LOOK_RUNS_MAX = 200
NEXT_TRIES_MAX = 2


class RunIndex:
    """The index is entered before a run is created and told of its end before the end is answered.

    What a death leaves behind between two keys is found by whoever lists: the run's own key says what is true.
    """

    def __init__(self, server: RedisServer, scripts: Scripts) -> None:
        self._server, self._scripts = server, scripts
        self._key = f"{server.options.prefix}:{{{server.options.prefix}.runs}}"

    def key_of(self, run_id: str) -> str:
        return f"{self._server.options.prefix}:{{{run_id}}}"

    async def enter(self, run_id: str, function_id: str, now: str) -> int:
        """Make a run known before it is created; return when it was created."""
        created_at_ms = 0
        for _ in range(NEXT_TRIES_MAX):
            reply = Reply.of(await self._server.run(self._scripts.enter, self._key, now, run_id, function_id))
            created_at_ms, over = reply.number(0), [one.decode() for one in cast("list[bytes]", reply.parts[1])]
            await self.mend(over)
            if run_id not in over:
                break
        return created_at_ms

    async def place(self, run_id: str, function_id: str, status: str, created_at_ms: int, ended_at_ms: int) -> None:
        """Say how a run stands; `ended_at_ms` is negative for one that has not ended."""
        standing = "open" if ended_at_ms < 0 else status
        until: int | str = "" if ended_at_ms < 0 else ended_at_ms + self._server.options.retention_ms
        await self._server.run(self._scripts.place, self._key, run_id, function_id, created_at_ms, standing, until)

    async def place_row(self, run: RunRow) -> None:
        ended_at_ms = -1 if run.is_open or run.finished_at_ms is None else run.finished_at_ms
        await self.place(run.run_id, run.function_id, run.status, run.created_at_ms, ended_at_ms)

    async def mend(self, run_ids: Sequence[str]) -> None:
        """Make the index say of these runs what their own keys say."""
        for run_id, dump in zip(run_ids, await self.headers(run_ids), strict=True):
            if dump is None:
                await self.forget(run_id)
            else:
                await self.place_row(dump.run)

    async def headers(self, run_ids: Sequence[str]) -> list[Dump | None]:
        """Return runs without their steps; None for those that are not stored any more."""
        answers = await self._server.read([["HMGET", self.key_of(run_id), *HEADER] for run_id in run_ids])
        return [
            header_of(run_id, cast("list[object]", values)) for run_id, values in zip(run_ids, answers, strict=True)
        ]

    async def functions(self) -> Sequence[str]:
        """Return the ids of functions that have, or had, runs."""
        [answered] = await self._server.read([["SMEMBERS", f"{self._key}:names"]])
        return sorted(one.decode() for one in cast("set[bytes]", answered))

    async def list(self, status: Status | None, function_id: str | None, limit: int, before: str | None) -> list[Dump]:
        """Return runs, the newest first; each round trip looks at a bounded number of them."""
        standing = "all" if status is None else "open" if status in ("running", "waiting") else status
        found: list[Dump] = []
        last = before or ""
        while len(found) < limit:
            count = min(LOOK_RUNS_MAX, limit - len(found) if status not in ("running", "waiting") else LOOK_RUNS_MAX)
            answered = await self._server.run(self._scripts.page, self._key, standing, function_id or "", last, count)
            page = [one.decode() for one in cast("list[bytes]", answered)]
            strays: list[str] = []
            for run_id, dump in zip(page, await self.headers(page), strict=True):
                if dump is None or (standing != "all" and standing != _standing(dump.run)):
                    strays.append(run_id)
                elif status in (None, dump.run.status):
                    found.append(dump)
            if len(page) < count:
                await self._mend_all_but_new(strays)
                break
            last = page[-1]
            await self._mend_all_but_new([run_id for run_id in strays if run_id != last])
        return found[:limit]

    async def open_since(self, before_ms: int, start: int, count: int) -> Sequence[str]:
        """Return unfinished runs that were created before a time, the oldest first, from a place on."""
        return await self._aged("open", before_ms, start, count)

    async def ended(self, before_ms: int, start: int, count: int) -> Sequence[str]:
        """Return runs that ended before a time, those that ended first first, from a place on."""
        return await self._aged("ends", before_ms + self._server.options.retention_ms, start, count)

    async def forget(self, run_id: str) -> None:
        """Let go of a run that is not stored any more."""
        await self._server.run(self._scripts.forget, self._key, run_id)

    async def _aged(self, of: str, below: int, start: int, count: int) -> Sequence[str]:
        answered = await self._server.run(self._scripts.aged, self._key, of, below, start, count)
        return [one.decode() for one in cast("list[bytes]", answered)]

    async def counts(self, function_id: str | None, limit: int) -> dict[Status, int]:
        """Return how many runs have each status, up to a limit; those that are open are asked one by one."""
        of = f":{function_id}" if function_id else ""
        ended: tuple[Status, ...] = ("completed", "failed", "cancelled")
        open_ids, *sizes = await self._server.read(
            [
                ["ZREVRANGE", f"{self._key}:open{of}", 0, 2 * limit - 1],
                *(["ZCARD", f"{self._key}:{status}{of}"] for status in ended),
            ]
        )
        found: dict[Status, int] = {"running": 0, "waiting": 0}
        runs = [one.decode() for one in cast("list[bytes]", open_ids)]
        for begin in range(0, len(runs), LOOK_RUNS_MAX):
            asked = [["HGET", self.key_of(run_id), "status"] for run_id in runs[begin : begin + LOOK_RUNS_MAX]]
            for answered in await self._server.read(asked):
                if answered in (b"running", b"waiting"):
                    found[cast("Status", answered.decode())] += 1
        found |= {status: cast("int", size) for status, size in zip(ended, sizes, strict=True)}
        return {status: min(count, limit) for status, count in found.items()}

    async def _mend_all_but_new(self, run_ids: Sequence[str]) -> None:
        """Mend strays, but for runs that were entered and are about to be created: who entered them goes on."""
        headers = await self.headers(run_ids)
        await self.mend([run_id for run_id, dump in zip(run_ids, headers, strict=True) if dump is not None])


def _standing(run: RunRow) -> str:
    return "open" if run.is_open else run.status
