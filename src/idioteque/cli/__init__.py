"""The command line: one command, one file, loaded when it is called.

A command raises the package's errors; here they become one line on stderr and an exit code: 2 for what the caller can
put right before trying again (arguments, settings), 1 for what the world answered.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from importlib import metadata
from typing import Any

import click

from idioteque.errors import ConfigurationError, IdiotequeError, InvalidValue, MissingExtra, first_line

COMMANDS: Mapping[str, str] = {
    "serve": "idioteque.cli.serve:serve",
    "dev": "idioteque.cli.dev:dev",
    "console": "idioteque.cli.console:console",
    "demo": "idioteque.cli.demo:demo",
    "publish": "idioteque.cli.publish:publish",
    "messages": "idioteque.cli.messages:messages",
    "dlq": "idioteque.cli.dlq:dlq",
    "schedules": "idioteque.cli.schedules:schedules",
    "queues": "idioteque.cli.queues:queues",
    "url-groups": "idioteque.cli.url_groups:url_groups",
    "flow-control": "idioteque.cli.flow_control:flow_control",
    "keys": "idioteque.cli.keys:keys",
    "logs": "idioteque.cli.logs:logs",
    "status": "idioteque.cli.status:status",
    "runs": "idioteque.cli.runs:runs",
    "events": "idioteque.cli.events:events",
    "backup": "idioteque.cli.backup:backup",
    "migrate": "idioteque.cli.migrate:migrate",
    "doctor": "idioteque.cli.doctor:doctor",
    "completion": "idioteque.cli.completion:completion",
    "version": "idioteque.cli.version:version",
}
"""Every command and where it lives, `module:attribute`, in the order of the help."""


class Failed(click.ClickException):
    """The world answered no: one line on stderr and exit code 1."""

    def __init__(self, message: str) -> None:
        super().__init__(" ".join(message.split()))


class BadInput(Failed):
    """The caller must change something first: one line on stderr and exit code 2."""

    exit_code = 2


class LazyGroup(click.Group):
    """A group that imports a command when it is called, so that a broken one breaks only itself."""

    def __init__(self, *args: Any, sources: Mapping[str, str], **options: Any) -> None:
        super().__init__(*args, **options)
        self._sources = sources

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self._sources)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        source = self._sources.get(cmd_name)
        if source is None:
            return None
        module, _, attribute = source.partition(":")
        try:
            command = getattr(importlib.import_module(module), attribute)
        except Exception as error:  # whatever is wrong with one command, the others and the help must work
            return _unavailable(cmd_name, error)
        assert isinstance(command, click.Command)
        return command

    def make_context(
        self, info_name: str | None, args: list[str], parent: click.Context | None = None, **extra: Any
    ) -> click.Context:
        try:
            return super().make_context(info_name, args, parent, **extra)
        except click.UsageError as error:
            raise _in_one_line(error) from error

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except click.UsageError as error:
            raise _in_one_line(error) from error
        except (ConfigurationError, InvalidValue) as error:
            raise BadInput(str(error)) from error
        except IdiotequeError as error:
            raise Failed(str(error)) from error


def _in_one_line(error: click.UsageError) -> click.ClickException:
    if isinstance(error, click.exceptions.NoArgsIsHelpError):
        return error
    return BadInput(error.format_message())


def _unavailable(name: str, error: Exception) -> click.Command:
    what = f"the command {name!r}"
    if isinstance(error, ModuleNotFoundError) and not (error.name or "").startswith("idioteque"):
        reason = str(MissingExtra(what, "server"))
    else:
        reason = f"{what} is not available: {first_line(error)}"

    def fail(arguments: tuple[str, ...]) -> None:
        raise BadInput(reason) from error

    anything = click.Argument(["arguments"], nargs=-1, type=click.UNPROCESSED)
    return click.Command(
        name,
        callback=fail,
        params=[anything],
        short_help="(not available)",
        help=reason,
        context_settings={"ignore_unknown_options": True},
    )


@click.group(cls=LazyGroup, sources=COMMANDS, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(metadata.version("idioteque"), prog_name="idioteque", message="%(prog)s %(version)s")
def main() -> None:
    """Durable functions over QStash, and a QStash-compatible server to run yourself.

    Commands that speak to a QStash read QSTASH_URL and QSTASH_TOKEN, or QSTASH_DEV=true for a local dev server.
    """
