"""A run: who is measured at what, in which turns; each on fresh processes in a temporary folder."""

from __future__ import annotations

import asyncio
import itertools
import os
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from bench import fill
from bench.figures import OURS, Results
from bench.growth import Growth, grow
from bench.machine import calibration_ms
from bench.processes import BenchError, free_port
from bench.profiling import profiled
from bench.sites.celery import Celery
from bench.sites.dbos import DbosPostgres, DbosSqlite
from bench.sites.ours import Ours
from bench.sites.restate import Restate
from bench.sites.server_alone import ServerAlone
from bench.sites.site import Site, running
from bench.works import THROUGHPUT, WORKS, Sizes

WORK_S = 120.0  # the longest that one measurement may take, with its start
FILL_S = 400.0
SUBJECTS: dict[str, type[Site]] = {site.name: site for site in (Restate, DbosSqlite, DbosPostgres, Celery)}
"""The peers; we are always measured."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to be measured; `profile` is the folder for profiles, None for none."""

    works: tuple[str, ...]
    peers: tuple[str, ...]
    repeats: int
    sizes: Sizes
    profile: Path | None = None
    growth: bool = False


@dataclass
class Report:
    """What came of a run."""

    plan: Plan
    results: Results = field(default_factory=Results)
    versions: dict[str, dict[str, str]] = field(default_factory=dict[str, dict[str, str]])
    settings: dict[str, str] = field(default_factory=dict[str, str])
    spent_s: dict[str, float] = field(default_factory=dict[str, float])
    calibration_ms: list[float] = field(default_factory=list[float])
    growth: Growth | None = None
    failed: bool = False

    @property
    def subjects(self) -> list[str]:
        """Who was measured, we first."""
        return [OURS, *(peer for peer in self.plan.peers if peer in self.versions)]


@dataclass
class _Run:
    plan: Plan
    room: Path
    progress: Progress
    report: Report
    numbers: itertools.count[int] = field(default_factory=itertools.count)
    pending_port: int = field(default_factory=free_port)

    async def prepare(self) -> dict[str, type[Site]]:
        """Return whom to measure; a peer that cannot be had is noted and left out."""
        sites: dict[str, type[Site]] = {OURS: Ours, **{name: SUBJECTS[name] for name in self.plan.peers}}
        bar = self.progress.add_task("preparing", total=len(sites))
        for name, site in list(sites.items()):
            self.progress.update(bar, description=f"preparing {name}")
            try:
                self.report.versions[name] = await site.prepare()
                self.report.settings[name] = site.settings
            except (BenchError, AssertionError, OSError) as error:
                self.report.results.notes.append(f"{name} is not measured: {error}")
                del sites[name]
            self.progress.advance(bar)
        return sites

    async def measure(self, sites: dict[str, type[Site]]) -> None:
        """Do every work in turns: we, a peer, the next peer, and again."""
        turns = [
            (work, name)
            for work in self.plan.works
            for _ in range(self.plan.repeats)
            for name, site in sites.items()
            if work in site.works or (name == OURS and work in ServerAlone.works)
        ]
        bar = self.progress.add_task("measuring", total=len(turns))
        for work, name in turns:
            self.progress.update(bar, description=f"{work} {name}")
            began_s = asyncio.get_running_loop().time()
            await self._turn(work, name, sites[name])
            self.report.calibration_ms.append(calibration_ms())
            key = f"{work} {name}"
            spent_s = asyncio.get_running_loop().time() - began_s
            self.report.spent_s[key] = self.report.spent_s.get(key, 0.0) + spent_s
            self.progress.advance(bar)

    async def _turn(self, work: str, name: str, kind: type[Site]) -> None:
        try:
            site = await self._site(work, kind)
            profile = self.plan.profile if name == OURS else None
            async with asyncio.timeout(WORK_S), running(site), profiled(site, profile, work):
                figures = await WORKS[work](site, self.plan.sizes)
            self.report.results.add(work, name, figures)
        except TimeoutError:
            self._note(f"{work} {name}: not done in {WORK_S:g} s")
        except (BenchError, AssertionError, OSError) as error:
            self._note(f"{work} {name}: {error}")

    def _note(self, text: str) -> None:
        self.report.results.notes.append(text)
        self.report.failed = True

    async def _site(self, work: str, kind: type[Site]) -> Site:
        folder = self.room / str(next(self.numbers))
        folder.mkdir(mode=0o755)
        if work == "D1":
            return ServerAlone(folder)
        if work == "D2":
            return ServerAlone(folder, await self._pending(), self.pending_port)
        return kind(folder, (os.cpu_count() or 1) if work in THROUGHPUT else 1)

    async def _pending(self) -> Path:
        """Return the folder with the messages that are due tomorrow, made at the first time."""
        folder = self.room / "pending"
        if folder.exists():
            return folder
        count = self.plan.sizes.pending
        bar = self.progress.add_task(f"filling in {count:,} messages", total=count)
        url = f"http://127.0.0.1:{self.pending_port}/"
        async with asyncio.timeout(FILL_S):
            await fill.pending_messages(folder, url, count, lambda size: self.progress.advance(bar, size))
        self.progress.remove_task(bar)
        return folder


async def carry_out(plan: Plan, console: Console) -> Report:
    """Do what is planned; processes and folders are gone afterwards, whatever happens."""
    report = Report(plan)
    columns = (TextColumn("{task.description:28}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with (
        tempfile.TemporaryDirectory(prefix="idioteque-bench-") as room,
        Progress(*columns, console=console) as progress,
    ):
        Path(room).chmod(0o755)  # PostgreSQL runs under an account of its own
        run = _Run(plan, Path(room), progress, report)
        if plan.works:
            await run.measure(await run.prepare())
        if plan.growth:
            report.growth = await grow(Path(room), plan.sizes, progress)
            report.results.notes += report.growth.failures
            report.failed = report.failed or bool(report.growth.failures)
    return report
