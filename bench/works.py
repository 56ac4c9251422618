"""The workloads: what is asked of a site, and the figures that come of it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from bench.figures import percentile
from bench.processes import LOOK_EVERY_S, BenchError
from bench.sites.ours import Ours
from bench.sites.server_alone import ServerAlone
from bench.sites.site import Site

Figures = dict[str, float]
DOWN_S = 1.0  # how long a killed worker is away
IN_FLIGHT = 64
THROUGHPUT = ("W1", "W2")
"""What is measured with as many worker processes as serve best; one process does the others."""
MS_NS, S_NS = 1e6, 1e9


@dataclass(frozen=True, slots=True)
class Sizes:
    """How much work there is."""

    events: int = 2000
    events_per_s: float = 50
    latency_s: float = 10
    runs: int = 500
    steps: int = 10
    parallel: int = 1000
    rows: tuple[int, ...] = (100, 300, 1000, 3000)
    killed_runs: int = 200
    messages: int = 20_000
    pending: int = 1_000_000
    sleepers: int = 10_000
    sleeper_parts: int = 10
    growing: tuple[int, ...] = (1000, 10_000, 100_000, 1_000_000)
    pages: int = 300


FULL = Sizes()
QUICK = Sizes(
    events=100, latency_s=1, runs=20, parallel=50, rows=(100, 300), killed_runs=20, messages=500, pending=5000,
    sleepers=100, sleeper_parts=2, growing=(100, 1000), pages=20,
)  # fmt: skip


async def w1(site: Site, sizes: Sizes) -> Figures:
    """Publish events as fast as it goes; each starts one function with one step that does nothing."""
    count, spent_s = max(1, int(sizes.events * site.part)), site.cpu_s()
    first, called_ns = await site.order("one", count, in_flight=IN_FLIGHT)
    ended_ns = await site.all_ended(first, count)
    return {
        "rate": count * S_NS / (max(ended_ns) - min(called_ns)),
        "cpu_ms": (site.cpu_s() - spent_s) * 1000 / count,
    }


async def w1_latency(site: Site, sizes: Sizes) -> Figures:
    """Publish events at an even pace, and look at what each waits for."""
    count = int(sizes.events_per_s * sizes.latency_s)
    first, called_ns = await site.order("one", count, per_s=sizes.events_per_s)
    ended_ns = await site.all_ended(first, count)
    began_ns = [site.journal.began_ns[number] for number in range(first, first + count)]
    body = [(began - called) / MS_NS for began, called in zip(began_ns, called_ns, strict=True)]
    done = [(ended - called) / MS_NS for ended, called in zip(ended_ns, called_ns, strict=True)]
    return {
        **{f"body_p{part}": percentile(body, part / 100) for part in (50, 95, 99)},
        **{f"done_p{part}": percentile(done, part / 100) for part in (50, 95, 99)},
    }


async def w2(site: Site, sizes: Sizes) -> Figures:
    """Run functions of ten steps in a row, each returning 100 bytes."""
    count, spent_s = max(1, int(sizes.runs * site.part)), site.cpu_s()
    first, called_ns = await site.order("seq", count, steps=sizes.steps, in_flight=IN_FLIGHT)
    ended_ns = await site.all_ended(first, count)
    return {
        "rate": count * sizes.steps * S_NS / (max(ended_ns) - min(called_ns)),
        "cpu_s": (site.cpu_s() - spent_s) * 1000 / (count * sizes.steps),
    }


async def w3(site: Site, sizes: Sizes) -> Figures:
    """Run one function that awaits many steps at once."""
    return {"seconds": await _one_run(site, "par", sizes.parallel)}


async def w4(site: Site, sizes: Sizes) -> Figures:
    """Run one function of ever more steps in a row."""
    rows = [steps for steps in sizes.rows if steps <= site.steps_max]
    spent = {steps: await _one_run(site, "seq", steps) for steps in rows}
    figures = {f"seconds_{steps}": seconds for steps, seconds in spent.items()}
    return figures | {"ms_a_step": spent[rows[-1]] * 1000 / rows[-1], "growth": growth(spent)}


async def w4_isolated(site: Site, sizes: Sizes) -> Figures:
    """Do the same with each step in a delivery of its own, and count the messages that are needed."""
    if not isinstance(site, Ours):
        raise BenchError(f"{site.name} has no deliveries of steps")
    spent, extra = dict[int, float](), 0
    for steps in sizes.rows:
        before = site.message_count()
        spent[steps] = await _one_run(site, "seq", steps, mode="isolated")
        extra = max(extra, site.message_count() - before - steps)
    figures = {f"seconds_{steps}": seconds for steps, seconds in spent.items()}
    return figures | {"growth": growth(spent), "extra": extra}


def growth(spent: dict[int, float]) -> float:
    """Return how much longer a step takes in a row of 1,000, or else in the longest, than in the shortest."""
    short, long = min(spent), 1000 if 1000 in spent else max(spent)
    return (spent[long] / long) / (spent[short] / short)


async def w5(site: Site, sizes: Sizes) -> Figures:
    """Kill the worker half way through many functions of ten steps of 20 ms, and start it again."""
    count, steps = sizes.killed_runs, sizes.steps
    first, _ = await site.order("slow", count, steps=steps, waits=False)
    while sum(site.journal.steps.values()) < count * steps // 2:
        await asyncio.sleep(LOOK_EVERY_S)
        site.journal.read()
    site.worker.kill()
    site.journal.read()
    ended = len([number for number in site.journal.ended_ns if number >= first])
    await asyncio.sleep(DOWN_S)
    again_ns = time.monotonic_ns()
    site.worker.start()
    await site.worker_is_back()
    ended_ns = await site.all_ended(first, count)
    bodies = sum(site.journal.steps.values())
    return {
        "done": len(site.journal.steps) / (count * steps),
        "seconds": (max(ended_ns) - again_ns) / S_NS,
        "again": float(bodies - len(site.journal.steps)),
        "repeated": (bodies - len(site.journal.steps)) / max(1, count - ended),
    }


async def d1(site: Site, sizes: Sizes) -> Figures:
    """Publish messages to the server alone, as fast as it goes, until each was delivered and its end is stored."""
    alone = _server(site)
    spent_s = alone.server.cpu_s()
    seconds = await alone.drained(sizes.messages)
    return {
        "rate": sizes.messages / seconds,
        "cpu_us": (alone.server.cpu_s() - spent_s) * 1e6 / sizes.messages,
        "rss_mb": alone.server.peak_rss_mb(),
    }


async def d2(site: Site, sizes: Sizes) -> Figures:
    """Do the same beside messages that are due tomorrow, then kill the server and start it again."""
    figures = await d1(site, sizes)
    return {**figures, "ready_s": await _server(site).restart_server()}


async def _one_run(site: Site, function: str, steps: int, mode: str = "inline") -> float:
    """Return how long one run takes from its publish to its end, seconds."""
    first, called_ns = await site.order(function, 1, steps=steps, mode=mode)
    return (max(await site.all_ended(first, 1)) - min(called_ns)) / S_NS


def _server(site: Site) -> ServerAlone:
    if not isinstance(site, ServerAlone):
        raise BenchError(f"{site.name} is no server of messages")
    return site


WORKS: dict[str, Callable[[Site, Sizes], Awaitable[Figures]]] = {
    "W1": w1, "W1-lat": w1_latency, "W2": w2, "W3": w3, "W4": w4, "W4-isolated": w4_isolated, "W5": w5,
    "D1": d1, "D2": d2,
}  # fmt: skip
