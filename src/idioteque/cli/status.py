"""`idioteque status`: what a server of one's own has and did lately, as the console's overview shows it."""

from __future__ import annotations

from typing import cast

import click

from idioteque.cli import Failed
from idioteque.cli.client import ask
from idioteque.cli.output import show_record
from idioteque.client import Json, QStash


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON, with the last day in stretches of five minutes.")
def status(as_json: bool) -> None:
    """Print what the server has under way, how long messages take, how large it is and what it keeps."""
    told = ask(QStash.status)
    if told is None:
        raise Failed("this QStash tells nothing of itself beyond the protocol; `idioteque serve` does")
    show_record(told if as_json else flat(told), as_json=as_json)


def flat(told: Json) -> Json:
    """Return the figures one below the other, without those of the past."""
    shown: Json = {}
    for name, value in told.items():
        if isinstance(value, dict):
            shown.update({f"{name}.{inner}": one for inner, one in cast(Json, value).items()})
        elif not isinstance(value, list):
            shown[name] = value
    return shown
