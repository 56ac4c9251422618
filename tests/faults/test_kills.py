"""Real processes, real sockets, real databases, and SIGKILL."""

from __future__ import annotations

import asyncio
import random
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from idioteque import DispatchError, QStashDispatcher, Run, Worker
from tests.faults.worker_app import PARALLEL, STEPS, Job, make_worker
from tests.processes import start_server
from tests.workers import AppProcess, environment_for, free_port, spawn_app, start_app, until

APP = "tests.faults.worker_app:make_app"
ALL_STEPS = (*STEPS, *PARALLEL)


class Site:
    """One server, one worker, and the test's own view of the worker's store."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.server = start_server(directory)
        self.worker_port = free_port()
        self.mount_url = f"http://127.0.0.1:{self.worker_port}/api/worker"
        self.environment = environment_for(
            self.server, {"FAULTS_DIRECTORY": str(directory), "FAULTS_MOUNT_URL": self.mount_url}
        )
        self.app: AppProcess | None = None
        self.view: Worker | None = None
        self.event_ids: list[str] = []

    @property
    def worker(self) -> Worker:
        if self.view is None:
            self.view = make_worker(self.directory, self.mount_url)
            self.view.configure(
                dispatcher=QStashDispatcher(
                    mount_url=self.mount_url, retries=10, url=self.server.url, token=self.server.token
                )
            )
        return self.view

    async def start_app(self) -> None:
        self.app = await start_app(APP, self.worker_port, self.environment, self.directory / "worker.log")

    def restart_app(self) -> None:
        """Start the worker again after it died, and wait for nothing."""
        self.app = spawn_app(APP, self.worker_port, self.environment, self.directory / "worker.log")

    def restart_server(self) -> None:
        self.server = start_server(self.directory, port=self.server.port)

    def order_death(self, moment: str) -> Path:
        order = self.directory / f"die-{moment}"
        order.touch()
        return order

    async def publish(self, number: int) -> None:
        """Publish one job until it is accepted."""
        while True:
            with suppress(DispatchError):
                published = await self.worker.publish(Job(number=number), deduplication_id=f"job-{number}")
                self.event_ids.append(published.event_id)
                return
            await asyncio.sleep(0.05)

    async def runs(self) -> list[Run]:
        page = await self.worker.runs.list(limit=1000)
        found = [await self.worker.runs.get(run.id) for run in page.runs]
        return [run for run in found if run is not None]

    async def finished(self, count: int) -> bool:
        page = await self.worker.runs.list(limit=1000, status="completed")
        return len(page.runs) >= count

    async def has_done(self, count: int) -> bool:
        return sum(self.effects().values()) >= count

    def effects(self) -> Counter[tuple[str, str]]:
        journal = self.directory / "effects.log"
        lines = journal.read_text().splitlines() if journal.exists() else []
        return Counter((line.split()[0], line.split()[1]) for line in lines)

    async def check(self, jobs: int, repeated_max: int) -> None:
        """Hold every promise against what is stored and what was done."""
        runs = await self.runs()
        assert len(runs) == jobs
        assert {run.status for run in runs} == {"completed"}
        receipts = (self.directory / "effects.log").read_text()
        for run in runs:
            stored = {step.key[0]: step.result for step in run.steps}
            assert run.result == stored, "the function saw another value than the one that is stored"
            assert list(stored) == [*STEPS, *list(stored)[len(STEPS) :]]
            assert set(stored) == set(ALL_STEPS)
            assert all(f"{run.id} {name} {receipt}" in receipts for name, receipt in stored.items())
        effects = self.effects()
        assert len(effects) == jobs * len(ALL_STEPS)
        assert sum(count - 1 for count in effects.values()) <= repeated_max

    async def close(self) -> None:
        if self.view is not None:
            await self.view.close()


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    site = Site(tmp_path)
    yield site
    if site.app is not None and site.app.process.poll() is None:
        site.app.stop()
    if site.server.exit_code is None:
        site.server.stop()


@pytest.mark.parametrize(
    ("moment", "repeated_max"),
    [
        ("before-commit-a", 1),  # between effect and commit: this one effect may be repeated
        ("after-commit-a", 0),
        ("before-commit-p2", len(PARALLEL)),
        ("after-commit-p2", len(PARALLEL)),
        ("before-commit-body", 0),
        ("after-commit-body", 0),  # between the last commit and the answer
    ],
)
async def test_a_worker_killed_at_a_chosen_moment_loses_nothing(site: Site, moment: str, repeated_max: int) -> None:
    order = site.order_death(moment)
    await site.start_app()
    assert site.app is not None
    await site.publish(1)
    dead = site.app

    async def died() -> bool:
        return dead.process.poll() is not None

    await until(died, 20, f"the worker to die {moment}")
    assert not order.exists()
    await site.start_app()
    await until(lambda: site.finished(1), 30, "the run to finish")

    await site.check(1, repeated_max)
    await site.close()


async def test_events_published_while_the_worker_is_down_are_delivered_when_it_is_up(site: Site) -> None:
    for number in range(20):
        await site.publish(number)
    site.server.kill()
    site.restart_server()
    await site.start_app()
    await until(lambda: site.finished(20), 30, "the runs to finish")

    await site.check(20, repeated_max=0)
    await site.close()


@pytest.mark.parametrize("seed", [1, 2, 3])
async def test_random_kills_of_both_processes_lose_nothing_and_repeat_only_what_was_in_progress(
    site: Site, seed: int
) -> None:
    print(f"seed {seed}")
    chance = random.Random(seed)
    jobs = 60
    await site.start_app()
    publishing = asyncio.create_task(_publish_all(site, jobs))
    in_progress = 0
    for count in sorted(chance.sample(range(jobs * len(ALL_STEPS) * 3 // 4), 4)):
        await until(lambda count=count: site.has_done(count), 60, f"{count} effects")
        if chance.random() < 0.6:
            assert site.app is not None
            site.app.kill()
            recorded = {(run.id, step.key[0]) for run in await site.runs() for step in run.steps}
            in_progress += len(set(site.effects()) - recorded)
            site.restart_app()
        else:
            site.server.kill()
            site.restart_server()
    await publishing
    await until(lambda: site.finished(jobs), 60, "the runs to finish")

    await site.check(jobs, in_progress)
    await site.close()


async def _publish_all(site: Site, jobs: int) -> None:
    for number in range(jobs):
        await site.publish(number)


def test_the_demo_ends_with_nothing_lost(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "idioteque", "demo", "--orders", "60", "--directory", str(tmp_path / "demo")],
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )

    assert done.returncode == 0, done.stdout + done.stderr
    assert "runs finished" in done.stdout
    assert "180" in done.stdout
