"""The project's files, as the house tests read them."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[2]
SRC = ROOT / "src" / "idioteque"
FOLDERS = ("src", "tests", "docs", "examples", "bench", ".ci")
MADE = ("bench/.peers/", "bench/results/")  # by `make bench`; a worktree's `.git`, a file, is not the project's either
TEXTS = (".py", ".md", ".toml", ".sql", ".html", ".css", ".js", ".yml", ".yaml", ".txt", ".sh", "")


def modules() -> list[Path]:
    """Return every module of the package."""
    return sorted(SRC.rglob("*.py"))


def texts() -> list[Path]:
    """Return every file of the project that a person may read."""
    below = [path for folder in FOLDERS for path in (ROOT / folder).rglob("*")]
    found = [path for path in [*ROOT.iterdir(), *below] if path.is_file() and path.suffix in TEXTS]
    return sorted(path for path in found if "__pycache__" not in path.parts and not _is_made(path))


def _is_made(path: Path) -> bool:
    return name(path) == ".git" or name(path).startswith(MADE)


def name(path: Path) -> str:
    """Return a file's path below the root of the project."""
    return path.relative_to(ROOT).as_posix()


@cache
def tree(path: Path) -> ast.Module:
    """Return a module's syntax tree."""
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def uses(path: Path) -> Iterator[tuple[str, int]]:
    """Yield each dotted name that a module uses, by its full name, with its line.

    Names are followed through imports: after `from time import time as now`, a use of `now` is `time.time`.
    """
    imported: dict[str, str] = {}
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            for alias in node.names:
                imported[alias.asname or alias.name.partition(".")[0]] = (
                    alias.name if alias.asname else alias.name.partition(".")[0]
                )
                yield alias.name, node.lineno
        elif isinstance(node, ast.ImportFrom) and not node.level:
            for alias in node.names:
                imported[alias.asname or alias.name] = f"{node.module}.{alias.name}"
                yield f"{node.module}.{alias.name}", node.lineno
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Name | ast.Attribute):
            dotted = _dotted(node)
            if dotted:
                first, _, rest = dotted.partition(".")
                yield imported.get(first, first) + (f".{rest}" if rest else ""), node.lineno


def _dotted(node: ast.expr) -> str:
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        before = _dotted(node.value)
        return f"{before}.{node.attr}" if before else ""
    return ""
