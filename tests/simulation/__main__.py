"""`make simulate`: worlds by chance for so many seconds; with `--exhaustive`, every fault and every pair first."""

from __future__ import annotations

import argparse
import itertools
import os
import sys
import time
from collections.abc import Iterator

from rich.console import Console
from rich.table import Table

from tests.simulation.jobs import Drawn, Job, Sums, be_quiet, every_fault, in_order
from tests.simulation.program import PROGRAMS
from tests.simulation.rehearsal import drawn, read_name, scheduled
from tests.simulation.world import World

SEEDS_EACH = 100
console = Console(highlight=False)


def show(world: World) -> int:
    """Print all of one world; return 1 when it broke a promise."""
    console.print("\n".join(world.trace), markup=False, soft_wrap=True)
    for violation in world.violations:
        console.print(f"VIOLATION {violation}", style="bold red", markup=False, soft_wrap=True)
    return 1 if world.violations else 0


def seeds(first: int, seconds: float) -> Iterator[Drawn]:
    """Return jobs by chance until so many seconds have passed."""
    until_s = time.monotonic() + seconds
    for number in itertools.count():
        if time.monotonic() >= until_s:
            return
        yield Drawn(first + number * SEEDS_EACH, SEEDS_EACH)


def run_all(jobs: Iterator[Job], workers: int) -> Sums:
    """Run jobs; print a line when those of a title are through, and all there is to say of its first violation."""
    total = Sums()
    began_s = time.monotonic()
    with console.status("") as status:  # only where there is a terminal
        for title, results in itertools.groupby(in_order(workers, jobs), lambda result: result[0].title):
            sums = Sums()
            for _, each in results:
                if each.first and not sums.first:
                    console.print(f"VIOLATION, {title}", style="bold red")
                    console.print(each.first, markup=False, soft_wrap=True)
                sums += each
                status.update(f"{title}: {sums}")
            console.print(f"{time.monotonic() - began_s:6.0f} s  {title}: {sums}", soft_wrap=True)
            total += sums
    return total


def tell(total: Sums) -> None:
    """Print the sums."""
    for title, counter in (("faults injected", total.injected), ("of the recovery table", total.edges)):
        table = Table(title, "times")
        for name, count in counter.most_common():
            table.add_row(name, f"{count:,}")
        console.print(table)
    console.print(str(total))


def main() -> int:
    """Return 1 when a promise was broken."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("--seconds", type=float, default=60.0, help="how long the random part goes on")
    parser.add_argument("--seed", type=int, help="the first seed; with --seconds 0 the only one, printed whole")
    parser.add_argument("--exhaustive", action="store_true", help="every single fault and every pair before that")
    parser.add_argument("--programs", nargs="+", choices=PROGRAMS, default=PROGRAMS, help="of these programs only")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="how many processes")
    parser.add_argument("--world", help="this one only, printed whole: program, store, mode, and faults at calls")
    given = parser.parse_args()
    be_quiet()
    if given.world is not None:
        try:
            named = read_name(given.world)
        except ValueError as error:
            parser.error(f"--world: {error}")
        return show(scheduled(*named))
    if given.seed is not None and not given.seconds and not given.exhaustive:
        return show(drawn(given.seed))
    seed = time.time_ns() % 1_000_000_000 if given.seed is None else given.seed
    console.print(f"seed {seed}")
    total = run_all(every_fault(given.programs), given.workers) if given.exhaustive else Sums()
    total += run_all(seeds(seed, given.seconds), given.workers)
    tell(total)
    return 1 if total.violated else 0


if __name__ == "__main__":
    sys.exit(main())
