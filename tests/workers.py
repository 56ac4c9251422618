"""Real worker processes for end-to-end tests: an ASGI app under uvicorn, killed or stopped by its pid."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from idioteque.clock import SystemClock
from idioteque.transport import PooledTransport
from tests.processes import ServerProcess

READY_S = 20.0
EXIT_S = 20.0
LOOK_EVERY_S = 0.02


@dataclass
class AppProcess:
    """A running app; what it printed is in the file `log`."""

    process: subprocess.Popen[bytes]
    port: int
    log: Path

    def kill(self) -> None:
        self.process.kill()
        self.process.wait(EXIT_S)

    def stop(self) -> int:
        if self.process.poll() is None:
            self.process.terminate()
        return self.process.wait(EXIT_S)


def free_port() -> int:
    """Return a port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def environment_for(server: ServerProcess, extra: Mapping[str, str]) -> dict[str, str]:
    """Return the environment of a worker that uses this server."""
    return {
        **{name: value for name, value in os.environ.items() if not name.startswith(("QSTASH_", "IDIOTEQUE_"))},
        "PYTHONUNBUFFERED": "1",
        "QSTASH_URL": server.url,
        "QSTASH_TOKEN": server.token,
        "QSTASH_CURRENT_SIGNING_KEY": server.current_key,
        "QSTASH_NEXT_SIGNING_KEY": server.next_key,
        **extra,
    }


def spawn_app(
    app: str, port: int, environment: Mapping[str, str], log: Path, directory: Path | None = None
) -> AppProcess:
    """Start `module:app` (or `module:factory`, called without arguments), in a directory, and return at once."""
    arguments = [sys.executable, "-m", "uvicorn", app, "--port", str(port), "--log-level", "warning"]
    if app.endswith(":make_app"):
        arguments.insert(3, "--factory")
    with log.open("ab") as output:
        process = subprocess.Popen(
            arguments, stdin=subprocess.DEVNULL, stdout=output, stderr=output, env=dict(environment), cwd=directory
        )
    return AppProcess(process, port, log)


async def start_app(
    app: str, port: int, environment: Mapping[str, str], log: Path, directory: Path | None = None
) -> AppProcess:
    """Start an app and return once it accepts connections."""
    started = spawn_app(app, port, environment, log, directory)
    transport = PooledTransport()

    async def accepts() -> bool:
        assert started.process.poll() is None, log.read_text()
        return await transport.probe(f"http://127.0.0.1:{port}")

    await until(accepts, READY_S)
    return started


async def until(condition: Callable[[], Awaitable[bool]], timeout_s: float, what: str = "the condition") -> None:
    """Return once a condition holds; fail when it does not in time."""
    clock = SystemClock()
    deadline_s = clock.monotonic_s() + timeout_s
    while not await condition():
        assert clock.monotonic_s() < deadline_s, f"waited {timeout_s} s for {what}"
        await asyncio.sleep(LOOK_EVERY_S)
