"""What a connection knows of one request until its reply is out."""

from __future__ import annotations

from idioteque.server.errors import Refused
from idioteque.server.front.request import Request


class Turn:
    """One request on its way in and its reply on its way out."""

    __slots__ = (
        "body", "body_bytes", "expects", "is_answered", "is_complete", "is_old", "keep", "refusal", "request", "room"
    )  # fmt: skip

    def __init__(self) -> None:
        self.request: Request | None = None
        self.refusal: Refused | None = None
        self.room: int | None = None  # for the body; None until its turn comes
        self.body: list[bytes] = []
        self.body_bytes = 0
        self.expects = False
        self.is_old = False
        self.is_complete = self.is_answered = False
        self.keep = True
