"""Heads that came before: clients send the same bytes again and again, and these are parsed once.

What the parser makes of a request's first byte to its last follows from these bytes alone. So where a request is about
to begin and what came in begins with a head that is known, and has the body that the head announces and nothing else,
the parser would say again what it said the first time.
"""

from __future__ import annotations

from idioteque.server.front.request import Head, Request

REMEMBERED_MAX = 1024
HEAD_BYTES_MAX = 2048

END = b"\r\n\r\n"
OF_EACH = frozenset((b"upstash-deduplication-id", b"expect", b"transfer-encoding", b"upgrade"))
"""Headers that are new with each request, or by which a request is more than its head and a body of known length."""


class Heads:
    """The heads that all connections of a server remember together."""

    def __init__(self) -> None:
        self._known: dict[bytes, tuple[Request, int]] = {}
        """By its bytes: a request of the head without body and peer, and how long a body it announces."""

    def request(self, data: bytes, peer: str) -> Request | None:
        """Return the request that the bytes are, if all of it is there, nothing else is, and its head is known."""
        begin = data.find(END) + len(END)
        known = self._known.get(data[:begin])
        if known is None or len(data) != begin + known[1]:
            return None
        like = known[0]
        return Request(like.method, like.path, like.query, like.headers, like.first, peer, data[begin:], like.head)

    def remember(self, data: bytes, request: Request) -> None:
        """Remember the head of a request of HTTP/1.1 that the parser made of these bytes, if it may come again."""
        begin = data.find(END) + len(END)
        length = request.first.get(b"content-length", b"0")
        if not len(END) <= begin <= HEAD_BYTES_MAX or not OF_EACH.isdisjoint(request.first):
            return
        if data[begin:] != request.body or length != b"%d" % len(request.body):
            return
        if len(self._known) >= REMEMBERED_MAX:
            del self._known[next(iter(self._known))]  # the oldest
        like = Request(request.method, request.path, request.query, request.headers, request.first, head=Head())
        self._known[data[:begin]] = (like, len(request.body))
