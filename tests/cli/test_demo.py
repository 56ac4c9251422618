"""`idioteque demo`, told to end before its time, and given a directory that it cannot use."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from idioteque.cli import main
from idioteque.server.app import replace_token
from tests.services import wait_until


def test_sigterm_ends_the_server_and_the_worker_with_it(tmp_path: Path) -> None:
    directory = tmp_path / "demo"
    effects = directory / "effects.log"
    process = subprocess.Popen(
        [sys.executable, "-m", "idioteque", "demo", "--orders", "5000", "--directory", str(directory)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        wait_until(lambda: effects.exists() and effects.stat().st_size > 0, 60, "the first step")
        process.terminate()
        said, _ = process.communicate(timeout=60)
        assert process.returncode == 1
        assert "Traceback" not in said
        assert asyncio.run(replace_token(f"sqlite:///{directory / 'server.db'}"))  # refused while a server has it
        with pytest.raises(ProcessLookupError):
            os.killpg(process.pid, 0)
    finally:
        if process.poll() is None or _has_members(process.pid):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _has_members(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


def test_a_directory_that_cannot_be_made_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    result = CliRunner().invoke(main, ["demo", "--directory", str(tmp_path / "file" / "demo")])
    assert result.exit_code == 2
    assert result.stderr == f"Error: --directory {tmp_path / 'file' / 'demo'} cannot be used: Not a directory\n"


def test_a_directory_that_is_not_empty_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    result = CliRunner().invoke(main, ["demo", "--directory", str(tmp_path)])
    assert result.exit_code == 2
    assert "is not empty" in result.stderr
