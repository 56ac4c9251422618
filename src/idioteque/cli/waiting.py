"""Who waits for a turn: in a queue, or for a flow-control key."""

from __future__ import annotations

from idioteque.cli import Failed
from idioteque.cli.client import ask
from idioteque.cli.output import show_rows
from idioteque.client import Query

COLUMNS = {
    "place": "place",
    "message": "messageId",
    "created": "createdAt",
    "due": "dueAt",
    "failed attempts": "retried",
    "url": "url",
}


def show_waiting(query: Query, *, as_json: bool) -> None:
    """Print who waits, in the order of their turns; raise `Failed` where the server does not tell."""
    rows = ask(lambda qstash: qstash.waiting(query))
    if rows is None:
        raise Failed("this QStash does not tell who waits; `idioteque messages list` tells it message by message")
    show_rows(rows, COLUMNS, as_json=as_json)
