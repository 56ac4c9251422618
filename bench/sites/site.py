"""What every workload needs of whoever does the work: start, take orders, lose its worker, stop."""

from __future__ import annotations

import asyncio
import itertools
import sys
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import ClassVar

from bench.journal import JournalReader
from bench.orders import Order
from bench.processes import LOOK_EVERY_S, Child, Producer

WARM_UP_ONE = 100
WARM_UP_SEQUENCES = 20
WARM_UP_STEPS = 3


class Site(ABC):
    """One started system with everything of its own in a folder: processes, data, and the journal of what was done."""

    name: ClassVar[str]
    works: ClassVar[frozenset[str]]
    """The workloads it can do."""
    part: ClassVar[float] = 1.0
    """How much of a throughput workload it is given: a slow peer gets less, so that a run has an end."""
    steps_max: ClassVar[int] = 1_000_000
    """The longest row of W4 that it is given."""
    settings: ClassVar[str]
    """How it is set up, in one sentence for the page."""

    def __init__(self, folder: Path, processes_max: int = 1) -> None:
        """`processes_max`: how many processes a worker may have, where it does more with several than with one."""
        self.folder = folder
        self.processes_max = processes_max
        self.journal_path = folder / "journal"
        self.journal = JournalReader(self.journal_path)
        self.children: list[Child] = []
        self._numbers = itertools.count(1)

    @classmethod
    @abstractmethod
    async def prepare(cls) -> dict[str, str]:
        """Install what is needed; return the versions. Raise `BenchError` with the reason when it cannot be had."""

    @abstractmethod
    async def start(self) -> None:
        """Start everything; return when it takes orders."""

    @property
    @abstractmethod
    def producer(self) -> Producer:
        """Who publishes."""

    @property
    @abstractmethod
    def worker(self) -> Child:
        """Who runs the functions."""

    async def worker_is_back(self) -> None:  # noqa: B027 - most need nothing
        """Return when a worker that was started again can be given orders."""

    async def stop(self) -> None:
        """End every process."""
        for child in reversed(self.children):
            await asyncio.to_thread(child.stop)

    def child(self, name: str, command: list[str], environment: dict[str, str]) -> Child:
        """Start a process that ends with the site."""
        return self._started(Child(name, command, self.folder / f"{name}.log", environment))

    def producing(self, name: str, command: list[str], environment: dict[str, str]) -> Producer:
        """Start a producer that ends with the site."""
        started = self._started(Producer(name, command, self.folder / f"{name}.log", environment))
        assert isinstance(started, Producer)
        return started

    def _started(self, child: Child) -> Child:
        child.start()
        self.children.append(child)
        return child

    def cpu_s(self) -> float:
        """Return the CPU time of all its processes but a producer of its own, seconds."""
        return sum(child.cpu_s() for child in self.children if child is self.worker or child is not self.producer)

    def numbers(self, count: int) -> int:
        """Set numbers aside for so many runs; return the first."""
        first = next(self._numbers)
        self._numbers = itertools.count(first + count)
        return first

    async def order(self, function: str, count: int, **options: object) -> tuple[int, list[int]]:
        """Have runs published; return the first one's number and when each publish was called, monotonic ns."""
        order = Order(function, self.numbers(count), count, **options)  # type: ignore[arg-type]
        return order.first, await self.producer.carry_out(order)

    async def all_ended(self, first: int, count: int) -> list[int]:
        """Return when each of these runs has ended, monotonic ns, once all have."""
        return await self._all(self.journal.ended_ns, first, count)

    async def all_began(self, first: int, count: int) -> list[int]:
        """Return when each of these runs first began, monotonic ns, once all have."""
        return await self._all(self.journal.began_ns, first, count)

    async def _all(self, noted_ns: dict[int, int], first: int, count: int) -> list[int]:
        numbers = range(first, first + count)
        self.journal.read()
        while not all(number in noted_ns for number in numbers):
            await asyncio.sleep(LOOK_EVERY_S)
            self.journal.read()
        return [noted_ns[number] for number in numbers]

    async def warm_up(self) -> None:
        """Make connections, compile and cache what is compiled and cached at first."""
        first, _ = await self.order("one", WARM_UP_ONE)
        await self.all_ended(first, WARM_UP_ONE)
        if "W2" in self.works:
            first, _ = await self.order("seq", WARM_UP_SEQUENCES, steps=WARM_UP_STEPS)
            await self.all_ended(first, WARM_UP_SEQUENCES)


@asynccontextmanager
async def running(site: Site) -> AsyncGenerator[Site]:
    """Start a site, warm, and stop it whatever happens."""
    try:
        await site.start()
        await site.warm_up()
        yield site
    finally:
        await asyncio.shield(site.stop())


PYTHON = sys.executable
