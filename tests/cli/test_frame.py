"""The frame of the command line: lazy commands, one-line errors, exit codes."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from idioteque.cli import COMMANDS, LazyGroup, main
from idioteque.errors import ConfigurationError, ConnectFailed

BLOCKED = """
import sys
class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {names!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Blocker())
{code}
"""


def python(code: str, *, without: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
    script = BLOCKED.format(names=without, code=code)
    return subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False)


def group(**sources: str) -> click.Group:
    return LazyGroup("tool", sources=sources)


def test_version_names_the_installed_version() -> None:
    result = CliRunner().invoke(main, ["version"])
    assert result.exit_code == 0
    assert metadata.version("idioteque") in result.stdout
    twin = CliRunner().invoke(main, ["version", "--json"])
    assert json.loads(twin.stdout) == {"idioteque": metadata.version("idioteque"), "python": platform.python_version()}


def test_the_module_runs_as_a_program() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "idioteque", "version"], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0
    assert done.stdout.startswith("idioteque ")


@pytest.mark.parametrize("missing", ["click", "rich"])
def test_without_the_server_extra_one_line_names_it(missing: str) -> None:
    code = "import sys; sys.argv = ['idioteque', 'publish']\nfrom idioteque.__main__ import main\nmain()"
    done = python(code, without=(missing,))
    assert "pip install 'idioteque[server]'" in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert done.returncode == 2


def test_version_loads_no_other_command() -> None:
    done = python(
        "from idioteque.cli import main\n"
        "main(['version'], standalone_mode=False)\n"
        "loaded = [m for m in sys.modules if m.startswith('idioteque.cli.')]\n"
        "assert loaded == ['idioteque.cli.version'], loaded\n"
        "assert not {'rich', 'starlette', 'uvicorn'} & set(sys.modules)"
    )
    assert done.returncode == 0, done.stderr


def test_a_broken_command_breaks_only_itself() -> None:
    tool = group(version=COMMANDS["version"], broken="idioteque.cli.there_is_no_such_file:it")
    assert CliRunner().invoke(tool, ["version"]).exit_code == 0
    shown = CliRunner().invoke(tool, ["--help"])
    assert shown.exit_code == 0
    assert "(not available)" in shown.stdout
    broken = CliRunner().invoke(tool, ["broken", "--with", "anything"])
    assert broken.exit_code == 2
    assert broken.stderr.startswith("Error: the command 'broken' is not available: ModuleNotFoundError")
    assert len(broken.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    "arguments",
    [
        ["no-such-command"],
        ["--no-such-option"],
        ["logs", "--no-such-option"],
        ["logs", "--limit", "many"],
        ["dlq", "no-such-command"],
        ["messages", "show"],
        ["publish"],
        ["publish", "https://a.test", "--retries", "-1"],
    ],
)
def test_bad_input_is_one_line_on_stderr_and_exit_code_2(arguments: list[str]) -> None:
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 2
    assert result.stdout == ""
    assert result.stderr.startswith("Error: ")
    assert len(result.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    "wrong",
    [
        ("serve", "--mount-url", "shop"),
        ("serve", "--app", "shop"),
        ("serve", "--app", "no_such_module:worker"),
        ("serve", "--allow-private", "10.0.0/8"),
        ("serve", "--store", "sqlite:///junk.db"),
        ("serve", "--store", "sqlite:///."),
        ("console", "--store", "sqlite:///junk.db"),
        ("console", "--app", "shop"),
        ("console", "--mount-url", "shop"),
    ],
)
def test_a_server_does_not_start_with_an_option_that_is_wrong(wrong: tuple[str, ...], tmp_path: Path) -> None:
    (tmp_path / "junk.db").write_text("no database at all\n")
    done = subprocess.run(
        [sys.executable, "-m", "idioteque", *wrong, "--port", "0"],
        cwd=tmp_path,
        env={**os.environ, "QSTASH_TOKEN": "a-token", "QSTASH_URL": "http://127.0.0.1:1"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 2
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert line.startswith("Error: ")
    assert (tmp_path / "junk.db").read_text() == "no database at all\n"


@pytest.mark.parametrize(
    ("error", "code"), [(ConfigurationError("set\nthis"), 2), (ConnectFailed("no connection to http://a.test"), 1)]
)
def test_an_error_of_the_package_becomes_one_line(error: Exception, code: int, monkeypatch: pytest.MonkeyPatch) -> None:
    @click.command()
    def failing() -> None:
        raise error

    monkeypatch.setitem(sys.modules, "failing_command", sys.modules[__name__])
    monkeypatch.setattr(sys.modules[__name__], "failing", failing, raising=False)
    result = CliRunner().invoke(group(failing="failing_command:failing"), ["failing"])
    assert result.exit_code == code
    assert len(result.stderr.splitlines()) == 1
    assert " ".join(str(error).split()) in result.stderr
