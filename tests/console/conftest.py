"""A real server with its console, over a store with runs in it."""

from __future__ import annotations

import json
import os
import shutil
import urllib.request
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, ConsoleMessage, Page, sync_playwright

from tests.console.actions import Action, action_of, declared
from tests.console.browse import Visitor, fill_store
from tests.destination import Destination, open_destination, until
from tests.processes import ServerProcess, start_server

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
WAIT_MS = 30_000
READONLY = "readonly-token-of-the-tests"


@dataclass
class Place:
    """A server, a destination that its messages go to, and the ids of the runs in its store."""

    server: ServerProcess
    destination: Destination
    runs: dict[str, str]
    _operators: list[Visitor] = field(default_factory=list[Visitor])

    @property
    def operator(self) -> Visitor:
        """One who logged in once, and whose session all tests of a module may use."""
        if not self._operators:
            self._operators.append(self.visitor())
        return self._operators[0]

    def twin(self, path: str) -> Any:
        """Return what a page of the console says, as JSON."""
        shown = self.operator.get(path, Accept="application/json")
        assert shown.status == 200, shown.text
        return json.loads(shown.text)

    def trail(self) -> list[dict[str, Any]]:
        """Return what the log of the server has of the audit trail, the oldest act first."""
        lines = [line for line in list(self.server.lines) if ' INFO {"at_ms": ' in line]
        return [json.loads(line[line.index("{") :]) for line in lines]

    def visitor(self, token: str | None = None) -> Visitor:
        """Return somebody who has logged in."""
        visitor = Visitor(self.server.url)
        assert visitor.log_in(token or self.server.token).status == 303
        return visitor

    def publish(self, path: str = "/hook", body: bytes = b"", **headers: str) -> str:
        """Publish to the destination, by the API; return the message's id."""
        text = self.call(f"/v2/publish/{self.destination.url}{path}", body, **headers)
        return text.split('"messageId":"')[1].split('"')[0]

    def call(self, path: str, body: bytes = b"", **headers: str) -> str:
        """Post to the API, with headers that begin with `Upstash-`; return what it says."""
        named = {f"Upstash-{name.replace('_', '-')}": value for name, value in headers.items()}
        own = {"Authorization": f"Bearer {self.server.token}", "Content-Type": "application/json"}
        return self._ask(urllib.request.Request(self.server.url + path, body, {**own, **named}, method="POST"))

    def get(self, path: str) -> str:
        """Ask the API; return what it says."""
        own = {"Authorization": f"Bearer {self.server.token}"}
        return self._ask(urllib.request.Request(self.server.url + path, headers=own))

    def _ask(self, request: urllib.request.Request) -> str:
        with urllib.request.urlopen(request, timeout=30) as answer:
            text: str = answer.read().decode()
        return text


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    directory: Path = tmp_path_factory.mktemp("console")
    ids = fill_store(directory / "runs.db")
    arguments = ["--store", f"sqlite:///{directory / 'runs.db'}"]
    with open_destination(lambda request: 400 if "bad" in request.target else 200) as destination:
        server = start_server(directory, args=arguments, env={"QSTASH_READONLY_TOKEN": READONLY})
        try:
            yield Place(server, destination, ids)
        finally:
            assert server.stop() == 0


def browser_path() -> str:
    given = os.environ.get("IDIOTEQUE_TEST_CHROMIUM")
    found = given or next(filter(None, map(shutil.which, BROWSERS)), None)
    assert found, "these tests need Chromium: install it, or set IDIOTEQUE_TEST_CHROMIUM to its path"
    return found


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=browser_path(), args=["--no-sandbox", "--disable-gpu"])
        yield started
        started.close()


@pytest.fixture
def page(request: pytest.FixtureRequest, browser: Browser, place: Place) -> Iterator[Page]:
    """A page that has logged in. Whatever the browser complains about fails the test, and so does an action that the
    test `does` but has not done by a form of the page, or that left no line in the audit trail.
    """
    context = browser.new_context()
    context.set_default_timeout(WAIT_MS)
    context.add_cookies([{"name": name, "value": value, "url": place.server.url} for name, value in _session(place)])
    page = context.new_page()
    complaints: list[str] = []
    done: list[Action] = []
    noted = len(place.trail())

    def complain(message: ConsoleMessage) -> None:
        if message.type in ("error", "warning"):
            complaints.append(message.text)

    page.on("console", complain)
    page.on("pageerror", lambda error: complaints.append(str(error)))
    context.on("request", lambda sent: done.extend(action_of(sent.method, sent.url, sent.post_data or "")))
    yield page
    context.close()
    assert complaints == []
    assert declared(request.function) <= {action.name for action in done}
    wanted = Counter(action.noted_as for action in done if action.noted_as)
    until(lambda: Counter(act["what"] for act in place.trail()[noted:]) >= wanted)


def _session(place: Place) -> list[tuple[str, str]]:
    return list(place.operator.cookies.items())
