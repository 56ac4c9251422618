"""`idioteque version`: what is installed."""

from __future__ import annotations

import platform
from importlib import metadata

import click


@click.command()
def version() -> None:
    """Print the versions of idioteque and of the Python that runs it."""
    click.echo(f"idioteque {metadata.version('idioteque')} (Python {platform.python_version()})")
