"""The console as one ASGI application: who is let in, which screen answers, and what every answer carries."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from functools import partial
from typing import Any, cast
from urllib.parse import unquote, urlsplit

from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, RedirectResponse, Response
from starlette.routing import Match, Route, Router

from idioteque.client import AnswerUnreadable, ApiRefusal
from idioteque.clock import Clock, SystemClock
from idioteque.console.assets import ASSETS, asset
from idioteque.console.audit import Audit
from idioteque.console.checkup import Checkup
from idioteque.console.desk import RunsDesk
from idioteque.console.forms import Describe
from idioteque.console.frame import (
    Done,
    FormRefused,
    Handler,
    NotShown,
    Page,
    Screen,
    Services,
    Visit,
    is_from_elsewhere,
    read_form,
)
from idioteque.console.live import Streams
from idioteque.console.login import Doorkeeper, Verify
from idioteque.console.pages import SCREENS
from idioteque.console.rendering import mark
from idioteque.console.sessions import COOKIE, Notice, Session
from idioteque.console.settings import ConsoleSettings, checked_prefix
from idioteque.console.sheet import Sheet
from idioteque.environment import is_loopback_name
from idioteque.errors import (
    ConfigurationError,
    DatabaseError,
    DispatchError,
    IdiotequeError,
    InvalidValue,
    RunUnknown,
    TransportError,
)
from idioteque.stores import open_store
from idioteque.transport import HttpTransport, PooledTransport

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

CSP = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self'; base-uri 'none'; "
    "form-action 'self'; frame-ancestors 'none'"
)
HEADERS = (
    (b"content-security-policy", CSP.encode()),
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-opener-policy", b"same-origin"),
)

logger = logging.getLogger("idioteque.console")


class Console:
    """The pages over one QStash and, if it is named, one store of runs.

    `verify` says what a token allows. `transport` reaches the API at `settings.api_url`; the console closes both it
    and the store. `checkup` is the doctor, if there is one, and `describe` tells of the worker, if one was named.
    """

    def __init__(
        self,
        settings: ConsoleSettings,
        verify: Verify,
        *,
        transport: HttpTransport | None = None,
        clock: Clock | None = None,
        checkup: Checkup | None = None,
        describe: Describe | None = None,
    ) -> None:
        clock = clock or SystemClock()
        transport = transport or PooledTransport()
        runs = None
        if settings.store is not None:
            runs = RunsDesk(open_store(settings.store, clock), clock, transport, settings.api_url)
        self.services = Services(settings, clock, transport, runs, Audit(clock), checkup, describe)
        self._settings = settings
        self._sheet = Sheet(self.services)
        self._doorkeeper = Doorkeeper(self.services, verify, self._sheet)
        self._streams = Streams(settings, clock)
        routes = [
            Route("/login", self._doorkeeper.show, methods=["GET"]),
            Route("/login", self._doorkeeper.log_in, methods=["POST"]),
            Route("/logout", self._doorkeeper.log_out, methods=["POST"]),
            Route("/static/{name}", _asset, methods=["GET"]),
            Route("/live", self._live, methods=["GET"]),
            *(Route(screen.path, self._endpoint(screen), methods=[_method(screen)]) for screen in SCREENS),
        ]
        self._screens: Sequence[tuple[Route, Screen]] = [
            (Route(screen.path, _asset), screen) for screen in SCREENS if not screen.act
        ]
        self._router = Router(routes, redirect_slashes=False, default=self._lost)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return

        async def send_guarded(message: MutableMapping[str, Any]) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", ()), *HEADERS]
                if not scope["path"].startswith("/static/"):
                    message["headers"].append((b"cache-control", b"no-store"))
            await send(message)

        scope = self._addressed(scope)
        if self._settings.dev and not is_loopback_name(Request(scope).headers.get("host", "")):
            await PlainTextResponse("under --dev the console answers to loopback names only", 421)(
                scope, receive, send_guarded
            )
            return
        await self._router(scope, receive, send_guarded)

    def let_go(self) -> None:
        """End the live streams, so that a server which stops need not wait for them."""
        self._streams.end()

    async def close(self) -> None:
        """Let go of the store and of connections, once nobody asks any more."""
        if self.services.runs is not None:
            await self.services.runs.close()
        await self.services.transport.close()

    # ---- how a request becomes a visit

    def _addressed(self, scope: Scope) -> Scope:
        """Return the scope with the path below the prefix, and with what its end says: `.json` asks for the twin."""
        prefix = self._settings.prefix or str(scope.get("root_path", ""))
        if self._settings.trust_forwarded and (given := Request(scope).headers.get("x-forwarded-prefix")):
            try:
                prefix = checked_prefix(given.rstrip("/"))
            except ConfigurationError:
                prefix = self._settings.prefix
        path = str(scope["path"])
        if prefix and (path == prefix or path.startswith(prefix + "/")):
            path = path[len(prefix) :]
        accept = Request(scope).headers.get("accept", "")
        raw = bytes(scope.get("raw_path") or path.encode())
        is_twin = raw.endswith(b".json") and not path.startswith("/static/")
        wants_json = is_twin or ("application/json" in accept and "text/html" not in accept)
        path = (path.removesuffix(".json") if is_twin else path) or "/"
        return {**scope, "path": path, "root_path": "", "idioteque": {"prefix": prefix, "wants_json": wants_json}}

    def _endpoint(self, screen: Screen) -> Callable[[Request], Awaitable[Response]]:
        async def show(request: Request) -> Response:
            session, cookie = self._doorkeeper.session(request)
            if session is None:
                return self._doorkeeper.send_away(request)
            response = await self._answer(request, session, screen)
            if cookie is not None:
                self._doorkeeper.give(request, response, cookie)
            return response

        return show

    async def _answer(self, request: Request, session: Session, screen: Screen) -> Response:
        visit = Visit(self.services, session, request.query_params, request.path_params)
        try:
            if screen.act:
                visit = await self._checked(request, visit, screen)
            answer = await screen.handler(visit)
        except Exception as error:
            status, text = described_failure(error)
            if screen.act and visit.form:
                self._note(request, session, screen, visit, f"failed: {text}")
            if status == 401:
                return self._doorkeeper.log_out_of(request, session)
            return self._sheet.failure(request, session, status, text)
        if isinstance(answer, Page):
            if answer.refusal:
                self._note(request, session, screen, visit, f"failed: {answer.refusal}")
            return self._sheet.page(request, session, answer)
        if isinstance(answer, Response):
            if screen.act and not screen.looks_only:
                self._note(request, session, screen, visit, "done")
            return answer
        self._note(request, session, screen, visit, answer.text, answer.target)
        return self._went_on(request, session, answer)

    async def _checked(self, request: Request, visit: Visit, screen: Screen) -> Visit:
        """Return the visit with its form, once it is certain that this session's own page sent it."""
        if is_from_elsewhere(request) or not _is_own_origin(request):
            raise FormRefused(403, "this form was sent from another site")
        form = await read_form(request, self._settings.form_bytes_max)
        given = request.headers.get("x-csrf-token") or dict(form).get("csrf", "")
        if not visit.session.accepts(given):
            raise FormRefused(403, "this form is not of this session; open the page again")
        if not visit.session.may_act and not screen.looks_only:
            raise FormRefused(403, "a read-only token sees everything and changes nothing")
        return Visit(visit.services, visit.session, visit.query, visit.path, form)

    def _went_on(self, request: Request, session: Session, done: Done) -> Response:
        if request.scope["idioteque"]["wants_json"]:
            status = 409 if done.is_failure else 200
            return JSONResponse({"text": done.text, "ok": not done.is_failure, "next": done.back}, status)
        session.notices.append(Notice("failed" if done.is_failure else "done", done.text))
        return RedirectResponse(request.scope["idioteque"]["prefix"] + done.back, 303)

    def _note(
        self, request: Request, session: Session, screen: Screen, visit: Visit, outcome: str, target: str = ""
    ) -> None:
        if screen.looks_only:
            return
        peer = request.client.host if request.client else ""
        named = target or ", ".join([*visit.path.values(), *visit.all_given("id")])
        self.services.audit.note(session.name, peer, screen.act, named, outcome)

    async def _lost(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        session, _ = self._doorkeeper.session(request)
        if session is None:
            response = self._doorkeeper.send_away(request)
        else:
            response = self._sheet.failure(request, session, 404, "there is no such page")
        await response(scope, receive, send)

    # ---- live

    async def _live(self, request: Request) -> Response:
        """Stream a page anew whenever it changes; `page` is its address below the prefix, `seen` the mark it has."""
        session, _ = self._doorkeeper.session(request)
        if session is None:
            return PlainTextResponse("log in first", 401)
        wanted = urlsplit(request.query_params.get("page", "/"))
        found = self._screen_of(unquote(wanted.path) or "/")
        if found is None:
            return PlainTextResponse("there is no such page", 404)
        handler, path = found
        cookie = request.cookies.get(COOKIE, "")
        query = dict(Request({**request.scope, "query_string": wanted.query.encode()}).query_params)
        here = Visit(self.services, session, query, path)

        async def look() -> tuple[str, Callable[[], str]] | None:
            if self._doorkeeper.find(cookie) is not session:
                return None
            answer = await handler(here)
            if not isinstance(answer, Page):
                return None
            return mark(answer.view), partial(self._sheet.part, request, session, answer)

        return self._streams.open(look, request.query_params.get("seen", ""))

    def _screen_of(self, path: str) -> tuple[Handler, dict[str, str]] | None:
        for route, screen in self._screens:
            match, child = route.matches({"type": "http", "method": "GET", "path": path, "root_path": ""})
            if match is Match.FULL:
                return screen.handler, cast(dict[str, str], child["path_params"])
        return None


def described_failure(error: Exception) -> tuple[int, str]:
    """Return the status and the text by which a person is told of an error."""
    match error:
        case NotShown() | RunUnknown():
            return 404, str(error)
        case FormRefused():
            return error.status, str(error)
        case ApiRefusal():
            return (error.status if error.status in (400, 401, 403, 404, 409, 412, 429) else 502), str(error)
        case ConfigurationError():
            return 409, str(error)
        case InvalidValue():
            return 400, str(error)
        case TransportError() | AnswerUnreadable() | DispatchError():
            return 502, str(error)
        case DatabaseError():
            return 503, str(error)
        case IdiotequeError():
            return 400, str(error)
        case _:
            logger.exception("a page failed")
            return 500, "there is a fault in the console; its log says more"


async def _asset(request: Request) -> Response:
    found = ASSETS.get(request.path_params["name"])
    return Response(status_code=404) if found is None else asset(found)


def _method(screen: Screen) -> str:
    return "POST" if screen.act else "GET"


def _is_own_origin(request: Request) -> bool:
    """Whether a form's origin, where the browser names it, is the host it was sent to."""
    origin = request.headers.get("origin")
    if origin is None:
        return True
    try:
        return origin == "null" or urlsplit(origin).netloc == request.headers.get("host", "")
    except ValueError:
        return False
