"""A worker in virtual time, whose store and dispatcher can fail at any call."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, Literal

from pydantic import BaseModel

from idioteque import InlineDispatcher, Mount, Run, Worker
from idioteque.database import open_database
from idioteque.dispatcher import Outgoing
from idioteque.durations import Duration
from idioteque.store import Started, Store
from idioteque.stores import MemoryStore, SqlStore
from idioteque.testing import ManualClock

STORES = ("memory", "sqlite")


class Order(BaseModel):
    type: Literal["order"] = "order"
    id: str = "1"
    count: int = 3


class Died(Exception):
    """What a call raises when its process is taken to have died, or its reply to have been lost."""


class Faults:
    """Fails the n-th call (from 1) to store or dispatcher: before it takes effect, or after, when the reply is lost."""

    def __init__(self) -> None:
        self.fail_at: set[int] = set()
        self.fail_on: set[tuple[str, int]] = set()
        """The n-th call of a name, such as `("commit", 2)`."""
        self.after = False
        self.calls = 0
        self.injected = 0
        self.names: list[str] = []

    async def through(self, name: str, call: Callable[[], Any]) -> Any:
        self.calls += 1
        self.names.append(name)
        fails = self.calls in self.fail_at or (name, self.names.count(name)) in self.fail_on
        if fails:
            self.injected += 1
        if fails and not self.after:
            raise Died(f"before {name}")
        result = await call()
        if fails:
            raise Died(f"after {name}")
        return result


class FaultyStore:
    """Any store, behind `Faults`."""

    def __init__(self, store: Store, faults: Faults) -> None:
        self._store = store
        self._faults = faults
        self.wins: Counter[tuple[str, ...]] = Counter()
        self.told: list[Started] = []
        """What claims were answered that took a lease."""

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._store, name)
        if name in ("get", "list", "close", "renew", "stalled", "purge"):
            return method

        async def faulty(*args: Any, **kwargs: Any) -> Any:
            async def call() -> Any:
                answer = await method(*args, **kwargs)
                if type(answer).__name__ == "Won":
                    self.wins[args[1]] += 1
                if isinstance(answer, Started):
                    self.told.append(answer)
                return answer

            return await self._faults.through(name, call)

        return faulty


class FaultyDispatcher(InlineDispatcher):
    def __init__(self, faults: Faults, clock: ManualClock) -> None:
        super().__init__(clock=clock, retries=20)
        self._faults = faults
        self.sent: list[Outgoing] = []

    async def send(self, messages: Sequence[Outgoing]) -> Sequence[str]:
        async def call() -> Sequence[str]:
            self.sent.extend(messages)
            return await InlineDispatcher.send(self, messages)

        return await self._faults.through("send", call)


class Rig:
    """One worker with everything it needs; `mount` once its functions are declared."""

    def __init__(
        self,
        store: str = "memory",
        mode: Literal["inline", "isolated"] = "inline",
        deadline: Duration | None = None,
    ) -> None:
        self.mode: Literal["inline", "isolated"] = mode
        self.deadline = deadline
        self.clock = ManualClock()
        self.faults = Faults()
        inner: Store = (
            MemoryStore(self.clock)
            if store == "memory"
            else SqlStore(open_database("sqlite://:memory:", threads=False), self.clock)
        )
        self.store = FaultyStore(inner, self.faults)
        self.dispatcher = FaultyDispatcher(self.faults, self.clock)
        self.worker = Worker(
            events_schema=Order,
            store=self.store,  # type: ignore[arg-type]
            dispatcher=self.dispatcher,
            clock=self.clock,
        )
        self.effects: Counter[str] = Counter()
        self._mount: Mount | None = None

    def mount(self) -> Mount:
        if self._mount is None:
            self._mount = self.dispatcher.mount(self.worker, mode=self.mode, deadline=self.deadline)
        return self._mount

    async def effect(self, name: str, value: Any = None) -> Any:
        """A step that leaves a mark on the world, once for each time it is run."""
        self.effects[name] += 1
        return name if value is None else value

    async def finish(self) -> None:
        """Let virtual time pass until every message was delivered or given up."""
        while self.dispatcher.pending:
            await self.clock.settle()
            if not self.dispatcher.pending:
                return
            wait_s = self.clock.next_deadline_s
            assert wait_s is not None, "stuck: messages are pending and nothing is due"
            await self.clock.advance(wait_s)

    async def run(self, function_id: str = "f", event: Order | None = None) -> Run:
        """Publish an event, let everything happen, and return the run."""
        self.mount()
        published = None
        while published is None:
            with contextlib.suppress(Died):
                published = await self.worker.publish(event or Order(), deduplication_id="order-1")
        await self.finish()
        run = await self.worker.runs.get(published.run_id(function_id))
        assert run is not None
        return run
