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
from tests.simulation.faults import PAIRS, Random, Scheduled
from tests.simulation.program import PROGRAMS
from tests.simulation.storage import STORES
from tests.simulation.witness import Conduct
from tests.simulation.world import World

MODES = ("inline", "isolated")
SKEW_MS_MAX = 3000
CALLS_MORE = 6
TRACE_SHOWN_MAX = 300
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


def scheduled(name: str, store: str, mode: str, faults: Sequence[tuple[int, str]]) -> World:
    """Run a program with faults at these calls, counted from 1."""
    expected = conduct(name, store, mode)
    world = World(PROGRAMS[name], Scheduled(faults), store, mode)
    world.witness.expected = expected
    with seeded(random.Random(0)):
        return world.run()


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
    calls = range(1, conduct(name, store, mode).points + 1)
    for number, kind in itertools.islice(itertools.product(calls, kinds), 0, None, every):
        yield scheduled(name, store, mode, [(number, kind)])


def pairs(name: str, store: str, mode: str, every: int = 1) -> Iterator[World]:
    """Run a program with two faults, at any two calls; the second may be one that the first brings about.

    Of all these, every so many-th is run.
    """
    calls = conduct(name, store, mode).points
    schedules = (
        [(first, kinds[0]), (second, kinds[1])]
        for first in range(1, calls + 1)
        for second in range(first + 1, calls + 1 + CALLS_MORE)
        for kinds in itertools.product(PAIRS, repeat=2)
    )
    for plan in itertools.islice(schedules, 0, None, every):
        yield scheduled(name, store, mode, plan)


SMALL = [name for name, program in PROGRAMS.items() if program.is_small]
"""The programs whose pairs of faults are all tried."""
