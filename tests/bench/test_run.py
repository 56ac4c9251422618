"""The tool itself, on ours alone and with tiny numbers: real processes from begin to end."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from tests.house.source import ROOT

TIMEOUT_S = 100


def run(*arguments: str, temporary: Path) -> subprocess.CompletedProcess[str]:
    temporary.mkdir(exist_ok=True)
    return subprocess.run(
        [sys.executable, "-m", "bench", *arguments],
        cwd=ROOT, capture_output=True, text=True, timeout=TIMEOUT_S, check=False,
        env={**os.environ, "TMPDIR": str(temporary)},
    )  # fmt: skip


def test_a_quick_run_measures_ours_and_leaves_nothing_behind(tmp_path: Path) -> None:
    temporary, results = tmp_path / "temporary", tmp_path / "results"

    done = run("--quick", "--peers", "none", "--work", "W1,W2,W5,D1", "--results", str(results), temporary=temporary)

    assert done.returncode == 0, done.stdout + done.stderr
    document = json.loads((results / "last.json").read_text())
    values = {one["figure"]: one["values"] for one in document["values"]}
    assert {"W1.rate", "W2.rate", "W5.seconds", "D1.rate", "D1.rss_mb"} <= set(values)
    assert all(len(repeats) == 1 for repeats in values.values())
    assert values["W5.done"] == [1.0]
    assert "W1 events/s" in done.stdout
    assert "| W1 events/s |" in (results / "last.md").read_text()
    assert list(temporary.iterdir()) == []
    assert str(temporary) not in _command_lines()


def test_work_that_does_not_exist_is_refused_by_name(tmp_path: Path) -> None:
    done = run("--work", "W1,W9", temporary=tmp_path / "temporary")

    assert done.returncode == 2
    assert "W9" in done.stdout


def _command_lines() -> str:
    """Return the command lines of all processes."""
    found: list[str] = []
    for process in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            found.append(process.read_text())
        except OSError:
            continue
    return "\n".join(found)
