"""`python -m tests.model`: every schedule of the plan, then every mutant; exit code 1 when anything is amiss.

`python -m tests.model quick` leaves out the schedules with two faults; `python -m tests.model mutants` looks for the
schedules that find the mutants out, and keeps them.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
from collections import Counter

from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from tests.model import known
from tests.model.explorer import Case, Schedule
from tests.model.mutants import MUTANTS
from tests.model.plan import Job, chances, pairs, singles
from tests.model.programs import OPEN, RARE, SOUND
from tests.model.search import find

RANDOM_EACH = 400


def _search(job: Job) -> tuple[Job, int, bool, list[Schedule]]:
    found = job.search()
    return job, found.schedules, found.is_whole, found.violations


def _find(number: int) -> tuple[str, tuple[Case, Schedule] | None, int]:
    mutant = MUTANTS[number]
    kept = known.load().get(mutant.name)
    if kept is not None and known.is_found_out(mutant, *kept):
        return mutant.name, kept, 1
    return mutant.name, *find(mutant)


def main(arguments: list[str]) -> int:
    console = Console()
    table = Table(title="the protocol as built")
    for column in ("what", "searches", "schedules", "violations"):
        table.add_column(column, justify="left" if column == "what" else "right")
    amiss = 0
    quick = "quick" in arguments
    with multiprocessing.Pool(os.cpu_count()) as pool, Progress(console=console) as progress:
        if "mutants" not in arguments:
            jobs = [*singles(list(SOUND)), *chances(RANDOM_EACH), *(() if quick else pairs())]
            bar = progress.add_task("schedules", total=len(jobs))
            searches: Counter[str] = Counter()
            schedules: Counter[str] = Counter()
            violations: Counter[str] = Counter()
            for job, count, _, found in pool.imap_unordered(_search, jobs, 1):
                searches[job.kind] += 1
                schedules[job.kind] += count
                violations[job.kind] += len(found)
                for each in found[:1]:
                    progress.console.print("[red]VIOLATION", job.case, job.budget, each.error, each.deviations)
                progress.advance(bar)
            for kind in searches:
                table.add_row(kind, str(searches[kind]), f"{schedules[kind]:,}", str(violations[kind]))
            amiss += sum(violations.values())
        bar = progress.add_task("mutants", total=len(MUTANTS))
        kept, tried, names = known.load(), 0, {mutant.name for mutant in MUTANTS}
        for name, caught, count in pool.imap_unordered(_find, range(len(MUTANTS)), 1):
            tried += count
            progress.advance(bar)
            if caught is None:
                amiss += 1
                kept.pop(name, None)
                progress.console.print(f"[red]mutant {name} was not found out")
            else:
                kept[name] = caught
                if "mutants" in arguments:
                    known.save({name: each for name, each in kept.items() if name in names})
    table.add_row("mutants", str(len(MUTANTS)), f"{tried:,}", f"{len(names & kept.keys())}/{len(names)} found out")
    console.print(table)
    for program, what in (*OPEN.items(), *RARE.items()):
        console.print(f"not held yet ({program}): {what}")
    console.print("violations 0" if not amiss else f"[red]{amiss} amiss")
    return 1 if amiss else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
