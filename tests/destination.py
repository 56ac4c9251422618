"""A real HTTP destination in a thread of the test: it keeps what it received and answers as it is told."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

WAIT_S = 20.0
POLL_S = 0.005


@dataclass(frozen=True, slots=True)
class Received:
    """One request, its target as it stood on the wire, header names in lower case."""

    method: str
    target: str
    headers: dict[str, str]
    body: bytes
    at_s: float

    @property
    def message_id(self) -> str:
        return self.headers.get("upstash-message-id", "")


Answer = Callable[[Received], "int | tuple[int, dict[str, str], bytes] | Awaitable[int]"]


@dataclass
class Destination:
    """`received` grows while the test goes on."""

    port: int = 0
    received: list[Received] = field(default_factory=list)
    answer: Answer = lambda _: 200

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def message_ids(self) -> set[str]:
        return {request.message_id for request in list(self.received)}

    def wait_for(self, count: int) -> list[Received]:
        """Return the requests once there are so many."""
        until(lambda: len(self.received) >= count)
        return list(self.received)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await self._serve(reader, writer)
        finally:
            writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
                method, target, _ = head[0].split(" ")
                headers = {
                    name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:-2])
                }
                body = await reader.readexactly(int(headers.get("content-length", 0)))
                request = Received(method, target, headers, body, time.monotonic())
                self.received.append(request)
                given = self.answer(request)
                answer = given if isinstance(given, int | tuple) else await given
                status, extra, content = answer if isinstance(answer, tuple) else (answer, {}, b"")
                lines = "".join(f"{name}: {value}\r\n" for name, value in extra.items())
                writer.write(f"HTTP/1.1 {status} X\r\n{lines}Content-Length: {len(content)}\r\n\r\n".encode() + content)
                await writer.drain()


@contextmanager
def open_destination(answer: Answer = lambda _: 200, port: int = 0) -> Iterator[Destination]:
    """Listen on a loopback port until the block ends."""
    destination = Destination(answer=answer)
    ready, loop = threading.Event(), asyncio.new_event_loop()

    async def main() -> None:
        server = await asyncio.start_server(destination.serve, "127.0.0.1", port)
        destination.port = server.sockets[0].getsockname()[1]
        ready.set()
        await stop.wait()
        server.close()
        tasks = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await server.wait_closed()
        await asyncio.sleep(0)  # the aborted connections close in the next turn

    stop = asyncio.Event()
    thread = threading.Thread(target=loop.run_until_complete, args=(main(),), daemon=True)
    thread.start()
    assert ready.wait(WAIT_S)
    try:
        yield destination
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join(WAIT_S)
        loop.close()


def until(condition: Callable[[], bool], deadline_s: float = WAIT_S) -> None:
    """Return once a condition holds; fail when it does not in time."""
    end_s = time.monotonic() + deadline_s
    while not condition():
        assert time.monotonic() < end_s, "the condition did not come true in time"
        time.sleep(POLL_S)
