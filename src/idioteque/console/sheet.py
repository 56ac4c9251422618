"""Answers as a browser gets them: a whole page, the part of it that changes, or its twin in JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from urllib.parse import parse_qsl, urlsplit

from starlette.requests import Request
from starlette.responses import HTMLResponse, Response

from idioteque.console.assets import ASSETS
from idioteque.console.frame import Page, Services
from idioteque.console.rendering import address, make_environment, mark, twin
from idioteque.console.sessions import Session


@dataclass(frozen=True, slots=True)
class FailureView:
    """Why there is no page."""

    status: int
    error: str


class Sheet:
    """Renders pages for one console."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._environment = make_environment()

    def page(self, request: Request, session: Session | None, page: Page) -> Response:
        """Return a page, or its twin for who asked for JSON."""
        if request.scope["idioteque"]["wants_json"]:
            document = json.dumps(twin(page.view), ensure_ascii=False, default=str)
            return Response(document, page.status, media_type="application/json")
        notices = list(session.notices) if session is not None else []
        if session is not None:
            session.notices.clear()
        context = {**self._context(request, session, page), "notices": notices, "mark": mark(page.view)}
        return HTMLResponse(self._environment.get_template(page.template).render(context), page.status)

    def part(self, request: Request, session: Session, page: Page) -> str:
        """Return what stands in a page's `main`."""
        template = self._environment.get_template(page.template)
        context = template.new_context({**self._context(request, session, page), "notices": []})
        return "".join(template.blocks["main"](context))

    def failure(self, request: Request, session: Session, status: int, text: str) -> Response:
        """Return what is shown instead of a page."""
        return self.page(request, session, Page("failure.html", FailureView(status, text), status))

    def _context(self, request: Request, session: Session | None, page: Page) -> Mapping[str, object]:
        prefix: str = request.scope["idioteque"]["prefix"]
        path, query = request.url.path, dict(request.query_params)
        if path == "/live":  # the page that is streamed
            wanted = urlsplit(query.get("page", "/"))
            path, query = wanted.path or "/", dict(parse_qsl(wanted.query))
        return {
            "view": page.view,
            "prefix": prefix,
            "here": path,
            "query": query,
            "session": session,
            "settings": self._services.settings,
            "has_runs": self._services.runs is not None,
            "now_ms": self._services.clock.now_ms(),
            "link": partial(_link, prefix),
            "tags": {name: found.tag for name, found in ASSETS.items()},
        }


def _link(prefix: str, path: str, **query: object) -> str:
    return address(prefix, path, query)
