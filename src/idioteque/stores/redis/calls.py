"""How the operations of a run store reach its keys."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import cast

from idioteque.clock import Clock, SystemClock
from idioteque.store import NewRun
from idioteque.stores.redis.index import RunIndex
from idioteque.stores.redis.mailbox import Mailbox
from idioteque.stores.redis.scripts import Script, Scripts
from idioteque.stores.redis.server import Part, RedisServer


class Calls:
    """What all parts of a `RedisStore` lean on."""

    def __init__(self, server: RedisServer, clock: Clock) -> None:
        self._server = server
        self._clock = clock
        self._scripts = Scripts()
        self._index = RunIndex(self._server, self._scripts)
        self._mailbox = Mailbox(self._server, self._scripts, self._index)

    async def _on(self, script: Script, run_id: str, *arguments: Part, is_repeatable: bool = True) -> object:
        """Run a script on a run."""
        key, kept_ms = self._index.key_of(run_id), self._server.options.retention_ms
        return await self._server.run(script, key, self._now(), kept_ms, *arguments, is_repeatable=is_repeatable)

    async def _entered(self, run_id: str, new: NewRun) -> Sequence[Part]:
        """Write what is kept beside a run before it is created; return what to create it with."""
        key, kept_ms = self._key("event", new.event_id), self._server.options.retention_ms
        created_at_ms, event = await asyncio.gather(
            self._index.enter(run_id, new.function_id, self._now()),
            self._server.run(self._scripts.keep_event, key, new.event, kept_ms),
        )
        return [created_at_ms, new.event_id, new.function_id, cast("bytes", event), new.options]

    def _key(self, kind: str, name: str) -> str:
        """Return the key of a name. What lies in its braces, which a name may have of its own, decides on the slot."""
        escaped = name.replace("%", "%25").replace("{", "%7b").replace("}", "%7d")
        return f"{self._server.options.prefix}:{kind}:{{{escaped}}}"

    def _now(self) -> str:
        """Return nothing, for the server's own time; but a test's clock goes before."""
        return "" if isinstance(self._clock, SystemClock) else str(self._clock.now_ms())
