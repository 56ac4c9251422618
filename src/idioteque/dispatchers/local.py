"""Messages that never leave this process: a queue with delays, retries and deduplication, and nothing durable.

`InlineDispatcher` calls the mount directly, for tests; `HttpDispatcher` posts to its URL, for development without a
QStash. When the process ends, whatever was not delivered is lost.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from idioteque.clock import Clock, SystemClock
from idioteque.dispatcher import CALLBACK_HEADER, FAILURE_CALLBACK, Outgoing, failure_callback
from idioteque.durations import Duration, seconds
from idioteque.errors import ConfigurationError, TransportError, first_line
from idioteque.function import Function
from idioteque.ids import derived_id, new_id, nonce
from idioteque.mount import Mount
from idioteque.tracing import forgotten
from idioteque.transport import HttpRequest, HttpResponse, HttpTransport, PooledTransport
from idioteque.worker import Worker, build_mount

DEFAULT_RETRIES = 3
BACKOFF_S = (1.0, 45.0, 2025.0)
IDS_KEPT_MAX = 100_000
DEAD_LETTERS_KEPT_MAX = 1000

_log = logging.getLogger("idioteque")


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A message that was given up: its body, how often it was tried, and the last answer."""

    message_id: str
    body: bytes
    attempts: int
    reason: str


class LocalDispatcher:
    """What both have in common: everything but how one attempt is made."""

    def __init__(self, *, retries: int = DEFAULT_RETRIES, clock: Clock | None = None) -> None:
        self.retries = retries
        self.dead_letters: list[DeadLetter] = []
        self._clock = clock or SystemClock()
        self._accepted: dict[str, str] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    async def dispatch(
        self,
        data: object,
        *,
        retries: int | None = None,
        delay: Duration | None = None,
        deduplication_id: str | None = None,
    ) -> str:
        """Queue one JSON document and return the message's id."""
        body = json.dumps(data, separators=(",", ":")).encode()
        delay_s = 0.0 if delay is None else seconds(delay, "delay")
        outgoing = Outgoing(body, derived_id("dd", deduplication_id or nonce()), delay_s, retries)
        return (await self.send([outgoing]))[0]

    async def send(self, messages: Sequence[Outgoing]) -> Sequence[str]:
        return [self._accept(message) for message in messages]

    @property
    def pending(self) -> int:
        """How many messages are queued, in progress or waiting to be tried again."""
        return len(self._tasks)

    async def drain(self) -> None:
        """Return once nothing is queued, in progress or waiting to be tried again, on whatever loop it was sent."""
        while tasks := list(self._tasks):
            for task in tasks:
                await self._ended(task)

    async def close(self) -> None:
        """Drop whatever is queued, and what deliveries send while they end."""
        while tasks := list(self._tasks):
            for task in tasks:
                with contextlib.suppress(RuntimeError):  # its loop is closed
                    task.get_loop().call_soon_threadsafe(task.cancel)
            for task in tasks:
                await self._ended(task)

    async def _ended(self, task: asyncio.Task[None]) -> None:
        loop = task.get_loop()
        if loop is asyncio.get_running_loop():
            await asyncio.wait([task])
        elif loop.is_closed():
            self._tasks.discard(task)
        else:
            await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(_wait(task), loop))

    def _accept(self, message: Outgoing) -> str:
        known = self._accepted.get(message.deduplication_id)
        if known is not None:
            return known
        message_id = new_id("msg", self._clock.now_ms())
        self._accepted[message.deduplication_id] = message_id
        while len(self._accepted) > IDS_KEPT_MAX:
            del self._accepted[next(iter(self._accepted))]
        message = replace(message, headers=[*message.headers, *message.trace_headers()])
        with forgotten():
            task = asyncio.get_running_loop().create_task(self._deliver(message_id, message))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return message_id

    async def _deliver(self, message_id: str, message: Outgoing) -> None:
        await self._clock.sleep(message.delay_s)
        retries = self.retries if message.retries is None else message.retries
        for retried in range(retries + 1):
            headers = [
                ("Content-Type", "application/json"),
                ("Upstash-Message-Id", message_id),
                ("Upstash-Retried", str(retried)),
                *message.headers,
            ]
            try:
                response = await self._attempt(headers, message.body)
            except Exception as error:  # as a server would answer for its application
                _log.exception("the mount failed")
                response = HttpResponse(500, body=first_line(error).encode())
            if response.ok:
                return
            if retried == retries or response.header("Upstash-NonRetryable-Error") == "true":
                await self._give_up(message_id, message, retried + 1, response)
                return
            await self._clock.sleep(BACKOFF_S[min(retried, len(BACKOFF_S) - 1)])

    async def _give_up(self, message_id: str, message: Outgoing, attempts: int, response: HttpResponse) -> None:
        """Keep a dead letter and tell the mount of it; the end of what tells is told nobody."""
        reason = f"{response.status}: {response.body[:500].decode(errors='replace')}"
        _log.error("message %s was given up after %d attempts: %s", message_id, attempts, reason)
        if (CALLBACK_HEADER, FAILURE_CALLBACK) in message.headers:
            return
        self.dead_letters.append(DeadLetter(message_id, message.body, attempts, reason))
        del self.dead_letters[:-DEAD_LETTERS_KEPT_MAX]
        told = failure_callback(message.body, message_id, attempts, response.status, response.body)
        headers = [(CALLBACK_HEADER, FAILURE_CALLBACK)]
        callback = Outgoing(told, derived_id("dd", "failure", message_id), retries=message.retries, headers=headers)
        await self._deliver(new_id("msg", self._clock.now_ms()), callback)

    async def _attempt(self, headers: list[tuple[str, str]], body: bytes) -> HttpResponse:
        raise NotImplementedError

    def mount(
        self,
        worker: Worker,
        *,
        functions: Sequence[Function] | None = None,
        mode: Literal["inline", "isolated"] = "inline",
        deadline: Duration | None = None,
    ) -> Mount:
        """Return the endpoint for this worker's deliveries, for some of its functions or for all; it is not signed."""
        return build_mount(worker, self, functions, None, self._clock, mode, deadline)


async def _wait(task: asyncio.Task[None]) -> None:
    await asyncio.wait([task])


class InlineDispatcher(LocalDispatcher):
    """Delivers within this process, straight to what was mounted: for tests and first steps."""

    def __init__(self, *, retries: int = DEFAULT_RETRIES, clock: Clock | None = None) -> None:
        super().__init__(retries=retries, clock=clock)
        self._mount: Mount | None = None

    def mount(
        self,
        worker: Worker,
        *,
        functions: Sequence[Function] | None = None,
        mode: Literal["inline", "isolated"] = "inline",
        deadline: Duration | None = None,
    ) -> Mount:
        """Return the endpoint for this worker's deliveries; from now on, messages go to it."""
        self._mount = super().mount(worker, functions=functions, mode=mode, deadline=deadline)
        return self._mount

    async def _attempt(self, headers: list[tuple[str, str]], body: bytes) -> HttpResponse:
        if self._mount is None:
            return HttpResponse(503, body=b"nothing is mounted: call dispatcher.mount(worker)")
        return await self._mount.handle(HttpRequest("POST", "/", headers, body))


class HttpDispatcher(LocalDispatcher):
    """Posts messages to the mount, unsigned, from memory: for development only, where losing work does not matter."""

    def __init__(
        self,
        *,
        mount_url: str,
        retries: int = DEFAULT_RETRIES,
        transport: HttpTransport | None = None,
        clock: Clock | None = None,
    ) -> None:
        super().__init__(retries=retries, clock=clock)
        if not mount_url.startswith(("http://", "https://")):
            raise ConfigurationError(f"mount_url {mount_url!r} must be an absolute http:// or https:// URL")
        self.mount_url = mount_url
        self._transport = transport or PooledTransport()
        _log.warning("HttpDispatcher is for development only: nothing is signed, and a restart loses what was queued")

    async def close(self) -> None:
        """Drop whatever is queued, and let go of connections."""
        await super().close()
        await self._transport.close()

    async def _attempt(self, headers: list[tuple[str, str]], body: bytes) -> HttpResponse:
        try:
            return await self._transport.send(HttpRequest("POST", self.mount_url, headers, body))
        except TransportError as error:
            return HttpResponse(503, body=first_line(error).encode())
