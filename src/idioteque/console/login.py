"""The console's door: a token opens a session, five wrong ones of a peer in a minute are enough, a logout ends it."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from urllib.parse import urlencode

from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response

from idioteque.console.frame import FormRefused, Page, Services, is_from_elsewhere, read_form
from idioteque.console.sessions import COOKIE, Role, Session, Sessions, Throttle
from idioteque.console.sheet import Sheet
from idioteque.environment import DEV_TOKEN
from idioteque.errors import InvalidValue

LOGIN_BYTES_MAX = 16 * 1024
REMEMBERED_S = 24 * 3600
"""How long a browser keeps the cookie of a session that has expired: it opens nothing, but says that there was one."""
ENDED = {
    "session": "the session has ended; log in again",
    "form": "the session has ended, so nothing was changed; log in again",
}
NAMES: dict[Role, str] = {"admin": "token", "reader": "read-only token"}

Verify = Callable[[str], Role | None]
"""Says what a token allows, None for a wrong one; compares in constant time."""


@dataclass(frozen=True, slots=True)
class LoginView:
    """The login form: why it is shown again, and where to go on."""

    error: str
    next: str


class Doorkeeper:
    """Opens and closes sessions. Under `--dev` everybody who comes by loopback gets one."""

    def __init__(self, services: Services, verify: Verify, sheet: Sheet) -> None:
        settings = services.settings
        self._settings = settings
        self._audit = services.audit
        self._verify = verify
        self._sheet = sheet
        self._sessions = Sessions(services.clock, settings.session_s, settings.sessions_max)
        self._throttle = Throttle(services.clock, settings.logins_per_minute_max)

    def find(self, cookie: str) -> Session | None:
        """Return the session of a cookie."""
        return self._sessions.find(cookie)

    def session(self, request: Request) -> tuple[Session | None, str | None]:
        """Return who asks, and the cookie to set if a session was opened just now."""
        found = self._sessions.find(request.cookies.get(COOKIE, ""))
        if found is not None or not self._settings.dev:
            return found, None
        return self._sessions.open(DEV_TOKEN, "admin", "dev")

    def give(self, request: Request, response: Response, cookie: str) -> None:
        """Set the cookie of a session."""
        response.set_cookie(
            COOKIE,
            cookie,
            max_age=self._settings.session_s + REMEMBERED_S,
            path=request.scope["idioteque"]["prefix"] or "/",
            httponly=True,
            samesite="strict",
            secure=self._is_https(request),
        )

    def send_away(self, request: Request) -> Response:
        """Answer somebody who is not logged in."""
        if request.scope["idioteque"]["wants_json"]:
            return JSONResponse({"error": "log in first"}, 401)
        wanted = request.url.path + (f"?{request.url.query}" if request.url.query else "")
        query = {"next": wanted} if request.method == "GET" and wanted != "/" else {}
        if COOKIE in request.cookies:
            query["ended"] = "form" if request.method == "POST" else "session"
        encoded = f"?{urlencode(query)}" if query else ""
        return RedirectResponse(f"{request.scope['idioteque']['prefix']}/login{encoded}", 303)

    async def show(self, request: Request) -> Response:
        """Show the form, or go on for who has logged in."""
        session, cookie = self.session(request)
        if session is None:
            why = ENDED.get(request.query_params.get("ended", ""), "")
            view = LoginView(why, _inside(request.query_params.get("next", "")))
            return self._sheet.page(request, None, Page("login.html", view))
        response = self._to(request, "/")
        if cookie is not None:
            self.give(request, response, cookie)
        return response

    async def log_in(self, request: Request) -> Response:
        """Open a session for a right token."""
        peer = request.client.host if request.client else ""
        try:
            form = dict(await read_form(request, LOGIN_BYTES_MAX))
        except (FormRefused, InvalidValue) as error:
            return self._refused(request, 400, str(error), "")
        target = _inside(form.get("next", ""))
        if is_from_elsewhere(request):
            return self._refused(request, 403, "this form was sent from another site", target)
        token = form.get("token", "").strip()
        role = self._verify(token)
        if role is None:  # a right token is never refused for the wrong ones of others behind its address
            wait_s = self._throttle.wait_s(peer)
            if wait_s:
                text = f"too many wrong tokens from this address; wait {math.ceil(wait_s)} s"
                return self._refused(request, 429, text, target)
            self._throttle.count(peer)
            self._audit.note("nobody", peer, "login", "", "refused: wrong token")
            return self._refused(request, 403, "that is not this server's token", target)
        old = self._sessions.find(request.cookies.get(COOKIE, ""))
        if old is not None:
            self._sessions.close(old)
        session, cookie = self._sessions.open(token, role, NAMES[role])
        self._audit.note(session.name, peer, "login", "", "done")
        response = self._to(request, target)
        self.give(request, response, cookie)
        return response

    async def log_out(self, request: Request) -> Response:
        """End a session; a form of its own is needed, so that no other site can do it."""
        session = self._sessions.find(request.cookies.get(COOKIE, ""))
        if session is None:
            return self._to(request, "/login")
        try:
            form = dict(await read_form(request, LOGIN_BYTES_MAX))
        except (FormRefused, InvalidValue):
            form = {}
        if not session.accepts(form.get("csrf", "")):
            return self._sheet.failure(request, session, 403, "this form is not of this session; open the page again")
        peer = request.client.host if request.client else ""
        self._audit.note(session.name, peer, "logout", "", "done")
        return self.log_out_of(request, session)

    def log_out_of(self, request: Request, session: Session) -> Response:
        """End a session, whose token may have been replaced, and lead to the login."""
        self._sessions.close(session)
        response = self._to(request, "/login")
        response.delete_cookie(COOKIE, path=request.scope["idioteque"]["prefix"] or "/")
        return response

    def _refused(self, request: Request, status: int, text: str, target: str) -> Response:
        if request.scope["idioteque"]["wants_json"]:
            return JSONResponse({"error": text}, status)
        return self._sheet.page(request, None, Page("login.html", LoginView(text, target), status))

    def _to(self, request: Request, path: str) -> Response:
        return RedirectResponse(request.scope["idioteque"]["prefix"] + path, 303)

    def _is_https(self, request: Request) -> bool:
        if self._settings.trust_forwarded and "x-forwarded-proto" in request.headers:
            return request.headers["x-forwarded-proto"] == "https"
        return request.url.scheme == "https"


def _inside(target: str) -> str:
    """Return where to go on after the login: a path of the console, whatever was asked for."""
    is_path = target.startswith("/") and not target.startswith(("//", "/\\")) and target.isprintable()
    return target if is_path and "\\" not in target else "/"
