"""The portions that `make simulate` hands to its processes: nothing left out, told in order, and seen again."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from idioteque import ledger
from tests.simulation import faults, jobs
from tests.simulation.jobs import PORTION, Drawn, Scheduled, Sums, every_fault, in_order
from tests.simulation.rehearsal import MODES, conduct, drawn, named, pairs, read_name, scheduled, singles
from tests.simulation.storage import STORES
from tests.simulation.world import World

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def quiet(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """What the engine says of so many faults is of no interest."""
    with caplog.at_level("CRITICAL"):
        yield


def command(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "tests.simulation", *arguments],
        cwd=ROOT, capture_output=True, text=True, timeout=100, check=False,
    )  # fmt: skip


def test_the_jobs_of_a_program_are_all_its_single_faults_and_all_its_pairs() -> None:
    portions: dict[tuple[bool, str, str], list[Scheduled]] = {}
    for job in every_fault(["nothing", "sequence"]):
        if job.name == "sequence":
            portions.setdefault((job.pairs, job.store, job.mode), []).append(job)
    wanted = {(False, store, mode) for store in STORES for mode in MODES} | {(True, "memory", mode) for mode in MODES}
    assert portions.keys() == wanted
    for (is_pairs, store, mode), all_of_them in portions.items():
        assert [job.begin for job in all_of_them] == [0, *(job.end for job in all_of_them[:-1])]
        assert all(0 < job.end - job.begin <= PORTION for job in all_of_them)
        calls = conduct("sequence", store, mode).points
        seconds = sum(calls + 6 - first for first in range(1, calls + 1))
        assert all_of_them[-1].end == (seconds * len(faults.PAIRS) ** 2 if is_pairs else calls * len(faults.SINGLES))


def test_two_portions_are_the_worlds_of_the_whole() -> None:
    whole = Sums()
    for world in singles("single", "memory", "inline", faults.SINGLES):
        whole.add(world, "")
    parts = Scheduled(False, "single", "memory", "inline", 0, 50).run()
    parts += Scheduled(False, "single", "memory", "inline", 50, whole.worlds).run()
    assert parts == whole
    assert parts.worlds == conduct("single", "memory", "inline").points * len(faults.SINGLES)
    last = list(pairs("single", "memory", "inline", 1274))[-1]
    assert Scheduled(True, "single", "memory", "inline", 1274, 1275).run().injected == last.injected


def test_what_comes_of_jobs_is_told_in_their_order_and_is_what_one_process_finds() -> None:
    jobs = [
        Drawn(0, 12),  # takes longer than what follows
        Scheduled(False, "nothing", "memory", "inline", 0, 3),
        *(Drawn(seed, 1) for seed in range(100, 112)),
        Scheduled(True, "single", "memory", "isolated", 7, 20),
    ]
    assert list(in_order(2, iter(jobs))) == [(job, job.run()) for job in jobs]
    assert Drawn(0, 12).run().worlds == 12


def overwrite_outcomes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Break the rule that writes: each outcome is taken, whether or not there is one."""
    original = ledger.commit_step

    def overwrite(run: Any, step: Any, *args: Any) -> object:
        step.outcome = None
        return original(run, step, *args)

    monkeypatch.setattr(ledger, "commit_step", overwrite)


def test_the_first_violation_is_told_with_what_shows_it_again(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = conduct("sequence", "memory", "inline").points
    overwrite_outcomes(monkeypatch)
    sums = Scheduled(False, "sequence", "memory", "inline", 0, calls * len(faults.SINGLES)).run()
    assert sums.violated > 1
    assert "was recorded 2 times" in sums.first
    again = re.findall(r'^to see it again: make simulate WORLD="(.+)"$', sums.first, re.MULTILINE)
    assert len(again) == 1
    world = scheduled(*read_name(again[0]))
    assert world.violations
    assert "\n".join([*world.trace, *world.violations]) in sums.first
    monkeypatch.undo()
    assert not scheduled(*read_name(again[0])).violations


def test_a_seed_that_breaks_a_promise_is_told_with_its_number(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not Drawn(300, 5).run().first

    def with_violations(seed: int) -> World:
        world = drawn(seed)
        if seed in (302, 304):
            world.violations.append(f"broken by {seed}")
        return world

    monkeypatch.setattr(jobs, "drawn", with_violations)
    sums = Drawn(300, 5).run()
    assert (sums.worlds, sums.violated) == (5, 2)
    assert "broken by 302" in sums.first
    assert sums.first.endswith("\nto see it again: make simulate SECONDS=0 SEED=302")


def test_the_name_of_a_world_is_read_as_it_is_written() -> None:
    plan = [(2, faults.CRASH_BEFORE), (9, faults.DUPLICATE_LATE)]
    text = named("single", "sqlite", "isolated", plan)
    assert text == "single sqlite isolated 2:crash-before 9:late-duplicate"
    assert read_name(text) == ("single", "sqlite", "isolated", plan)
    assert read_name("single memory inline") == ("single", "memory", "inline", [])


NO_WORLDS = (
    "", "single", "singel memory inline", "single disk inline",
    "single memory inline 2:flood", "single memory inline x:lost"
)  # fmt: skip


@pytest.mark.parametrize("text", NO_WORLDS)
def test_what_names_no_world_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r".+"):
        read_name(text)


def test_the_command_shows_a_world() -> None:
    text = "parallel memory isolated 5:reply-lost"
    ran = command("--world", text)
    assert ran.returncode == 0
    assert ran.stdout.splitlines() == scheduled(*read_name(text)).trace
    refused = command("--world", "parallel disk isolated")
    assert refused.returncode == 2
    assert "no such world: parallel disk isolated" in refused.stderr


def test_the_command_says_of_each_program_that_it_is_through_without_a_terminal() -> None:
    ran = command("--exhaustive", "--programs", "nothing", "plain", "--seconds", "0", "--workers", "2")
    assert ran.returncode == 0, ran.stderr
    lines = re.findall(r"^ *\d+ s  (.+): ([\d,]+) runs, [\d,]+ faults, 0 violations$", ran.stdout, re.MULTILINE)
    runs = {
        name: sum(conduct(name, store, mode).points * len(faults.SINGLES) for store in STORES for mode in MODES)
        for name in ("nothing", "plain")
    }
    assert lines == [(f"one fault, {name}", f"{count:,}") for name, count in runs.items()]
    assert f"{sum(runs.values()):,} runs" in ran.stdout.splitlines()[-1]
