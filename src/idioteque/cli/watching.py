"""Lists that are looked at again and again, until Ctrl-C."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import Callable, Coroutine, Sequence

import click
from rich.console import Console
from rich.live import Live
from rich.text import Text

from idioteque.cli.output import Columns, show_rows, table_of
from idioteque.client import ApiRefusal, Json, printable
from idioteque.clock import Clock, SystemClock
from idioteque.errors import DatabaseError, InvalidValue, TransportError

WATCH_EVERY_S = 2.0

Look = Callable[[], Coroutine[object, object, Sequence[Json]]]

watchable = click.option("--watch", is_flag=True, help=f"Look again every {WATCH_EVERY_S:g} s until Ctrl-C.")


def show_list(look: Look, columns: Columns, *, as_json: bool, watch: bool) -> None:
    """Print a list once, or keep it on the terminal as it changes."""
    if not watch:
        show_rows(asyncio.run(look()), columns, as_json=as_json)
        return
    if as_json or not sys.stdout.isatty():
        raise InvalidValue("--watch draws on a terminal; without it, or with --json, ask for the list once")
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(_watch(look, columns, SystemClock()))


async def _watch(look: Look, columns: Columns, clock: Clock) -> None:
    """Draw what is found, for ever; what fails later than the first time is told below the list and tried again."""
    console = Console()
    table = table_of(await look(), columns, console.width)
    with Live(table, console=console, auto_refresh=False) as live:
        while True:
            await clock.sleep(WATCH_EVERY_S)
            try:
                table = table_of(await look(), columns, console.width)
            except (TransportError, ApiRefusal, DatabaseError) as error:
                table.caption = Text(printable(str(error)))
            live.update(table, refresh=True)
