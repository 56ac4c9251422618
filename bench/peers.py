"""Environments of the peers, made once under `bench/.peers`: nothing of theirs is installed beside the project."""

from __future__ import annotations

import asyncio
import json
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from bench.processes import BenchError

PEERS = Path(__file__).parent / ".peers"
INSTALL_S = 300.0
ERROR_LENGTH_MAX = 300


async def python_with(name: str, packages: Sequence[str]) -> Path:
    """Return the Python of a peer's environment, made now if it is new or the packages have changed.

    Raise `BenchError` with the reason when it cannot be made.
    """
    folder, wanted = PEERS / name, "\n".join([sys.version, *packages])
    python, made = folder / "bin" / "python", folder / "packages"
    if not made.exists() or made.read_text() != wanted:
        shutil.rmtree(folder, ignore_errors=True)
        await run_to_end([sys.executable, "-m", "venv", str(folder)], f"the environment of {name}")
        await run_to_end([str(python), "-m", "pip", "install", "--quiet", *packages], f"the packages of {name}")
        made.write_text(wanted)
    return python


async def node_package(name: str, package: str) -> Path:
    """Return the folder in which a package of Node.js is installed; raise `BenchError` when it cannot be."""
    folder = PEERS / f"{name}-node"
    if not (folder / "node_modules" / package).exists():
        npm = shutil.which("npm")
        if npm is None:
            raise BenchError(f"{package} needs npm, which is not installed")
        folder.mkdir(parents=True, exist_ok=True)
        command = [npm, "install", "--no-audit", "--no-fund", "--ignore-scripts", "--prefix", str(folder), package]
        await run_to_end(command, package)
    return folder / "node_modules"


async def versions_of(python: Path, packages: Sequence[str]) -> dict[str, str]:
    """Return the versions that are installed in a peer's environment."""
    script = "import json,sys,importlib.metadata as m; print(json.dumps({n: m.version(n) for n in sys.argv[1:]}))"
    return dict(json.loads(await run_to_end([str(python), "-c", script, *packages], "the versions")))


async def run_to_end(command: Sequence[str], what: str) -> str:
    """Run a command and return what it printed; raise `BenchError` when it fails or takes too long."""
    process = await asyncio.create_subprocess_exec(
        *command, stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    try:
        async with asyncio.timeout(INSTALL_S):
            output, errors = await process.communicate()
    except TimeoutError:
        process.kill()
        await process.wait()
        raise BenchError(f"{what} could not be had in {INSTALL_S:g} s") from None
    if process.returncode != 0:
        said = " ".join((errors or output).decode(errors="replace").split())[-ERROR_LENGTH_MAX:]
        raise BenchError(f"{what} could not be had: {said}")
    return output.decode()
