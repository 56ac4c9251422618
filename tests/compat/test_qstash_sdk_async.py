"""The official SDK's asynchronous client against our server."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator

import pytest
from qstash import AsyncQStash, Receiver
from qstash.errors import QStashError
from qstash.log import LogState

from tests.destination import Destination, until
from tests.processes import CURRENT_KEY, NEXT_KEY, ServerProcess


@pytest.fixture
async def client(server: ServerProcess) -> AsyncIterator[AsyncQStash]:
    made = AsyncQStash(server.token, base_url=server.url)
    yield made
    await made.http._client.aclose()  # the SDK has no other way


async def test_many_messages_at_once_arrive_once_each_and_verify(client: AsyncQStash, destination: Destination) -> None:
    replies = await asyncio.gather(
        *(client.message.publish_json(url=f"{destination.url}/n", body={"n": n}) for n in range(50))
    )
    ids = {reply.message_id for reply in replies}
    until(lambda: ids <= destination.message_ids)
    requests = [request for request in destination.received if request.message_id in ids]
    assert sorted(json.loads(request.body)["n"] for request in requests) == list(range(50))
    receiver = Receiver(current_signing_key=CURRENT_KEY, next_signing_key=NEXT_KEY)
    for request in requests:
        receiver.verify(
            signature=request.headers["upstash-signature"], body=request.body.decode(), url=f"{destination.url}/n"
        )


async def test_batch_get_and_cancel(client: AsyncQStash, destination: Destination) -> None:
    replies = await client.message.batch(
        [{"url": f"{destination.url}/a", "delay": "1h"}, {"url": f"{destination.url}/b", "delay": "1h"}]
    )
    first, second = (reply.message_id for reply in replies)
    assert (await client.message.get(first)).url == f"{destination.url}/a"
    await client.message.cancel(first)
    assert await client.message.cancel_many([first, second]) == 1
    assert await client.message.cancel_all() == 0


async def test_dead_letters_and_logs(client: AsyncQStash, destination: Destination) -> None:
    message_id = (await client.message.publish(url=f"{destination.url}/503", retries=0)).message_id
    async with asyncio.timeout(10):
        while not (page := await client.dlq.list(filter={"message_id": message_id})).messages:
            await asyncio.sleep(0.01)
    (letter,) = page.messages
    assert (await client.dlq.get(letter.dlq_id)).response_status == 503
    logs = (await client.log.list(filter={"message_id": message_id})).logs
    assert [entry.state for entry in logs] == [LogState.FAILED, LogState.ERROR, LogState.ACTIVE, LogState.CREATED]
    await client.dlq.delete(letter.dlq_id)
    with pytest.raises(QStashError, match="404"):
        await client.dlq.get(letter.dlq_id)


async def test_the_signing_keys_are_rotated_and_deliveries_follow(
    client: AsyncQStash, destination: Destination
) -> None:
    before = await client.signing_key.get()
    after = await client.signing_key.rotate()
    assert after.current == before.next
    reply = await client.message.publish(url=f"{destination.url}/rotated", body="x")
    until(lambda: reply.message_id in destination.message_ids)
    request = next(r for r in destination.received if r.message_id == reply.message_id)
    # A receiver that still has the keys from before goes on working.
    Receiver(current_signing_key=before.current, next_signing_key=before.next).verify(
        signature=request.headers["upstash-signature"], body="x", url=f"{destination.url}/rotated"
    )
