"""`idioteque demo`: the main job end to end, with a worker and a server that are killed half way."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from idioteque import DispatchError, QStashDispatcher, Run, Worker
from idioteque.cli.demo_orders import RUNS_PER_ORDER, STEPS_PER_ORDER, OrderCreated, make_worker
from idioteque.client import QStash
from idioteque.clock import SystemClock
from idioteque.environment import account_from
from idioteque.errors import ConfigurationError, TransportError
from idioteque.ids import new_signing_key, new_token
from idioteque.transport import HttpRequest, PooledTransport

IN_FLIGHT = 16
LOOK_EVERY_S = 0.1
START_TIMEOUT_S = 20.0
FINISH_TIMEOUT_S = 90.0
STOP_TIMEOUT_S = 10.0
PUBLISH_PAUSE_S = 0.25


@click.command()
@click.option("--orders", type=click.IntRange(10, 100_000), default=200, show_default=True, help="Orders to publish.")
@click.option("--directory", type=click.Path(path_type=Path, file_okay=False), help="Keep the databases and logs here.")
def demo(orders: int, directory: Path | None) -> None:
    """Publish orders, kill -9 the worker and the server half way, and count what was lost or done twice.

    Exit code 0 only if every order finished, every outcome was recorded once, and nothing was repeated but what was in
    progress at the kills.
    """
    if directory is None:
        with tempfile.TemporaryDirectory(prefix="idioteque-demo-") as made:
            raise SystemExit(_played(orders, Path(made)))
    raise SystemExit(_played(orders, _made_empty(directory)))


def _made_empty(directory: Path) -> Path:
    """Make the directory if need be; raise unless it is empty and can be written to."""
    try:
        directory.mkdir(parents=True, exist_ok=True)
        is_empty = not any(directory.iterdir())
    except OSError as error:
        raise ConfigurationError(f"--directory {directory} cannot be used: {error.strerror}") from error
    if not is_empty:
        raise click.UsageError(f"{directory} is not empty")
    if not os.access(directory, os.W_OK | os.X_OK):
        raise ConfigurationError(f"--directory {directory} cannot be used: it is not writable")
    return directory


def _played(orders: int, directory: Path) -> int:
    try:
        return asyncio.run(_demo(orders, directory))
    except asyncio.CancelledError:  # SIGTERM; it ends as Ctrl-C does
        raise click.Abort from None


@dataclass(slots=True)
class _Process:
    """A process of our own, whose output goes to a file; killed by its id, and started again."""

    name: str
    arguments: list[str]
    log: Path
    environment: dict[str, str]
    started: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with self.log.open("ab") as output:
            self.started = subprocess.Popen(  # noqa: S603 - our own command line
                [sys.executable, "-m", *self.arguments],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=self.environment,
            )

    def kill(self) -> None:
        assert self.started is not None
        os.kill(self.started.pid, signal.SIGKILL)
        self.started.wait()

    async def stop(self) -> None:
        if self.started is None or self.started.poll() is not None:
            return
        self.started.terminate()
        try:
            await asyncio.to_thread(self.started.wait, STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self.kill()

    def is_gone(self) -> bool:
        return self.started is not None and self.started.poll() is not None


@dataclass(slots=True)
class _Tally:
    """What is known from outside: the journal of effects, and what was in progress when the worker was killed."""

    journal: Path
    in_flight_at_kills: set[tuple[str, str]] = field(default_factory=set[tuple[str, str]])

    def effects(self) -> Counter[tuple[str, str]]:
        """How often each step of each run touched the world."""
        if not self.journal.exists():
            return Counter()
        lines = self.journal.read_text().splitlines()
        return Counter((words[0], words[1]) for words in map(str.split, lines) if len(words) == 3)

    def receipts(self) -> dict[tuple[str, str], set[str]]:
        """What each step of each run may have returned."""
        receipts: dict[tuple[str, str], set[str]] = {}
        for line in self.journal.read_text().splitlines():
            run_id, step, receipt = line.split()
            receipts.setdefault((run_id, step), set()).add(receipt)
        return receipts


async def _demo(orders: int, directory: Path) -> int:
    console = Console()
    clock = SystemClock()
    began_s = clock.monotonic_s()
    server_port, worker_port = _free_ports(2)
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("QSTASH_")},
        "QSTASH_URL": f"http://127.0.0.1:{server_port}",
        "QSTASH_TOKEN": new_token("demo"),
        "QSTASH_CURRENT_SIGNING_KEY": new_signing_key(),
        "QSTASH_NEXT_SIGNING_KEY": new_signing_key(),
        "IDIOTEQUE_DEMO_DIRECTORY": str(directory),
        "IDIOTEQUE_DEMO_MOUNT_URL": f"http://127.0.0.1:{worker_port}/api/worker",
    }
    server = _Process(
        "server",
        [
            *("idioteque", "serve", "--port", str(server_port), "--allow-private", "127.0.0.1/32"),
            *("--database", f"sqlite:///{directory / 'server.db'}"),
        ],
        directory / "server.log",
        environment,
    )
    worker_process = _Process(
        "worker",
        [
            *("uvicorn", "--factory", "idioteque.cli.demo_orders:make_app"),
            *("--port", str(worker_port), "--log-level", "warning"),
        ],
        directory / "worker.log",
        environment,
    )
    os.environ.update({name: value for name, value in environment.items() if name.startswith("QSTASH_")})
    worker = make_worker(directory, environment["IDIOTEQUE_DEMO_MOUNT_URL"])
    run = _Demo(orders, server, worker_process, worker, _Tally(directory / "effects.log"), console, clock)
    try:
        async with _stopping(server, worker_process):
            _cancel_on_sigterm()
            dead = await run.play()
            result = await run.judge(dead, clock.monotonic_s() - began_s)
    finally:
        await worker.close()
    if result:
        console.print(
            f"[red]Something went wrong[/red]; --directory keeps the logs: {server.log}, {worker_process.log}"
        )
    return result


def _cancel_on_sigterm() -> None:
    """Let SIGTERM cancel this task, once: a process that it ended at once would leave the server and worker behind."""
    task = asyncio.current_task()
    assert task is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, lambda: task.cancelling() or task.cancel())


@asynccontextmanager
async def _stopping(*processes: _Process) -> AsyncGenerator[None, None]:
    try:
        yield
    finally:
        await asyncio.gather(*(process.stop() for process in processes))


class _Demo:
    def __init__(
        self,
        orders: int,
        server: _Process,
        worker_process: _Process,
        worker: Worker,
        tally: _Tally,
        console: Console,
        clock: SystemClock,
    ) -> None:
        self._orders = orders
        self._server = server
        self._worker_process = worker_process
        self._worker = worker
        self._tally = tally
        self._console = console
        self._clock = clock
        self._transport = PooledTransport()
        self._event_ids: list[str] = []

    async def play(self) -> int:
        """Run the whole story; return how many messages ended in the dead letter queue."""
        self._console.print(f"Publishing {self._orders} orders; the worker and the server are killed half way.")
        self._server.start()
        self._worker_process.start()
        await self._until("the server answers", lambda: self._answers(f"{os.environ['QSTASH_URL']}/ready"))
        await self._until("the worker answers", lambda: self._answers(f"{self._worker_root}/health"))
        steps = self._orders * STEPS_PER_ORDER
        with self._progress() as progress:
            published = progress.add_task("orders published", total=self._orders)
            done = progress.add_task("steps done", total=steps)
            publishing = asyncio.create_task(self._publish_all(lambda: progress.advance(published)))
            kills: list[tuple[int, Callable[[], Awaitable[None]]]] = [
                (steps // 3, self._kill_worker),
                (steps // 2, self._kill_server),
            ]
            deadline_s = self._clock.monotonic_s() + FINISH_TIMEOUT_S
            while self._clock.monotonic_s() < deadline_s:
                count = len(self._tally.effects())
                progress.update(done, completed=count)
                if kills and count >= kills[0][0]:
                    await kills.pop(0)[1]()
                if count >= steps and not kills and await self._is_over():
                    break
                await self._clock.sleep(LOOK_EVERY_S)
            if publishing.done():
                await publishing
            publishing.cancel()
        return await self._dead_letters()

    async def judge(self, dead: int, seconds: float) -> int:
        """Hold what was stored against the journal, print the table, and return the exit code."""
        runs = [await self._worker.runs.get(run.id) for run in await self._runs()]
        whole = [run for run in runs if run is not None]
        finished = sum(run.status == "completed" for run in whole)
        recorded = Counter((run.id, step.key) for run in whole for step in run.steps if step.status == "completed")
        effects = self._tally.effects()
        repeated = {step: count - 1 for step, count in effects.items() if count > 1}
        allowed = self._tally.in_flight_at_kills
        checks = {
            "orders": (self._orders, self._orders),
            "runs finished": (finished, self._orders * RUNS_PER_ORDER),
            "step outcomes, each recorded once": (
                len(recorded) if set(recorded.values()) <= {1} else -1,
                self._orders * STEPS_PER_ORDER,
            ),
            "outcomes that were seen but not recorded": (self._contradictions(whole), 0),
            "messages in the dead letter queue": (dead, 0),
        }
        fits = sum(repeated.values()) <= len(allowed) and set(repeated) <= allowed
        table = Table("", "seen", "expected", title="What is left after two kills")
        for name, (seen, expected) in checks.items():
            style = "green" if seen == expected else "red"
            table.add_row(name, f"[{style}]{seen}[/{style}]", str(expected))
        style = "green" if fits else "red"
        table.add_row(
            "effects repeated", f"[{style}]{sum(repeated.values())}[/{style}]", f"at most {len(allowed)} in progress"
        )
        table.add_row("seconds", f"{seconds:.1f}", "")
        self._console.print(table)
        return 0 if fits and all(seen == expected for seen, expected in checks.values()) else 1

    def _contradictions(self, runs: list[Run]) -> int:
        """Count runs that went on with another value than the one that is stored for the step it came from."""
        receipts = self._tally.receipts()
        wrong: int = 0
        paid: dict[str, Any] = {}
        for run in runs:
            results = {step.key[-1]: step.result for step in run.steps}
            wrong += sum(result not in receipts.get((run.id, key), set()) for key, result in results.items())
            if run.function_id == "take-payment":
                wrong += int(run.result != results["pay"])
                paid[f"paid-{run.event['order_id']}"] = results["pay"]
        followers = [run for run in runs if run.function_id != "take-payment"]
        return wrong + sum(int(run.event["receipt"] != paid.get(run.event_id)) for run in followers)

    # ---- the story's parts

    async def _publish_all(self, advance: Callable[[], None]) -> None:
        numbers = iter(range(self._orders))

        async def publish_some() -> None:
            for number in numbers:
                await self._publish_for_sure(number)
                advance()

        await asyncio.gather(*(publish_some() for _ in range(IN_FLIGHT)))

    async def _publish_for_sure(self, number: int) -> None:
        """Publish one order until it is accepted: the same deduplication id makes sure that it is one order."""
        order = OrderCreated(order_id=f"order-{number}", cents=1000 + number)
        while True:
            try:
                published = await self._worker.publish(order, deduplication_id=f"created-{number}")
            except DispatchError:
                await self._clock.sleep(PUBLISH_PAUSE_S)
            else:
                self._event_ids.append(published.event_id)
                return

    async def _kill_worker(self) -> None:
        self._worker_process.kill()
        outcomes = {(run.id, step.key[-1]) for run in await self._runs_with_steps() for step in run.steps}
        self._tally.in_flight_at_kills |= set(self._tally.effects()) - outcomes
        self._console.print(
            f"kill -9 worker: {len(self._tally.in_flight_at_kills)} steps were in progress; it is started again"
        )
        self._worker_process.start()

    async def _kill_server(self) -> None:
        self._server.kill()
        self._console.print("kill -9 server; it is started again")
        self._server.start()

    # ---- looking

    @property
    def _worker_root(self) -> str:
        return cast(QStashDispatcher, self._worker.dispatcher).mount_url.removesuffix("/api/worker")

    async def _runs(self) -> list[Run]:
        runs: list[Run] = []
        cursor: str | None = None
        while True:
            page = await self._worker.runs.list(limit=1000, cursor=cursor)
            runs.extend(page.runs)
            if page.cursor is None:
                return runs
            cursor = page.cursor

    async def _runs_with_steps(self) -> list[Run]:
        looked = [await self._worker.runs.get(run.id) for run in await self._runs()]
        return [run for run in looked if run is not None]

    async def _is_over(self) -> bool:
        runs = await self._runs()
        return len(runs) == self._orders * RUNS_PER_ORDER and all(run.finished_at is not None for run in runs)

    async def _dead_letters(self) -> int:
        page = await QStash(account_from(os.environ), self._transport).dead_letters([])
        await self._transport.close()
        return len(page.entries)

    async def _answers(self, url: str) -> bool:
        try:
            return (await self._transport.send(HttpRequest("GET", url), timeout_s=2)).ok
        except TransportError:
            return False

    async def _until(self, what: str, condition: Callable[[], Awaitable[bool]]) -> None:
        deadline_s = self._clock.monotonic_s() + START_TIMEOUT_S
        while not await condition():
            for process in (self._server, self._worker_process):
                if process.is_gone():
                    raise click.ClickException(f"the {process.name} ended: {process.log.read_text().strip()[-500:]}")
            if self._clock.monotonic_s() > deadline_s:
                raise click.ClickException(f"waited {START_TIMEOUT_S:g} s until {what}")
            await self._clock.sleep(LOOK_EVERY_S)

    def _progress(self) -> Progress:
        columns = (TextColumn("{task.description:>16}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        return Progress(*columns, console=self._console)


def _free_ports(count: int) -> list[int]:
    """Return ports that were free a moment ago."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [int(each.getsockname()[1]) for each in sockets]
    finally:
        for each in sockets:
            each.close()
