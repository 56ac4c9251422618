"""What a context asks of the pass that its function runs in: steps, timers, waits, runs of other functions."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from idioteque.context import StepOptions
from idioteque.engine.answers import Delivery
from idioteque.engine.failures import raised
from idioteque.engine.inline import InlinePass
from idioteque.engine.lines import Place, lines_of
from idioteque.engine.outbox import Outbox
from idioteque.engine.reporting import RunLogger, run_logger
from idioteque.engine.step import MISSING, Step, current
from idioteque.engine.timers import Prepare, Sleep, Wait
from idioteque.engine.waits import Watch
from idioteque.function import Published
from idioteque.ids import derived_id
from idioteque.paths import Path, path_text
from idioteque.store import NEVER_MS, Started
from idioteque.values import Codec, NotSerializable, codec_of


class Asks:
    """The engine's side of a context, for one pass."""

    def __init__(self, one: InlinePass, started: Started, outbox: Outbox) -> None:
        self._own = one
        self._started = started
        self._outbox = outbox
        self._decoded: tuple[Callable[..., Any], Codec] | None = None
        """The callable whose result was decoded last, and its codec."""

    @property
    def _pass(self) -> InlinePass:
        """The pass that the caller runs in: of a step that was lent to another delivery, that one's."""
        scope = current.get(None)
        if scope is None:
            return self._own
        if isinstance(scope.owner, InlinePass) and scope.owner.lease.run_id == self._own.lease.run_id:
            return scope.owner
        return self._own

    async def execute(
        self, key: str, call: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], options: StepOptions
    ) -> Any:
        one = self._pass
        if one.is_refusing:
            await one.park()
        path = one.register(key)
        outcome = one.at_hand(path)
        if outcome is None:
            step = Step(one, path, call, args, kwargs, options)
            outcome = await one.outcome_of(step)
            decoded = step.decoded(outcome)
            if decoded is not MISSING:
                return decoded
        if not outcome.ok:
            raise raised(path_text(path), outcome.payload)
        try:
            return self._codec_of(call).decode(outcome.payload)
        except NotSerializable as error:  # what is recorded cannot be read any more: a fault of ours
            one.fault(NotSerializable(f"step {path_text(path)!r}: {error}"))
            return await one.park()

    def _codec_of(self, call: Callable[..., Any]) -> Codec:
        """Return a callable's codec; a loop over one callable finds it at once."""
        if self._decoded is None or self._decoded[0] is not call:
            self._decoded = call, codec_of(call)
        return self._decoded[1]

    async def sleep(self, key: str, due_at_ms: int) -> None:
        await self._pass.outcome_of(Sleep(self._pass, await self._path(key), due_at_ms))

    async def wait(self, key: str, types: Sequence[str], where: Mapping[str, object], until_ms: int) -> bytes | None:
        watch = Watch(self._pass.store, self._pass.lease, self._started, types, where)
        return await self._awaited(key, until_ms, f"event {' or '.join(types)}", watch.prepare)

    async def invoke(self, key: str, function_id: str, event: object) -> bytes:
        encoded = self._outbox.encode(event)
        lease = self._pass.lease

        async def start(path: Path) -> None:
            parent = (lease.run_id, path, lease.path)
            options: dict[str, Any] = json.loads(self._started.options)
            await self._outbox.invoke(parent, function_id, encoded, options, self._started.epoch)

        result = await self._awaited(key, NEVER_MS, f"a run of {function_id}", start)
        assert result is not None
        return result

    async def _awaited(self, key: str, until_ms: int, waits_for: str, prepare: Prepare) -> bytes | None:
        step = Wait(self._pass, await self._path(key), until_ms, waits_for, prepare)
        outcome = await self._pass.outcome_of(step)
        if not outcome.ok:
            raise raised(path_text(step.path), outcome.payload)
        return outcome.payload

    async def publish(self, key: str, event: object) -> Published:
        encoded = self._outbox.encode(event)
        event_id = derived_id("evt", self._pass.lease.run_id, *self._pass.scope().path, key)
        published: Published = await self.execute(key, self._outbox.publish, (event_id, encoded), {}, StepOptions())
        return published

    def logger(self, delivery: Delivery) -> RunLogger:
        """Return what the function logs with: the lines go to the worker's log, and are kept with the run."""
        return run_logger(self._own.lease.run_id, self._started, delivery, self._keep)

    def _keep(self, level: int, text: str) -> None:
        """Keep a line for the run's own log."""
        one = self._pass
        scope = one.scope()
        lines = None if one.is_over else lines_of(one)  # what cleaning up says, each pass says anew
        if lines is not None:
            attempt = scope.attempt if isinstance(scope, Step) else self._started.attempts + 1
            lines.add(Place(scope.path, self._started.epoch, attempt, len(scope.keys)), level, text)

    @property
    def idempotency_key(self) -> str:
        return derived_id("key", self._pass.lease.run_id, *self._pass.scope().path)

    @property
    def fencing_token(self) -> int:
        return self._pass.lease.token

    async def _path(self, key: str) -> Path:
        """Take a key; code that catches each refusal and asks again is left waiting."""
        if self._pass.is_refusing:
            await self._pass.park()
        return self._pass.register(key)
