"""What commands print: tables for a terminal, tab-separated lines for a pipe, JSON where it is asked for."""

from __future__ import annotations

import json
import sys
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Protocol

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from idioteque.client import Json, printable
from idioteque.clock import Clock

PROGRESS_AFTER_S = 1.0
WHOLE_MAX = 40  # an id of ours has 36 characters, a time 24
FOLDED_MIN = 16
GAP = 2  # between two columns

Columns = Mapping[str, str]
"""The title of each column and the field it shows; fields whose name ends with `time` or `At` are milliseconds."""

STATE_STYLES = {"DELIVERED": "green", "ERROR": "yellow", "RETRY": "yellow", "FAILED": "red", "CANCELED": "dim"}


def show_rows(rows: Sequence[Json], columns: Columns, *, as_json: bool) -> None:
    """Print a list."""
    if as_json:
        click.echo(json.dumps(list(rows), indent=2, ensure_ascii=False))
        return
    if not sys.stdout.isatty():
        for row in rows:
            show_line(row, columns)
        return
    console = Console()
    console.print(table_of(rows, columns, console.width))


def table_of(rows: Sequence[Json], columns: Columns, width: int) -> Table:
    """Return a list as a terminal of so many columns shows it.

    What is as short as an id or a time is never broken over lines, so that it can be copied. Where that leaves no room
    for the rest, each row is a paragraph of its own.
    """
    lines = [[_styled(name, cell(row, name)) for name in columns.values()] for row in rows]
    widths = [
        max(len(title), *(line[place].cell_len for line in lines), 0) for place, title in enumerate(columns)
    ]  # fmt: skip
    least = [wide if wide <= WHOLE_MAX else FOLDED_MIN for wide in widths]
    if sum(least) + GAP * (len(least) - 1) > width:
        return _paragraphs(lines, list(columns))
    table = Table(box=None, pad_edge=False, header_style="bold")
    for title, wide in zip(columns, widths, strict=True):
        table.add_column(title, overflow="fold", no_wrap=wide <= WHOLE_MAX)
    for line in lines:
        table.add_row(*line)
    return table


def _paragraphs(lines: Sequence[Sequence[Text]], titles: Sequence[str]) -> Table:
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    for number, line in enumerate(lines):
        if number:
            table.add_row()
        for title, text in zip(titles, line, strict=True):
            if text.plain:
                table.add_row(Text(title), text)
    return table


def show_record(record: Json, *, as_json: bool) -> None:
    """Print all fields of one thing."""
    if as_json:
        click.echo(json.dumps(record, indent=2, ensure_ascii=False))
        return
    if not sys.stdout.isatty():
        for name in record:
            click.echo(f"{printable(name)}\t{cell(record, name)}")
        return
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    for name in record:
        table.add_row(Text(printable(name)), Text(cell(record, name)))
    Console().print(table)


def show_line(row: Json, columns: Columns, *, as_json: bool = False) -> None:
    """Print one row of a list that has no end, or goes into a pipe."""
    if as_json:
        click.echo(json.dumps(row, ensure_ascii=False))
    elif sys.stdout.isatty():
        cells = [_styled(name, cell(row, name)) for name in columns.values() if name in row]
        Console(soft_wrap=True).print(Text("  ").join(cells))
    else:
        click.echo("\t".join(cell(row, name) for name in columns.values()))


def cell(row: Json, name: str) -> str:
    """Return one field as a text that is safe to print; "" when it is missing."""
    value = row.get(name)
    if value is None:
        return ""
    if isinstance(value, int) and name.lower().endswith(("time", "at", "notbefore")):
        return instant(value)
    if isinstance(value, dict | list):
        return printable(json.dumps(value, ensure_ascii=False))
    return printable(str(value))


def instant(ms: int) -> str:
    """Return a time in milliseconds as people read it, in UTC."""
    try:
        return datetime.fromtimestamp(ms / 1000, tz=UTC).isoformat(" ", "milliseconds").replace("+00:00", "Z")
    except (OverflowError, OSError, ValueError):
        return str(ms)


def show_done(what: str, done: int | str, *, as_json: bool, **more: object) -> None:
    """Print what was done to how many things, or to which one; `more` is said in JSON only."""
    click.echo(json.dumps({what: done, **more}, ensure_ascii=False) if as_json else printable(f"{what} {done}"))


class Steps(Protocol):
    """Told of each bit of a long work that is done."""

    def __call__(self, count: int) -> None: ...


@contextmanager
def progress(what: str, total: int, clock: Clock, console: Console | None = None) -> Generator[Steps, None, None]:
    """Show a bar on stderr, if that is a terminal, for work that takes longer than `PROGRESS_AFTER_S`."""
    console = console or Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    bar = Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
    task = bar.add_task(what, total=total)
    begun_s = clock.monotonic_s()

    def advance(count: int) -> None:
        bar.advance(task, count)
        if not bar.live.is_started and clock.monotonic_s() - begun_s > PROGRESS_AFTER_S:
            bar.start()

    try:
        yield advance
    finally:
        bar.stop()


def _styled(name: str, text: str) -> Text:
    return Text(text, style=STATE_STYLES.get(text, "") if name == "state" else "")
