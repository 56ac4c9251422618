"""`idioteque url-groups`: destinations under one name."""

from __future__ import annotations

from collections.abc import Sequence

import click

from idioteque.cli.client import ask, ask_each
from idioteque.cli.output import show_done, show_record, show_rows
from idioteque.client import Json, QStash
from idioteque.errors import InvalidValue

COLUMNS = {"group": "name", "created": "createdAt", "updated": "updatedAt", "endpoints": "endpoints"}


@click.group("url-groups")
def url_groups() -> None:
    """Publish to several destinations by one name."""


@url_groups.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def list_(as_json: bool) -> None:
    """List URL groups."""
    show_rows(ask(lambda qstash: qstash.url_groups()), COLUMNS, as_json=as_json)


@url_groups.command()
@click.argument("name")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def show(name: str, as_json: bool) -> None:
    """Print one URL group."""
    show_record(ask(lambda qstash: qstash.url_group(name)), as_json=as_json)


@url_groups.command()
@click.argument("name")
@click.argument("endpoints", nargs=-1, required=True, metavar="[NAME=]URL...")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def add(name: str, endpoints: Sequence[str], as_json: bool) -> None:
    """Add endpoints to a URL group, which is made if need be; one of the same name or URL is replaced."""
    chosen = [_endpoint(text) for text in endpoints]
    if not all("url" in each for each in chosen):
        raise InvalidValue("an endpoint is written as URL or NAME=URL")
    ask(lambda qstash: qstash.add_endpoints(name, chosen))
    show_done("added", len(chosen), as_json=as_json)


@url_groups.command()
@click.argument("name")
@click.argument("endpoints", nargs=-1, required=True, metavar="NAME|URL...")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def remove(name: str, endpoints: Sequence[str], as_json: bool) -> None:
    """Remove endpoints from a URL group by name or by URL; without endpoints it is deleted."""
    ask(lambda qstash: qstash.remove_endpoints(name, [_endpoint(text) for text in endpoints]))
    show_done("removed", len(endpoints), as_json=as_json)


@url_groups.command()
@click.argument("names", nargs=-1, required=True)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def delete(names: Sequence[str], as_json: bool) -> None:
    """Delete URL groups."""
    ask_each(names, QStash.url_group, QStash.delete_url_group)  # the protocol deletes what does not exist, too
    show_done("deleted", len(names), as_json=as_json)


def _endpoint(text: str) -> Json:
    """Read `URL`, `NAME=URL` or `NAME`."""
    name, equals, url = text.partition("=")
    if "://" in name:
        return {"url": text}
    return {"name": name, "url": url} if equals else {"name": name}
