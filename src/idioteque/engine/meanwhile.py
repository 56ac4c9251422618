"""What a pass and others record while it is at work: the pass sees it in the order of the commits, or learns of it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol

from idioteque.engine.arrivals import Arrivals
from idioteque.paths import Path
from idioteque.store import Recorded

Later = Callable[[int], Awaitable[Sequence[Recorded] | None]]
"""Reads the outcomes from a `seq` on; None when the lease is not held any more."""


class Seeing(Protocol):
    """What this needs of its pass."""

    @property
    def is_stopping(self) -> bool: ...
    def see(self, recorded: Recorded) -> None: ...
    def lose(self) -> None: ...
    def fault(self, error: BaseException) -> None: ...
    def goes_on(self) -> None: ...
    def rests(self) -> None: ...


class Meanwhile:
    """Shows a pass what is recorded since it began.

    A gap before what a step of the pass has recorded is of somebody else. It costs one more reading, unless nobody else
    records anything that the pass sees (`are_others` is false): so it is in the delivery of one step whose own steps
    wait for nothing, where all that others record belongs to other steps.
    """

    def __init__(self, known: Sequence[Recorded], later: Later, *, are_others: bool) -> None:
        self._arrivals = Arrivals(known)
        self._later = later
        self._reading: asyncio.Task[None] | None = None
        self.are_others = are_others
        self.recorded: list[Recorded] = []
        """What was recorded since the pass began, in the order of the history."""

    def expect(self, path: Path) -> None:
        """Note that the outcome of a step is about to be recorded."""
        self._arrivals.expect(path)

    def add(self, one: Seeing, recorded: Recorded) -> None:
        """Take the outcome of a step that is on record now."""
        self._show(one, self._arrivals.add(recorded))

    def expect_no_more(self, one: Seeing, path: Path) -> None:
        """Note that there was nothing to record after all."""
        self._arrivals.expect_no_more(path)
        self._show(one, ())

    def _show(self, one: Seeing, arrived: Sequence[Recorded]) -> None:
        for recorded in arrived:
            if not self.recorded or recorded.seq > self.recorded[-1].seq:
                self.recorded.append(recorded)
            one.see(recorded)
        if not self._arrivals.is_missing or self._reading is not None or one.is_stopping:
            return
        if self.are_others:
            one.goes_on()
            self._reading = asyncio.ensure_future(self._read(one))
        else:
            self._show(one, self._arrivals.fill(()))

    async def _read(self, one: Seeing) -> None:
        """Learn what others have recorded before what is held back."""
        try:
            found = await self._later(self._arrivals.last)
            self._reading = None
            if found is None:
                one.lose()
            else:
                self._show(one, self._arrivals.fill(found))
        except Exception as error:
            one.fault(error)
        finally:
            one.rests()
