"""Tokens, roles, keys, and the two paths that are open."""

from __future__ import annotations

import contextlib
import http.client
import logging
from pathlib import Path

import pytest

from idioteque.database import open_database
from idioteque.environment import DEV_TOKEN
from idioteque.server.config import ServerConfig
from idioteque.server.core.credentials import digest
from idioteque.server.errors import Unauthorized
from idioteque.server.front.request import Entry, Head, Request, first_values
from tests.processes import start_server
from tests.server.house import CURRENT_KEY, ENVIRONMENT, NEXT_KEY, READONLY, SHOP, TOKEN, House, call_app, open_house


@pytest.mark.parametrize("token", [None, "", "wrong", "token-of-the-test", "\udc80"])
async def test_without_the_right_token_nothing_is_served(house: House, token: str | None) -> None:
    headers = (
        [] if token is None else [("Authorization", f"Bearer {token}".encode("utf-8", "replace").decode("latin-1"))]
    )
    for method, path in (("POST", f"/v2/publish/{SHOP}"), ("GET", "/v2/keys"), ("GET", "/v2/unknown")):
        reply = await call_app(house.server.app, method, path, headers, b"")
        assert (reply.status, list(reply.json)) == (401, ["error"])
    assert house.wire.requests == []


async def test_the_token_of_a_head_that_came_before_is_compared_each_time(house: House) -> None:
    def request(token: str, head: Head) -> Request:
        headers = [(b"host", b"a"), (b"authorization", b"Bearer " + token.encode())]
        return Request("POST", b"/v2/publish/https://shop.test/", b"", headers, first_values(headers), head=head)

    door, head = house.server.app, Head()
    room = door.room(request(TOKEN, head))
    assert room is not None
    assert head.entry == Entry(digest(TOKEN), room)
    assert door.room(request(TOKEN, head)) == room
    head.entry = Entry(digest("that of another server"), room)
    with pytest.raises(Unauthorized):
        door.room(request("that of another server", head))
    other = Head()
    with pytest.raises(Unauthorized):
        door.room(request("wrong", other))
    assert other.entry is None


async def test_other_schemes_are_not_tokens(house: House) -> None:
    reply = await call_app(house.server.app, "GET", "/v2/keys", [("Authorization", "Basic token-of-the-tests")], b"")
    assert reply.status == 401


async def test_the_read_only_token_reads_and_changes_nothing(house: House) -> None:
    assert (await house.call("GET", "/v2/events", token=READONLY)).status == 200
    for method, path in (
        ("POST", f"/v2/publish/{SHOP}"),
        ("POST", "/v2/batch"),
        ("DELETE", "/v2/messages"),
        ("DELETE", "/v2/dlq/x"),
        ("POST", "/v2/dlq/retry"),
        ("POST", "/v2/keys/rotate"),
    ):
        reply = await house.call(method, path, token=READONLY)
        assert (reply.status, reply.json) == (403, {"error": "this token may only read"})


async def test_a_guessing_peer_is_slowed_down_and_a_right_token_never(house: House) -> None:
    statuses = [(await house.call("GET", "/v2/keys", token="guess", peer="203.0.113.9")).status for _ in range(12)]
    assert statuses == [401] * 10 + [429] * 2
    assert (await house.call("GET", "/v2/keys", peer="203.0.113.9")).status == 200
    assert (await house.call("GET", "/v2/keys", token="guess", peer="203.0.113.10")).status == 401
    await house.clock.advance(1)
    assert (await house.call("GET", "/v2/keys", token="guess", peer="203.0.113.9")).status == 401


async def test_health_and_readiness_are_open_and_say_nothing_else(house: House) -> None:
    for path, text in (("/health", "ok"), ("/ready", "ready")):
        reply = await house.call("GET", path, token=None)
        assert (reply.status, reply.json) == (200, {"status": text})


async def test_a_stopped_server_is_not_ready() -> None:
    async with open_house() as house:
        app = house.server.app
    assert (await call_app(app, "GET", "/ready", [], b"")).status == 503
    assert (await call_app(app, "GET", "/health", [], b"")).status == 200


async def test_keys_come_from_the_environment_until_they_are_rotated(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    url = f"sqlite:///{tmp_path / 'keys.db'}"
    async with open_house(database=open_database(url, threads=False)) as house:
        assert (await house.call("GET", "/v2/keys")).json == {"current": CURRENT_KEY, "next": NEXT_KEY}
        rotated = (await house.call("POST", "/v2/keys/rotate")).json
        assert rotated["current"] == NEXT_KEY
        assert rotated["next"].startswith("sig_")
        assert len(rotated["next"]) == 47
        await house.publish()
        assert house.wire.requests[0].header("Upstash-Signature")
    with caplog.at_level(logging.WARNING):
        async with open_house(database=open_database(url, threads=False)) as house:
            assert (await house.call("GET", "/v2/keys")).json == rotated
    assert "stale" in caplog.text
    assert CURRENT_KEY not in caplog.text


async def test_credentials_are_made_once_and_the_token_is_stored_as_a_digest_only(tmp_path: Path) -> None:
    path = tmp_path / "made.db"
    url = f"sqlite:///{path}"
    async with open_house(database=open_database(url, threads=False), environment={}) as house:
        token = house.server.credentials.new_token
        assert token is not None
        keys = (await house.call("GET", "/v2/keys", token=token)).json
    async with open_house(database=open_database(url, threads=False), environment={}) as house:
        assert house.server.credentials.new_token is None
        assert (await house.call("GET", "/v2/keys", token=token)).json == keys
    stored = b"".join(file.read_bytes() for file in tmp_path.iterdir())
    assert token.encode() not in stored
    assert keys["current"].encode() in stored


async def test_dev_uses_the_published_credentials_and_reaches_private_destinations_but_no_metadata() -> None:
    token = "eyJVc2VySUQiOiJkZWZhdWx0VXNlciIsIlBhc3N3b3JkIjoiZGVmYXVsdFBhc3N3b3JkIn0="
    async with open_house(config=ServerConfig(dev=True), environment=ENVIRONMENT) as house:
        keys = (await house.call("GET", "/v2/keys", token=token)).json
        assert keys == {"current": "sig_7kYjw48mhY7kAjqNGcy6cr29RJ6r", "next": "sig_5ZB6DVzB1wjE8S6rZ7eenA8Pdnhs"}
        assert (await house.call("POST", "/v2/publish/http://127.0.0.1:3000/", token=token)).status == 200
        assert (await house.call("POST", "/v2/publish/http://192.168.1.5/", token=token)).status == 200
        reply = await house.call("POST", "/v2/publish/http://169.254.169.254/latest", token=token)
        assert (reply.status, "metadata" in reply.json["error"]) == (400, True)


@pytest.mark.parametrize(
    "host", ["evil.example", "127.0.0.1.nip.io", "192.0.2.1:8080", "localhost.evil.example", "", "["]
)
async def test_under_dev_only_loopback_names_are_answered(host: str) -> None:
    """A page whose name was bound to 127.0.0.1 speaks to this server as to its own, and the token is published."""
    async with open_house(config=ServerConfig(dev=True)) as house:
        for method, target in (("POST", f"/v2/publish/{SHOP}"), ("GET", "/v2/events"), ("GET", "/metrics"),
                               ("GET", "/status"), ("POST", "/v2/batch")):  # fmt: skip
            reply = await house.call(method, target, headers={"Host": host}, token=DEV_TOKEN)
            assert (reply.status, list(reply.json)) == (421, ["error"]), target
        assert house.wire.requests == []


@pytest.mark.parametrize(
    "host", ["localhost:8080", "LOCALHOST", "127.0.0.1:8080", "[::1]:8080", "shop.localhost", None]
)
async def test_under_dev_loopback_names_are_answered(host: str | None) -> None:
    headers = {} if host is None else {"Host": host}
    async with open_house(config=ServerConfig(dev=True)) as house:
        assert (await house.call("GET", "/v2/events", headers=headers, token=DEV_TOKEN)).status == 200
        assert (await house.call("GET", "/status", headers=headers, token=None)).status == 200


async def test_without_dev_every_name_is_answered(house: House) -> None:
    assert (await house.call("GET", "/v2/events", headers={"Host": "qstash.example.com"})).status == 200


def test_a_real_dev_server_does_not_publish_for_another_name(tmp_path: Path) -> None:
    server = start_server(tmp_path, args=["--dev"])
    try:
        for host, status in (("evil.example", 421), (f"127.0.0.1:{server.port}", 200)):
            with contextlib.closing(http.client.HTTPConnection("127.0.0.1", server.port, timeout=20)) as connection:
                headers = {"Authorization": f"Bearer {DEV_TOKEN}", "Host": host, "Upstash-Delay": "1h"}
                connection.request("POST", "/v2/publish/https://shop.example/x", b"", headers)
                assert connection.getresponse().status == status, host
    finally:
        assert server.stop() == 0
