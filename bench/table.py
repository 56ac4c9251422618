"""The one table of a run: for a terminal, and as Markdown for the page."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich.table import Table

from bench.figures import MEASURES, OURS, Measure, Results, number

MET = {True: "met", False: "missed", None: ""}
STYLES = {True: "green", False: "red", None: ""}


def rows(results: Results) -> Iterator[Measure]:
    """Yield the measures of which there is something."""
    measured = {figure for figure, _ in results.values}
    yield from (measure for measure in MEASURES if measure.figure in measured)


def terminal_table(results: Results, subjects: Sequence[str]) -> Table:
    """Return the table with medians, lowest and highest, and how many times as good as each peer we are."""
    table = Table(title="medians (lowest to highest); x: how many times as good we are", title_justify="left")
    for heading in ("work", "target", OURS, ""):
        table.add_column(heading, overflow="fold")
    for subject in _peers(subjects):
        table.add_column(subject, justify="right")
    for measure in rows(results):
        met = results.is_met(measure)
        table.add_row(
            measure.label,
            measure.target.text if measure.target else "",
            _cell(results, measure, OURS),
            f"[{STYLES[met]}]{MET[met]}[/]" if MET[met] else "",
            *(_compared(results, measure, subject) for subject in _peers(subjects)),
        )
    return table


def markdown_table(results: Results, subjects: Sequence[str]) -> str:
    """Return the same table as Markdown."""
    headings = ["", "target", OURS, "", *_peers(subjects)]
    lines = [f"| {' | '.join(headings)} |", f"|{'---|' * len(headings)}"]
    for measure in rows(results):
        cells = [
            measure.label,
            measure.target.text if measure.target else "",
            _cell(results, measure, OURS),
            MET[results.is_met(measure)],
            *(_compared(results, measure, subject) for subject in _peers(subjects)),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _peers(subjects: Sequence[str]) -> list[str]:
    return [subject for subject in subjects if subject != OURS]


def _cell(results: Results, measure: Measure, subject: str) -> str:
    summary = results.summary(measure.figure, subject)
    if summary is None:
        return ""
    if summary.count == 1:
        return number(summary.median)
    return f"{number(summary.median)} ({number(summary.low)} to {number(summary.high)})"


def _compared(results: Results, measure: Measure, subject: str) -> str:
    cell, ratio = _cell(results, measure, subject), results.ratio(measure, subject)
    return cell if ratio is None else f"{cell} x {number(ratio)}"
