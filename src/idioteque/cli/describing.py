"""What a worker in somebody's code declares, read in a process of its own: `python -m idioteque.cli.describing M:NAME`.

So the console's process never runs that code, and a form always shows the code as it is now.
"""

from __future__ import annotations

import asyncio
import importlib
import importlib.util
import json
import logging
import os
import sys
from asyncio.subprocess import DEVNULL, PIPE
from collections.abc import Iterator, Mapping
from types import ModuleType

from pydantic import TypeAdapter

from idioteque.client import Json, printable
from idioteque.clock import SystemClock
from idioteque.console.forms import Describe
from idioteque.errors import ConfigurationError, InvalidValue, first_line
from idioteque.worker import Worker

DESCRIBE_S = 20.0
FRESH_S = 5.0
SAID_LENGTH_MAX = 1000

logger = logging.getLogger("idioteque.console")


def checked_name(name: str, what: str) -> str:
    """Return a name written `MODULE:WHAT`; raise if that is wrong as far as can be seen without running it."""
    module, _, attribute = name.partition(":")
    if not module or not attribute or not all(part.isidentifier() for part in module.split(".")):
        raise InvalidValue(f"write MODULE:{what}, like shop:{what.lower()}, not {name!r}")
    if "" not in sys.path:
        sys.path.insert(0, "")
    top = module.partition(".")[0]
    if top == "__main__" or importlib.util.find_spec(top) is None:  # this command is no app
        raise ConfigurationError(f"there is no module {top!r} in {os.getcwd()} or among what is installed")
    return name


def described_in(name: str, environment: Mapping[str, str]) -> Describe:
    """Return what asks for the worker of `MODULE:NAME`; NAME may be an app of a module that has a worker.

    However many ask, one process runs at a time, and its answer is good for `FRESH_S`.
    """
    clock, turn = SystemClock(), asyncio.Lock()
    known: list[tuple[float, Json | None]] = []

    async def describe() -> Json | None:
        async with turn:
            if not known or clock.monotonic_s() - known[0][0] > FRESH_S:
                answer = await _asked(name, environment)
                known[:] = [(clock.monotonic_s(), answer)]
            return known[0][1]

    return describe


async def _asked(name: str, environment: Mapping[str, str]) -> Json | None:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "idioteque.cli.describing", name),
        stdin=DEVNULL,
        stdout=PIPE,
        stderr=PIPE,
        env={**os.environ, **environment},
    )
    try:
        async with asyncio.timeout(DESCRIBE_S):
            out, said = await process.communicate()
    except BaseException as error:
        process.kill()
        await process.wait()
        if not isinstance(error, TimeoutError):
            raise
        logger.warning("the worker of %s was not loaded within %g s", name, DESCRIBE_S)
        return None
    if process.returncode != 0:
        text = printable(" ".join(said.decode(errors="replace").split())[-SAID_LENGTH_MAX:])
        logger.warning("the worker of %s cannot be loaded: %s", name, text)
        return None
    document: Json = json.loads(out.splitlines()[-1])
    return document


def description(worker: Worker) -> Json:
    """Return what the console wants to know of a worker: the JSON schema of its events, and where its mount is."""
    schema: Json = TypeAdapter(worker.options["events_schema"]).json_schema()
    return {"schema": schema, "mount_url": str(getattr(worker.dispatcher, "mount_url", ""))}


def worker_of(name: str) -> Worker:
    """Return the worker that `MODULE:NAME` is, or else the one that its module, or one that it imports, has."""
    module_name, _, attribute = name.partition(":")
    if "" not in sys.path:
        sys.path.insert(0, "")
    module = importlib.import_module(module_name)
    named: object = getattr(module, attribute, None)
    if isinstance(named, Worker):
        return named
    found = next(_workers([module, *list(sys.modules.values())]), None)
    if found is None:
        raise LookupError(f"{name} is no worker, and no module that it imports has one")
    return found


def _workers(modules: list[ModuleType]) -> Iterator[Worker]:
    for module in modules:
        yield from (value for value in list(vars(module).values()) if isinstance(value, Worker))


def main(name: str) -> int:
    """Print the description of a worker as one line of JSON, the last of what is printed."""
    try:
        text = json.dumps(description(worker_of(name)))
    except (Exception, SystemExit) as error:  # whatever the module raises is somebody's code
        sys.stderr.write(first_line(error) + "\n")
        return 1
    sys.stdout.write(f"\n{text}\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1]))
