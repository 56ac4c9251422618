"""Real processes for end-to-end tests: a server on a free port with a database of its own, stopped or killed by pid."""

from __future__ import annotations

import os
import queue
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

READY_S = 20.0
EXIT_S = 30.0

TOKEN = "eyJVc2VySUQiOiJ0ZXN0ZXIiLCJQYXNzd29yZCI6Im5vdC1hLXNlY3JldC1hdC1hbGwifQ=="
CURRENT_KEY = "sig_CurrentKeyOfTheTestsxxxxxxxxx"
NEXT_KEY = "sig_NextKeyOfTheTestsxxxxxxxxxxxx"

_READY = re.compile(r"idioteque is running at (http://\S+)")


@dataclass
class ServerProcess:
    """A running server. `lines` holds what it printed so far; `exit_code` is None while it runs."""

    process: subprocess.Popen[str]
    url: str
    token: str = TOKEN
    current_key: str = CURRENT_KEY
    next_key: str = NEXT_KEY
    lines: list[str] = field(default_factory=list)

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def exit_code(self) -> int | None:
        return self.process.poll()

    def kill(self) -> None:
        """End it as a power cut would, and wait until it is gone."""
        self.process.kill()
        self.process.wait(EXIT_S)

    def terminate(self) -> None:
        """Ask it to stop, and do not wait."""
        self.process.send_signal(signal.SIGTERM)

    def stop(self) -> int:
        """Ask it to stop; return its exit code."""
        if self.process.poll() is None:
            self.terminate()
        return self.process.wait(EXIT_S)


def start_server(
    directory: Path,
    *,
    env: Mapping[str, str] | None = None,
    args: Sequence[str] = (),
    port: int = 0,
    allow_loopback: bool = True,
) -> ServerProcess:
    """Start `idioteque serve` with the database `server.db` in a directory, and return once it is ready.

    It reaches loopback destinations unless told not to; `env` is added to the tests' credentials. Start it again on the
    same directory, and `port` if clients know it, to restart it.
    """
    process = subprocess.Popen(
        server_command(directory, args=args, port=port, allow_loopback=allow_loopback),
        env=server_environment(env),
        cwd=directory,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    lines: list[str] = []
    found: queue.SimpleQueue[str | None] = queue.SimpleQueue()

    def collect() -> None:
        assert process.stdout is not None
        with process.stdout as output:
            for line in output:
                lines.append(line.rstrip("\n"))
                if match := _READY.search(line):
                    found.put(match[1])
        found.put(None)

    threading.Thread(target=collect, daemon=True).start()
    try:
        url = found.get(timeout=READY_S)
    except queue.Empty:
        url = None
    if url is None:
        process.kill()
        process.wait(EXIT_S)
        raise AssertionError("the server did not become ready:\n" + "\n".join(lines))
    return ServerProcess(process, url, lines=lines)


def server_command(
    directory: Path, *, args: Sequence[str] = (), port: int = 0, allow_loopback: bool = True
) -> list[str]:
    """Return the command that `start_server` runs."""
    private = ["--allow-private", "127.0.0.0/8"] if allow_loopback and "--dev" not in args else []
    database = f"sqlite:///{directory / 'server.db'}"
    return [
        *(sys.executable, "-m", "idioteque", "serve", "--port", str(port), "--database", database),
        *private,
        *args,
    ]


def server_environment(env: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return the environment that `start_server` gives; an empty value takes a variable away."""
    merged = {
        **{name: value for name, value in os.environ.items() if not name.startswith(("QSTASH_", "IDIOTEQUE_"))},
        "PYTHONUNBUFFERED": "1",
        "QSTASH_TOKEN": TOKEN,
        "QSTASH_CURRENT_SIGNING_KEY": CURRENT_KEY,
        "QSTASH_NEXT_SIGNING_KEY": NEXT_KEY,
        **(env or {}),
    }
    return {name: value for name, value in merged.items() if value}
