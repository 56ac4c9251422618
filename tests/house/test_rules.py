"""The house's rules, read from the code itself."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.house.source import ROOT, SRC, modules, name, texts, tree, uses

LINES_MAX = 400
LONGER: dict[str, int] = {}

TIME = {
    "time.time", "time.time_ns", "time.monotonic", "time.monotonic_ns", "time.perf_counter", "time.perf_counter_ns",
    "time.sleep", "time.localtime", "time.gmtime", "asyncio.sleep", "threading.Timer",
    "datetime.datetime.now", "datetime.datetime.utcnow", "datetime.datetime.today", "datetime.date.today",
}  # fmt: skip
CHANCE = {"random", "secrets", "uuid", "os.urandom", "numpy.random"}
NEVER = {
    "pickle", "marshal", "shelve", "dill", "cloudpickle", "eval", "exec", "compile", "__import__", "os.system",
    "os.popen", "yaml.load", "xml.etree", "ctypes",
}  # fmt: skip

# Uses that a rule forbids and a reason excuses: path -> names.
EXCUSED: dict[str, set[str]] = {
    "src/idioteque/clock.py": TIME,
    "src/idioteque/ids.py": CHANCE,
    "src/idioteque/cli/demo_orders.py": {"asyncio.sleep"},  # stands for the user's own code, which takes its time
}

# Hosts that files may name. Any other is a mistake, or belongs to somebody who should not be sent our readers.
HOSTS = re.compile(
    r"(.*\.)?(test|example|invalid|localhost|example\.(com|org|net)|upstash\.(io|com)|github\.com|python\.org|sqlite\.org"
    r"|rfc-editor\.org|ietf\.org|iana\.org|w3\.org|keepachangelog\.com|semver\.org|resend\.com|openai\.com|nip\.io"
    r"|opentelemetry\.io|fastapi\.tiangolo\.com|postgresql\.org|redis\.io|crontab\.guru)|localhost|[0-9.]+|\[.*\]|[^.]*"
)
URL = re.compile(r"\bhttps?://[^\s\"'`<>)\]}|,;\\]*")
UNFINISHED = re.compile(r"\b(?:TO[D]O|FIX[M]E|X[X]X|HA[C]K)\b")
HOME_PATH = re.compile(r"(?<![\w./~-])/(home|root|work|workspace|Users|mnt)/\w")


def turns_of_the_loop(path: Path) -> set[int]:
    """Return the lines of `asyncio.sleep(0)`, which waits for no time to pass."""
    calls = [node for node in ast.walk(tree(path)) if isinstance(node, ast.Call)]
    return {call.lineno for call in calls if ast.unparse(call) == "asyncio.sleep(0)"}


def found(path: Path, names: set[str]) -> list[str]:
    forbidden = names - EXCUSED.get(name(path), set())
    return [
        f"{name(path)}:{line} {used}"
        for used, line in uses(path)
        if not (used == "asyncio.sleep" and line in turns_of_the_loop(path))
        if any(used == one or used.startswith(f"{one}.") for one in forbidden)
    ]


def test_imports_go_down_only() -> None:
    checked = subprocess.run(
        [Path(sys.executable).with_name("lint-imports"), "--no-cache"],
        cwd=ROOT, capture_output=True, text=True, timeout=100, check=False,
    )  # fmt: skip
    assert checked.returncode == 0, checked.stdout


@pytest.mark.parametrize("path", modules(), ids=name)
def test_a_module_keeps_the_rules(path: Path) -> None:
    assert found(path, TIME) == [], "time comes from a Clock"
    assert found(path, CHANCE) == [], "chance comes from ids.py"
    assert found(path, NEVER) == []
    assert ast.get_docstring(tree(path)) or not tree(path).body, "a module says in its docstring what it is about"
    assert len(path.read_text(encoding="utf-8").splitlines()) <= LONGER.get(name(path), LINES_MAX), "one subject"


def test_no_excuse_is_left_over() -> None:
    for excused, names in EXCUSED.items():
        used = {one for one, _ in uses(ROOT / excused)}
        assert any(use == one or use.startswith(f"{one}.") for use in used for one in names), excused


def test_modules_are_named_for_their_subject() -> None:
    vague = {"util", "utils", "helper", "helpers", "manager", "managers", "data", "info", "misc", "common", "base"}
    assert [name(path) for path in modules() if path.stem.strip("_") in vague] == []


def test_library_and_server_do_not_know_each_other() -> None:
    server = [path for path in modules() if path.is_relative_to(SRC / "server")]
    library = {path.stem for path in SRC.glob("*.py")} - {"__init__", "__main__"} - {
        "errors", "clock", "cron", "ids", "durations", "environment", "histogram", "signing", "transport",
    }  # fmt: skip
    library |= {"stores", "dispatchers", "mounts", "engine"}
    seen = [
        f"{name(p)} {used}"
        for p in server
        for used, _ in uses(p)
        for one in library
        if f"{used}.".startswith(f"idioteque.{one}.")
    ]
    others = [
        p
        for p in modules()
        if not p.is_relative_to(SRC / "server")
        and not p.is_relative_to(SRC / "cli")
        and not p.is_relative_to(SRC / "console")
    ]
    seen += [f"{name(p)} {used}" for p in others for used, _ in uses(p) if f"{used}.".startswith("idioteque.server.")]
    assert seen == []


@pytest.mark.parametrize("path", texts(), ids=name)
def test_a_file_speaks_of_the_project_alone(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert HOME_PATH.findall(text) == [], "a path of somebody's machine"
    assert UNFINISHED.findall(text) == [], "what is not done belongs into an issue"
    if path.is_relative_to(ROOT / "tests"):  # full of hosts that do not exist, on purpose
        return
    assert [host for host in map(host_of, URL.findall(text)) if not HOSTS.fullmatch(host)] == [], "an unknown host"


def host_of(url: str) -> str:
    try:
        return (urlsplit(url).hostname or "").rstrip(".")
    except ValueError:
        return ""


def test_no_test_is_skipped() -> None:
    skipping = {
        "pytest.skip",
        "pytest.mark.skip",
        "pytest.mark.skipif",
        "pytest.mark.xfail",
        "pytest.xfail",
        "unittest.skip",
    }
    tests = sorted((ROOT / "tests").rglob("*.py"))
    assert [f"{name(path)}:{line}" for path in tests for used, line in uses(path) if used in skipping] == []


def test_the_tree_of_errors_is_the_one_that_is_drawn() -> None:
    path = SRC / "errors.py"
    drawn: list[tuple[str, str]] = []
    above: list[str] = []
    for line in (ast.get_docstring(tree(path)) or "").splitlines():
        if match := re.match(r"^((?:[│ ] {3})*)[├└]── (\w+)", line):
            depth = len(match[1]) // 4
            above = [*above[: depth + 1], match[2]]
            drawn.append((match[2], above[-2]))
        elif re.fullmatch(r"\w+(Error|Exception)", line):
            above = [line]
    classes = [node for node in tree(path).body if isinstance(node, ast.ClassDef)]
    defined = [(c.name, ast.unparse(c.bases[0])) for c in classes if c.name != "IdiotequeError"]
    assert drawn == defined
