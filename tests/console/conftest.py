"""A real server with its console, over a store with runs in it."""

from __future__ import annotations

import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.console.browse import Visitor, fill_store
from tests.destination import Destination, open_destination
from tests.processes import ServerProcess, start_server

READONLY = "readonly-token-of-the-tests"


@dataclass
class Place:
    """A server, a destination that its messages go to, and the ids of the runs in its store."""

    server: ServerProcess
    destination: Destination
    runs: dict[str, str]

    def visitor(self, token: str | None = None) -> Visitor:
        """Return somebody who has logged in."""
        visitor = Visitor(self.server.url)
        assert visitor.log_in(token or self.server.token).status == 303
        return visitor

    def publish(self, path: str = "/hook", body: bytes = b"", **headers: str) -> str:
        """Publish to the destination, by the API; return the message's id."""
        named = {f"Upstash-{name.replace('_', '-')}": value for name, value in headers.items()}
        request = urllib.request.Request(
            f"{self.server.url}/v2/publish/{self.destination.url}{path}",
            body,
            {"Authorization": f"Bearer {self.server.token}", **named},
            method="POST",
        )
        with urllib.request.urlopen(request, timeout=30) as answer:
            text: str = answer.read().decode()
        return text.split('"messageId":"')[1].split('"')[0]


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
