"""`idioteque dev` as a process of its own, with a real app whose function runs."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from tests.processes import server_environment

DEADLINE_S = 60.0

SHOP = """
import os
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from idioteque import QStashDispatcher, Worker

dispatcher = QStashDispatcher(mount_url=f"http://127.0.0.1:{os.environ['SHOP_PORT']}/api/worker")
worker = Worker(events_schema=dict[str, Any], store=os.environ["IDIOTEQUE_STORE"], dispatcher=dispatcher)


@worker.function("note", on="order.created")
async def note(event, ctx):
    await ctx.execute("write", Path("noted").write_text, event["order"])


async def order(request):
    await worker.publish({"type": "order.created", "order": "42"})
    return PlainTextResponse("ok")


mount = dispatcher.mount(worker, functions=[note])
app = Starlette(routes=[Route("/order", order), Route("/api/worker", mount)])
"""


class Dev:
    """The command under way; `output` is all that it and its app said."""

    def __init__(self, directory: Path, app: str, app_port: int, options: Sequence[str]) -> None:
        self.directory, self.app_port = directory, app_port
        self._log = directory / "dev.log"
        command = [sys.executable, "-m", "idioteque", "dev", app, "--port", "0", "--app-port", str(app_port)]
        command += [*options, "--store", f"sqlite:///{directory / 'runs.db'}"]
        hidden = dict.fromkeys(("QSTASH_TOKEN", "QSTASH_CURRENT_SIGNING_KEY", "QSTASH_NEXT_SIGNING_KEY"), "")
        with self._log.open("wb") as output:
            self.process = subprocess.Popen(
                command,
                cwd=directory,
                env=server_environment({**hidden, "SHOP_PORT": str(app_port)}),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )

    @property
    def output(self) -> str:
        return self._log.read_text()

    def until(self, condition: Callable[[], bool]) -> None:
        deadline_s = time.monotonic() + DEADLINE_S
        while not condition():
            assert time.monotonic() < deadline_s, self.output
            time.sleep(0.02)

    def get(self, url: str) -> int:
        with urllib.request.urlopen(url, timeout=DEADLINE_S) as answer:
            return int(answer.status)

    def is_app_there(self) -> bool:
        try:
            return self.get(f"http://127.0.0.1:{self.app_port}/order") == 200
        except OSError:
            return False


@pytest.fixture
def start(tmp_path: Path, unused_port: int) -> Iterator[Callable[..., Dev]]:
    (tmp_path / "shop.py").write_text(SHOP)
    started: list[Dev] = []

    def begin(app: str, *options: str) -> Dev:
        started.append(Dev(tmp_path, app, unused_port, options))
        return started[-1]

    yield begin
    for one in started:
        if one.process.poll() is None:
            os.killpg(one.process.pid, signal.SIGKILL)
            one.process.wait()


@pytest.mark.parametrize("options", [(), ("--reload",)], ids=["plain", "reload"])
@pytest.mark.parametrize("to_all", [True, False], ids=["ctrl-c", "sigterm"])
def test_a_function_runs_and_one_signal_ends_both(
    start: Callable[..., Dev], to_all: bool, options: tuple[str, ...]
) -> None:
    dev = start("shop:app", *options)
    dev.until(lambda: "the console is at" in dev.output)
    for place in (
        line.split(" at ")[1] for line in dev.output.splitlines() if line.startswith(("idio", "the console"))
    ):
        assert dev.get(place) == 200
    assert dev.is_app_there()
    dev.until((dev.directory / "noted").exists)
    if to_all:
        os.killpg(dev.process.pid, signal.SIGINT)
    else:
        dev.process.terminate()
    assert dev.process.wait(DEADLINE_S) == 0, dev.output
    assert not dev.is_app_there()
    assert "Traceback" not in dev.output


def test_a_name_that_the_module_has_not_ends_both(start: Callable[..., Dev]) -> None:
    dev = start("shop:nothing")
    assert dev.process.wait(DEADLINE_S) == 1, dev.output
    assert 'Attribute "nothing" not found in module "shop"' in dev.output
    assert "the app shop:nothing ended with code" in dev.output


@pytest.mark.parametrize(
    ("app", "said"),
    [
        ("shop", "write MODULE:APP"),
        (":app", "write MODULE:APP"),
        ("none:app", "no module"),
        ("__main__:app", "no module"),
    ],
)
def test_an_app_that_is_not_there_is_refused_before_anything_starts(
    start: Callable[..., Dev], app: str, said: str
) -> None:
    dev = start(app)
    assert dev.process.wait(DEADLINE_S) == 2
    assert said in dev.output
    assert len(dev.output.splitlines()) == 1


def test_a_port_in_use_names_the_option(start: Callable[..., Dev], unused_port: int) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", unused_port))
        taken.listen()
        dev = start("shop:app")
        assert dev.process.wait(DEADLINE_S) == 2
    assert "--app-port" in dev.output
