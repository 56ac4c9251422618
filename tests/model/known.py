"""The shortest known schedule that finds each mutant out, kept in `schedules.json`."""

from __future__ import annotations

import json
from pathlib import Path

from tests.model.explorer import Case, Schedule
from tests.model.mutants import Mutant
from tests.model.searches import replay

FILE = Path(__file__).with_name("schedules.json")


def load() -> dict[str, tuple[Case, Schedule]]:
    """Return the schedules that are kept, by the mutant's name."""
    kept = json.loads(FILE.read_text(encoding="utf-8")) if FILE.exists() else {}
    return {
        name: (
            Case(program, mode, deduplicates),
            Schedule(tuple((place, tuple(choice)) for place, choice in deviations), error),
        )
        for name, (program, mode, deduplicates, deviations, error) in kept.items()
    }


def save(known: dict[str, tuple[Case, Schedule]]) -> None:
    """Keep schedules, one a line."""
    lines = [
        f"{json.dumps(name)}: {json.dumps([case.program, case.mode, case.deduplicates, each.deviations, each.error])}"
        for name, (case, each) in sorted(known.items())
    ]
    whole = FILE.with_suffix(".new")  # others may be reading
    whole.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")
    whole.replace(FILE)


def is_found_out(mutant: Mutant, case: Case, schedule: Schedule) -> bool:
    """Whether the schedule still does it."""
    budget: dict[str, int] = {}
    for _, choice in schedule.deviations:
        budget[str(choice[0])] = budget.get(str(choice[0]), 0) + 1
    return replay(mutant.protocol, case, budget, dict(schedule.deviations)) is not None
