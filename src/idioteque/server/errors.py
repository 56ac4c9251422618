"""What the server answers when it refuses: one class per status, the message is the text of the reply.

Refused
├── BadRequest          400  a value breaks a rule; the text names both
├── Unauthorized        401  no token, or a wrong one
├── Forbidden           403  the read-only token, where something would change
├── NotFound            404
├── MethodNotAllowed    405
├── QuotaExceeded       412  a limit that an operator set
├── TooLarge            413
├── TargetTooLong       414
├── UnsupportedEncoding 415  a compressed body
├── ExpectationFailed   417
├── Misdirected         421  under `--dev`, by another name than this machine's own
├── TooManyRequests     429
├── HeadersTooLarge     431
├── TooManyConnections  503
└── StorageFull         507  nothing was stored; what is stored already is still delivered
"""

from __future__ import annotations

from idioteque.errors import IdiotequeError
from idioteque.transport import Headers


class Refused(IdiotequeError):
    """A request is answered with `status` and `{"error": text}`, and nothing of it is stored."""

    status = 400
    headers: Headers = ()


class BadRequest(Refused):
    """A value breaks a rule."""

    status = 400


class Unauthorized(Refused):
    """The request carries no valid token."""

    status = 401


class Forbidden(Refused):
    """The token is valid, but may only read."""

    status = 403


class NotFound(Refused):
    """There is no such thing, or no such path."""

    status = 404


class MethodNotAllowed(Refused):
    """The path is known, and not with this method."""

    status = 405


class QuotaExceeded(Refused):
    """A limit that an operator set is reached."""

    status = 412


class TooLarge(Refused):
    """The request has more bytes than one of its kind may have."""

    status = 413


class TargetTooLong(Refused):
    """The request line holds more bytes than it may."""

    status = 414


class UnsupportedEncoding(Refused):
    """The body is compressed: nobody could say how long it is."""

    status = 415


class ExpectationFailed(Refused):
    """`Expect` asks for what does not exist."""

    status = 417


class HeadersTooLarge(Refused):
    """There are more headers, or longer ones, than a request may have."""

    status = 431


class TooManyConnections(Refused):
    """This server, or this peer, has as many connections as it may have."""

    status = 503


class Misdirected(Refused):
    """A server for development answers to its own machine's names only."""

    status = 421


class TooManyRequests(Refused):
    """This peer has to wait; the headers tell the SDKs which limit it is, and when to come back."""

    status = 429

    def __init__(self, message: str, headers: Headers = ()) -> None:
        super().__init__(message)
        self.headers = headers


class StorageFull(Refused):
    """There is no room left to store the request."""

    status = 507
