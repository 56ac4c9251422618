"""The machine, as far as a figure depends on it."""

from __future__ import annotations

import os
import platform
import time
from pathlib import Path

ROUNDS = 3
STEPS = 300_000


def calibration_ms() -> float:
    """Return how long a fixed piece of Python takes now, ms, the best of three: other load shows in it."""
    best_s = float("inf")
    for _ in range(ROUNDS):
        began_s, total = time.perf_counter(), 0
        for step in range(STEPS):
            total += step & 7
        best_s = min(best_s, time.perf_counter() - began_s)
    return round(best_s * 1000, 2)


def description() -> dict[str, str]:
    """Return what the machine is."""
    model = next(
        (line.partition(":")[2].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")), ""
    )
    memory = next((line.split()[1] for line in _lines("/proc/meminfo") if line.startswith("MemTotal")), "0")
    return {
        "cores": str(os.cpu_count()),
        "processor": model,
        "memory": f"{int(memory) / 1024**2:.0f} GiB",
        "system": f"{platform.system()} {platform.release().partition('-')[0]}",
        "python": platform.python_version(),
    }


def _lines(path: str) -> list[str]:
    return Path(path).read_text().splitlines() if Path(path).exists() else []
