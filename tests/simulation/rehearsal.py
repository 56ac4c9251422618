"""Worlds, run: without a fault, with faults at given calls, and as a seed has them."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from types import SimpleNamespace

import idioteque.ids as ids
from tests.simulation import basic_programs, joined_programs
from tests.simulation.faults import PAIRS, SINGLES, Random, Scheduled
from tests.simulation.program import PROGRAMS
from tests.simulation.storage import STORES
from tests.simulation.witness import Conduct
from tests.simulation.world import World

MODES = ("inline", "isolated")
SKEW_MS_MAX = 3000
CALLS_MORE = 6
TRACE_SHOWN_MAX = 300
Schedule = Sequence[tuple[int, str]]
"""Calls, counted from 1, and the fault that meets each of them."""
ALL = (basic_programs, joined_programs)  # whoever imports this module has them all in PROGRAMS


@contextmanager
def seeded(chance: random.Random) -> Iterator[None]:
    """Let the package draw from a generator of ours; it draws chance in one file only."""
    before = ids.os, ids.random
    ids.os = SimpleNamespace(urandom=chance.randbytes)  # type: ignore[assignment]
    ids.random = chance  # type: ignore[assignment]
    try:
        yield
    finally:
        ids.os, ids.random = before


@cache
def conduct(name: str, store: str, mode: str) -> Conduct:
    """Return how a program goes without a fault; raise `AssertionError` when that goes wrong already."""
    world = World(PROGRAMS[name], Scheduled(), store, mode)
    with seeded(random.Random(0)):
        world.run()
    assert not world.violations, f"{name}, {store}, {mode}, without faults: {world.violations}"
    return world.witness.conduct()


def scheduled(name: str, store: str, mode: str, faults: Schedule) -> World:
    """Run a program with faults at these calls."""
    expected = conduct(name, store, mode)
    world = World(PROGRAMS[name], Scheduled(faults), store, mode)
    world.witness.expected = expected
    with seeded(random.Random(0)):
        return world.run()


def named(name: str, store: str, mode: str, faults: Schedule) -> str:
    """Return the text by which `read_name` knows the same world: `single memory inline 2:crash-before 5:reply-lost`."""
    return " ".join([name, store, mode, *(f"{number}:{kind.replace(' ', '-')}" for number, kind in faults)])


def read_name(text: str) -> tuple[str, str, str, Schedule]:
    """Return what a text of `named` says: what `scheduled` is to be given. Raise `ValueError` for anything else."""
    name, store, mode, *points = text.split()
    faults = [(int(number), kind.replace("-", " ")) for number, _, kind in (point.partition(":") for point in points)]
    unknown = {kind for _, kind in faults} - {*SINGLES}
    if name not in PROGRAMS or store not in STORES or mode not in MODES or unknown:
        raise ValueError(f"no such world: {text}")
    return name, store, mode, faults


def described(world: World) -> str:
    """Return everything that there is to say of a world that broke a promise."""
    head = f"{world.program.name}, {world.store_kind}, {world.mode}, {dict(world.injected)}"
    return "\n".join([head, *world.trace[-TRACE_SHOWN_MAX:], *world.violations])


def drawn(seed: int) -> World:
    """Run what a seed stands for: a program, a store, a mode, clocks that differ, and faults."""
    chance = random.Random(seed)
    name, store, mode = chance.choice(sorted(PROGRAMS)), chance.choice(STORES), chance.choice(MODES)
    expected = conduct(name, store, mode)
    skew_ms_max = chance.choice((0, 0, 200, SKEW_MS_MAX))
    skews_ms = (chance.randint(-skew_ms_max, skew_ms_max), chance.randint(-skew_ms_max, skew_ms_max))
    world = World(PROGRAMS[name], Random(chance), store, mode, skews_ms)
    world.witness.expected = expected
    world.note(f"seed {seed}: {name}, {store}, {mode}, clocks {skews_ms} ms")
    with seeded(chance):
        return world.run()


def singles(name: str, store: str, mode: str, kinds: Sequence[str], every: int = 1) -> Iterator[World]:
    """Run a program with one fault, at its first call, its second, and so on until nothing is left to fail.

    Of all these, every so many-th is run.
    """
    for plan in itertools.islice(single_plans(name, store, mode, kinds), 0, None, every):
        yield scheduled(name, store, mode, plan)


def single_plans(name: str, store: str, mode: str, kinds: Sequence[str]) -> Iterator[Schedule]:
    """Return the schedules of `singles`, always in the same order."""
    calls = range(1, conduct(name, store, mode).points + 1)
    return ([(number, kind)] for number, kind in itertools.product(calls, kinds))


def pairs(name: str, store: str, mode: str, every: int = 1) -> Iterator[World]:
    """Run a program with two faults, at any two calls; the second may be one that the first brings about.

    Of all these, every so many-th is run.
    """
    for plan in itertools.islice(pair_plans(name, store, mode), 0, None, every):
        yield scheduled(name, store, mode, plan)


def pair_plans(name: str, store: str, mode: str) -> Iterator[Schedule]:
    """Return the schedules of `pairs`, always in the same order."""
    calls = conduct(name, store, mode).points
    return (
        [(first, kinds[0]), (second, kinds[1])]
        for first in range(1, calls + 1)
        for second in range(first + 1, calls + 1 + CALLS_MORE)
        for kinds in itertools.product(PAIRS, repeat=2)
    )


SMALL = [name for name, program in PROGRAMS.items() if program.is_small]
"""The programs whose pairs of faults are all tried."""
