"""`idioteque runs`: durable runs, read from the store that a worker keeps them in."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, TypeVar, get_args

import click

from idioteque.cli import Failed
from idioteque.cli.output import progress, show_done, show_record, show_rows
from idioteque.cli.run_text import attempt_record, line_record, print_run, reason_text, step_record, summary, time_text
from idioteque.cli.stores import Place, opened
from idioteque.cli.watching import show_list, watchable
from idioteque.client import Json, printable
from idioteque.clock import SystemClock
from idioteque.durations import seconds
from idioteque.errors import IdiotequeError, InvalidValue, RunUnknown
from idioteque.ids import checked_id
from idioteque.runlog import Log
from idioteque.runs import PAGE_MAX, Run, Runs, Why
from idioteque.store import Status

COLUMNS = {
    "run": "id",
    "function": "function_id",
    "status": "status",
    "created": "created_at",
    "finished": "finished_at",
    "error": "error",
}
LINE_COLUMNS = {"at": "at", "level": "level", "step": "key", "attempt": "attempt", "text": "text"}
RUNS_MAX = 100_000
OPEN: tuple[Status, ...] = ("running", "waiting")
STATUSES: tuple[Status, ...] = get_args(Status)

Command = TypeVar("Command", bound=Callable[..., Any])


def placed(command: Command) -> Command:
    """Give a command the options that say where the runs are."""
    command = click.option("--app", metavar="MODULE:WORKER", help="The worker whose runs they are, instead.")(command)
    return click.option("--store", metavar="URL", help="Where the runs are kept; IDIOTEQUE_STORE by default.")(command)


def chosen(command: Command) -> Command:
    """Give a command that changes runs the options that say which ones, and where their messages go."""
    command = click.option("--json", "as_json", is_flag=True, help="Print JSON.")(command)
    command = click.option("--yes", is_flag=True, help="Do not ask first.")(command)
    command = click.option("--function", help="With --all: only of this function.")(command)
    command = click.option("--status", type=click.Choice(STATUSES), help="With --all: only with this status.")(command)
    command = click.option("--all", "all_", is_flag=True, help="All that can be, and fit the filters.")(command)
    command = click.argument("run_ids", nargs=-1)(command)
    help_text = "Where deliveries go; with QSTASH_TOKEN and QSTASH_URL, messages can be sent."
    return placed(click.option("--mount-url", metavar="URL", help=help_text)(command))


@click.group()
def runs() -> None:
    """Look at durable runs, cancel them or let them go on."""


@runs.command("list")
@placed
@click.option("--status", type=click.Choice(STATUSES), help="Only with this status.")
@click.option("--function", help="Only of this function, by its id.")
@click.option("--limit", type=click.IntRange(1, RUNS_MAX), default=50, show_default=True, help="How many.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@watchable
def list_(
    store: str | None,
    app: str | None,
    status: Status | None,
    function: str | None,
    limit: int,
    as_json: bool,
    watch: bool,
) -> None:
    """List runs, the newest first."""

    async def found() -> list[Json]:
        async with opened(Place(store, app)) as here:
            return [summary(run) for run in await _page_through(here, status, function, limit)]

    show_list(found, COLUMNS, as_json=as_json, watch=watch)


@runs.command()
@placed
@click.argument("run_id")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def show(store: str | None, app: str | None, run_id: str, as_json: bool) -> None:
    """Print one run: its event, what came of it, and its steps as a tree."""
    run, reason = asyncio.run(_look(Place(store, app), run_id))
    if as_json:
        steps = [step_record(step) for step in run.steps]
        tried = [attempt_record(one) for one in run.failed_attempts]
        whole = {"event": run.event, "result": run.result, "steps": steps, "failed_attempts": tried}
        show_record({**summary(run), **whole}, as_json=True)
    else:
        print_run(run, reason)


@runs.command()
@placed
@click.argument("run_id")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def why(store: str | None, app: str | None, run_id: str, as_json: bool) -> None:
    """Say why a run has not ended, and until when that may last."""
    run, reason = asyncio.run(_look(Place(store, app), run_id))
    if not as_json:
        click.echo(f"it has ended: {run.status}" if reason is None else reason_text(reason))
        return
    record: Json = {"status": run.status, "cause": None, "text": None, "until": None}
    if reason is not None:
        record |= {"cause": reason.cause, "text": reason.text, "until": time_text(reason.until)}
    show_record(record, as_json=True)


@runs.command()
@placed
@click.argument("run_id")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def logs(store: str | None, app: str | None, run_id: str, as_json: bool) -> None:
    """Print the latest lines that one run wrote with `ctx.log`, the oldest first."""

    async def look() -> Log:
        async with opened(Place(store, app)) as here:
            return await here.logs(run_id)

    log = asyncio.run(look())
    lines = [line_record(line) for line in log.lines]
    if as_json:
        show_record({"lines": lines, "cut": log.cut}, as_json=True)
        return
    show_rows(lines, LINE_COLUMNS, as_json=False)
    if log.cut:
        click.echo(f"{log.cut} lines before these are not kept", err=True)


@dataclass(frozen=True, slots=True)
class Choice:
    """Which runs to change, as the options say it."""

    run_ids: Sequence[str]
    all_: bool
    status: Status | None
    function: str | None
    yes: bool
    as_json: bool

    def check(self, verb: str) -> None:
        """Raise `InvalidValue` for what is no choice."""
        if bool(self.run_ids) == self.all_:
            raise InvalidValue(f"name the runs to {verb}, or give --all")
        if self.run_ids and (self.status or self.function):
            raise InvalidValue("--status and --function go with --all, not with ids")
        for run_id in self.run_ids:  # before anything is done
            checked_id(run_id, "run id")


@runs.command()
@chosen
def cancel(store: str | None, app: str | None, mount_url: str | None, **choice: Any) -> None:
    """End runs without a result; those that have ended stay as they are.

    The run that invoked one has to be told, for which --mount-url or --app is needed.
    """

    async def end(here: Runs, run_id: str) -> str | None:
        status = await here.cancel(run_id)
        return None if status == "cancelled" else f"it is {status}"

    asyncio.run(_change(Place(store, app, mount_url), ("cancel", "cancelled"), Choice(**choice), OPEN, end))


@runs.command()
@chosen
def retry(store: str | None, app: str | None, mount_url: str | None, **choice: Any) -> None:
    """Let runs go on from where they stopped: the results of their steps stand.

    With --all, those that failed. A message goes to the mount: --mount-url or --app is needed.
    """
    place = Place(store, app, mount_url)
    place.check_can_send()

    async def go_on(here: Runs, run_id: str) -> str | None:
        await here.retry(run_id)
        return None

    asyncio.run(_change(place, ("retry", "retried"), Choice(**choice), ("failed",), go_on))


@runs.command()
@placed
@click.option("--mount-url", metavar="URL", help="Where deliveries go; with QSTASH_TOKEN and QSTASH_URL.")
@click.argument("run_id")
@click.argument("step")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def resume(store: str | None, app: str | None, mount_url: str | None, run_id: str, step: str, as_json: bool) -> None:
    """Run a function again from a step on, as a new run, whose id is printed.

    What had ended before STEP (a key, or outer/inner) keeps its result. A message goes to the mount: --mount-url or
    --app is needed.
    """
    place = Place(store, app, mount_url)
    place.check_can_send()

    async def go_on() -> str:
        async with opened(place) as here:
            return await here.resume(run_id, step)

    again = asyncio.run(go_on())
    if as_json:
        show_record({"id": again, "resumed_from": run_id, "step": step}, as_json=True)
    else:
        click.echo(again)


@runs.command()
@placed
@click.option("--function", help="Only of this function, by its id.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def count(store: str | None, app: str | None, function: str | None, as_json: bool) -> None:
    """Count runs by status."""

    async def counted() -> list[Json]:
        async with opened(Place(store, app)) as here:
            found = await here.count(function=function, limit=RUNS_MAX)
            return [{"status": status, "count": number} for status, number in found.items()]

    show_rows(asyncio.run(counted()), {"status": "status", "count": "count"}, as_json=as_json)


@runs.command()
@placed
@click.option("--mount-url", metavar="URL", help="Where deliveries go, for --repair.")
@click.option("--for", "duration", default="1h", show_default=True, help="For how long nothing has held them.")
@click.option("--limit", type=click.IntRange(1, PAGE_MAX), default=50, show_default=True, help="How many.")
@click.option("--repair", is_flag=True, help="Wake them: a message for each goes to the mount.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def stalled(
    store: str | None, app: str | None, mount_url: str | None, duration: str, limit: int, repair: bool, as_json: bool
) -> None:
    """List unfinished runs that no message holds: deleted ones, given-up ones, those of a restored backup.

    There should be none. With --repair, which needs --mount-url or --app, they are woken, and each is an alarm in the
    log.
    """
    place = Place(store, app, mount_url)
    before = datetime.fromtimestamp(SystemClock().now_ms() / 1000 - seconds(duration, "--for"), UTC)
    if repair:
        place.check_can_send()

    async def look() -> list[Run]:
        async with opened(place) as here:
            found = list(await here.stalled(before=before, limit=limit))
            for run in found if repair else []:
                await here.repair(run.id)
            return found

    found = asyncio.run(look())
    show_rows([summary(run) for run in found], COLUMNS, as_json=as_json)
    if repair:
        click.echo(f"woke {len(found)}", err=True)


async def _page_through(here: Runs, status: Status | None, function: str | None, limit: int) -> list[Run]:
    found: list[Run] = []
    cursor: str | None = None
    while len(found) < limit:
        page = await here.list(status=status, function=function, limit=min(PAGE_MAX, limit - len(found)), cursor=cursor)
        found += page.runs
        cursor = page.cursor
        if cursor is None:
            break
    return found


async def _look(place: Place, run_id: str) -> tuple[Run, Why | None]:
    async with opened(place) as here:
        run = await here.get(run_id)
        if run is None:
            raise RunUnknown(run_id)
        return run, await here.why(run_id)


async def _change(
    place: Place,
    verb: tuple[str, str],
    choice: Choice,
    statuses: Sequence[Status],
    act: Callable[[Runs, str], Awaitable[str | None]],
) -> None:
    """Change the runs named, or all there are now; `act` returns what speaks against one, in words."""
    choice.check(verb[0])
    async with opened(place) as here:
        run_ids = list(dict.fromkeys(choice.run_ids))
        for status in (choice.status,) if choice.status else statuses:
            found = [] if run_ids and not choice.all_ else await _page_through(here, status, choice.function, RUNS_MAX)
            run_ids += [run.id for run in found]
        if choice.all_ and run_ids and not choice.yes:
            click.confirm(f"{verb[0]} {len(run_ids)} runs?", abort=True, err=True)
        against: list[str] = []
        with progress(verb[1], len(run_ids), SystemClock()) as advance:
            for run_id in run_ids:
                try:
                    said = await act(here, run_id)
                except IdiotequeError as error:
                    said = str(error)
                against += [f"{run_id}: {said}"] if said else []
                advance(1)
    if choice.as_json:
        show_done(verb[1], len(run_ids) - len(against), as_json=True, asked=len(run_ids), against=against)
    else:
        click.echo(f"{verb[1]} {len(run_ids) - len(against)} of {len(run_ids)}")
    for line in against:
        click.echo(printable(line), err=True)
    if against:
        raise Failed(f"{len(against)} runs could not be {verb[1]}")
