"""The page of a run: table, settings and charts as Markdown and SVG, and their places in docs/performance.md."""

from __future__ import annotations

import re
from pathlib import Path

from bench.machine import description
from bench.plot import svg
from bench.processes import ROOT
from bench.run import Report
from bench.table import markdown_table

DOCUMENT = ROOT / "docs" / "performance.md"
CHARTS = "performance"  # the folder of the charts, beside the page that shows them


def write_page(report: Report, folder: Path, *, docs: bool) -> None:
    """Write what was measured beside the other results and, when asked for, into the page of the project."""
    if report.results.values:
        (folder / "last.md").write_text(table_part(report))
        if docs:
            _replace(DOCUMENT, "table", table_part(report))
    if report.growth is None:
        return
    for place in [folder, *([DOCUMENT.parent] if docs else [])]:
        (place / CHARTS).mkdir(exist_ok=True)
        for chart in report.growth.charts:
            (place / CHARTS / f"{chart.name}.svg").write_text(svg(chart))
    (folder / "growth.md").write_text(growth_part(report))
    if docs:
        _replace(DOCUMENT, "growth", growth_part(report))


def table_part(report: Report) -> str:
    """Return the table of a run with what it was measured on."""
    machine = description()
    speed = report.calibration_ms
    lowest, highest = min(speed, default=0), max(speed, default=0)
    lines = [
        f"Python {machine['python']}, {machine['cores']} cores ({machine['processor']}), {machine['memory']},"
        f" {machine['system']}; {report.plan.repeats} repeats. Between the measurements, a fixed piece of Python took"
        f" {lowest:g} to {highest:g} ms: so much the speed of the machine moved.",
        "",
        markdown_table(report.results, report.subjects),
        *(f"- {note}" for note in report.results.notes),
        *([""] if report.results.notes else []),
        "| | versions | settings |",
        "|---|---|---|",
        *(
            f"| {name} | {', '.join(f'{what} {version}' for what, version in versions.items())}"
            f" | {report.settings[name]} |"
            for name, versions in report.versions.items()
        ),
    ]
    return "\n".join(lines) + "\n"


def growth_part(report: Report) -> str:
    """Return the charts of a run, each with its sentence."""
    growth = report.growth
    assert growth is not None
    lines = [
        f"{text}\n\n![{c.title}]({CHARTS}/{c.name}.svg)\n"
        for c, text in zip(growth.charts, growth.sentences, strict=True)
    ]
    return "\n".join([*lines, *(f"- {failure}" for failure in growth.failures)])


def _replace(document: Path, part: str, text: str) -> None:
    """Put a text between the two comments that name a part of a page."""
    begin, end = f"<!-- {part}: made by make bench -->", f"<!-- end of {part} -->"
    page = document.read_text()
    pattern = re.compile(f"{re.escape(begin)}.*?{re.escape(end)}", re.DOTALL)
    assert pattern.search(page), f"{document} has no place for its {part}"
    document.write_text(pattern.sub(lambda _: f"{begin}\n\n{text}\n{end}", page))
