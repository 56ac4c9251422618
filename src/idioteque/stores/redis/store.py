"""Runs in Redis: every operation is one script on the run's own key, whose rules are those of the ledger."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

from idioteque import snapshots
from idioteque.clock import Clock, SystemClock
from idioteque.paths import BODY, Path, path_text
from idioteque.store import (
    Begun,
    Claim,
    Claimed,
    Committed,
    Failed,
    Lease,
    Letter,
    NewRun,
    Outcome,
    Released,
    ReleaseKind,
    RunRecord,
    Scheduled,
    Status,
    Trouble,
    Watcher,
    Won,
)
from idioteque.stores.redis import replies
from idioteque.stores.redis.insight import RedisInsight
from idioteque.stores.redis.old_runs import OldRuns
from idioteque.stores.redis.replies import Reply, dump_of, past_of
from idioteque.stores.redis.run_log import RedisRunLog
from idioteque.stores.redis.server import Part, RedisServer


class RedisStore(OldRuns, RedisInsight, RedisRunLog):
    """A `Store` in Redis: `RedisStore("redis://user:password@host:6379/0")`, shared by any number of workers.

    It is as durable as the server: with `appendfsync always`, or `redis_wait_aof=1` in the URL, what was answered is on
    the disk. A run that has ended is kept for `retention=30d`; one that has not never expires.
    """

    def __init__(self, url: str, clock: Clock | None = None) -> None:
        super().__init__(RedisServer(url), clock or SystemClock())

    async def claim(self, claim: Claim) -> Claimed:
        new: Sequence[Part] = () if claim.new is None else await self._entered(claim.run_id, claim.new)
        who: list[Part] = [path_text(claim.path), claim.owner, claim.message_id, claim.retried, claim.lease_ms]
        reply = Reply.of(await self._on(self._scripts.claim, claim.run_id, *who, int(claim.at_most_once), *new))
        if reply.text(0) != "started":
            return replies.refused(reply)
        dump = dump_of(claim.run_id, reply.inner(1).parts)
        assert dump is not None
        holder = dump.run if claim.path == BODY else dump.seats[path_text(claim.path)]
        sent = [seat.path for seat in dump.seats.values() if seat.sent]
        return snapshots.started(dump.run, dump.event, dump.steps, holder, sent, claim.known)

    async def commit(self, lease: Lease, path: Path, outcome: Outcome) -> Committed:
        took_ms = -1 if outcome.took_ms is None else outcome.took_ms
        what: list[Part] = [path_text(path), int(outcome.ok), outcome.payload, took_ms]
        reply = Reply.of(await self._on(self._scripts.commit, lease.run_id, *_held(lease), *what))
        if not isinstance(reply.parts[0], list):  # no such run
            return replies.committed(reply)
        answer = replies.committed(reply.inner(0))
        if path == BODY:
            await self._note_end(lease.run_id, Reply(reply.parts[1:]))
        elif reply.number(1):
            await self._mailbox.unwatch(lease.run_id, path)
        return answer

    async def begin(self, lease: Lease, path: Path, *, at_most_once: bool = False) -> Begun:
        around = [path_text(path[:n]) for n in range(1, len(path))]
        what: list[Part] = [path_text(path), int(at_most_once), *around]
        return replies.begun(Reply.of(await self._on(self._scripts.begin, lease.run_id, *_held(lease), *what)))

    async def fail(
        self, lease: Lease, path: Path, attempts: int, due_at_ms: int, error: str, took_ms: int | None = None
    ) -> Failed:
        what: list[Part] = [path_text(path), attempts, due_at_ms, error, -1 if took_ms is None else took_ms]
        return replies.failed(Reply.of(await self._on(self._scripts.fail, lease.run_id, *_held(lease), *what)))

    async def schedule(self, lease: Lease, path: Path, due_at_ms: int, waits_for: str | None = None) -> Scheduled:
        what: list[Part] = [path_text(path), due_at_ms, *([] if waits_for is None else [waits_for])]
        return replies.scheduled(Reply.of(await self._on(self._scripts.schedule, lease.run_id, *_held(lease), *what)))

    async def sent(self, lease: Lease, paths: Sequence[Path]) -> None:
        await self._on(self._scripts.sent, lease.run_id, *(path_text(path) for path in paths))

    async def watch(self, lease: Lease, path: Path, types: Sequence[str], where: bytes) -> None:
        answered = await self._on(self._scripts.watch, lease.run_id, *_held(lease))
        if answered is None or not types:
            return
        run = Reply.of(answered)
        watcher = Watcher(
            run_id=lease.run_id,
            path=path,
            event_id=run.text(0),
            function_id=run.text(1),
            where=where,
            created_at_ms=run.number(2),
            epoch=run.number(3),
            options=run.data(4),
            seat=lease.path,
        )
        await self._mailbox.register(watcher, types)

    async def unwatch(self, run_id: str, path: Path) -> None:
        await self._mailbox.unwatch(run_id, path)

    async def arrive(self, event_id: str, type_name: str, event: bytes) -> tuple[Letter, Sequence[Watcher]]:
        return await self._mailbox.arrive(event_id, type_name, event, self._now())

    async def letters(self, types: Sequence[str], since_ms: int) -> Sequence[Letter]:
        return await self._mailbox.letters(types, since_ms)

    async def take(self, run_id: str, path: Path, event_id: str, outcome: Outcome) -> Committed:
        what: list[Part] = [path_text(path), event_id, int(outcome.ok), outcome.payload]
        answer = replies.committed(Reply.of(await self._on(self._scripts.take, run_id, *what)))
        if isinstance(answer, Won):
            await self._note_taken(event_id, run_id, path)
        return answer

    async def occupy(self, name: str, run_id: str, *, until_end: bool) -> str:
        known = await self._occupied(name, run_id, "")
        if known.met(run_id) and await self._is_free(known, until_end):
            known = await self._occupied(name, run_id, known.holder)
        holder = known.holder
        if known.met(run_id):
            key, kept_ms = self._key("name", name), self._server.options.retention_ms
            holder = _text(await self._server.run(self._scripts.dismiss, key, run_id, holder, kept_ms))
        is_own = holder == run_id
        await self._on(self._scripts.named if is_own else self._scripts.dismissed, run_id, *((name,) if is_own else ()))
        return holder

    async def _is_free(self, known: Occupied, until_end: bool) -> bool:
        """Whether who has a name has it no more."""
        [dump] = await self._index.headers([known.holder])
        if dump is None:  # not begun yet, or its retention is over
            is_over = known.now_ms - known.since_ms > self._server.options.retention_ms
        else:
            is_over = until_end and not dump.run.is_open
        if is_over or (dump is not None and dump.run.tokens):
            return is_over
        [is_dismissed] = await self._server.read([["EXISTS", f"{self._index.key_of(known.holder)}:dismissed"]])
        return bool(is_dismissed)

    async def latest(self, name: str, event_id: str, accepted_at_ms: int, run_id: str) -> str:
        key, kept_ms = self._key("latest", name), self._server.options.retention_ms
        newest = _text(await self._server.run(self._scripts.latest, key, event_id, accepted_at_ms, kept_ms))
        if newest != event_id:
            await self._on(self._scripts.dismissed, run_id)
        return newest

    async def release(
        self, lease: Lease, kind: ReleaseKind, *, due_at_ms: int = 0, error: str | None = None
    ) -> Released | None:
        what: list[Part] = [kind, due_at_ms, *([] if error is None else [error])]
        answered = await self._on(self._scripts.release, lease.run_id, *_held(lease), *what)
        if answered is None:
            return None
        released = Reply.of(answered)
        return Released(released.number(0), bool(released.number(1)))

    async def renew(self, leases: Sequence[Lease], lease_ms: int) -> Sequence[bool]:
        script = self._scripts.renew
        answers = await asyncio.gather(*(self._on(script, one.run_id, *_held(one), lease_ms) for one in leases))
        return [answer == 1 for answer in answers]

    async def trouble(self, run_id: str, trouble: Trouble, new: NewRun | None = None) -> None:
        created: Sequence[Part] = () if new is None else await self._entered(run_id, new)
        await self._on(self._scripts.trouble, run_id, trouble.encode(), *created)

    async def cancel(self, run_id: str) -> Status | None:
        answered = await self._on(self._scripts.cancel, run_id)
        if answered is None:
            return None
        run = Reply.of(answered)
        await self._note_end(run_id, Reply([run.parts[1], run.parts[0], *run.parts[2:]]))
        return cast("Status", run.text(0))

    async def reopen(self, run_id: str) -> int | None:
        [dump] = await self._index.headers([run_id])
        if dump is None or dump.run.status not in ("failed", "cancelled"):
            return None
        # Placed before it is open: the index must never think that an open run may be forgotten.
        await self._index.place(run_id, dump.run.function_id, "waiting", dump.run.created_at_ms, -1)
        await self._mailbox.unwatch(run_id)
        epoch = await self._on(self._scripts.reopen, run_id, is_repeatable=False)
        return None if epoch is None else cast("int", epoch)

    async def get(self, run_id: str) -> RunRecord | None:
        [answered] = await self._server.read([["HGETALL", self._index.key_of(run_id)]])
        dump = dump_of(run_id, cast("list[object]", answered))
        past = past_of(cast("list[object]", answered))
        return None if dump is None else snapshots.record(dump.run, dump.event, dump.steps, *past)

    async def list(
        self,
        *,
        status: Status | None = None,
        function_id: str | None = None,
        limit: int = 50,
        before: str | None = None,
    ) -> Sequence[RunRecord]:
        found = await self._index.list(status, function_id, limit, before)
        return [snapshots.record(dump.run, dump.event) for dump in found]

    async def close(self) -> None:
        await self._server.close()

    # ---- the scripts

    async def _note_end(self, run_id: str, run: Reply) -> None:
        """Tell the other keys of a run's end, each time that the end is answered: function, status, times, watched."""
        if run.number(3) < 0:
            return
        await self._index.place(run_id, run.text(0), run.text(1), run.number(2), run.number(3))
        if run.number(4):
            await self._mailbox.unwatch(run_id)

    async def _occupied(self, name: str, run_id: str, holder: str) -> Occupied:
        """Ask for a name that nobody has, or that is handed on by `holder`."""
        answered = await self._server.run(self._scripts.occupy, self._key("name", name), self._now(), run_id, holder)
        reply = Reply.of(answered)
        return Occupied(reply.inner(0).text(0), reply.inner(0).number(1), reply.number(1), bool(reply.number(2)))


@dataclass(frozen=True, slots=True)
class Occupied:
    """Who has a name, or whom the run that asks was dismissed for; since when, and the time now."""

    holder: str
    since_ms: int
    now_ms: int
    is_dismissed: bool

    def met(self, run_id: str) -> bool:
        """Whether a run meets another one, and did not before."""
        return self.holder != run_id and not self.is_dismissed


def _held(lease: Lease) -> tuple[str, int]:
    return path_text(lease.path), lease.token


def _text(answered: object) -> str:
    return cast("bytes", answered).decode()
