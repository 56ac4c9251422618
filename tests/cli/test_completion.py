"""`idioteque completion`, and what a script can count on from every list."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from idioteque.cli import main


def commands(group: click.Group, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        if isinstance(command, click.Group):
            yield from commands(command, (*path, name))
        else:
            yield (*path, name), command


WITHOUT_RECORDS = {"serve", "dev", "console", "demo", "completion"}
"""Commands that run something, or print a script."""


def test_every_command_that_prints_records_or_does_something_to_them_has_json() -> None:
    found = {path: command for path, command in commands(main) if path[0] not in WITHOUT_RECORDS}
    assert {path[0] for path in found} >= {"messages", "dlq", "schedules", "queues", "url-groups", "runs", "logs"}
    options = {path: [name for one in command.params for name in one.opts] for path, command in found.items()}
    assert [path for path, names in options.items() if "--json" not in names] == []


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_script_asks_this_program(shell: str) -> None:
    result = CliRunner().invoke(main, ["completion", shell])
    assert result.exit_code == 0
    assert f"_IDIOTEQUE_COMPLETE={shell}_complete" in result.stdout


def test_another_shell_is_refused() -> None:
    result = CliRunner().invoke(main, ["completion", "tcsh"])
    assert (result.exit_code, result.stdout) == (2, "")


@pytest.mark.parametrize(
    ("words", "completed"),
    [("idioteque sched", "schedules"), ("idioteque queues pa", "pause"), ("idioteque serve --dura", "--durability")],
)
def test_bash_completes_commands_and_options(tmp_path: Path, words: str, completed: str) -> None:
    program = tmp_path / "idioteque"
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m idioteque "$@"\n')
    program.chmod(0o755)
    bash = shutil.which("bash")
    assert bash is not None
    script = (
        'eval "$(idioteque completion bash)"\n'
        f"COMP_WORDS=({words}); COMP_CWORD=$(( ${{#COMP_WORDS[@]}} - 1 ))\n"
        '_idioteque_completion idioteque\nprintf "%s\\n" "${COMPREPLY[@]}"\n'
    )
    done = subprocess.run(
        [bash, "-c", script],
        env={**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.stdout.split() == [completed], done.stderr
