"""`python -m tests.model`: every schedule of the plan, then every mutant; exit code 1 when anything is amiss.

`python -m tests.model quick` leaves out the schedules with two faults; `python -m tests.model mutants` looks for the
schedules that find the mutants out, and keeps them.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Sequence
from multiprocessing.pool import Pool

from rich.console import Console
from rich.table import Table

from tests.model import known
from tests.model.explorer import Case, Schedule
from tests.model.mutants import MUTANTS
from tests.model.plan import Job, chances, pairs, singles
from tests.model.programs import MODES, PROGRAMS, SMALL
from tests.model.search import find
from tests.model.searches import Found

RANDOM_EACH = 100


def _search(job: Job) -> tuple[Job, Found]:
    return job, job.search()


def _find(number: int) -> tuple[str, tuple[Case, Schedule] | None, int]:
    mutant = MUTANTS[number]
    kept = known.load().get(mutant.name)
    if kept is not None and known.is_found_out(mutant, *kept):
        return mutant.name, kept, 1
    return mutant.name, *find(mutant)


def main(arguments: list[str]) -> int:
    console = Console(highlight=False)
    table = Table(title="the protocol as built")
    for column in ("what", "programs", "searches", "schedules", "violations"):
        table.add_column(column, justify="left" if column == "what" else "right")
    amiss = 0
    with multiprocessing.Pool(os.cpu_count()) as pool:
        if "mutants" not in arguments:
            jobs = [*singles(list(PROGRAMS)), *(() if "quick" in arguments else pairs()), *chances(RANDOM_EACH)]
            amiss += _try(jobs, pool, console, table)
        amiss += _break(pool, console, table, is_kept="mutants" in arguments)
    console.print(table)
    console.print(f"two faults, and one with a pre-emption, whole for {', '.join(SMALL)}, each {' and '.join(MODES)}")
    console.print("violations 0" if not amiss else f"[red]{amiss} amiss")
    return 1 if amiss else 0


def _try(jobs: Sequence[Job], pool: Pool, console: Console, table: Table) -> int:
    """Make all searches; print a line whenever those of one kind and program are through, and what went wrong."""
    tallies: dict[str, Counter[str]] = defaultdict(Counter[str])
    left = Counter((job.kind, job.case.program) for job in jobs)
    programs = Counter(kind for kind, _ in left)
    began_s = time.monotonic()
    for job, found in pool.imap_unordered(_search, jobs, 1):
        tally = tallies[job.kind]
        tally.update(searches=1, schedules=found.schedules, violations=len(found.violations))
        for each in found.violations[:1]:
            console.print("[red]VIOLATION", job.case, job.scope, each.error, each.deviations)
        left[job.kind, job.case.program] -= 1
        if not left[job.kind, job.case.program]:
            sums = f"{tally['schedules']:,} schedules of this kind so far, {tally['violations']} violations"
            console.print(f"{time.monotonic() - began_s:6.0f} s  {job.kind}, {job.case.program}: {sums}")
    for kind, tally in tallies.items():
        sums = [f"{tally[name]:,}" for name in ("searches", "schedules", "violations")]
        table.add_row(kind, str(programs[kind]), *sums)
    return sum(tally["violations"] for tally in tallies.values())


def _break(pool: Pool, console: Console, table: Table, *, is_kept: bool) -> int:
    """Find out every mutant; keep the schedules that do, if asked."""
    missed, tried, kept, names = 0, 0, known.load(), {mutant.name for mutant in MUTANTS}
    for name, caught, count in pool.imap_unordered(_find, range(len(MUTANTS)), 1):
        tried += count
        if caught is None:
            missed += 1
            kept.pop(name, None)
            console.print(f"[red]mutant {name} was not found out")
        else:
            kept[name] = caught
            if is_kept:
                known.save({name: each for name, each in kept.items() if name in names})
    found = f"{len(names) - missed}/{len(names)} found out"
    table.add_row("mutants", "", str(len(MUTANTS)), f"{tried:,}", found)
    return missed


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
