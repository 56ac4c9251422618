"""`PROFILE=1`: py-spy beside every Python process of ours, folded stacks and a summary of them in a folder."""

from __future__ import annotations

import asyncio
import importlib.util
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncGenerator, Iterable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

from bench.processes import BenchError
from bench.sites.site import Site

SAMPLES_PER_S = 250
DURATION_S = 600
BEGIN_S = 0.5
END_S = 30.0
LINES_MAX = 25
PROFILED = ("server", "worker", "producer")


@asynccontextmanager
async def profiled(site: Site, folder: Path | None, label: str) -> AsyncGenerator[None]:
    """Record where the processes of a site spend their time while the block runs; nothing without a folder."""
    if folder is None:
        yield
        return
    if importlib.util.find_spec("py_spy") is None and not _py_spy().exists():
        raise BenchError("PROFILE=1 needs py-spy: `make bench` installs the group `bench`")
    folder.mkdir(parents=True, exist_ok=True)
    watching = {
        folder / f"{label}-{child.name}.folded": subprocess.Popen(
            [
                *(str(_py_spy()), "record", "--format", "raw", "--rate", str(SAMPLES_PER_S), "--nonblocking"),
                "--subprocesses",
                *("--duration", str(DURATION_S), "--pid", str(child.pid)),
                *("--output", str(folder / f"{label}-{child.name}.folded")),
            ],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )
        for child in site.children if child.name in PROFILED
    }  # fmt: skip
    await asyncio.sleep(BEGIN_S)
    try:
        yield
    finally:
        for watcher in watching.values():
            watcher.send_signal(signal.SIGINT)
        for path, watcher in watching.items():
            await asyncio.to_thread(watcher.wait, END_S)
            if path.exists():
                path.with_suffix(".txt").write_text(summary(path.read_text().splitlines()))


def summary(folded: Iterable[str]) -> str:
    """Return the functions in which the time was spent, by themselves and with all they call, in per cent.

    A folded stack is `outermost;…;innermost COUNT`.
    """
    alone, inside, total = Counter[str](), Counter[str](), 0
    for line in folded:
        stack, _, count = line.rpartition(" ")
        frames = [frame.rpartition(":")[0] or frame for frame in stack.split(";")]
        alone[frames[-1]] += int(count)
        inside.update({frame: int(count) for frame in set(frames)})
        total += int(count)
    return "\n".join([
        f"{total} samples",
        *("", "by itself:", *_shares(alone, total)),
        *("", "with all it calls:", *_shares(inside, total)),
    ]) + "\n"  # fmt: skip


def _shares(counts: Mapping[str, int], total: int) -> list[str]:
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    return [f"{100 * count / total:5.1f} %  {frame}" for frame, count in ordered[:LINES_MAX]]


def _py_spy() -> Path:
    return Path(sys.executable).with_name("py-spy")
