"""Steps that call nothing: a sleep ends when its time has come, a wait also when what it waits for is there."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from idioteque.context import StepOptions
from idioteque.engine.step import Pass, Step
from idioteque.paths import Path
from idioteque.store import NEVER_MS, Done, Gone, Outcome, Recorded

Prepare = Callable[[Path], Awaitable[Recorded | None]]
"""Sets up what will bring a wait's outcome; returns it if it is there already."""
NOTHING = Outcome(True, b"null")


class Sleep(Step):
    """A step that is done when its time has come."""

    def __init__(self, owner: Pass, path: Path, due_at_ms: int) -> None:
        super().__init__(owner, path, _nothing, (), {}, StepOptions())
        self._asked_at_ms = due_at_ms

    async def _to_its_end(self) -> Outcome | None:
        answer = await self.owner.store.schedule(self.owner.lease, self.path, self._asked_at_ms)
        if isinstance(answer, Gone):
            self.owner.lose()
            return None
        if isinstance(answer, Done):
            return await self._commit(answer.outcome)
        self._due_at_ms = answer.at_ms
        return await self._commit(NOTHING) if await self._is_due() else None


class Wait(Step):
    """A step whose outcome comes from elsewhere, or is nothing once its time is over."""

    def __init__(self, owner: Pass, path: Path, until_ms: int, waits_for: str, prepare: Prepare) -> None:
        super().__init__(owner, path, _nothing, (), {}, StepOptions())
        self._until_ms = until_ms
        self._waits_for = waits_for
        self._prepare = prepare

    async def _to_its_end(self) -> Outcome | None:
        """Fix the end of the wait, let whatever brings the outcome be set up, and see whether it is there already."""
        owner = self.owner
        answer = await owner.store.schedule(owner.lease, self.path, self._until_ms, self._waits_for)
        if isinstance(answer, Gone):
            owner.lose()
            return None
        if isinstance(answer, Done):
            return await self._commit(answer.outcome)
        self._due_at_ms = answer.at_ms
        owner.meanwhile.expect(self.path)
        found = await self._prepare(self.path)
        if found is not None:
            owner.remember(found.path, found.outcome, found.seq)
            return found.outcome
        owner.nothing_came(self.path)
        if answer.at_ms >= NEVER_MS:
            owner.awaits = True
            return None
        return await self._commit(NOTHING) if await self._is_due() else None


def _nothing() -> None:
    return None
