"""Servers on the loopback interface that behave as badly as a test wants."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field


@dataclass
class Peer:
    """A running server: where it is, how often it was connected to, and all bytes of the requests it read."""

    port: int = 0
    connections: int = 0
    requests: list[bytes] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"


@asynccontextmanager
async def serving(behaviour: Behaviour, *, tls: ssl.SSLContext | None = None) -> AsyncIterator[Peer]:
    """Run a server that treats each connection so, and closes it afterwards."""
    peer = Peer()
    tasks: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        task.add_done_callback(tasks.discard)
        peer.connections += 1
        try:
            with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
                await behaviour(Wire(reader, writer, peer))
        finally:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=tls)
    peer.port = server.sockets[0].getsockname()[1]
    try:
        yield peer
    finally:
        server.close()
        for task in list(tasks):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


@dataclass
class Wire:
    """One connection, seen from the server."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    peer: Peer

    async def request(self) -> bytes:
        """Read one request to its end, by its Content-Length."""
        head = await self.reader.readuntil(b"\r\n\r\n")
        length = 0
        for line in head.lower().split(b"\r\n"):
            if line.startswith(b"content-length:"):
                length = int(line.partition(b":")[2])
        request = head + await self.reader.readexactly(length)
        self.peer.requests.append(request)
        return request

    async def send(self, raw: bytes) -> None:
        self.writer.write(raw)
        await self.writer.drain()

    async def closed_by_the_client(self) -> None:
        """Return when the other side has closed the connection."""
        await self.reader.read()

    def reset(self) -> None:
        """Cut the connection with a reset instead of an orderly end."""
        sock: socket.socket = self.writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()


Behaviour = Callable[[Wire], Awaitable[None]]


def answering(raw: bytes) -> Behaviour:
    """Answer each request of a connection with these bytes."""

    async def behaviour(wire: Wire) -> None:
        while True:
            await wire.request()
            await wire.send(raw)

    return behaviour


def saying(raw: bytes, then: str) -> Behaviour:
    """Read a request, send these bytes, and then "close", "reset" or "hang"."""

    async def behaviour(wire: Wire) -> None:
        await wire.request()
        await wire.send(raw)
        if then == "reset":
            wire.reset()
        elif then == "hang":
            await wire.closed_by_the_client()

    return behaviour
