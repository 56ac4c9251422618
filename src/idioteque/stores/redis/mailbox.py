"""Events in the mailbox and who waits for them: keys of one slot, so that one always finds the other."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import cast

from idioteque.paths import Path, path_of, path_text
from idioteque.store import MAILBOX_MS, Letter, Watcher
from idioteque.stores.redis.index import RunIndex
from idioteque.stores.redis.replies import Reply
from idioteque.stores.redis.scripts import Scripts
from idioteque.stores.redis.server import RedisServer


class Mailbox:
    """A watcher is written after its run says that it is watched for, and forgotten after the end of the run.

    One that a death left behind is told by its run: it has ended, or was opened again since.
    """

    def __init__(self, server: RedisServer, scripts: Scripts, index: RunIndex) -> None:
        self._server, self._scripts, self._index = server, scripts, index
        self._key = f"{server.options.prefix}:{{{server.options.prefix}.mailbox}}"

    async def arrive(self, event_id: str, type_name: str, event: bytes, now: str) -> tuple[Letter, list[Watcher]]:
        answered = await self._server.run(self._scripts.arrive, self._key, now, event_id, type_name, event, MAILBOX_MS)
        reply = Reply.of(answered)
        watchers = [_watcher_of(data) for data in cast("list[bytes]", reply.parts[1])]
        runs = sorted({watcher.run_id for watcher in watchers})
        headers = await self._index.headers(runs)
        epochs = {dump.run.run_id: dump.run.epoch for dump in headers if dump is not None and dump.run.is_open}
        return _letter_of(reply.inner(0)), [one for one in watchers if epochs.get(one.run_id) == one.epoch]

    async def letters(self, types: Sequence[str], since_ms: int) -> list[Letter]:
        answered = cast("list[object]", await self._server.run(self._scripts.letters, self._key, since_ms, *types))
        letters = [_letter_of(Reply.of(one)) for one in answered]
        return sorted(letters, key=lambda letter: (letter.accepted_at_ms, letter.event_id))

    async def register(self, watcher: Watcher, types: Sequence[str]) -> None:
        path, document = path_text(watcher.path), _document(watcher)
        await self._server.run(self._scripts.register, self._key, watcher.run_id, path, document, *types)

    async def unwatch(self, run_id: str, path: Path | None = None) -> None:
        """Forget what finds a step of a run, or with None any of them."""
        which = [] if path is None else [path_text(path)]
        await self._server.run(self._scripts.unwatch, self._key, run_id, *which)


def _letter_of(reply: Reply) -> Letter:
    return Letter(reply.text(0), reply.data(1), reply.number(2))


def _document(watcher: Watcher) -> bytes:
    return json.dumps(
        {
            "run_id": watcher.run_id,
            "path": path_text(watcher.path),
            "event_id": watcher.event_id,
            "function_id": watcher.function_id,
            "where": watcher.where.decode("latin-1"),
            "created_at_ms": watcher.created_at_ms,
            "epoch": watcher.epoch,
            "options": watcher.options.decode("latin-1"),
            "seat": path_text(watcher.seat),
        }
    ).encode()


def _watcher_of(data: bytes) -> Watcher:
    document = json.loads(data)
    return Watcher(
        run_id=document["run_id"],
        path=path_of(document["path"]),
        event_id=document["event_id"],
        function_id=document["function_id"],
        where=document["where"].encode("latin-1"),
        created_at_ms=document["created_at_ms"],
        epoch=document["epoch"],
        options=document["options"].encode("latin-1"),
        seat=path_of(document["seat"]),
    )
