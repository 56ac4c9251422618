"""`idioteque backup`: a copy of a SQLite database, while a server or workers use it."""

from __future__ import annotations

import signal

import click

from idioteque.cli.output import show_record
from idioteque.database import back_up, is_postgres, sqlite_path
from idioteque.errors import ConfigurationError, counted


@click.command()
@click.argument("url", metavar="URL")
@click.argument("file", metavar="FILE")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def backup(url: str, file: str, as_json: bool) -> None:
    """Copy the SQLite database of a server or of runs (sqlite:///idioteque.db) into a new file, whoever is using it.

    The copy is a database like the other, as it was at one moment. That of a server holds its token and its signing
    keys, so only its owner may read it.
    """
    if is_postgres(url):
        raise ConfigurationError("a PostgreSQL database is copied with pg_dump, or by its host")
    path = sqlite_path(url)
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)  # it ends as Ctrl-C does, and leaves nothing
    try:
        size = back_up(path, file)
    finally:
        signal.signal(signal.SIGTERM, before)
    if as_json:
        show_record({"file": file, "bytes": size}, as_json=True)
    else:
        click.echo(f"copied {counted(size, 'byte')} to {file}")
