"""`idioteque flow-control`: limits that messages share under one key."""

from __future__ import annotations

from collections.abc import Sequence

import click

from idioteque.cli.client import ask
from idioteque.cli.output import show_done, show_record, show_rows
from idioteque.cli.waiting import show_waiting
from idioteque.durations import seconds
from idioteque.errors import InvalidValue

COLUMNS = {
    "key": "flowControlKey",
    "waiting": "waitListSize",
    "under way": "parallelismCount",
    "parallelism": "parallelismMax",
    "used": "rateCount",
    "rate": "rateMax",
    "period s": "ratePeriod",
    "paused": "isPaused",
}


@click.group("flow-control")
def flow_control() -> None:
    """Look at flow-control keys, pause them and pin their limits; 0 is no limit."""


@flow_control.command("list")
@click.option("--search", default="", metavar="TEXT", help="Only keys that contain this.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def list_(search: str, as_json: bool) -> None:
    """List keys that are in use."""
    show_rows(ask(lambda qstash: qstash.flow_keys(search)), COLUMNS, as_json=as_json)


@flow_control.command()
@click.argument("key")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def show(key: str, as_json: bool) -> None:
    """Print one key."""
    show_record(ask(lambda qstash: qstash.flow_key(key)), as_json=as_json)


@flow_control.command()
@click.argument("key")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def waiting(key: str, as_json: bool) -> None:
    """List the first messages that wait for a key, in the order of their turns; only our own server tells them."""
    show_waiting([("flowControlKey", key)], as_json=as_json)


@flow_control.command()
@click.argument("key")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def pause(key: str, as_json: bool) -> None:
    """Let the messages of a key wait until it is resumed."""
    _change(key, "pause")
    show_done("paused", key, as_json=as_json)


@flow_control.command()
@click.argument("key")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def resume(key: str, as_json: bool) -> None:
    """Let the messages of a paused key go on."""
    _change(key, "resume")
    show_done("resumed", key, as_json=as_json)


@flow_control.command()
@click.argument("key")
@click.option("--parallelism", type=click.IntRange(min=1), help="How many are under way at once.")
@click.option("--rate", type=click.IntRange(min=1), help="How many begin in a period.")
@click.option("--period", metavar="DURATION", help='How long a period is, like "1m".')
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def pin(key: str, parallelism: int | None, rate: int | None, period: str | None, as_json: bool) -> None:
    """Set limits that messages do not change."""
    period_s = None if period is None else round(seconds(period, "--period"))
    given = (("parallelism", parallelism), ("rate", rate), ("period", period_s))
    query = [(name, str(value)) for name, value in given if value is not None]
    if not query:
        raise InvalidValue("give --parallelism, --rate, --period, or several of them")
    _change(key, "pin", query)
    show_done("pinned", key, as_json=as_json)


@flow_control.command()
@click.argument("key")
@click.option("--parallelism", is_flag=True, help="Only the parallelism.")
@click.option("--rate", is_flag=True, help="Only the rate and its period.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def unpin(key: str, parallelism: bool, rate: bool, as_json: bool) -> None:
    """Let messages set limits again, all of them unless one is named."""
    chosen = [name for name, is_chosen in (("parallelism", parallelism), ("rate", rate)) if is_chosen]
    _change(key, "unpin", [(name, "true") for name in chosen or ("parallelism", "rate")])
    show_done("unpinned", key, as_json=as_json)


@flow_control.command("reset-rate")
@click.argument("key")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def reset_rate(key: str, as_json: bool) -> None:
    """Begin a new period now, with nothing of the rate used."""
    _change(key, "resetRate")
    show_done("reset", key, as_json=as_json)


def _change(key: str, verb: str, query: Sequence[tuple[str, str]] = ()) -> None:
    ask(lambda qstash: qstash.change_flow_key(key, verb, query))
