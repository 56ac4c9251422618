"""One connection of a client: requests in, framed and within their limits, and replies out in the same order.

One request at a time is served; what a client sends beyond it waits, and the connection is not read meanwhile. A hot
request is answered by a callback, without a task and without an application around it.
"""

from __future__ import annotations

import asyncio
import json
from collections import deque
from typing import cast

import httptools

from idioteque.server.errors import HeadersTooLarge, Refused, TooLarge
from idioteque.server.front.exchange import Exchange, scope_of, status_line
from idioteque.server.front.reception import Reception, State
from idioteque.server.front.request import Request, check_upgrade, read_head, refusal_of
from idioteque.server.front.turn import Turn
from idioteque.transport import Headers

LINGER_BYTES_MAX = 64 * 1024 * 1024  # of a refused body that is read and dropped, so that its sender sees the reply

CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
JSON_LENGTH = b"content-type: application/json\r\ncontent-length: "


class Connection(asyncio.Protocol):
    """What uvicorn makes for each connection, out of `Reception`."""

    def __init__(self, reception: Reception, state: State) -> None:
        self._reception = reception
        self._state = state
        self._limits = reception.limits
        self._parser = httptools.HttpRequestParser(self)
        self._peer = ""
        self._addresses: tuple[object, object] = (None, None)
        self._turns: deque[Turn] = deque()
        self._reading: Turn | None = None
        self._target = b""
        self._headers: list[tuple[bytes, bytes]] = []
        self._head_bytes = 0
        self._data_bytes = self._begin_bytes = 0
        self._is_head_new = False
        self._since_s = reception.now_s
        self._is_deaf = False  # whatever else comes in is not looked at
        self._is_paused = False
        self._is_turning = False
        self._is_lingering = False
        self._is_held = False  # the next request waits until its client has taken more of the replies
        self._is_stopping = False
        self._exchange: Exchange | None = None
        self._is_hot = False
        self._writable: asyncio.Future[None] | None = None

    # ---- what asyncio and uvicorn call

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        peer, own = transport.get_extra_info("peername"), transport.get_extra_info("sockname")
        self._addresses = (tuple(peer[:2]) if peer else None, tuple(own[:2]) if own else None)
        self._peer = str(peer[0]) if peer else ""
        self._state.connections.add(self)
        try:
            self._reception.enter(self, self._peer)
        except Refused as refusal:
            self._refuse_at_once(refusal)
        self._since_s = self._reception.now_s

    def connection_lost(self, exc: Exception | None) -> None:
        self._is_deaf = True
        self._state.connections.discard(self)
        self._reception.leave(self, self._peer)
        self._is_held = False
        while len(self._turns) > 1:
            self._turns.pop()
        if self._exchange is not None:
            self._exchange.disconnect()
        self.resume_writing()

    def eof_received(self) -> bool:
        if not (self._is_hot and self._turns and self._turns[-1].is_complete):
            return False
        self._turns[-1].keep = False  # it may still listen, and the answer is near
        return True

    def data_received(self, data: bytes) -> None:
        if self._is_deaf:
            return
        is_first = self._reading is None and not self._turns
        if is_first and self._writable is None:
            known = self._reception.heads.request(data, self._peer)
            if known is not None:
                self._take_whole(known)
                return
        self._is_head_new, self._data_bytes = False, len(data)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            self._is_deaf = True
        except httptools.HttpParserCallbackError as error:
            if isinstance(error.__context__, Refused):
                self._break(error.__context__)
            elif not self._is_deaf:
                raise
        except httptools.HttpParserError as error:
            if not self._is_deaf:  # else a request said that none follows
                self._break(refusal_of(error))
        reading = self._reading
        if reading is not None and reading.request is None and not self._is_head_new:
            self._head_bytes += len(data)
            if self._head_bytes > self._limits.head_bytes_max:
                self._break(HeadersTooLarge(f"the head is longer than {self._limits.head_bytes_max} bytes"))
        elif is_first and self._is_hot and self._turns:
            turn = self._turns[0]
            if turn.is_complete and turn.keep and not turn.is_old and turn.request is not None:
                self._reception.heads.remember(data, turn.request)

    def pause_writing(self) -> None:
        self._writable = asyncio.get_running_loop().create_future()
        self._since_s = self._reception.now_s

    def resume_writing(self) -> None:
        if self._writable is not None and not self._writable.done():
            self._writable.set_result(None)
        self._writable = None
        self._since_s = self._reception.now_s
        if self._is_held:
            self._is_held = False
            self._admit(self._turns[0])

    def shutdown(self) -> None:
        """Take no further request; what is under way is answered first."""
        self._is_stopping = True
        if self._is_lingering:
            self._transport.abort()
        elif not self._turns and self._reading is None:
            self._transport.close()

    def sweep(self) -> None:
        """End the connection when its client has taken too long with what it is expected to do now."""
        limits, waited_s = self._limits, self._reception.now_s - self._since_s
        turn = self._turns[0] if self._turns else None
        if self._is_lingering:
            is_over = waited_s > limits.head_s
        elif self._writable is not None or (turn is None and self._reading is None):
            is_over = waited_s > limits.idle_s
        elif turn is None:
            is_over = waited_s > limits.head_s
        elif not turn.is_complete:
            is_over = waited_s > limits.head_s and turn.body_bytes < limits.body_bytes_per_s_min * waited_s
        else:
            return
        if is_over:
            self._is_deaf = True
            self._transport.abort()

    # ---- what the parser calls

    def on_message_begin(self) -> None:
        if self._is_deaf:
            raise ConnectionAbortedError  # stops the parser
        self._reading = Turn()
        self._target, self._headers = b"", []
        self._head_bytes, self._begin_bytes, self._is_head_new = 0, self._data_bytes, True
        if not self._turns:
            self._since_s = self._reception.now_s

    def on_url(self, url: bytes) -> None:
        self._target += url

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._reading is not None and self._reading.request is None:  # else it is a trailer, and means nothing
            self._headers.append((name.lower(), value))
            if len(self._headers) > self._limits.head.headers_max + 1:
                raise HeadersTooLarge(f"there are more than {self._limits.head.headers_max} headers")

    def on_headers_complete(self) -> None:
        turn = self._reading
        assert turn is not None
        parser, headers = self._parser, self._headers
        turn.keep = parser.should_keep_alive()
        version = parser.get_http_version()
        turn.is_old = version != "1.1"
        turn.request = request = read_head(
            parser.get_method(), self._target, version, headers, self._limits.head, self._peer,
            self._begin_bytes + self._head_bytes + self._data_bytes,
        )  # fmt: skip
        if parser.should_upgrade():
            check_upgrade(request)
            turn.keep = False
        turn.expects = b"expect" in request.first
        self._turns.append(turn)
        if len(self._turns) == 1 and self._writable is None:
            self._admit(turn)
        else:
            self._is_held = len(self._turns) == 1 or self._is_held
            self._pause()

    def on_body(self, body: bytes) -> None:
        turn = self._reading
        assert turn is not None
        turn.body_bytes += len(body)
        if turn.is_answered:
            if turn.body_bytes > LINGER_BYTES_MAX:
                self._close()
            return
        turn.body.append(body)
        if turn.room is not None and turn.body_bytes > turn.room:
            self._refuse(turn, TooLarge(f"the body is longer than {turn.room} bytes"))

    def on_message_complete(self) -> None:
        turn, self._reading = self._reading, None
        assert turn is not None
        turn.is_complete = True
        turn.keep = turn.keep and self._parser.should_keep_alive()
        if not turn.keep:
            self._is_deaf = True
        if self._turns[0] is turn and turn.is_answered:
            self._next()
        elif self._turns[0] is turn and not self._is_held:
            self._begin(turn)

    # ---- one request after the other

    def _take_whole(self, request: Request) -> None:
        """Take a request that came in one piece, and to which the parser would have said yes."""
        turn = Turn()
        turn.request, turn.is_complete = request, True
        self._turns.append(turn)
        self._admit(turn)

    def _admit(self, turn: Turn) -> None:
        """Look at the request whose turn has come, its head complete."""
        self._since_s = self._reception.now_s
        if turn.refusal is not None:
            self._refuse(turn, turn.refusal)
            return
        request = turn.request
        assert request is not None
        hot = self._reception.hot
        try:
            room = hot.room(request) if hot is not None else None
            self._is_hot = room is not None
            turn.room = self._limits.body_bytes_max if room is None else room
            announced = request.first.get(b"content-length")
            length = turn.body_bytes if announced is None else int(announced)
            if length > turn.room:
                raise TooLarge(f"the body has {length} bytes; at most {turn.room} are accepted")
        except Refused as refusal:
            self._refuse(turn, refusal)
            return
        if turn.is_complete:
            self._begin(turn)
            return
        self._resume()
        if turn.expects and not turn.body:
            self._transport.write(CONTINUE)
            turn.expects = False

    def _begin(self, turn: Turn) -> None:
        """Have a request served, now that all of it is here."""
        request = turn.request
        assert request is not None
        if turn.body:
            request.body = turn.body[0] if len(turn.body) == 1 else b"".join(turn.body)
            turn.body = []
        if self._is_hot:
            assert self._reception.hot is not None
            self._reception.hot.begin(request, self.answer)
            return
        keep = turn.keep and not self._is_stopping
        self._exchange = exchange = Exchange(self, request, is_old=turn.is_old, keep=keep)
        is_tls = bool(self._transport.get_extra_info("sslcontext"))
        scope = scope_of(request, self._addresses, is_old=turn.is_old, is_tls=is_tls)
        task = asyncio.get_running_loop().create_task(exchange.run(self._reception.app, scope))
        self._state.tasks.add(task)
        task.add_done_callback(self._state.tasks.discard)

    def answer(self, status: int, text: str, headers: Headers = ()) -> None:
        """Reply to the request whose turn it is, with JSON."""
        turn = self._turns[0]
        keep = turn.keep and not self._is_stopping
        self.write(self._reply(status, text, headers, keep=keep))
        self.end(keep=keep)

    def end(self, *, keep: bool) -> None:
        """The reply is complete."""
        turn = self._turns[0]
        turn.is_answered = True
        self._exchange = None
        if not keep:
            turn.keep = False
        if turn.is_complete:
            self._next()
        elif not keep:
            self._close(lingers=True)

    def _next(self) -> None:
        """Let go of what was answered, and turn to the next: in a loop, since thousands may have come together."""
        if self._is_turning:
            return
        self._is_turning = True
        while self._turns and self._turns[0].is_answered and self._turns[0].is_complete:
            turn = self._turns.popleft()
            self._since_s = self._reception.now_s
            if not turn.keep or self._transport.is_closing():
                self._turns.clear()
                self._close(lingers=turn.refusal is not None)
            elif not self._turns:
                self._resume()
            elif self._writable is not None:
                self._is_held = True
            else:
                self._admit(self._turns[0])
        self._is_turning = False

    def _refuse(self, turn: Turn, refusal: Refused) -> None:
        """Answer a request with a refusal; what else comes of its body is dropped."""
        turn.body = []
        if self._reception.hot is not None:
            self._reception.hot.refused(refusal.status)
        if turn.expects or turn.refusal is not None:  # where the next request begins cannot be known
            turn.keep = False
        self.answer(refusal.status, _error(refusal), refusal.headers)

    def _break(self, refusal: Refused) -> None:
        """Stop reading at what is no request, and say so when its turn comes."""
        self._is_deaf = True
        turn, self._reading = self._reading or Turn(), None
        turn.refusal, turn.keep = refusal, False
        if turn.is_answered:
            self._close()
            return
        if turn not in self._turns:
            self._turns.append(turn)
        turn.is_complete = True
        if self._turns[0] is turn and not self._is_held:
            self._refuse(turn, refusal)

    def _refuse_at_once(self, refusal: Refused) -> None:
        self._is_deaf = True
        self._transport.write(self._reply(refusal.status, _error(refusal), (("Retry-After", "1"),), keep=False))
        self._transport.close()  # what it sent is not worth a place

    def _pause(self) -> None:
        if not self._is_paused:
            self._is_paused = True
            self._transport.pause_reading()

    def _resume(self) -> None:
        if self._is_paused:
            self._is_paused = False
            self._transport.resume_reading()

    # ---- out

    def write(self, data: bytes) -> None:
        """Send bytes, if anybody is there."""
        if not self._transport.is_closing():
            self._transport.write(data)

    async def drain(self) -> None:
        """Return once the client has taken enough of what was written."""
        if self._writable is not None:
            await self._writable

    def common_headers(self) -> bytes:
        """Return the header lines of every reply."""
        return self._reception.common_headers(self._state)

    def abort(self) -> None:
        """Cut the connection: its client must see that the response is not whole."""
        self._is_deaf = True
        self._transport.abort()

    def _close(self, *, lingers: bool = False) -> None:
        """Close the connection; where more is coming in, not before its sender had time to read why."""
        self._is_deaf = True
        if lingers and self._transport.can_write_eof() and not self._transport.is_closing():
            self._is_lingering, self._since_s = True, self._reception.now_s
            self._transport.write_eof()
            self._resume()
        else:
            self._transport.close()

    def _reply(self, status: int, text: str, headers: Headers, *, keep: bool) -> bytes:
        body = text.encode()
        head = status_line(status) + self.common_headers() + JSON_LENGTH + b"%d\r\n" % len(body)
        for name, value in headers:
            head += f"{name.lower()}: {value}\r\n".encode("latin-1")
        return head + (b"\r\n" if keep else b"connection: close\r\n\r\n") + body


def _error(refusal: Refused) -> str:
    return json.dumps({"error": str(refusal)}, separators=(",", ":"))
