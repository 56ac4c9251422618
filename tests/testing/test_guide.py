"""The guide to testing: its code is run, and what it promises of chaos is held against what pytest prints."""

from __future__ import annotations

import re

import pytest

from idioteque.testing import Harness, plugin
from tests.house.source import ROOT

pytest_plugins = ["pytester"]

GUIDE = (ROOT / "docs" / "guides" / "testing.md").read_text(encoding="utf-8")
BLOCKS = re.compile(r"^```python\n# (\S+)\n(.*?)^```", re.MULTILINE | re.DOTALL)
FILES = {name: f"# {name}\n{code}" for name, code in BLOCKS.findall(GUIDE)}


@pytest.fixture
def project(pytester: pytest.Pytester) -> pytest.Pytester:
    """The guide's files in a project of their own."""
    pytester.makeini(
        "[pytest]\nasyncio_mode = auto\nasyncio_default_fixture_loop_scope = function\nfilterwarnings = error\n"
    )
    for name, code in FILES.items():
        (pytester.path / name).write_text(code, encoding="utf-8")
    return pytester


def run(project: pytest.Pytester, *arguments: str) -> pytest.RunResult:
    return project.runpytest_inprocess("-p", "no:idioteque", "-p", "no:cacheprovider", *arguments, plugins=[plugin])


def test_every_block_of_code_says_which_file_it_is() -> None:
    assert len(FILES) == GUIDE.count("```python") == 7


def test_the_tests_of_the_guide_pass(project: pytest.Pytester) -> None:
    run(project).assert_outcomes(passed=7)


def test_chaos_finds_what_the_guide_says(project: pytest.Pytester) -> None:
    result = run(project, "--idioteque-chaos", "test_greetings.py", "test_shop.py", "test_fixture.py")
    result.assert_outcomes(passed=2, failed=1)
    [report] = re.findall(r"^```text\n(.*?)^```", GUIDE, re.MULTILINE | re.DOTALL)
    for line in report.splitlines():  # an ellipsis stands for whatever differs
        pattern = r"\S+".join(re.escape(part) for part in line.split("…"))
        assert re.search(pattern, result.stdout.str()), line


def test_the_table_names_what_there_is() -> None:
    names = re.findall(r"^\| `(?:await )?h\.(\w+)", GUIDE, re.MULTILINE)
    assert len(names) == 10
    assert [name for name in names if not hasattr(Harness, name)] == []
