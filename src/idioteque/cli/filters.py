"""The options that narrow a list, and the query parameters they become."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import click

Command = TypeVar("Command", bound=Callable[..., Any])

_NAMES = {
    "message_id": "messageId",
    "url": "url",
    "label": "label",
    "queue": "queueName",
    "schedule": "scheduleId",
    "state": "state",
    "status": "responseStatus",
}


def filtered(command: Command) -> Command:
    """Give a command the filters that every list knows; one given twice means either value."""
    for option, help_text in (
        ("--schedule", "Only what this schedule made."),
        ("--queue", "Only of this queue."),
        ("--label", "Only with this label."),
        ("--url", "Only for this destination."),
        ("--message-id", "Only this message."),
    ):
        command = click.option(option, multiple=True, help=help_text)(command)
    return command


def query_from(filters: Mapping[str, Sequence[object]]) -> list[tuple[str, str]]:
    """Return the query parameters of filters by the names of their options."""
    return [(_NAMES[option], str(value)) for option, values in filters.items() for value in values]
