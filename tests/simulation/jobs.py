"""Worlds in portions: what a process of the pool runs at a time, and the sums that it tells of them."""

from __future__ import annotations

import itertools
import logging
import multiprocessing
from collections import Counter, deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass, field
from typing import Protocol

from tests.simulation import faults
from tests.simulation.rehearsal import (
    MODES,
    SMALL,
    Schedule,
    described,
    drawn,
    named,
    pair_plans,
    scheduled,
    single_plans,
)
from tests.simulation.storage import STORES
from tests.simulation.world import World

PORTION = 250
"""How many worlds a job has at most: a second or two of work."""
AHEAD = 4
"""How many jobs are handed to each process before the first of them has ended."""


@dataclass
class Sums:
    """What was run, injected, reached and violated; `first` tells everything of the first violation."""

    worlds: int = 0
    violated: int = 0
    first: str = ""
    injected: Counter[str] = field(default_factory=Counter[str])
    edges: Counter[str] = field(default_factory=Counter[str])

    def add(self, world: World, how: str) -> None:
        """Count a world, which is run again by `make simulate` with `how`."""
        self.worlds += 1
        self.injected += world.injected
        self.edges += world.witness.edges
        if world.violations:
            self.violated += 1
            self.first = self.first or f"{described(world)}\nto see it again: make simulate {how}"

    def __iadd__(self, other: Sums) -> Sums:
        self.worlds += other.worlds
        self.violated += other.violated
        self.first = self.first or other.first
        self.injected += other.injected
        self.edges += other.edges
        return self

    def __str__(self) -> str:
        return f"{self.worlds:,} runs, {faults.total(self.injected):,} faults, {self.violated} violations"


class Job(Protocol):
    """A portion of worlds of one `title`."""

    @property
    def title(self) -> str:
        """What its worlds have in common."""
        ...

    def run(self) -> Sums:
        """Run its worlds, one after the other."""
        ...


@dataclass(frozen=True, slots=True)
class Scheduled:
    """The worlds `begin` to `end` of all those of a program with one fault, or with two."""

    pairs: bool
    name: str
    store: str
    mode: str
    begin: int
    end: int

    @property
    def title(self) -> str:
        return f"{'two faults' if self.pairs else 'one fault'}, {self.name}"

    def run(self) -> Sums:
        sums = Sums()
        plans = _plans(self.name, self.store, self.mode, pairs=self.pairs)
        for plan in itertools.islice(plans, self.begin, self.end):
            world = scheduled(self.name, self.store, self.mode, plan)
            sums.add(world, f'WORLD="{named(self.name, self.store, self.mode, plan)}"')
        return sums


@dataclass(frozen=True, slots=True)
class Drawn:
    """The worlds of so many seeds, from the first on."""

    title = "by chance"
    seed: int
    count: int

    def run(self) -> Sums:
        sums = Sums()
        for seed in range(self.seed, self.seed + self.count):
            sums.add(drawn(seed), f"SECONDS=0 SEED={seed}")
        return sums


def _plans(name: str, store: str, mode: str, *, pairs: bool) -> Iterator[Schedule]:
    return pair_plans(name, store, mode) if pairs else single_plans(name, store, mode, faults.SINGLES)


def every_fault(programs: Iterable[str]) -> Iterator[Scheduled]:
    """Return the jobs of these programs with each fault at each call, then of the small ones with each pair of faults.

    The pairs are those of the store in memory; all jobs of a title follow each other.
    """
    programs = list(programs)
    for name in programs:
        for store, mode in itertools.product(STORES, MODES):
            yield from _portions(name, store, mode, pairs=False)
    for name in programs:
        if name in SMALL:
            for mode in MODES:
                yield from _portions(name, "memory", mode, pairs=True)


def _portions(name: str, store: str, mode: str, *, pairs: bool) -> Iterator[Scheduled]:
    total = sum(1 for _ in _plans(name, store, mode, pairs=pairs))
    for begin in range(0, total, PORTION):
        yield Scheduled(pairs, name, store, mode, begin, min(total, begin + PORTION))


# ---- the processes


def pool(workers: int) -> ProcessPoolExecutor:
    """Return so many processes that run jobs."""
    return ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), initializer=be_quiet)


def be_quiet() -> None:
    """What the engine says of so many faults is of no interest, and takes most of the time."""
    logging.disable(logging.CRITICAL)


def _run(job: Job) -> Sums:
    return job.run()


def in_order(workers: int, jobs: Iterator[Job]) -> Iterator[tuple[Job, Sums]]:
    """Run jobs in so many processes; give out what came of them in the order of the jobs, whoever is quicker.

    The next job is asked for only when one of the first of those handed out has ended.
    """
    with pool(workers) as executor:
        handed: deque[tuple[Job, Future[Sums]]] = deque()
        for job in jobs:
            handed.append((job, executor.submit(_run, job)))
            if len(handed) == workers * AHEAD:
                yield _ended(handed)
        while handed:
            yield _ended(handed)


def _ended(handed: deque[tuple[Job, Future[Sums]]]) -> tuple[Job, Sums]:
    job, sums = handed.popleft()
    return job, sums.result()
