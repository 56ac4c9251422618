"""`WORK=growth`: what becomes slower when there is more of something, as lines over how much there is."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote, urlsplit

from rich.progress import Progress

from bench import fill
from bench.figures import number, percentile
from bench.orders import IN_FLIGHT
from bench.plot import Chart, Series
from bench.processes import BenchError, free_port
from bench.sites.ours import Ours
from bench.sites.server_alone import ServerAlone
from bench.sites.site import running
from bench.wire import Client
from bench.works import Sizes, d1, w4, w4_isolated

PART_S = 500.0
PAGE_ROWS = 100


@dataclass
class Growth:
    """The charts, a sentence for each, and what went wrong."""

    charts: list[Chart] = field(default_factory=list[Chart])
    sentences: list[str] = field(default_factory=list[str])
    failures: list[str] = field(default_factory=list[str])


@dataclass(frozen=True, slots=True)
class _Growing:
    room: Path
    sizes: Sizes
    progress: Progress
    growth: Growth

    async def rows(self) -> None:
        """Look at ever longer rows of steps, in one delivery and each in its own."""
        async with self._ours("rows") as site:
            inline, isolated = await w4(site, self.sizes), await w4_isolated(site, self.sizes)
        rows = self.sizes.rows
        series = tuple(
            Series(label, tuple((steps, figures[f"seconds_{steps}"]) for steps in rows))
            for label, figures in (("inline", inline), ("isolated", isolated))
        )
        self.growth.charts.append(Chart("rows", "W4: steps in a row", "steps", "seconds", series))
        long = rows[-1]
        inline_ms, isolated_ms = (figures[f"seconds_{long}"] * 1000 / long for figures in (inline, isolated))
        self.growth.sentences.append(
            f"In a row of {long:,}, a step takes {number(inline_ms)} ms inline and {number(isolated_ms)} ms isolated."
        )

    async def sleepers(self) -> None:
        """Start ever more runs that sleep, and look how fast the next ones start."""
        count, points = self.sizes.sleepers // self.sizes.sleeper_parts, list[tuple[float, float]]()
        async with self._ours("sleepers") as site:
            for part in range(self.sizes.sleeper_parts):
                first, called_ns = await site.order("nap", count, in_flight=IN_FLIGHT)
                began_ns = await site.all_began(first, count)
                points.append(((part + 1) * count, count * 1e9 / (max(began_ns) - min(called_ns))))
            memory = [f"{child.name} {child.peak_rss_mb():.0f} MB" for child in (site.server, site.worker)]
        series = (Series("starts", tuple(points)),)
        self.growth.charts.append(
            Chart("sleepers", "Runs that start beside others in flight", "runs in flight", "starts/s", series)
        )
        self.growth.sentences.append(f"With {count * self.sizes.sleeper_parts:,} runs in flight: {', '.join(memory)}.")

    async def pending(self) -> None:
        """Drain messages beside ever more that are due tomorrow."""
        folder, port, there, points = self.room / "more-pending", free_port(), 0, list[tuple[float, float]]()
        for count in (0, *self.sizes.growing):
            await self._filled(fill.pending_messages, folder, f"http://127.0.0.1:{port}/", count - there)
            there = count
            site = ServerAlone(self._folder(f"pending-{count}"), folder, port)
            async with running(site):
                points.append((count, (await d1(site, self.sizes))["rate"]))
        series = (Series("delivered", tuple(points)),)
        self.growth.charts.append(
            Chart("pending", "D2: deliveries beside pending messages", "pending messages", "messages/s", series, True)
        )
        shares = number(100 * points[-1][1] / points[0][1])
        self.growth.sentences.append(f"Beside {there:,} pending messages, {shares} % of the speed without any.")

    async def lists(self) -> None:
        """Read pages of dead letters and of logs, of ever more of them."""
        folder, there = self.room / "lists", 0
        pages: dict[str, list[tuple[float, float]]] = {"dlq": [], "logs": []}
        for count in self.sizes.growing:
            await self._filled(fill.dead_letters, folder, count - there)
            there = count
            site = ServerAlone(self._folder(f"lists-{count}"), folder)
            async with running(site):
                for path, points in pages.items():
                    points.append((count, percentile(await self._page_times_ms(site, path), 0.99)))
        series = tuple(Series(label, tuple(points)) for label, points in pages.items())
        chart = Chart("lists", "Pages of lists", f"rows; pages of {PAGE_ROWS}", "p99 of a page, ms", series, True)
        self.growth.charts.append(chart)
        last = ", ".join(f"{name} {number(points[-1][1])} ms" for name, points in pages.items())
        self.growth.sentences.append(f"The p99 of a page of {PAGE_ROWS} among {there:,} rows: {last} (aim: 50).")

    async def _page_times_ms(self, site: ServerAlone, path: str) -> list[float]:
        """Walk through a list from its beginning, and begin at moments all over it; return how long each page took."""
        url, token = site.environment["QSTASH_URL"], site.environment["QSTASH_TOKEN"]
        client, spent_ms, cursor = Client(urlsplit(url).port or 80), list[float](), ""
        now_ms = int(time.time() * 1000)
        span_ms = fill.BETWEEN_MS * self.sizes.growing[-1]
        for page in range(self.sizes.pages):
            at_ms = now_ms - span_ms * page // self.sizes.pages
            place = f"&cursor={quote(cursor)}" if page % 2 and cursor else f"&toDate={at_ms}"
            request = (
                f"GET /v2/{path}?count={PAGE_ROWS}{place} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\n\r\n"
            )
            began_s = time.perf_counter()
            status, body = await client.exchange(request.encode())
            spent_ms.append((time.perf_counter() - began_s) * 1000)
            if status != 200:
                raise BenchError(f"{path} answered {status}: {body[:200]!r}")
            cursor = str(json.loads(body).get("cursor") or "")
        return spent_ms

    @asynccontextmanager
    async def _ours(self, name: str) -> AsyncGenerator[Ours]:
        site = Ours(self._folder(name))
        async with running(site):
            yield site

    def _folder(self, name: str) -> Path:
        folder = self.room / f"growth-{name}"
        folder.mkdir()
        return folder

    async def _filled(self, how: Callable[..., Awaitable[None]], folder: Path, *arguments: str | int) -> None:
        bar = self.progress.add_task(f"filling in {arguments[-1]:,} rows", total=int(arguments[-1]))
        await how(folder, *arguments, lambda size: self.progress.advance(bar, size))
        self.progress.remove_task(bar)


async def grow(room: Path, sizes: Sizes, progress: Progress) -> Growth:
    """Measure every growth, one after the other; what fails is told in `failures`."""
    growth = Growth()
    growing = _Growing(room, sizes, progress, growth)
    parts = (growing.rows, growing.sleepers, growing.pending, growing.lists)
    bar = progress.add_task("growth", total=len(parts))
    for part in parts:
        progress.update(bar, description=f"growth: {part.__name__}")
        try:
            async with asyncio.timeout(PART_S):
                await part()
        except TimeoutError:
            growth.failures.append(f"growth of {part.__name__}: not done in {PART_S:g} s")
        except (BenchError, OSError) as error:
            growth.failures.append(f"growth of {part.__name__}: {error}")
        progress.advance(bar)
    return growth
