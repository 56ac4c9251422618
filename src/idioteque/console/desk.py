"""The runs of one store: what the screens ask of it, and the messages by which runs go on."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

from idioteque.clock import Clock
from idioteque.dispatcher import Dispatcher, EventEnvelope
from idioteque.dispatchers.qstash import QStashDispatcher
from idioteque.dispatchers.unmounted import Unmounted
from idioteque.engine import Outbox
from idioteque.errors import ConfigurationError
from idioteque.events import EventsSchema
from idioteque.function import run_id
from idioteque.ids import checked_id, new_id
from idioteque.insight import Effects, insight_of
from idioteque.runlog import Log, run_log_of
from idioteque.runs import Runs
from idioteque.store import RunRecord, Status, Store
from idioteque.transport import HttpTransport

COUNT_MAX = 10_000
FUNCTIONS_MAX = 200
NO_MOUNT = (
    "a message has to be sent to the mount, and its URL is not known: start the console with --mount-url, "
    "or wait until a message of this run stands in the log"
)


class RunsDesk:
    """Looks at the runs of a store and changes them; messages go out in the name of whoever acts."""

    def __init__(self, store: Store, clock: Clock, transport: HttpTransport, api_url: str) -> None:
        self.store = store
        self._clock = clock
        self._transport = transport
        self._api_url = api_url
        self._schema = EventsSchema(dict[str, Any])

    async def record(self, run_id: str) -> RunRecord | None:
        """Return a run as it is stored, with its steps."""
        return await self.store.get(checked_id(run_id, "run id"))

    async def log(self, run_id: str) -> Log | None:
        """Return what a run has logged, None when the store does not tell."""
        run_log = run_log_of(self.store)
        return None if run_log is None else await run_log.lines(run_id)

    async def page(
        self, status: Status | None, function_id: str | None, limit: int, before: str | None
    ) -> tuple[Sequence[RunRecord], str | None]:
        """Return some runs, the newest first, and the cursor of those that follow, None when there are none."""
        found = await self.store.list(
            status=status, function_id=function_id, limit=limit + 1, before=before and checked_id(before, "cursor")
        )
        return found[:limit], found[limit - 1].run_id if len(found) > limit else None

    async def by_id(self, wanted: str) -> Sequence[RunRecord]:
        """Return the run of this id, or those that the event of this id started, as far as the store tells."""
        run = await self.store.get(checked_id(wanted, "id"))
        if run is not None:
            return [run]
        [effects] = await self.effects([wanted])
        return () if effects is None else effects.runs

    async def counts(self, function_id: str | None) -> Mapping[Status, int]:
        """Return how many runs have each status, up to `COUNT_MAX`; nothing when the store does not tell."""
        look = insight_of(self.store)
        return {} if look is None else await look.counts(function_id, COUNT_MAX)

    async def functions(self) -> Sequence[str]:
        """Return the ids of functions that have runs, as far as the store tells."""
        look = insight_of(self.store)
        return () if look is None else await look.functions(FUNCTIONS_MAX)

    async def effects(self, event_ids: Sequence[str]) -> Sequence[Effects | None]:
        """Return what each of these events set going, None where the store does not tell."""
        look = insight_of(self.store)
        return [None] * len(event_ids) if look is None else await look.effects(event_ids)

    def runs(self, mount_url: str | None = None, token: str = "") -> Runs:
        """Return the library's view of the runs; without a mount it can send nothing."""
        return Runs(self.store, self._dispatcher(mount_url, token), {}, self._schema, self._clock)

    async def start_again(self, record: RunRecord, event: object, mount_url: str, token: str) -> str:
        """Start the function of a run anew, with an event of its own; return the new run's id."""
        outbox = Outbox(self._dispatcher(mount_url, token), self._schema, self._clock)
        options: dict[str, Any] = json.loads(record.options)
        event_id = new_id("evt", self._clock.now_ms())
        envelope = EventEnvelope(event_id, outbox.encode(event), options.get("retries"))
        await outbox.start([outbox.first(record.function_id, envelope)])
        return run_id(event_id, record.function_id)

    def refuse_to_send(self) -> NoReturn:
        """Raise `ConfigurationError`: nobody knows where the messages of a run go."""
        raise ConfigurationError(NO_MOUNT)

    async def close(self) -> None:
        """Let go of the store."""
        await self.store.close()

    def _dispatcher(self, mount_url: str | None, token: str) -> Dispatcher:
        if mount_url is None:
            return Unmounted(NO_MOUNT)
        return QStashDispatcher(
            mount_url=mount_url, token=token, url=self._api_url, transport=self._transport, clock=self._clock
        )
