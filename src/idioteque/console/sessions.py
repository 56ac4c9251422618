"""Who is logged in: sessions kept in memory under signed, expiring cookies, and how fast a password may be guessed."""

from __future__ import annotations

import hashlib
import hmac
from dataclasses import dataclass, field
from typing import Literal

from idioteque.clock import Clock
from idioteque.ids import new_secret

COOKIE = "idioteque_session"
PEERS_WATCHED_MAX = 10_000
COOKIE_LENGTH_MAX = 256
WINDOW_S = 60.0

Role = Literal["admin", "reader"]
"""What a token allows: everything, or looking."""


@dataclass(frozen=True, slots=True)
class Notice:
    """What came of an action, shown once on the next page; `kind` is `done` or `failed`."""

    kind: str
    text: str


@dataclass(slots=True)
class Session:
    """A login: `token` opens the API in its name, `csrf` must come with every action."""

    id: str
    role: Role
    name: str
    expires_s: float
    token: str = field(repr=False)
    csrf: str = field(default_factory=new_secret, repr=False)
    notices: list[Notice] = field(default_factory=list[Notice])

    @property
    def may_act(self) -> bool:
        """Whether its token changes things."""
        return self.role == "admin"

    def accepts(self, csrf: str) -> bool:
        """Whether a form carries this session's own token."""
        return hmac.compare_digest(csrf.encode(), self.csrf.encode())


class Sessions:
    """The sessions of one process: a restart ends them all, a logout ends one at once."""

    def __init__(self, clock: Clock, lifetime_s: int, count_max: int) -> None:
        self._clock = clock
        self._lifetime_s = lifetime_s
        self._count_max = count_max
        self._key = new_secret().encode()
        self._sessions: dict[str, Session] = {}

    def open(self, token: str, role: Role, name: str) -> tuple[Session, str]:
        """Begin a session; return it with the value of its cookie."""
        now_s = self._clock.monotonic_s()
        self._sessions = {key: one for key, one in self._sessions.items() if one.expires_s > now_s}
        while len(self._sessions) >= self._count_max:
            del self._sessions[next(iter(self._sessions))]  # the oldest
        session = Session(new_secret(), role, name, now_s + self._lifetime_s, token)
        self._sessions[session.id] = session
        return session, f"{session.id}.{self._mac(session.id)}"

    def find(self, cookie: str) -> Session | None:
        """Return the session of a cookie, or None: forged, ended or expired."""
        id_, _, mac = cookie[:COOKIE_LENGTH_MAX].partition(".")
        if not hmac.compare_digest(mac.encode(), self._mac(id_).encode()):
            return None
        session = self._sessions.get(id_)
        if session is None or session.expires_s <= self._clock.monotonic_s():
            self._sessions.pop(id_, None)
            return None
        return session

    def close(self, session: Session) -> None:
        """End a session: its cookie opens nothing any more."""
        self._sessions.pop(session.id, None)

    def _mac(self, id_: str) -> str:
        return hmac.new(self._key, id_.encode(), hashlib.sha256).hexdigest()


class Throttle:
    """Counts the wrong tokens of each peer in the minute that runs."""

    def __init__(self, clock: Clock, per_minute_max: int) -> None:
        self._clock = clock
        self._per_minute_max = per_minute_max
        self._wrong: dict[str, tuple[float, int]] = {}

    def wait_s(self, peer: str) -> float:
        """Return how long a peer has to wait before its next guess is looked at; 0 when it may guess now."""
        since_s, count = self._wrong.get(peer, (0.0, 0))
        left_s = since_s + WINDOW_S - self._clock.monotonic_s()
        return left_s if count >= self._per_minute_max and left_s > 0 else 0.0

    def count(self, peer: str) -> None:
        """Note a wrong guess."""
        now_s = self._clock.monotonic_s()
        since_s, count = self._wrong.get(peer, (now_s, 0))
        if now_s - since_s >= WINDOW_S:
            since_s, count = now_s, 0
        if len(self._wrong) >= PEERS_WATCHED_MAX:
            self._wrong.clear()
        self._wrong[peer] = (since_s, count + 1)
