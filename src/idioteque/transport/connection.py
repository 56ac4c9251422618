"""One HTTP/1.1 connection: bytes out, a response in. An exchange at a time; whatever is not as it should be ends it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import cast

import httptools

from idioteque.errors import ConnectionCut, ExchangeTimeout, TransportError
from idioteque.transport.addresses import Speaker
from idioteque.transport.records import HttpResponse

HEAD_BYTES_MAX = 64 * 1024  # of a response, its interim responses included
REPEATED_BYTES_MAX = 1024  # of a response that is remembered, since the next one is likely the same
TOGETHER_BYTES_MAX = 64 * 1024  # a head and a body that are no longer go out in one piece

CONTENT_LENGTH = b"content-length"
TRANSFER_ENCODING = b"transfer-encoding"

Tell = Callable[[HttpResponse | TransportError], None]
"""Called once with what came of an exchange; it must not raise."""


class Connection(Speaker):
    """A connection to `where`; it is the pool's business who may use it when.

    `heard` says whether anything came back in this exchange, `is_open` whether another may follow, `idle_since` is
    the loop's time at which the last one ended.
    """

    __slots__ = (
        "_body", "_bytes_max", "_done", "_head_bytes", "_headers", "_is_delimited", "_is_head", "_is_head_read",
        "_parser", "_repeated", "_room", "_tell", "_transport", "_until_close", "closed", "heard", "idle_since",
        "is_open", "where",
    )  # fmt: skip

    def __init__(self, where: str) -> None:
        self.where = where
        self.closed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.is_open = True
        self.heard = False
        self.idle_since = 0.0
        self._parser = httptools.HttpResponseParser(self)
        self._tell: Tell | None = None
        self._headers: list[tuple[str, str]] = []
        self._body: list[bytes] = []
        self._head_bytes = 0
        self._room = self._bytes_max = 0
        self._is_head = False
        self._is_delimited = self._is_head_read = False
        self._until_close = False
        self._done = False
        self._repeated: tuple[bytes, HttpResponse] | None = None
        """What the parser read last and what it made of it, where that was one response and nothing else."""

    def exchange(self, head: bytes, body: bytes, tell: Tell, *, is_head: bool, bytes_max: int) -> None:
        """Send a request; `tell` is called with the response or why there is none, in a later turn of the loop."""
        self._tell = tell
        self._headers, self._body = [], []
        self._head_bytes, self._room, self._bytes_max = 0, bytes_max, bytes_max
        self._is_head, self._done, self.heard = is_head, False, False
        if not body:
            self._transport.write(head)
        elif len(head) + len(body) <= TOGETHER_BYTES_MAX:
            self._transport.write(head + body)
        else:
            self._transport.writelines((head, body))

    def drop(self) -> None:
        """Close the connection at once; nobody is told of the exchange."""
        self._tell = None
        self.abort()

    def expire(self, timeout_s: float) -> None:
        """End the exchange that has taken so long."""
        self._fail(ExchangeTimeout(f"{self.where} did not answer within {timeout_s:g} s"))

    def abort(self) -> None:
        """Close the connection at once."""
        self.is_open = False
        self._transport.abort()

    # ---- what asyncio calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        if self._tell is None:  # nothing was asked: whatever this is, the next response would stand behind it
            self.abort()
            return
        repeated, self._repeated = self._repeated, None
        if repeated is not None and repeated[0] == data and not self.heard and self._may_repeat(len(repeated[1].body)):
            self.heard = self._done = True
            self._repeated = repeated  # the parser stands where it stood, and would say the same
            self._finish(repeated[1])
            return
        is_first, self.heard = not self.heard, True
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            self._cut("it switched to another protocol unasked")
        except httptools.HttpParserError as error:
            if not self._done:  # else the fault is in what stands behind the response
                self._cut(f"what it answered is not HTTP: {error}")
            self.is_open = False
        if self._done:
            response = self._response()
            if is_first and self.is_open and len(data) <= REPEATED_BYTES_MAX and self._may_repeat(len(response.body)):
                self._repeated = (data, response)
            self._finish(response)

    def eof_received(self) -> bool:
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self.is_open = False
        if self._until_close and exc is None and not self._done:
            self._done = True
        if self._done:
            self._finish(self._response())
        else:
            self._cut(str(exc) if exc is not None else "it closed the connection before its answer was complete")
        if not self.closed.done():
            self.closed.set_result(None)

    # ---- what the parser calls

    def on_message_begin(self) -> None:
        if self._done:
            self.is_open = False
        self._until_close = self._is_delimited = self._is_head_read = False

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._done:
            return
        self._head_bytes += len(name) + len(value)
        if self._head_bytes > HEAD_BYTES_MAX:
            self._cut(f"the head of its answer is longer than {HEAD_BYTES_MAX} bytes")
            return
        length = len(name)
        if (length == 14 and name.lower() == CONTENT_LENGTH) or (
            length == 17 and name.lower() == TRANSFER_ENCODING and b"chunked" in value.lower()
        ):
            self._is_delimited = True
        if not self._is_head_read:  # else it is a trailer: it comes too late to mean anything
            self._headers.append((name.decode("latin-1"), value.decode("latin-1").rstrip(" \t")))

    def on_headers_complete(self) -> None:
        self._until_close = not self._is_delimited
        self._is_head_read = True
        if self._is_head and not self._done and self._parser.get_status_code() >= 200:
            self.is_open = False  # the parser would wait for the body that a HEAD's answer only announces
            self._done = True

    def on_body(self, body: bytes) -> None:
        if self._done:
            return
        if len(body) > self._room:
            self._body.append(body[: self._room])
            self._room = -1
            self._done = True
            self.is_open = False
            return
        self._room -= len(body)
        self._body.append(body)

    def on_message_complete(self) -> None:
        if self._done:
            return
        if self._parser.get_status_code() < 200:  # an interim response: the one that counts follows
            self._headers = []
            return
        self._done = True
        self._until_close = False
        if not self._parser.should_keep_alive():
            self.is_open = False

    # ---- the end of an exchange

    def _may_repeat(self, body_bytes: int) -> bool:
        """Whether a response to this request is what its bytes alone say; that to a HEAD has no body."""
        return not self._is_head and body_bytes <= self._bytes_max

    def _response(self) -> HttpResponse:
        body = self._body[0] if len(self._body) == 1 else b"".join(self._body)
        return HttpResponse(self._parser.get_status_code(), self._headers, body, self._room >= 0)

    def _finish(self, response: HttpResponse) -> None:
        tell, self._tell = self._tell, None
        if self._transport.get_write_buffer_size():  # answered before all was sent: nothing can follow that
            self.is_open = False
        if not self.is_open:
            self._transport.abort()
        if tell is not None:
            tell(response)

    def _cut(self, reason: str) -> None:
        self._fail(ConnectionCut(f"{self.where}: {reason}"))

    def _fail(self, error: TransportError) -> None:
        tell, self._tell = self._tell, None
        self.is_open = False
        self._transport.abort()
        if tell is not None:
            tell(error)
