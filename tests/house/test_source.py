"""The house tests' own eyes: a rule that sees nothing would always pass."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.house.source import modules, texts, uses


@pytest.mark.parametrize(
    ("code", "seen"),
    [
        ("import time\ntime.time()", "time.time"),
        ("import time as t\nt.sleep(1)", "time.sleep"),
        ("from time import time as now\nnow()", "time.time"),
        ("from datetime import datetime\ndatetime.now()", "datetime.datetime.now"),
        ("import datetime as d\nd.datetime.now(d.UTC)", "datetime.datetime.now"),
        ("import asyncio\nasync def f():\n    await asyncio.sleep(1)", "asyncio.sleep"),
        ("def f():\n    import random\n    return random.random()", "random.random"),
        ("import os\nread = os.urandom", "os.urandom"),
        ("eval('1')", "eval"),
        ("import xml.etree.ElementTree", "xml.etree.ElementTree"),
    ],
)
def test_a_use_is_seen_through_imports(code: str, seen: str, tmp_path: Path) -> None:
    path = tmp_path / "module.py"
    path.write_text(code)
    assert seen in [used for used, _ in uses(path)]


def test_the_rules_are_applied_to_the_whole_project() -> None:
    assert {"errors.py", "sqlite.py", "client.py"} <= {path.name for path in modules()}
    assert {"README.md", "pyproject.toml", "Makefile", "glossary.md", "test_source.py"} <= {
        path.name for path in texts()
    }
