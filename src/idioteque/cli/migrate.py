"""`idioteque migrate`: the tables of the server and of the runs, brought up to date before anything starts."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import click

from idioteque.cli.output import show_rows
from idioteque.client import Json
from idioteque.database import SqliteDatabase, migrations, open_database, sqlite_path
from idioteque.database import migrate as apply
from idioteque.errors import ConfigurationError, InvalidValue
from idioteque.server.app import MIGRATIONS as OF_SERVER
from idioteque.stores.opening import MIGRATIONS as OF_RUNS

COLUMNS = {"component": "component", "migration": "migration", "state": "state"}
WITHOUT_TABLES = ("memory:", "redis:", "rediss:")


@click.command()
@click.option("--database", metavar="URL", help="That of the server; IDIOTEQUE_DATABASE by default.")
@click.option("--store", metavar="URL", help="That of the runs; IDIOTEQUE_STORE by default.")
@click.option("--dry-run", is_flag=True, help="Show what would be applied, and change nothing.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def migrate(database: str | None, store: str | None, dry_run: bool, as_json: bool) -> None:
    """Show the migrations of the databases and apply those that are pending; a second time changes nothing.

    A server and a worker do the same when they start. The database of a server must not be in use by one.
    """
    server_url = database or os.environ.get("IDIOTEQUE_DATABASE", "").strip()
    runs_url = store or os.environ.get("IDIOTEQUE_STORE", "").strip()
    if not server_url and not runs_url:
        raise ConfigurationError("which database? Give --database or --store, or IDIOTEQUE_DATABASE or IDIOTEQUE_STORE")
    rows: list[Json] = []
    if server_url:
        if not server_url.startswith("sqlite:"):
            raise InvalidValue("the server keeps its messages in SQLite: give --database sqlite:///file.db")
        rows += asyncio.run(_brought_up(server_url, "server", OF_SERVER, dry_run=dry_run))
    if runs_url.startswith(WITHOUT_TABLES):
        click.echo("this store has no tables, so there is nothing to migrate", err=True)
    elif runs_url:
        rows += asyncio.run(_brought_up(runs_url, "runs", OF_RUNS, dry_run=dry_run))
    show_rows(rows, COLUMNS, as_json=as_json)


async def _brought_up(url: str, component: str, package: str, *, dry_run: bool) -> list[Json]:
    """Apply what is pending, unless it is to be shown alone; return a row for each migration there is."""
    if dry_run and not _exists(url):
        return _rows(component, await migrations(None, component, package), "pending")
    database = open_database(url)
    try:
        if component == "server" and not dry_run and isinstance(database, SqliteDatabase):
            database.lock_exclusively()
        before = await migrations(database, component, package)
        if not dry_run:
            await apply(database, component, package)
    finally:
        await database.close()
    return _rows(component, before, "pending" if dry_run else "applied now")


def _rows(component: str, found: dict[str, bool], otherwise: str) -> list[Json]:
    return [
        {"component": component, "migration": name, "state": "applied" if is_applied else otherwise}
        for name, is_applied in found.items()
    ]


def _exists(url: str) -> bool:
    return not url.startswith("sqlite:") or Path(sqlite_path(url)).exists()
