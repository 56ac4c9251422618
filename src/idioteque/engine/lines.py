"""What a function logs in one pass, on its way to the store: beside the next write that the pass makes anyway.

A replay comes past the same lines again. A function, or a step that runs steps, asks for its steps in an order that
stays the same; so what it says before it has asked for as many as are on record, it has said before, and it is not kept
again. What it says after that may have been kept all the same, by a pass that went on to wait: such a line has the same
id in every pass, by its place among the steps. A step that runs no steps says its lines each time that it really runs.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections import Counter, deque
from collections.abc import Awaitable, Collection, Coroutine
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from idioteque.clock import Clock
from idioteque.errors import first_line
from idioteque.ids import derived_id
from idioteque.paths import BODY, Path
from idioteque.runlog import LEVEL_LENGTH_MAX, LINES_KEPT, LOG_BYTES_MAX, LogLine, RunLog, line_text, run_log_of
from idioteque.store import Lease, Store

T = TypeVar("T")

_log = logging.getLogger("idioteque")
_making = threading.Lock()


@dataclass(frozen=True, slots=True)
class Place:
    """Where a line is written: in the function or the step at `path`, after it has asked for so many steps."""

    path: Path
    epoch: int
    attempt: int
    asked: int


class LoggedPass(Protocol):
    """A pass whose lines are kept."""

    lease: Lease
    store: Store
    clock: Clock
    lines: Lines | None

    @property
    def known(self) -> Collection[Path]:
        """The steps of which something is on record."""
        ...


class Lines:
    """The lines of one pass that wait for a write; any thread may add to them."""

    def __init__(self, run_log: RunLog, clock: Clock, lease: Lease, known: Collection[Path]) -> None:
        self._run_log = run_log
        self._clock = clock
        self._lease = lease
        self._known = Counter(path[:-1] for path in known)
        """How many steps are on record of the function, and of each step that runs some."""
        self._last: dict[Path, tuple[Place, int]] = {}
        """Of the function and each such step: where its last line was written, as the how-manieth there."""
        self._waiting: deque[LogLine] = deque()
        self._bytes = 0
        self._cut = 0
        self._number = 0
        self._lock = threading.Lock()

    def add(self, place: Place, level: int, text: str) -> None:
        """Take a line, unless it is one of a replay, or of a place that another delivery is at work on."""
        lease = self._lease
        if place.path[: len(lease.path)] != lease.path or place.asked < self._known[place.path]:
            return
        name = logging.getLevelName(level)[:LEVEL_LENGTH_MAX]
        with self._lock:
            self._number += 1
            line = LogLine(
                self._id(place),
                self._clock.now_ms(),
                self._number,
                name,
                place.path,
                place.attempt,
                line_text(text),
            )
            self._waiting.append(line)
            self._bytes += line.bytes
            while len(self._waiting) > LINES_KEPT or self._bytes > LOG_BYTES_MAX:
                self._bytes -= self._waiting.popleft().bytes
                self._cut += 1

    def _id(self, place: Place) -> str:
        if place.path != BODY and not place.asked:
            where = f"{self._lease.token} {self._number}"
        else:
            last, count = self._last.get(place.path, (place, 0))
            count = count + 1 if last == place else 1
            self._last[place.path] = place, count
            where = f"{place.epoch} {place.attempt} {place.asked} {count}"
        return derived_id("log", *place.path, "", where)

    async def write_beside(self, writing: Coroutine[Any, Any, T]) -> T:
        """Make a write of the pass, and next to it that of the lines, so that a store that can commits both at once."""
        if not self._waiting:
            return await writing
        answers: tuple[None, T] = await asyncio.gather(self._write(), writing)
        return answers[1]

    async def _write(self) -> None:
        """Give the store what waits. What it does not take is lost: a line never holds a run up."""
        with self._lock:
            lines, cut = list(self._waiting), self._cut
            self._waiting.clear()
            self._bytes = self._cut = 0
        try:
            await self._run_log.note_lines(self._lease.run_id, lines, cut)
        except Exception as error:
            told = {"run_id": self._lease.run_id}
            _log.warning("%d lines of run %s: %s", len(lines), self._lease.run_id, first_line(error), extra=told)


def beside(lines: Lines | None, writing: Coroutine[Any, Any, T]) -> Awaitable[T]:
    """Return what makes a write of a pass and takes its lines along; where nothing was logged, the write alone."""
    return writing if lines is None else lines.write_beside(writing)


def lines_of(one: LoggedPass) -> Lines | None:
    """Return the lines of a pass; None where the store keeps none."""
    run_log = run_log_of(one.store) if one.lines is None else None
    if run_log is not None:
        with _making:
            one.lines = one.lines or Lines(run_log, one.clock, one.lease, one.known)
    return one.lines
