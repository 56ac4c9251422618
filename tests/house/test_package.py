"""What is shipped, and what the papers around the code claim."""

from __future__ import annotations

import ast
import importlib.util
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.house.source import ROOT, SRC, name

PAPERS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])

BLOCKER = """
import sys

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {extras!r}:
            raise ModuleNotFoundError(f"{{name}} is not part of the core", name=name)

sys.meta_path.insert(0, Blocker())
import {modules}
"""
EXTRAS = (
    "click",
    "rich",
    "starlette",
    "fastapi",
    "uvicorn",
    "uvloop",
    "redis",
    "psycopg",
    "opentelemetry",
    "prometheus_client",
    "django",
    "flask",
)


def core_modules() -> list[str]:
    """Return every module that `pip install idioteque` alone must be able to import."""
    paths = [path for path in SRC.rglob("*.py") if not {"server", "cli", "console"} & set(path.relative_to(SRC).parts)]
    modules = [".".join(path.relative_to(SRC.parent).with_suffix("").parts).removesuffix(".__init__") for path in paths]
    optional = {
        "idioteque.__main__",
        "idioteque.mounts.django",
        "idioteque.database.postgres",
        "idioteque.database.session",
        "idioteque.testing.plugin",
    }
    return sorted(one for one in set(modules) - optional if not one.startswith("idioteque.stores.redis"))


def python(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, timeout=60, check=False
    )


def test_the_core_needs_no_extra() -> None:
    done = python(BLOCKER.format(extras=EXTRAS, modules=", ".join(core_modules())))
    assert done.returncode == 0, done.stderr


def test_importing_the_core_reads_no_setting_and_prints_nothing() -> None:
    done = python("import idioteque, threading; assert threading.active_count() == 1")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_a_wheel_ships_types_and_everything_else_of_the_package(tmp_path: Path) -> None:
    isolation = ["--no-build-isolation"] if importlib.util.find_spec("hatchling") else []
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", *isolation, "--wheel-dir", tmp_path, ROOT]
    built = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)
    assert built.returncode == 0, built.stderr
    [wheel] = tmp_path.glob("idioteque-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        shipped = set(archive.namelist())
    assert "idioteque/py.typed" in shipped
    sources = [path for path in SRC.rglob("*") if path.is_file() and path.suffix != ".pyc"]
    assert {path.relative_to(SRC.parent).as_posix() for path in sources} <= shipped
    outside = {path.partition("/")[0] for path in shipped}
    assert {one for one in outside if not one.endswith(".dist-info")} == {"idioteque"}
    assert any(path.endswith("licenses/LICENSE") for path in shipped)


def test_the_papers_exist() -> None:
    assert {"README.md", "CHANGELOG.md", "CONTRIBUTING.md"} <= {path.name for path in PAPERS}
    assert "## Unreleased" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("paper", PAPERS, ids=name)
def test_the_code_in_a_paper_compiles(paper: Path) -> None:
    text = paper.read_text(encoding="utf-8")
    for block in re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL):
        assert compile(block, name(paper), "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT | ast.PyCF_ONLY_AST)


@pytest.mark.parametrize("paper", PAPERS, ids=name)
def test_what_a_paper_points_to_exists(paper: Path) -> None:
    text = paper.read_text(encoding="utf-8")
    links = [link.partition("#")[0] for link in re.findall(r"\]\((?!https?:|#|mailto:)([^)\s]+)\)", text)]
    assert [link for link in links if not (paper.parent / link).exists()] == []
    paths = re.findall(r"`((?:src|tests|docs|examples|bench)/[\w./-]+)`", text)
    assert [path for path in paths if not (ROOT / path).exists()] == []
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    assert set(re.findall(r"`make ([a-z]+)`", text)) <= targets


def test_the_version_is_told_once() -> None:
    from importlib import metadata

    pyproject = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert f'version = "{metadata.version("idioteque")}"' in pyproject
    assert (
        re.findall(r"__version__\s*=\s*[\"']", "".join(p.read_text(encoding="utf-8") for p in SRC.rglob("*.py"))) == []
    )
