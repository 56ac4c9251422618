"""Deliveries on connections that are kept, which need no task: over real sockets, a stop and a cut included."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from idioteque.database import open_database
from idioteque.server.app import Server
from idioteque.server.config import ServerConfig
from tests.ground.peers import Wire, answering, serving
from tests.server.house import ENVIRONMENT

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"
CONFIG = ServerConfig(allow_private=("127.0.0.0/8",), drain_s=0.2)


@asynccontextmanager
async def running(path: Path) -> AsyncIterator[Server]:
    server = Server(CONFIG, database=open_database(f"sqlite:///{path / 'server.db'}"), environment=ENVIRONMENT)
    await server.start()
    try:
        yield server
    finally:
        await server.stop()


async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(10):
        while not await condition():
            await asyncio.sleep(0.005)


async def logged(server: Server, message_id: str) -> list[int]:
    """The states of a message that followed its beginning."""
    sql = "SELECT states FROM logs WHERE message_id = :id ORDER BY number"
    return [row[0] for row in await server.database.read(lambda tx: tx.execute(sql, {"id": message_id}))]


async def ended(server: Server, message_id: str, states: list[int]) -> None:
    async def is_so() -> bool:
        return await logged(server, message_id) == states

    await until(is_so)


async def test_messages_for_one_destination_share_its_connection(tmp_path: Path) -> None:
    async with serving(answering(OK)) as peer, running(tmp_path) as server:
        for number in range(5):
            message_id = await server.publish(peer.url, body=b"%d" % number, headers={"Upstash-Forward-X-One": "1"})
            await ended(server, message_id, [4])
        assert peer.connections == 1
        heads = [request.split(b"\r\n\r\n")[0] for request in peer.requests]
        assert [request.split(b"\r\n\r\n")[1] for request in peer.requests] == [b"0", b"1", b"2", b"3", b"4"]
        names = [[line.split(b":")[0] for line in head.split(b"\r\n")[1:]] for head in heads]
        assert names == [names[0]] * 5
        assert b"X-One" in names[0]
        signatures = [line for head in heads for line in head.split(b"\r\n") if line.startswith(b"Upstash-Signature")]
        assert len(set(signatures)) == 5


async def once(wire: Wire) -> None:
    await wire.request()
    await wire.send(OK)
    await wire.request()
    if wire.peer.connections == 1:
        wire.reset()
        return
    await wire.closed_by_the_client()


async def test_an_attempt_whose_kept_connection_is_cut_failed_and_is_tried_again(tmp_path: Path) -> None:
    async with serving(once) as peer, running(tmp_path) as server:
        await ended(server, await server.publish(peer.url), [4])
        cut = await server.publish(peer.url)
        await ended(server, cut, [24, 2, 4])  # the destination accepts connections, so the retry is soon
        assert peer.requests[2].lower().count(b"upstash-retried: 1") == 1


async def test_a_stop_breaks_an_attempt_on_a_kept_connection_off_and_hands_its_message_back(tmp_path: Path) -> None:
    async def hang(wire: Wire) -> None:
        await wire.request()
        await wire.send(OK)
        await wire.request()
        await wire.closed_by_the_client()

    async with serving(hang) as peer:
        async with running(tmp_path) as server:
            await ended(server, await server.publish(peer.url), [4])
            left = await server.publish(peer.url)

            async def is_sent() -> bool:
                return len(peer.requests) == 2

            await until(is_sent)
            await server.stop()
        async with running(tmp_path) as server:
            await ended(server, left, [2, 4])
            assert peer.requests[2].lower().count(b"upstash-retried: 0") == 1
