"""Who is told that a run has ended: the run that invoked it, and its failure handler."""

from __future__ import annotations

import json

from idioteque.engine.failures import failure
from idioteque.engine.outbox import Outbox
from idioteque.errors import RunCancelled
from idioteque.function import Function, failure_handler
from idioteque.paths import Path
from idioteque.records import describe
from idioteque.store import Lost, RunRecord, Store


class Reports:
    """Tells of ends; a delivery that is repeated sends the same messages again."""

    def __init__(self, store: Store, outbox: Outbox) -> None:
        self._store = store
        self._outbox = outbox

    async def tell(self, run: str, function: Function) -> None:
        """Tell whoever waits for the end of a run, if it has ended."""
        record = await self._store.get(run)
        if record is None or record.status not in ("completed", "failed", "cancelled"):
            return
        parent = json.loads(record.options).get("parent")
        if parent is not None:
            await self._answer_parent(parent[0], tuple(parent[1]), tuple(parent[2]), record)
        handler = failure_handler(function)
        if handler is None or record.outcome is None or record.outcome.ok:
            return
        document = {
            "event": json.loads(record.event),
            "event_id": record.event_id,
            "run_id": run,
            "function_id": function.id,
            "error": describe(record.outcome.payload),
        }
        await self._outbox.fail(run, handler.id, json.dumps(document).encode(), record.epoch)

    async def _answer_parent(self, parent_id: str, path: Path, seat: Path, child: RunRecord) -> None:
        outcome = child.outcome or failure(RunCancelled(child.run_id))
        answer = await self._store.take(parent_id, path, child.run_id, outcome)
        parent = await self._store.get(parent_id)
        if parent is not None and not (isinstance(answer, Lost) and answer.outcome is None):
            await self._outbox.answer_parent(parent, path, seat)
