"""`make simulate`: worlds by chance for so many seconds; with `--exhaustive`, every fault and every pair first."""

from __future__ import annotations

import argparse
import itertools
import logging
import sys
import time
from collections import Counter
from collections.abc import Iterator

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from tests.simulation import faults
from tests.simulation.program import PROGRAMS
from tests.simulation.rehearsal import MODES, SMALL, described, drawn, pairs, singles
from tests.simulation.storage import STORES
from tests.simulation.world import World

console = Console()


class Tally:
    """What was run, injected, reached and violated."""

    def __init__(self) -> None:
        self.worlds = 0
        self.violated = 0
        self.injected: Counter[str] = Counter()
        self.edges: Counter[str] = Counter()

    def add(self, world: World, origin: str) -> None:
        """Count a world; print one that broke a promise, with how to see it again."""
        self.worlds += 1
        self.injected += world.injected
        self.edges += world.witness.edges
        if world.violations:
            self.violated += 1
            console.print(f"VIOLATION, {origin}", style="bold red", highlight=False)
            console.print(described(world), markup=False, highlight=False)

    def show(self) -> None:
        """Print the sums."""
        for title, counter in (("faults injected", self.injected), ("of the recovery table", self.edges)):
            table = Table(title, "times")
            for name, count in counter.most_common():
                table.add_row(name, f"{count:,}")
            console.print(table)
        console.print(f"{self.worlds:,} runs, {faults.total(self.injected):,} faults, {self.violated} violations")


def every_fault() -> Iterator[World]:
    """Run all programs with each single fault at each call, and the small ones with each pair of faults."""
    for name, store, mode in itertools.product(PROGRAMS, STORES, MODES):
        yield from singles(name, store, mode, faults.SINGLES)
    for name, mode in itertools.product(SMALL, MODES):
        yield from pairs(name, "memory", mode)


def main() -> int:
    """Return 1 when a promise was broken."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("--seconds", type=float, default=60.0, help="how long the random part goes on")
    parser.add_argument(
        "--seed", type=int, help="the first seed; with --seconds 0 the only one, printed with its trace"
    )
    parser.add_argument("--exhaustive", action="store_true", help="every single fault and every pair before that")
    given = parser.parse_args()
    logging.disable(logging.CRITICAL)
    tally = Tally()
    seed = time.time_ns() % 1_000_000_000 if given.seed is None else given.seed
    console.print(f"seed {seed}", highlight=False)
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[sums]}"), TimeElapsedColumn())
    with Progress(*columns, console=console) as progress:
        if given.exhaustive:
            task = progress.add_task("every fault", total=None, sums="")
            for world in every_fault():
                tally.add(world, "of a schedule")
                progress.update(task, sums=f"{tally.worlds:,} runs, {tally.violated} violations")
        task = progress.add_task("by chance", total=given.seconds or 1, sums="")
        began_s = time.monotonic()
        while True:
            world = drawn(seed)
            tally.add(world, f"seed {seed}: make simulate SECONDS=0 SEED={seed}")
            seed += 1
            passed_s = time.monotonic() - began_s
            sums = f"{tally.worlds:,} runs, {faults.total(tally.injected):,} faults, {tally.violated} violations"
            progress.update(task, completed=min(passed_s, given.seconds or 1), sums=sums)
            if passed_s >= given.seconds:
                break
    if not given.seconds:
        console.print("\n".join(world.trace), markup=False, highlight=False)
    tally.show()
    return 1 if tally.violated else 0


if __name__ == "__main__":
    sys.exit(main())
