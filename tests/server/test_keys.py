"""Signing keys: who may see them, and what a rotation means to those who verify."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from idioteque.database import open_database
from idioteque.errors import SignatureError
from idioteque.server.config import ServerConfig
from idioteque.signing import verify
from idioteque.transport import HttpRequest
from tests.server.house import CURRENT_KEY, NEXT_KEY, READONLY, SHOP, House, open_house

DEV_TOKEN = "eyJVc2VySUQiOiJkZWZhdWx0VXNlciIsIlBhc3N3b3JkIjoiZGVmYXVsdFBhc3N3b3JkIn0="
DEV_KEYS = {"current": "sig_7kYjw48mhY7kAjqNGcy6cr29RJ6r", "next": "sig_5ZB6DVzB1wjE8S6rZ7eenA8Pdnhs"}


async def keys(house: House) -> tuple[str, str]:
    shown = (await house.call("GET", "/v2/keys")).json
    return shown["current"], shown["next"]


async def rotate(house: House) -> tuple[str, str]:
    reply = await house.call("POST", "/v2/keys/rotate")
    assert reply.status == 200
    return reply.json["current"], reply.json["next"]


def accepts(house: House, request: HttpRequest, receiver: tuple[str, str]) -> bool:
    try:
        verify(request.header("Upstash-Signature") or "", request.body, receiver, house.clock.now_ms(), request.url)
    except SignatureError:
        return False
    return True


async def sent(house: House) -> HttpRequest:
    await house.publish(body=b"x")
    return house.wire.requests[-1]


async def test_a_rotation_makes_the_next_key_the_current_one(house: House) -> None:
    assert await keys(house) == (CURRENT_KEY, NEXT_KEY)
    first = await rotate(house)
    assert first[0] == NEXT_KEY
    assert first == await keys(house)
    second = await rotate(house)
    assert second[0] == first[1]
    assert len({CURRENT_KEY, NEXT_KEY, first[1], second[1]}) == 4


async def test_a_receiver_with_the_old_pair_works_through_exactly_one_rotation(house: House) -> None:
    old = await keys(house)
    before = await sent(house)
    new = await rotate(house)
    between = await sent(house)
    assert [accepts(house, request, old) for request in (before, between)] == [True, True]
    assert [accepts(house, request, new) for request in (before, between)] == [False, True]
    await rotate(house)
    after = await sent(house)
    assert (accepts(house, after, old), accepts(house, after, new)) == (False, True)


async def test_attempts_are_signed_with_the_key_of_their_own_moment() -> None:
    async with open_house([500, 200]) as house:
        await house.publish(body=b"x")
        new = await rotate(house)
        await house.clock.advance(20)
        first, second = house.wire.requests
        assert accepts(house, first, (CURRENT_KEY, "none"))
        assert accepts(house, second, (new[0], "none"))
        assert first.header("Upstash-Signature") != second.header("Upstash-Signature")


async def test_rotations_at_once_follow_each_other(house: House) -> None:
    pairs = await asyncio.gather(*(rotate(house) for _ in range(5)))
    final = await keys(house)
    assert [current for current, _ in pairs] == [NEXT_KEY, *(following for _, following in pairs[:-1])]
    assert final == pairs[-1]
    assert accepts(house, await sent(house), (final[0], "none"))


async def test_a_rotation_survives_a_restart(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'server.db'}"
    async with open_house(database=open_database(url, threads=False)) as house:
        rotated = await rotate(house)
    async with open_house(database=open_database(url, threads=False)) as house:
        assert await keys(house) == rotated
        assert accepts(house, await sent(house), (rotated[0], "none"))


@pytest.mark.parametrize(("method", "path"), [("GET", "/v2/keys"), ("GET", "/v2/keys/"), ("POST", "/v2/keys/rotate")])
async def test_the_read_only_token_sees_no_key(house: House, method: str, path: str) -> None:
    reply = await house.call(method, path, token=READONLY)
    assert reply.status == 403
    assert "sig_" not in reply.text


async def test_no_state_is_changed_by_a_get(house: House) -> None:
    assert (await house.call("GET", "/v2/keys/rotate")).status == 405
    assert await keys(house) == (CURRENT_KEY, NEXT_KEY)


async def test_a_rotation_under_dev_leaves_no_published_key_in_the_database(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'server.db'}"
    async with open_house(config=ServerConfig(dev=True), database=open_database(url, threads=False)) as house:
        reply = await house.call("POST", "/v2/keys/rotate", token=DEV_TOKEN)
        assert reply.json["current"] == DEV_KEYS["next"]
        assert (await house.call("GET", "/v2/keys", token=DEV_TOKEN)).json == reply.json
    async with open_house(config=ServerConfig(dev=True), database=open_database(url, threads=False)) as house:
        assert (await house.call("GET", "/v2/keys", token=DEV_TOKEN)).json == DEV_KEYS
    async with open_house(database=open_database(url, threads=False), environment={}) as house:
        token = house.server.credentials.new_token
        shown = (await house.call("GET", "/v2/keys", token=token)).json
        assert not set(shown.values()) & set(DEV_KEYS.values())


async def test_keys_are_in_no_reply_but_their_own(house: House) -> None:
    message_id = await house.publish(delay="1h")
    for target in (f"/v2/messages/{message_id}", "/v2/events", "/v2/dlq", "/v2/schedules", "/openapi.json"):
        text = (await house.call("GET", target)).text
        assert CURRENT_KEY not in text
        assert NEXT_KEY not in text
    assert CURRENT_KEY not in repr((await house.call("POST", f"/v2/publish/{SHOP}")).text)
