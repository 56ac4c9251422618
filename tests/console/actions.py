"""What the console can do: the forms that it takes, by name, and which tests do each of them in a browser."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar
from urllib.parse import parse_qs, urlsplit

from starlette.routing import Match, Route

from idioteque.console.app import Console
from idioteque.console.pages import SCREENS, dead_letters, runs
from idioteque.console.pages import resources as resource_pages
from idioteque.console.settings import ConsoleSettings
from idioteque.testing import ScriptedTransport

DOOR = {"/login": "login", "/logout": "logout"}
RESOURCES = "/act/{kind}"
MANY = {"/dead-letters/bulk": dead_letters.VERBS, "/runs/bulk": tuple(runs.BULK)}
"""Forms that do one thing or another, as their verb says."""

Test = TypeVar("Test", bound=Callable[..., Any])

TESTED: dict[str, str] = {}
"""The tests, by the actions that they do."""


@dataclass(frozen=True, slots=True)
class Action:
    """A form that was sent: `name` is its path, with the verb where one path has several; `noted_as` in the trail."""

    name: str
    noted_as: str


def does(*actions: str) -> Callable[[Test], Test]:
    """Say which actions a test does by the page's own forms; the fixture `page` holds it to that."""

    def declare(test: Test) -> Test:
        for action in actions:
            TESTED[action] = test.__name__
        test.actions = frozenset(actions)  # type: ignore[attr-defined]
        return test

    return declare


def declared(test: Callable[..., Any]) -> frozenset[str]:
    """Return the actions that a test says it does."""
    found: frozenset[str] = getattr(test, "actions", frozenset())
    return found


def every_action() -> set[str]:
    """Return the name of everything that the console takes a form for, by its own routes."""
    console = Console(ConsoleSettings("http://127.0.0.1:1"), lambda token: None, transport=ScriptedTransport([200]))
    paths = {route.path for route in console._router.routes if isinstance(route, Route) and "POST" in route.methods}
    resources = {f"/act/{kind} {verb}" for kind, verb in resource_pages.VERBS}
    many = {f"{path} {verb}" for path, verbs in MANY.items() for verb in verbs}
    return (paths - {RESOURCES, *MANY}) | resources | many


def action_of(method: str, url: str, body: str) -> list[Action]:
    """Return the action that a request of the browser is, none if it is none."""
    if method != "POST":
        return []
    path = urlsplit(url).path
    if path in DOOR:
        return [Action(path, DOOR[path])]
    scope = {"type": "http", "method": "GET", "path": path, "root_path": ""}
    for screen in SCREENS:
        route = Route(screen.path, lambda request: None)  # type: ignore[arg-type, return-value]
        if screen.act and route.matches(scope)[0] is Match.FULL:
            has_verb = screen.path in (RESOURCES, *MANY)
            name = f"{path} {parse_qs(body)['verb'][0]}" if has_verb else screen.path
            return [Action(name, "" if screen.looks_only else screen.act)]
    raise AssertionError(f"the console has no form for {path}")
