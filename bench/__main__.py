"""`python -m bench`, which `make bench` runs: the same work for us and the peers, in turns, and one table."""

from __future__ import annotations

import argparse
import asyncio
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from bench.page import write_page
from bench.peers import PEERS
from bench.report import write_json
from bench.run import SUBJECTS, Plan, carry_out
from bench.table import terminal_table
from bench.works import FULL, QUICK, WORKS

RESULTS = Path(__file__).parent / "results"
GROWTH = "growth"
WIDTH_LEAST = 150


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure what the arguments ask for; return 0 when everything that was asked for has a figure."""
    options = _options(arguments)
    works = [*WORKS] if options.work == "all" else options.work.split(",")
    if unknown := set(works) - {*WORKS, GROWTH}:
        print(f"no such work: {', '.join(sorted(unknown))}; there are {', '.join([*WORKS, GROWTH])}")
        return 2
    peers = [one for one in SUBJECTS if _is_chosen(one, options.peers)]
    plan = Plan(
        works=tuple(work for work in WORKS if work in works),
        peers=tuple(peers),
        repeats=options.repeats or (1 if options.quick else 3),
        sizes=QUICK if options.quick else FULL,
        profile=options.results / "profile" if options.profile else None,
        growth=GROWTH in works,
    )
    return asyncio.run(_measured(plan, options.results, docs=options.docs))


async def _measured(plan: Plan, folder: Path, *, docs: bool) -> int:
    task = asyncio.current_task()
    assert task is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)  # so that processes are ended
    console = Console()
    if not console.is_terminal or console.width < WIDTH_LEAST:
        console = Console(width=max(console.width, WIDTH_LEAST))
    report = await carry_out(plan, console)
    folder.mkdir(parents=True, exist_ok=True)
    write_json(report, folder / "last.json")
    write_page(report, folder, docs=docs)
    if report.results.values:
        console.print(terminal_table(report.results, report.subjects))
    for note in report.results.notes:
        console.print(note, style="yellow", markup=False, highlight=False)
    console.print(f"written: {folder / 'last.json'}; the environments of the peers are in {PEERS}")
    return 1 if report.failed else 0


def _is_chosen(name: str, chosen: str) -> bool:
    return chosen == "all" or any(name == one or name.startswith(f"{one}-") for one in chosen.split(","))


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make bench", description=__doc__)
    parser.add_argument("--peers", default="all", help="all, none, or names with commas: restate,dbos,celery")
    parser.add_argument("--work", default="all", help=f"all, or names with commas: {', '.join([*WORKS, GROWTH])}")
    parser.add_argument("--repeats", type=int, default=0, help="how often each is measured: 3, or 1 when quick")
    parser.add_argument("--quick", action="store_true", help="tiny numbers, which only show that it works")
    parser.add_argument("--profile", action="store_true", help="record our processes with py-spy")
    parser.add_argument("--docs", action="store_true", help="put the table and the plots into docs/")
    parser.add_argument("--results", type=Path, default=RESULTS, help="the folder to write to")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
