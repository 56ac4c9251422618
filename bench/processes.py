"""Processes under measure: started in a session of their own, ended by their id, their CPU time and memory read."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import socket
import subprocess
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path

from bench.orders import READY, Order

ROOT = Path(__file__).parents[1]
READY_S = 60.0
STOP_S = 10.0
LOOK_EVERY_S = 0.005
LOG_LINES_MAX = 6
LOG_LINE_LENGTH_MAX = 300
TICKS_PER_S = os.sysconf("SC_CLK_TCK")
KEPT = ("PATH", "HOME", "LANG", "TMPDIR", "LD_LIBRARY_PATH")


class BenchError(Exception):
    """A measurement could not be taken; the message says why and goes into the table's notes."""


class Child:
    """A process and what it started. What it prints goes to `log`; `environment` is added to the little it inherits."""

    def __init__(self, name: str, command: Sequence[str], log: Path, environment: Mapping[str, str]) -> None:
        self.name = name
        self.log = log
        self._command = list(command)
        self._environment = {
            **{name: os.environ[name] for name in KEPT if name in os.environ},
            "PYTHONPATH": str(ROOT),
            "PYTHONUNBUFFERED": "1",
            **environment,
        }
        self._pipe: int | None = None
        self._spent_s = 0.0  # by processes of this name that were killed
        self.process: subprocess.Popen[str] | None = None

    def start(self) -> None:
        """Start it, again if it was killed."""
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                self._command, cwd=self.log.parent, env=self._environment, text=True, start_new_session=True,
                stdin=self._pipe or subprocess.DEVNULL, stdout=self._pipe or log, stderr=log,
            )  # fmt: skip

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    def kill(self) -> None:
        """End it as a power cut would, with everything it started."""
        self._spent_s = self.cpu_s()
        self._signal(signal.SIGKILL)
        assert self.process is not None
        self.process.wait(STOP_S)

    def stop(self) -> None:
        """Ask it to end, and make it when it does not."""
        if self.process is None:
            return
        self._signal(signal.SIGTERM)
        try:
            self.process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            self._signal(signal.SIGKILL)
            self.process.wait(STOP_S)
        self._signal(signal.SIGKILL)  # whoever of its session is left
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                pipe.close()

    def _signal(self, how: signal.Signals) -> None:
        assert self.process is not None
        try:
            os.killpg(self.process.pid, how)  # its session's group, which is ours alone
        except (ProcessLookupError, PermissionError):
            return

    def cpu_s(self) -> float:
        """Return the CPU time of it and everything it started, seconds, also of what has ended."""
        return self._spent_s + cpu_s(self.pid) if self.process is not None else 0.0

    def peak_rss_mb(self) -> float:
        """Return the most memory that the process itself had in RAM, MB."""
        status = Path(f"/proc/{self.pid}/status").read_text()
        found = re.search(r"^VmHWM:\s+(\d+) kB", status, re.MULTILINE)
        return int(found[1]) / 1024 if found else 0.0

    async def ready(self, condition: Callable[[], Awaitable[bool]]) -> None:
        """Return once a condition holds; raise `BenchError` when it does not in time, or the process has ended."""
        deadline_s = time.monotonic() + READY_S
        while not await condition():
            assert self.process is not None
            if self.process.poll() is not None:
                raise BenchError(f"{self.name} ended with code {self.process.returncode}: {self.last_lines()}")
            if time.monotonic() > deadline_s:
                raise BenchError(f"{self.name} was not ready after {READY_S:g} s: {self.last_lines()}")
            await asyncio.sleep(LOOK_EVERY_S)

    async def said(self, pattern: str) -> str:
        """Return the first group of a pattern once the log has it."""
        found: list[str] = []

        async def look() -> bool:
            found.extend(re.findall(pattern, self.log.read_text(errors="replace"))[:1])
            return bool(found)

        await self.ready(look)
        return found[0]

    async def accepts(self, port: int) -> None:
        """Return once it takes connections on a port."""

        async def look() -> bool:
            with socket.socket() as probe:
                return probe.connect_ex(("127.0.0.1", port)) == 0

        await self.ready(look)

    def last_lines(self) -> str:
        """Return the end of the log on one line."""
        lines = self.log.read_text(errors="replace").splitlines()[-LOG_LINES_MAX:] if self.log.exists() else []
        return " | ".join(line[:LOG_LINE_LENGTH_MAX] for line in lines)


class Producer(Child):
    """A process that carries out orders, see `bench.orders.serve`."""

    def start(self) -> None:
        self._pipe = subprocess.PIPE
        super().start()

    async def listens(self) -> None:
        """Return once it takes orders."""
        async with asyncio.timeout(READY_S):
            answer = await self._answer()
        if READY not in answer:
            raise BenchError(f"{self.name} said {answer} instead of being ready")

    async def carry_out(self, order: Order) -> list[int]:
        """Return when every publish was called, monotonic ns; raise `BenchError` when one was refused."""
        assert self.process is not None
        assert self.process.stdin is not None
        self.process.stdin.write(order.encode() + "\n")
        self.process.stdin.flush()
        answer = await self._answer()
        if "error" in answer:
            raise BenchError(f"{self.name}: {answer['error']}")
        return answer["called_ns"]

    async def _answer(self) -> dict[str, list[int]]:
        assert self.process is not None
        assert self.process.stdout is not None
        line = await asyncio.to_thread(self.process.stdout.readline)
        if not line:
            raise BenchError(f"{self.name} ended: {self.last_lines()}")
        return dict(json.loads(line))


def cpu_s(pid: int) -> float:
    """Return the CPU time of a process and its descendants, seconds, with those that ended and were waited for."""
    return sum(_ticks(one) for one in (pid, *descendants(pid))) / TICKS_PER_S


def descendants(pid: int) -> list[int]:
    """Return the ids of everything that a process started and that runs still."""
    children: dict[int, list[int]] = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit() and (fields := _stat(int(entry))):
            children.setdefault(int(fields[1]), []).append(int(entry))
    found, todo = list[int](), [pid]
    while todo:
        below = children.get(todo.pop(), [])
        found += below
        todo += below
    return found


def _ticks(pid: int) -> int:
    fields = _stat(pid)
    return sum(int(field) for field in fields[11:15])


def _stat(pid: int) -> list[str]:
    """Return the fields of a process behind its name, none when it is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []


def free_port() -> int:
    """Return a port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
