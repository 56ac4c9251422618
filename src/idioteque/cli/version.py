"""`idioteque version`: which version is installed, and on which Python."""

from __future__ import annotations

import json
import platform
from importlib import metadata

import click


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def version(as_json: bool) -> None:
    """Print the versions of idioteque and of the Python that runs it."""
    own, python = metadata.version("idioteque"), platform.python_version()
    click.echo(json.dumps({"idioteque": own, "python": python}) if as_json else f"idioteque {own} (Python {python})")
