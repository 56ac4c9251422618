"""What a person does to a run from outside."""

from __future__ import annotations

from tests.model.world import Work, World


class Operator:
    """Commands, never disturbed by a fault."""

    def __init__(self, world: World) -> None:
        self.world = world

    def cancel(self, run: str) -> Work:
        status = self.world.cancel(run)
        yield [(0, f"cancel: {status}", 0)]
        record = self.world.store.now(self.world.store.get(run))
        if record is not None and status == "cancelled" and b'"parent"' in record.options:
            self.world.accept(self.world.outbox.reopen(record.event_id, record.function_id, record.epoch))

    def retry(self, run: str) -> Work:
        """Let a run that failed or was cancelled go on."""
        self.world.store.now(self.world.store.reopen(run))
        yield [(0, "answer", 0)]
        record = self.world.store.now(self.world.store.get(run))
        if record is not None:
            self.world.accept(self.world.outbox.reopen(record.event_id, record.function_id, record.epoch))
