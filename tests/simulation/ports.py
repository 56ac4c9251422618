"""The doors of a simulated process: every call to store and dispatcher goes through here, or does not."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from idioteque.dispatcher import Outgoing
from idioteque.durations import Duration
from idioteque.store import Claim, Lease, Store
from tests.simulation.post import flight_here
from tests.simulation.storage import told_here

if TYPE_CHECKING:
    from tests.simulation.world import Process

READING_BY_PARTS = ("arrive",)
"""Operations of the store that are more than one of the database."""


class StorePort:
    """The world's store, as one process reaches it."""

    def __init__(self, process: Process, store: Store) -> None:
        self._process = process
        self._store = store

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._store, name)
        process = self._process
        witness = process.world.witness
        tells_itself = process.world.storage.tells_itself and name not in READING_BY_PARTS

        async def called(*args: Any, **kwargs: Any) -> Any:
            async def call() -> Any:
                told = told_here.set(tell if tells_itself else None)
                try:
                    answer = await method(*args, **kwargs)
                finally:
                    told_here.reset(told)
                if not tells_itself:
                    tell(answer)
                return answer

            flight = flight_here.get()

            def tell(answer: object) -> None:
                witness.answered(process, flight, name, args, answer)

            return await process.through(name, run_of(args), call)

        setattr(self, name, called)
        return called


class DispatcherPort:
    """The world's transport, as one process reaches it."""

    def __init__(self, process: Process) -> None:
        self._process = process

    async def send(self, messages: Sequence[Outgoing]) -> Sequence[str]:
        post = self._process.world.post

        async def call() -> Sequence[str]:
            return post.accept(messages)

        return await self._process.through("send", f"{len(messages)}", call)

    async def dispatch(
        self,
        data: object,
        *,
        retries: int | None = None,
        delay: Duration | None = None,
        deduplication_id: str | None = None,
    ) -> str:
        raise NotImplementedError("the engine sends its own messages")

    async def close(self) -> None:
        return


def run_of(args: Sequence[Any]) -> str:
    """Return the id of the run that an operation of the store is about, or nothing."""
    first = args[0] if args else ""
    if isinstance(first, list):
        first = first[0] if first else ""
    if isinstance(first, Claim | Lease):
        return first.run_id
    return first if isinstance(first, str) else ""
