"""The real engine on the real stores with a fault at every call, at pairs of calls, and wherever chance has it."""

from __future__ import annotations

import asyncio
import logging
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

from idioteque.engine import Engine
from idioteque.function import run_id
from idioteque.ledger import RunRow, SeatRow
from idioteque.stores import MemoryStore
from tests.simulation import faults
from tests.simulation.loop import SimulatedLoop, Timers
from tests.simulation.program import PROGRAMS
from tests.simulation.rehearsal import MODES, SMALL, conduct, described, drawn, pairs, scheduled, singles
from tests.simulation.storage import STORES
from tests.simulation.world import World

ROOT = Path(__file__).parents[2]
SEEDS = 300
EVERY_NTH_SINGLE = 2
"""Each kind of fault comes to every other call; `make simulate EXHAUSTIVE=1` tries all."""
EVERY_NTH_PAIR = 29


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """What the engine says of so many faults is of no interest, and takes most of the time."""
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


def hold(worlds: Iterable[World]) -> int:
    """Require that no world broke a promise; return how many there were."""
    count = 0
    for world in worlds:
        count += 1
        assert not world.violations, described(world)
    return count


def test_there_are_programs_of_every_kind() -> None:
    assert len(PROGRAMS) >= 40
    assert len(SMALL) >= 10


@pytest.mark.parametrize("store", STORES)
@pytest.mark.parametrize("name", PROGRAMS)
def test_a_program_goes_well_without_a_fault(name: str, store: str) -> None:
    for mode in MODES:
        assert conduct(name, store, mode).points


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", PROGRAMS)
def test_a_fault_at_any_call_breaks_no_promise(name: str, mode: str) -> None:
    tried = hold(singles(name, "memory", mode, faults.TESTED_SINGLES, EVERY_NTH_SINGLE))
    assert tried == -(-conduct(name, "memory", mode).points * len(faults.TESTED_SINGLES) // EVERY_NTH_SINGLE)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", SMALL)
def test_a_fault_at_any_call_breaks_no_promise_in_a_database(name: str, mode: str) -> None:
    assert hold(singles(name, "sqlite", mode, (faults.CRASH_AFTER, faults.LOST)))


@pytest.mark.parametrize("name", SMALL)
def test_faults_at_two_calls_break_no_promise(name: str) -> None:
    assert hold(pairs(name, "memory", "inline", EVERY_NTH_PAIR))
    assert hold(pairs(name, "memory", "isolated", 10 * EVERY_NTH_PAIR))


def test_faults_by_chance_break_no_promise_and_reach_every_kind() -> None:
    injected: Counter[str] = Counter()
    for seed in range(SEEDS):
        world = drawn(seed)
        assert not world.violations, f"seed {seed}: {described(world)}"
        injected += world.injected
    assert set(injected) >= set(faults.SINGLES) - {faults.CANCEL}


def test_a_delivery_that_goes_on_when_its_message_was_given_up_and_breaks_off_may_hide_the_dead_letter() -> None:
    world = drawn(54809)
    assert not world.violations, described(world)
    assert [letter.id for letter in world.post.letters.values() if letter.claimed_when_dead] == ["msg_1"]


@pytest.mark.parametrize("seed", [100292, 100876])
def test_a_run_that_only_stands_for_a_dead_letter_ends_when_another_took_its_place(seed: int) -> None:
    world = drawn(seed)
    assert not world.violations, described(world)


def test_the_cancellation_of_a_run_that_never_begins_comes_to_nothing() -> None:
    """The fault meets the second event of a singleton, which is dismissed."""
    world = drawn(606)
    assert not world.violations, described(world)
    assert world.injected[faults.CANCEL] == 1


def test_a_sign_of_life_that_is_held_up_for_longer_than_a_lease_explains_a_repeated_effect() -> None:
    world = drawn(529440529)
    assert not world.violations, described(world)
    assert world.injected[faults.DELAY]
    assert max(world.witness.effects.values()) > 1


def test_a_repeated_message_that_finds_no_sign_of_life_explains_a_step_that_was_interrupted() -> None:
    world = drawn(772008845)
    assert not world.violations, described(world)
    assert world.plan.is_slow
    assert {fault: count for fault, count in world.injected.items() if count} == {faults.RESTART: 1}


def test_a_dead_letter_that_is_told_of_when_its_event_was_dismissed_strands_no_run() -> None:
    world = drawn(990002081)
    assert not world.violations, described(world)


@pytest.mark.parametrize("hash_seed", ["1", "4711"])
def test_a_seed_gives_the_same_trace_in_any_process(hash_seed: str) -> None:
    seeds = range(20)
    here = "\n".join(line for seed in seeds for line in drawn(seed).trace)
    code = (
        "from tests.simulation.rehearsal import drawn\n"
        f"print('\\n'.join(line for seed in {seeds!r} for line in drawn(seed).trace))"
    )
    there = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env={**os.environ, "PYTHONHASHSEED": hash_seed},
        capture_output=True, text=True, timeout=100, check=True,
    )  # fmt: skip
    assert there.stdout.strip() == here.strip()


def test_a_program_gives_the_same_trace_in_any_process() -> None:
    code = "from tests.simulation.test_simulation import traces; print(traces())"
    there = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env={**os.environ, "PYTHONHASHSEED": "4711"},
        capture_output=True, text=True, timeout=100, check=True,
    )  # fmt: skip
    assert there.stdout.strip().splitlines() == traces().splitlines()


def traces() -> str:
    """Return how each program goes when its third call fails."""
    worlds = [scheduled(name, "memory", "isolated", [(3, faults.LOST)]) for name in PROGRAMS]
    return "\n".join(f"{world.program.name} {line}" for world in worlds for line in world.trace)


# ---- whether it would see anything


def first_violation(name: str, mode: str, kinds: tuple[str, ...]) -> str | None:
    worlds = singles(name, "memory", mode, kinds)
    return next((world.violations[0] for world in worlds if world.violations), None)


def test_a_wake_that_is_not_sent_again_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    conduct("parallel", "memory", "isolated")
    monkeypatch.setattr(
        "idioteque.engine.deliver.Outbox.wake_body", once_only("wake_body", "idioteque.engine.outbox", "Outbox")
    )
    assert first_violation("parallel", "isolated", (faults.CRASH_BEFORE,)) is not None


def once_only(name: str, module: str, cls: str) -> Callable[..., Any]:
    """Return the method, doing nothing when a generation is mentioned a second time: a re-send that is left out."""
    original = getattr(getattr(sys.modules[module], cls), name)

    async def forgetful(self: Any, envelope: Any, generation: int) -> None:
        asked = vars(self._dispatcher._process.world).setdefault("asked", set())
        key = (envelope.event_id, generation)
        if key not in asked:
            asked.add(key)
            await original(self, envelope, generation)

    return forgetful


def test_an_outcome_that_is_written_twice_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    conduct("sequence", "memory", "inline")

    def overwrite(run: RunRow, step: Any, holder: RunRow | SeatRow, token: int, outcome: Any, now_ms: int) -> object:
        step.outcome = None
        return original(run, step, holder, token, outcome, now_ms)

    from idioteque import ledger

    original = ledger.commit_step
    monkeypatch.setattr(ledger, "commit_step", overwrite)
    assert first_violation("sequence", "inline", (faults.FREEZE_BEFORE,)) is not None


def test_a_step_that_is_begun_again_although_it_may_start_once_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    from idioteque import ledger

    conduct("at_most_once", "memory", "inline")
    original = ledger.begin

    def lenient(*args: Any) -> object:
        return original(*args[:-1], False)

    monkeypatch.setattr(ledger, "begin", lenient)
    found = first_violation("at_most_once", "inline", (faults.CRASH_BEFORE,))
    assert found is not None
    assert "may happen once" in found


CANCELLED_AT = {"inline": 6, "isolated": 8}
"""The call of `idempotent` at which the one run's step is at work, so that an operator can cancel the run."""


@pytest.mark.parametrize("store", STORES)
@pytest.mark.parametrize("mode", MODES)
def test_the_one_run_of_a_name_may_be_cancelled_by_an_operator(mode: str, store: str) -> None:
    worlds = list(singles("idempotent", store, mode, (faults.CANCEL,)))
    assert hold(worlds) == len(worlds)
    statuses = Counter(str(record.status) for world in worlds for record in world.witness.records)
    assert set(statuses) == {"completed", "cancelled"}
    assert statuses.total() == len(worlds)


@pytest.mark.parametrize("mode", MODES)
def test_a_second_run_beside_a_cancelled_one_is_found_out(mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Broken here: the name is free again once its run has ended."""
    conduct("idempotent", "memory", mode)
    original = MemoryStore.occupy

    async def forgetful(store: MemoryStore, name: str, run: str, *, until_end: bool) -> str:
        return await original(store, name, run, until_end=until_end or run != run_id("evt-3", "f"))

    monkeypatch.setattr(MemoryStore, "occupy", forgetful)
    world = scheduled("idempotent", "memory", mode, [(CANCELLED_AT[mode], faults.CANCEL)])
    assert world.violations == ["runs of ['evt-1', 'evt-2']"]
    assert [record.status for record in world.witness.records] == ["cancelled", "completed"]


@pytest.mark.parametrize("mode", MODES)
def test_a_missing_run_beside_a_cancellation_is_found_out(mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Broken here: the run that has the name is cancelled by the engine itself, and then by an operator as well."""
    conduct("idempotent", "memory", mode)
    original = Engine._run

    async def giving_up(engine: Any, *args: Any) -> Any:
        await engine._store.cancel(run_id("evt-1", "f"))
        return await original(engine, *args)

    monkeypatch.setattr(Engine, "_run", giving_up)
    world = scheduled("idempotent", "memory", mode, [(7, faults.CANCEL)])
    assert world.violations == ["runs of []"]
    assert world.injected == {faults.CANCEL: 1}
    assert [record.status for record in world.witness.records] == ["cancelled"]


@pytest.mark.parametrize("mode", MODES)
def test_an_event_whose_name_nobody_has_is_found_missing(mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Broken here: the store says of every name that somebody else has it."""
    conduct("idempotent", "memory", mode)

    async def greedy(store: MemoryStore, name: str, run: str, *, until_end: bool) -> str:
        return "run_other"

    monkeypatch.setattr(MemoryStore, "occupy", greedy)
    world = scheduled("idempotent", "memory", mode, [(5, faults.CANCEL)])
    assert world.violations == ["runs of []"]
    assert world.injected == {faults.CANCEL: 1}


# ---- the loop


def test_a_dead_loop_runs_nothing_more_and_buries_without_effects() -> None:
    timers = Timers(0)
    loop = SimulatedLoop(timers, lambda context: None)
    ran: list[str] = []

    async def program() -> None:
        ran.append("begun")
        try:
            await asyncio.sleep(1)
        finally:
            ran.append("finally")

    async def deadly() -> None:
        loop.is_dead = True

    loop.create_task(program())
    loop.create_task(deadly())
    loop.create_task(program())
    loop.turn()
    assert ran == ["begun"]
    timers.advance()
    assert not loop.is_running()
    loop.bury()
    assert ran == ["begun", "finally"]


def test_time_passes_only_for_what_is_still_wanted() -> None:
    timers = Timers(0)
    loop = SimulatedLoop(timers, lambda context: None)
    seen: list[float] = []
    loop.call_later(5, seen.append, 5.0).cancel()
    loop.call_later(7, lambda: seen.append(loop.time()))
    timers.advance()
    loop.turn()
    assert seen == [7.0]
    assert timers.next_us() is None


def test_a_schedule_names_the_call_that_it_fails() -> None:
    world = scheduled("sequence", "memory", "inline", [(5, faults.CRASH_BEFORE)])
    assert world.injected == {faults.CRASH_BEFORE: 1}
    assert any("#5 " in line and "crash before" in line for line in world.trace)
