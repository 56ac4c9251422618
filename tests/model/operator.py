"""What a person does to a run from outside."""

from __future__ import annotations

from tests.model.world import Work, World

HOUR_MS = 3_600_000
RUNS_MAX = 100


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

    def repair(self) -> Work:
        """Wake every run that nothing has held for an hour."""
        world, store = self.world, self.world.store
        found = store.now(store.stalled(world.clock_ms - HOUR_MS, RUNS_MAX))
        yield [(0, "answer", 0)]
        for record in found:
            store.now(store.forget_sent(record.run_id))
            yield [(0, "answer", 0)]
            hour = world.clock_ms // HOUR_MS
            world.accept(world.outbox.repair(record.event_id, record.function_id, record.epoch, hour))

    def retry(self, run: str) -> Work:
        """Let a run that failed or was cancelled go on."""
        self.world.store.now(self.world.store.reopen(run))
        yield [(0, "answer", 0)]
        record = self.world.store.now(self.world.store.get(run))
        if record is not None:
            self.world.accept(self.world.outbox.reopen(record.event_id, record.function_id, record.epoch))
