"""Bodies that wait for steps with deliveries of their own: kept for a while, so that these need not run them again.

A delivery of a step runs the body only to find the step's callable. While the body of the delivery that asked for the
step is still there, suspended where it asked, its callable and its arguments are at hand: of a thousand parallel steps
none has to come to the others again. What a step returns, the body learns in its next delivery, from the history.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Coroutine, Generator
from contextlib import contextmanager
from contextvars import Context, ContextVar
from dataclasses import dataclass, field
from typing import Any, Protocol

from idioteque.clock import Clock
from idioteque.context import StepOptions
from idioteque.paths import Path

KEPT_S = 10.0
KEPT_MAX = 128
LOOK_EVERY_S = 1.0

Execute = Callable[[str, Callable[..., Any], tuple[Any, ...], dict[str, Any], StepOptions], Awaitable[Any]]


@dataclass(frozen=True, slots=True)
class Offer:
    """A step as the body asked for it; `context` are the context variables at that place."""

    call: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    options: StepOptions
    context: Context


class SuspendedBody(Protocol):
    """A pass whose body stands still."""

    offers: dict[Path, Offer]
    began_in: Context
    """The context variables with which the body began."""

    async def close(self) -> None:
        """Cancel the body, whose `finally` blocks run."""
        ...


@dataclass(slots=True)
class _Kept:
    body: SuspendedBody
    epoch: int
    loop: asyncio.AbstractEventLoop
    until_s: float
    borrowers: int = 0
    is_dropped: bool = field(default=False)


class KeptBodies:
    """The suspended bodies of one engine, one for each run at most; `end_later` sees a coroutine through to its end."""

    def __init__(self, clock: Clock, end_later: Callable[[Coroutine[Any, Any, None]], object]) -> None:
        self._clock = clock
        self._end_later = end_later
        self._kept: OrderedDict[str, _Kept] = OrderedDict()
        self._watching: asyncio.Task[None] | None = None

    def keep(self, run_id: str, epoch: int, body: SuspendedBody) -> None:
        """Keep a body until it is dropped, or its time is over."""
        loop = asyncio.get_running_loop()
        self.drop(run_id)
        self._kept[run_id] = _Kept(body, epoch, loop, self._clock.monotonic_s() + KEPT_S)
        while len(self._kept) > KEPT_MAX:
            self.drop(next(iter(self._kept)))
        if self._watching is None or self._watching.done() or self._watching.get_loop() is not loop:
            self._watching = loop.create_task(self._watch(loop))

    def drop(self, run_id: str) -> None:
        """Let a body go, at once or when the last step that it lent has ended."""
        kept = self._kept.pop(run_id, None)
        if kept is not None:
            kept.is_dropped = True
            self._close_unused(kept)

    @contextmanager
    def borrowed(self, run_id: str, epoch: int, path: Path) -> Generator[Offer | None]:
        """Lend a step of a kept body, which lives at least as long as the block; None when there is none here."""
        kept = self._kept.get(run_id)
        offer = None
        if kept is not None and kept.epoch == epoch and kept.loop is asyncio.get_running_loop():
            offer = kept.body.offers.get(path)
        if kept is None or offer is None:
            yield None
            return
        kept.borrowers += 1
        kept.until_s = self._clock.monotonic_s() + KEPT_S
        try:
            yield Offer(offer.call, offer.args, offer.kwargs, offer.options, _own(offer.context, kept.body.began_in))
        finally:
            kept.borrowers -= 1
            self._close_unused(kept)

    def _close_unused(self, kept: _Kept) -> None:
        if kept.is_dropped and not kept.borrowers and not kept.loop.is_closed():
            if kept.loop is asyncio.get_running_loop():
                self._end_later(kept.body.close())
            else:
                kept.loop.call_soon_threadsafe(lambda: self._end_later(kept.body.close()))

    async def _watch(self, loop: asyncio.AbstractEventLoop) -> None:
        """Let go of what nobody has asked for in a while."""
        while any(kept.loop is loop for kept in self._kept.values()):
            await self._clock.sleep(LOOK_EVERY_S)
            now_s = self._clock.monotonic_s()
            for run_id, kept in list(self._kept.items()):
                if kept.loop.is_closed():
                    del self._kept[run_id]
                elif kept.loop is loop and kept.until_s <= now_s and not kept.borrowers:
                    self.drop(run_id)


def run_offer(offer: Offer, key: str, execute: Execute) -> Callable[[], Awaitable[object]]:
    """Return a body that does nothing but run a step that another body asked for, with that one's variables."""

    async def body() -> object:
        for variable, value in offer.context.items():
            variable.set(value)
        return await execute(key, offer.call, offer.args, offer.kwargs, offer.options)

    return body


def _own(context: Context, before: Context) -> Context:
    """Return the variables that a body has set since it began."""
    own = Context()
    missing = object()

    def copy() -> None:
        variable: ContextVar[Any]
        for variable, value in context.items():
            if before.get(variable, missing) is not value:
                variable.set(value)

    own.run(copy)
    return own
