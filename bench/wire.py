"""The cheapest HTTP there is, for whoever stands beside the server under measure: a client and a destination."""

from __future__ import annotations

import asyncio
import re
from typing import cast

LENGTH = re.compile(rb"(?i)\r\ncontent-length: *(\d+)")
HEAD_END = b"\r\n\r\n"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"


class Framing(asyncio.Protocol):
    """Cuts what arrives into heads and bodies of a known length; nothing here sends chunks."""

    def __init__(self) -> None:
        self._received = b""
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is no subclass

    def data_received(self, data: bytes) -> None:
        self._received += data
        while (end := self._received.find(HEAD_END)) >= 0:
            head = self._received[: end + 2]
            found = LENGTH.search(head)
            whole = end + len(HEAD_END) + (int(found[1]) if found else 0)
            if len(self._received) < whole:
                return
            body, self._received = self._received[end + len(HEAD_END) : whole], self._received[whole:]
            self.message_received(head, body)

    def message_received(self, head: bytes, body: bytes) -> None:
        """Take one request or response."""
        raise NotImplementedError

    def send(self, data: bytes) -> None:
        assert self._transport is not None
        self._transport.write(data)


class Connection(Framing):
    """One connection of a client; one request at a time."""

    def __init__(self) -> None:
        super().__init__()
        self._answered: asyncio.Future[tuple[int, bytes]] | None = None

    async def exchange(self, request: bytes) -> tuple[int, bytes]:
        """Send a request and return status and body of its response; raise `ConnectionError` when none comes."""
        self._answered = asyncio.get_running_loop().create_future()
        self.send(request)
        return await self._answered

    def message_received(self, head: bytes, body: bytes) -> None:
        if self._answered is not None and not self._answered.done():
            self._answered.set_result((int(head[9:12]), body))

    def connection_lost(self, exc: Exception | None) -> None:
        if self._answered is not None and not self._answered.done():
            self._answered.set_exception(ConnectionResetError("the server closed the connection"))


class Client:
    """As many connections as there are requests at a time, kept and used again."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._idle: list[Connection] = []

    async def exchange(self, request: bytes) -> tuple[int, bytes]:
        """Send a request and return status and body of its response."""
        connection = self._idle.pop() if self._idle else await self._connect()
        answer = await connection.exchange(request)
        self._idle.append(connection)
        return answer

    async def _connect(self) -> Connection:
        _, protocol = await asyncio.get_running_loop().create_connection(Connection, "127.0.0.1", self._port)
        return protocol
