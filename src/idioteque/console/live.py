"""Live pages: a stream of server-sent events that brings a page's content anew whenever it has changed."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Awaitable, Callable

from starlette.responses import PlainTextResponse, Response, StreamingResponse

from idioteque.clock import Clock
from idioteque.console.settings import ConsoleSettings
from idioteque.errors import IdiotequeError

Look = Callable[[], Awaitable[tuple[str, Callable[[], str]] | None]]
"""Returns the mark of what a page says, with what makes its HTML; None when there is nothing to stream any more."""

KEEP_ALIVE_LOOKS = 15
RETRY_MS = 2000


class Streams:
    """The live streams of one console; each looks at its page once a second, and sends what is new."""

    def __init__(self, settings: ConsoleSettings, clock: Clock) -> None:
        self._settings = settings
        self._clock = clock
        self._count = 0
        self._ended = asyncio.Event()

    def end(self) -> None:
        """End every stream."""
        self._ended.set()

    def open(self, look: Look, seen: str) -> Response:
        """Return a stream to who has `seen` the page with this mark already, or say that there are too many."""
        if self._count >= self._settings.live_streams_max:
            return PlainTextResponse("too many live pages are open", 503, headers={"Retry-After": "30"})
        return StreamingResponse(
            self._events(look, seen), media_type="text/event-stream", headers={"X-Accel-Buffering": "no"}
        )

    async def _events(self, look: Look, last: str) -> AsyncGenerator[str, None]:
        self._count += 1
        try:
            yield f"retry: {RETRY_MS}\n\n"
            unchanged = 0
            until_s = self._clock.monotonic_s() + self._settings.live_stream_s
            while not self._ended.is_set() and self._clock.monotonic_s() < until_s:
                try:
                    found = await look()
                except IdiotequeError:
                    found = (last, str)  # the page's own reload tells more than a stream could
                if found is None:
                    yield "event: over\ndata: {}\n\n"
                    return
                mark, drawn = found
                if mark != last:
                    yield f"event: page\ndata: {json.dumps({'html': drawn()})}\n\n"
                    last, unchanged = mark, 0
                else:
                    unchanged += 1
                    if unchanged % KEEP_ALIVE_LOOKS == 0:
                        yield ": still here\n\n"
                await self._pause()
        finally:
            self._count -= 1

    async def _pause(self) -> None:
        waits = {
            asyncio.ensure_future(self._ended.wait()),
            asyncio.ensure_future(self._clock.sleep(self._settings.live_every_s)),
        }
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()
