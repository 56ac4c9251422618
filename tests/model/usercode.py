"""The functions under test are ordinary `async def` code, run by this small event loop.

It does what asyncio does, callback by callback, since it matters how many turns a result needs to rise through nested
gathers. It knows no time and no I/O: when nothing is ready, the code waits for steps.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Coroutine, Generator
from typing import Any


class StepFailed(Exception):
    """What the recorded failure of a step is raised as."""


class Oops(Exception):
    """An error of the function's own."""


class PassOver(BaseException):
    """Raised by a step that is asked for after its pass has ended."""


class Loop:
    """Calls what is ready, first come first served, until nothing is."""

    def __init__(self) -> None:
        self._ready: deque[Callable[[], None]] = deque()
        self.current: Task | None = None
        """The task that runs."""

    def soon(self, call: Callable[[], None]) -> None:
        self._ready.append(call)

    def settle(self) -> None:
        while self._ready:
            self._ready.popleft()()


class Future:
    """A value or an error to come; whoever waits is told in a later turn of the loop."""

    def __init__(self, loop: Loop) -> None:
        self.loop = loop
        self.is_done = False
        self.value: Any = None
        self.error: BaseException | None = None
        self._waiting: list[Callable[[], None]] = []

    def resolve(self, value: Any = None, error: BaseException | None = None) -> None:
        if not self.is_done:
            self.is_done, self.value, self.error = True, value, error
            for call in self._waiting:
                self.loop.soon(call)

    def then(self, call: Callable[[], None]) -> None:
        if self.is_done:
            self.loop.soon(call)
        else:
            self._waiting.append(call)

    def __await__(self) -> Generator[Future, None, Any]:
        if not self.is_done:
            yield self
        if self.error is not None:
            raise self.error
        return self.value


class Task(Future):
    """A coroutine at work."""

    def __init__(self, loop: Loop, coroutine: Coroutine[Future, None, Any]) -> None:
        super().__init__(loop)
        self._coroutine = coroutine
        loop.soon(self._step)

    def close(self) -> None:
        self.is_done = True
        self._coroutine.close()

    def _step(self) -> None:
        if self.is_done:
            return
        self.loop.current = self
        try:
            self._coroutine.send(None).then(self._step)
        except StopIteration as end:
            self.resolve(end.value)
        except (StepFailed, Oops, PassOver) as error:
            self.resolve(error=error)


def gather(loop: Loop, coroutines: tuple[Coroutine[Future, None, Any], ...]) -> Future:
    """All values in order; the first error there is, at once, while the others go on."""
    all_of, tasks = Future(loop), [Task(loop, each) for each in coroutines]

    def ended(task: Task) -> None:
        if task.error is not None:
            all_of.resolve(error=task.error)
        elif all(each.is_done and each.error is None for each in tasks):
            all_of.resolve([each.value for each in tasks])

    for task in tasks:
        task.then(lambda task=task: ended(task))
    return all_of


async def race(loop: Loop, coroutines: tuple[Coroutine[Future, None, Any], ...]) -> tuple[int, ...]:
    """The places of the coroutines that have ended when the first is known to have, while the others go on."""
    first, tasks = Future(loop), [Task(loop, each) for each in coroutines]
    for task in tasks:
        task.then(first.resolve)
    await first
    return tuple(place for place, task in enumerate(tasks) if task.is_done)
