"""A worker made before a fork: a child opens the store anew and has a background loop of its own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

PROGRAM = """
import asyncio, os, sys, threading
from idioteque import Context, InlineDispatcher, Worker
from idioteque.dispatcher import EventEnvelope
from idioteque.engine import Delivery
from pydantic import BaseModel
from typing import Literal

class Ping(BaseModel):
    type: Literal["ping"] = "ping"

dispatcher = InlineDispatcher()
worker = Worker(events_schema=Ping, store="sqlite:///" + sys.argv[1], dispatcher=dispatcher)

@worker.function("f", on="ping")
async def f(event: Ping, ctx: Context) -> int:
    return await ctx.execute("pid", os.getpid)

mount = dispatcher.mount(worker)

def deliver(name):
    from idioteque.bridge import run_sync
    envelope = EventEnvelope(name, b'{"type":"ping"}')
    answer = run_sync(mount.engine.deliver(envelope, Delivery("msg_" + name)))
    assert answer.text == "completed", answer
    result = run_sync(worker.runs.result(f.run_id(name), timeout=10))
    assert result == os.getpid(), (result, os.getpid())

deliver("before")
children = []
for n in range(3):
    pid = os.fork()
    if pid == 0:
        try:
            for m in range(5):
                deliver(f"child-{n}-{m}")
        except BaseException:
            import traceback
            traceback.print_exc()
            os._exit(1)
        os._exit(0) if n else sys.exit(0)
    children.append(pid)
deliver("beside")
statuses = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in children]
assert statuses == [0, 0, 0], statuses
deliver("after")
from idioteque.bridge import run_sync
runs = run_sync(worker.runs.list(limit=100)).runs
assert len(runs) == 18, len(runs)
assert {run.status for run in runs} == {"completed"}
run_sync(worker.close())
print("forked well")
"""

GIVEN_OPEN = """
import asyncio, os, sys
from idioteque.database import open_database
from idioteque.stores import SqlStore

store = SqlStore(open_database("sqlite:///" + sys.argv[1]))
asyncio.run(store.list())
pid = os.fork()
if pid == 0:
    try:
        asyncio.run(store.list())
    except Exception as error:
        os._exit(7 if "forked" in str(error) else 1)
    os._exit(0)
assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7
asyncio.run(store.list())
print("forked well")
"""


def run(program: str, path: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-X", "faulthandler", "-c", program, str(path)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def test_children_and_parent_go_on_side_by_side(tmp_path: Path) -> None:
    done = run(PROGRAM, tmp_path / "runs.db")
    assert (done.returncode, done.stdout) == (0, "forked well\n"), done.stderr
    assert "never" not in done.stderr
    assert "destroyed" not in done.stderr


def test_a_database_that_was_given_open_is_refused_in_a_child_instead_of_hanging(tmp_path: Path) -> None:
    done = run(GIVEN_OPEN, tmp_path / "runs.db")
    assert (done.returncode, done.stdout) == (0, "forked well\n"), done.stderr
