"""A world: processes that can die, a store, a transport, and one time for all of them, moved on by a plan."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, NoReturn, TypeVar

from idioteque.engine import Engine
from idioteque.errors import ConnectionCut, DatabaseError, DispatchError, IdiotequeError
from idioteque.mount import Mount
from idioteque.transport import HttpRequest, HttpResponse
from tests.simulation import faults
from tests.simulation.faults import Plan, Point
from tests.simulation.loop import MICROSECONDS, SimulatedLoop, Timers
from tests.simulation.ports import DispatcherPort, StorePort
from tests.simulation.post import Flight, Post, flight_here
from tests.simulation.program import Program
from tests.simulation.storage import storage
from tests.simulation.witness import Witness

START_MS = 1_700_000_000_000
WORKERS = 2
RESTART_S = 0.2
RESTART_ALL_S = 1.0
FREEZE_S = 11.0
AWAY_S = 5.0
LATE_S = (3.0, 20.0, 700.0, 3 * 86_400.0)
DELAYS_S = (0.05, 2.0, 12.0, 120.0)
TURNS_MAX = 400_000
ROUNDS_MAX = 6
IDLE_US = 20 * MICROSECONDS
TRACE_MAX = 20_000

T = TypeVar("T")


class Buried(IdiotequeError):
    """Raised by whatever the leftovers of a dead process still ask for."""


@dataclass(eq=False)
class Process:
    """One process: its loop, its clock, which may be wrong, and for a worker its mount."""

    world: World
    number: int
    skew_ms: int = 0
    mount: Mount | None = None

    def __post_init__(self) -> None:
        self.loop = SimulatedLoop(self.world.timers, self._failed)
        self.loop.process = self  # type: ignore[attr-defined]

    # ---- its clock

    def now_ms(self) -> int:
        return self.world.timers.now_us // 1000 + self.skew_ms

    def monotonic_s(self) -> float:
        return self.world.timers.now_us / MICROSECONDS

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(max(0.0, seconds))

    # ---- what it does

    def check_alive(self) -> None:
        """Raise `Buried` in what a dead process has left, once that is cleared away."""
        if self.loop.is_dead:
            raise Buried("the process is dead")

    @property
    def can_go_on(self) -> bool:
        return bool(self.loop.ready) and not (self.loop.is_frozen or self.loop.is_dead)

    def receive(self, flight: Flight, request: HttpRequest) -> None:
        """Begin with a delivery."""

        def begin() -> None:
            flight_here.set(flight)
            self.loop.create_task(self._handle(flight, request))

        self.loop.call_soon(begin)

    async def _handle(self, flight: Flight, request: HttpRequest) -> None:
        assert self.mount is not None
        mount = self.mount
        try:
            response = await self.through(faults.DELIVERY, flight.letter.id, lambda: mount.handle(request))
        except IdiotequeError as error:
            response = HttpResponse(502, body=str(error).encode())
        self.world.witness.ended(flight)
        self.world.post.answered(flight, response)

    async def through(self, name: str, about: str, call: Callable[[], Awaitable[T]]) -> T:
        """Make a call to something outside, with whatever the plan has for it."""
        world = self.world
        self.check_alive()
        fault = world.reach(self, name, about)
        await self._pause()
        await self._before(fault, name, about)
        result = await call()
        await self._after(fault, name)
        await self._pause()
        return result

    async def _before(self, fault: str | None, name: str, about: str) -> None:
        world = self.world
        if fault in (faults.CRASH_BEFORE, faults.KILL_ALL):
            await self._die(fault)
        elif fault in (faults.DUPLICATE, faults.DUPLICATE_LATE):
            flight = flight_here.get()
            if flight is not None:
                world.post.echo(flight.letter, 0.0 if fault == faults.DUPLICATE else world.late_s())
        elif fault == faults.FREEZE_BEFORE:
            world.post.cut(self)  # the transport gives up on it, and somebody else takes over
            await self._freeze()
        elif fault == faults.AWAY:
            world.away_until_us = world.timers.now_us + round(AWAY_S * MICROSECONDS)
        elif fault == faults.RESTART:
            world.post.restart()
        elif fault == faults.CANCEL and about.startswith("run_"):
            world.client.cancel(about)
            await asyncio.sleep(0.01)
        elif fault == faults.DELAY:
            await asyncio.sleep(DELAYS_S[world.plan.choose(len(DELAYS_S))])
        elif fault == faults.ERROR:
            raise _error(name)
        if name not in (faults.DELIVERY, "send") and world.away_until_us > world.timers.now_us:
            world.injected[faults.AWAY] += fault != faults.AWAY
            world.witness.edge("store away")
            raise _error(name)

    async def _after(self, fault: str | None, name: str) -> None:
        if fault == faults.CRASH_AFTER:
            await self._die(fault)
        elif fault == faults.FREEZE_AFTER:
            await self._freeze()
        elif fault == faults.LOST:
            raise _error(name)

    async def _pause(self) -> None:
        latency_s = self.world.plan.latency_s()
        if latency_s:
            await asyncio.sleep(latency_s)

    async def _die(self, fault: str) -> NoReturn:
        if fault == faults.KILL_ALL:
            self.world.kill_all()
        else:
            self.world.crash(self, RESTART_S)
        await self.loop.create_future()
        raise Buried("the process is dead")

    async def _freeze(self) -> None:
        self.loop.is_frozen = True
        self.world.timers.after(FREEZE_S, self._thaw)
        await asyncio.sleep(0)

    def _thaw(self) -> None:
        self.loop.is_frozen = False

    def _failed(self, context: dict[str, Any]) -> None:
        error = context.get("exception")
        self.world.violate(f"process {self.number}: {context['message']}: {error!r}")


def _error(name: str) -> Exception:
    if name == "send":
        return DispatchError("simulated: no answer")
    return ConnectionCut("simulated: cut") if name == faults.DELIVERY else DatabaseError("simulated: away")


@dataclass(eq=False)
class World:
    """One run of one program; `run` it to its end, then look at `violations`."""

    program: Program
    plan: Plan
    store_kind: str = "memory"
    mode: str = "inline"
    skews_ms: tuple[int, ...] = (0,) * WORKERS
    injected: Counter[str] = field(default_factory=Counter[str])
    violations: list[str] = field(default_factory=list[str])
    trace: list[str] = field(default_factory=list[str])
    points: int = 0
    turns: int = 0
    away_until_us: int = 0
    finished_us: int = 0
    is_repaired: bool = False
    """Whether what makes some programs fail has been mended."""

    def __post_init__(self) -> None:
        from tests.simulation.client import Client

        self.timers = Timers(START_MS)
        self.witness = Witness(self)
        self.post = Post(self)
        self.outside = Process(self, 0)  # its clock is the store's as well
        self.storage = storage(self.store_kind, self.outside)
        self.client = Client(self)
        self.workers = [self._worker(number) for number in range(1, WORKERS + 1)]
        self.graveyard: list[Process] = []
        self._picked = 0

    def _worker(self, number: int) -> Process:
        process = Process(self, number, self.skews_ms[number - 1])
        engine = Engine(
            self.program.functions,
            schema=self.program.schema,
            store=StorePort(process, self.storage.store),  # type: ignore[arg-type]
            dispatcher=DispatcherPort(process),
            clock=process,
            isolated=self.mode == "isolated",
        )
        process.mount = Mount(engine, None, clock=process, deadline_s=self.program.deadline_s)
        return process

    # ---- what happens to processes

    def pick(self) -> Process | None:
        """Return the process that a delivery goes to, or None when nobody listens."""
        alive = [process for process in self.workers if not process.loop.is_dead]
        return alive[self.plan.choose(len(alive))] if alive else None

    def crash(self, process: Process, restart_s: float) -> None:
        """End a process where it stands; another one takes its place after a while."""
        if process.loop.is_dead or process is self.outside:
            return
        process.loop.is_dead = True
        self.graveyard.append(process)
        self.note(f"process {process.number} is dead")
        self.witness.died(process)
        self.post.cut(process)
        self.timers.after(restart_s, lambda: self._replace(process))

    def _replace(self, process: Process) -> None:
        self.workers[process.number - 1] = self._worker(process.number)

    def kill_all(self) -> None:
        """End all workers at once."""
        for process in list(self.workers):
            self.crash(process, RESTART_ALL_S)

    def late_s(self) -> float:
        """Return how much later a late duplicate comes."""
        return LATE_S[self.plan.choose(len(LATE_S))]

    # ---- what is seen

    def reach(self, process: Process, name: str, about: str) -> str | None:
        """Count a call, and return the fault that the plan has for it."""
        self.points += 1
        fault = self.plan.fault(Point(self.points, process.number, name, about))
        if process is self.outside:
            fault = {faults.CRASH_BEFORE: faults.ERROR, faults.CRASH_AFTER: faults.LOST}.get(fault or "", fault)
            fault = fault if fault in (faults.ERROR, faults.LOST) else None
        if fault is not None:
            self.injected[fault] += 1
            self.witness.fault(process, name, fault)
        self.note(f"#{self.points} process {process.number} {name} {about}" + (f" !! {fault}" if fault else ""))
        return fault

    def note(self, text: str) -> None:
        """Write a line into the trace."""
        if len(self.trace) < TRACE_MAX:
            self.trace.append(f"{(self.timers.now_us - START_MS * 1000) / MICROSECONDS:12.3f} {text}")

    def violate(self, text: str) -> None:
        """Record that a promise was broken."""
        self.note(f"VIOLATION {text}")
        self.violations.append(text)

    # ---- its course

    def run(self) -> World:
        """Let everything happen, with faults and then without, and end what is left."""
        try:
            self.client.begin()
            for _ in range(ROUNDS_MAX):
                self._until_quiet()
                self.plan.stop()
                if not self.post.redrive():
                    break
            else:
                self.violate(f"messages are given up again and again: {self.post.dead[0].reason}")
            self.witness.check()
        finally:
            for process in (*self.workers, self.outside, *self.graveyard):
                process.loop.bury()
        return self

    def _until_quiet(self) -> None:
        while self.turns < TURNS_MAX:
            self.turns += 1
            able: list[Any] = [process for process in (self.outside, *self.workers) if process.can_go_on]
            if self.storage.has_work:
                able.append(self.storage)
            if able:
                chosen = able[self.plan.choose(len(able))] if len(able) > 1 else able[0]
                if isinstance(chosen, Process):
                    chosen.loop.turn()
                else:
                    chosen.step()
                continue
            due_us = self.timers.next_us()
            if due_us is None:
                return
            if due_us - self.timers.now_us > IDLE_US:
                self.witness.look_at_idle_runs()
            self.timers.advance()
        self.violate(f"it does not come to rest within {TURNS_MAX} turns")
