"""`idioteque completion`: what makes a shell complete our commands and options."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

PROGRAM = "idioteque"
VARIABLE = "_IDIOTEQUE_COMPLETE"  # what click reads when a shell asks it, by the program's name


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print the completion script for a shell.

    In ~/.bashrc or ~/.zshrc: eval "$(idioteque completion bash)", or zsh. For fish: idioteque completion fish | source
    """
    completer = get_completion_class(shell)
    assert completer is not None  # click knows the shells of the choice
    click.echo(completer(click.get_current_context().find_root().command, {}, PROGRAM, VARIABLE).source())
