"""A real server and a real destination, shared by the tests of one module, and the Python SDK's two clients."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest
from qstash import AsyncQStash, QStash, Receiver

from tests.compat.rows import Driven
from tests.destination import Destination, Received, open_destination, until
from tests.processes import CURRENT_KEY, NEXT_KEY, ServerProcess, start_server


def by_path(request: Received) -> int | tuple[int, dict[str, str], bytes]:
    """Answer with the status that the path ends with, e.g. `/500`; 200 for any other."""
    last = request.target.partition("?")[0].rpartition("/")[2]
    return (int(last), {"X-Answer": "yes"}, b"said no") if last.isdigit() else 200


@pytest.fixture(scope="module")
def destination() -> Iterator[Destination]:
    with open_destination(by_path) as opened:
        yield opened


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    process = start_server(tmp_path_factory.mktemp("server"))
    yield process
    assert process.stop() == 0


@pytest.fixture(params=[QStash, AsyncQStash], ids=["sync", "async"])
async def client(request: pytest.FixtureRequest, server: ServerProcess) -> AsyncIterator[Any]:
    """Either client; its calls are awaited. A test must call every method that it claims to cover."""
    called: set[str] = set()
    request.node.called = called
    sdk = request.param(server.token, base_url=server.url)
    yield Driven(sdk, called)
    if isinstance(sdk, AsyncQStash):
        await sdk.http._client.aclose()
    else:
        sdk.http._client.close()
    claimed = getattr(request.function, "covers", ())
    assert {row for row in claimed if "." in row and " " not in row} <= called


@pytest.fixture
def arrived(request: pytest.FixtureRequest, destination: Destination) -> Callable[..., Received]:
    """Wait for a message; the official receiver verifies what came."""
    receiver = Receiver(current_signing_key=CURRENT_KEY, next_signing_key=NEXT_KEY)

    def wait(message_id: str, url: str | None = None) -> Received:
        until(lambda: message_id in destination.message_ids)
        received = next(each for each in list(destination.received) if each.message_id == message_id)
        receiver.verify(
            signature=received.headers["upstash-signature"],
            body=received.body.decode(),
            url=url or f"{destination.url}{received.target}",
        )
        getattr(request.node, "called", set()).add("Receiver.verify")
        return received

    return wait
