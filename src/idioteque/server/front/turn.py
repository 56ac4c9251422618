"""What a connection knows of one request until its reply is out."""

from __future__ import annotations

from idioteque.server.errors import Refused
from idioteque.server.front.request import Request


class Turn:
    """One request on its way in and its reply on its way out."""

    request: Request | None = None
    refusal: Refused | None = None
    room: int | None = None
    """For the body; None until its turn comes."""
    body_bytes = 0
    expects = False
    is_old = False
    is_complete = False
    is_answered = False
    keep = True

    def __init__(self) -> None:
        self.body: list[bytes] = []
