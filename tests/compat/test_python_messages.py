"""The official Python SDK, both clients: publish, batch, look, cancel, dead letters, the log."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable
from typing import Any

import pytest
from qstash import Receiver
from qstash.chat import custom
from qstash.errors import QStashError, SignatureError
from qstash.log import LogState

from tests.compat.rows import covers
from tests.destination import Destination, Received
from tests.processes import CURRENT_KEY

Arrived = Callable[..., Received]


async def eventually(condition: Callable[[], Any]) -> Any:
    """Return what an awaited condition gives as soon as it is not empty."""
    async with asyncio.timeout(20):
        while not (result := await condition()):
            await asyncio.sleep(0.01)
        return result


@covers("message.publish_json", "Receiver.verify")
async def test_published_json_arrives_and_the_receiver_verifies_it(
    client: Any, destination: Destination, arrived: Arrived
) -> None:
    url = f"{destination.url}/hook?a=b%20c"
    reply = await client.message.publish_json(url=url, body={"ünï": [1, 2]}, headers={"X-Test": "hi"}, label="compat")
    request = arrived(reply.message_id, url)
    assert json.loads(request.body) == {"ünï": [1, 2]}
    assert (request.headers["x-test"], request.headers["content-type"]) == ("hi", "application/json")
    receiver = Receiver(current_signing_key=CURRENT_KEY, next_signing_key=CURRENT_KEY)
    with pytest.raises(SignatureError, match="Invalid subject"):
        receiver.verify(signature=request.headers["upstash-signature"], body=request.body.decode(), url=destination.url)


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "PATCH", "DELETE"])
@covers("message.publish", "Receiver.verify")
async def test_every_method_is_delivered_with_its_body(
    client: Any, destination: Destination, arrived: Arrived, method: str
) -> None:
    reply = await client.message.publish(url=f"{destination.url}/m", body="text", method=method)
    request = arrived(reply.message_id)
    assert (request.method, request.body) == (method, b"text")


@covers("message.publish")
async def test_an_empty_body_and_a_null_are_delivered(client: Any, destination: Destination, arrived: Arrived) -> None:
    empty = await client.message.publish(url=f"{destination.url}/empty")
    null = await client.message.publish_json(url=f"{destination.url}/null", body=None)
    assert arrived(empty.message_id).body == b""
    assert arrived(null.message_id).body == b"null"


async def test_many_messages_at_once_arrive_once_each(client: Any, destination: Destination, arrived: Arrived) -> None:
    url = f"{destination.url}/many"
    replies = await asyncio.gather(*(client.message.publish_json(url=url, body={"n": n}) for n in range(50)))
    numbers = [json.loads(arrived(reply.message_id).body)["n"] for reply in replies]
    assert numbers == list(range(50))
    assert len([each for each in destination.received if each.message_id in {r.message_id for r in replies}]) == 50


@covers("message.publish_json", "message.get", "message.cancel")
async def test_a_message_is_read_back_with_all_its_fields(client: Any, destination: Destination) -> None:
    reply = await client.message.publish_json(
        url=destination.url,
        body={"a": 1},
        delay="1h",
        retries=5,
        retry_delay="1000 * retried",
        callback=f"{destination.url}/cb",
        failure_callback=f"{destination.url}/fcb",
        callback_headers={"Retries": "1", "Forward-X-Kind": "cb"},
        failure_callback_headers={"Delay": "10s"},
        timeout="30s",
        label="a,b",
    )
    message = await client.message.get(reply.message_id)
    assert (message.message_id, message.url, message.method) == (reply.message_id, destination.url, "POST")
    assert (message.body, message.max_retries) == ('{"a": 1}', 5)
    assert message.headers == {"Content-Type": ["application/json"]}
    assert message.not_before - message.created_at == 3_600_000
    assert (message.callback, message.failure_callback) == (f"{destination.url}/cb", f"{destination.url}/fcb")
    assert message.callback_headers == {"Upstash-Retries": ["1"], "Upstash-Forward-X-Kind": ["cb"]}
    assert message.failure_callback_headers == {"Upstash-Delay": ["10s"]}
    assert (message.retry_delay_expression, message.label) == ("1000 * retried", "a")
    await client.message.cancel(reply.message_id)
    with pytest.raises(QStashError, match="404"):
        await client.message.get(reply.message_id)
    with pytest.raises(QStashError, match="404"):
        await client.message.cancel(reply.message_id)


@covers("message.get")
async def test_a_delivered_message_can_still_be_read(client: Any, destination: Destination, arrived: Arrived) -> None:
    message_id = (await client.message.publish(url=destination.url, body="x")).message_id
    arrived(message_id, destination.url)
    assert (await client.message.get(message_id)).body == "x"


async def test_an_empty_id_is_no_message_and_never_everything(client: Any, destination: Destination) -> None:
    kept = (await client.message.publish(url=destination.url, delay="1h")).message_id
    for call in (client.message.get, client.message.cancel, client.dlq.get, client.dlq.delete):
        with pytest.raises(QStashError, match="404"):
            await call("")
    await client.message.cancel(kept)


async def test_a_delay_and_a_not_before_are_kept(client: Any, destination: Destination, arrived: Arrived) -> None:
    begun_s = time.monotonic()
    delayed = await client.message.publish(url=f"{destination.url}/later", delay="1s")
    timed = await client.message.publish(url=f"{destination.url}/later", not_before=int(time.time()) + 2)
    assert arrived(delayed.message_id).at_s - begun_s >= 0.9
    assert arrived(timed.message_id).at_s - begun_s >= 0.9


async def test_duplicates_are_named(client: Any, destination: Destination, request: pytest.FixtureRequest) -> None:
    name = request.node.name.replace("[", "-").replace("]", "")
    first = await client.message.publish(url=destination.url, deduplication_id=name)
    second = await client.message.publish(url=destination.url, deduplication_id=name)
    assert (second.message_id, first.deduplicated, second.deduplicated) == (first.message_id, False, True)
    third = await client.message.publish(url=destination.url, body=name, content_based_deduplication=True)
    fourth = await client.message.publish(url=destination.url, body=name, content_based_deduplication=True)
    assert (fourth.message_id, fourth.deduplicated) == (third.message_id, True)


@covers("message.batch", "message.batch_json")
async def test_a_batch_is_delivered(client: Any, destination: Destination, arrived: Arrived) -> None:
    replies = await client.message.batch(
        [
            {
                "url": f"{destination.url}/b?n=1",
                "body": "one",
                "content_type": "text/plain",
                "headers": {"X-Test": "1"},
            },
            {"url": f"{destination.url}/b?n=2", "method": "PUT", "retries": 0},
        ]
    )
    first, second = (arrived(reply.message_id) for reply in replies)
    assert (first.target, first.body, first.headers["content-type"]) == ("/b?n=1", b"one", "text/plain")
    assert (first.headers["x-test"], second.target, second.method) == ("1", "/b?n=2", "PUT")
    (third,) = await client.message.batch_json([{"url": f"{destination.url}/b", "body": {"x": 1}}])
    assert json.loads(arrived(third.message_id).body) == {"x": 1}
    assert await client.message.batch([]) == []


async def test_a_provider_of_language_models_is_a_url_with_its_token(
    client: Any, destination: Destination, arrived: Arrived
) -> None:
    reply = await client.message.publish_json(
        api={"name": "llm", "provider": custom(base_url=destination.url, token="provider-token")},
        body={"model": "m"},
        callback=f"{destination.url}/cb",
    )
    request = arrived(reply.message_id)
    assert request.target == "/v1/chat/completions"
    assert request.headers["authorization"] == "Bearer provider-token"


@covers("message.cancel", "message.cancel_many", "message.cancel_all")
async def test_messages_are_cancelled(client: Any, destination: Destination) -> None:
    ids = [(await client.message.publish(url=destination.url, delay="1h")).message_id for _ in range(5)]
    await client.message.cancel(ids[0])
    assert await client.message.cancel_many([]) == 0
    assert await client.message.cancel_many(ids[:3]) == 2
    assert await client.message.cancel_all() == 2
    assert await client.message.cancel_all() == 0
    logs = (await client.log.list(filter={"message_id": ids[0]})).logs
    assert [entry.state for entry in logs] == [LogState.CANCELED, LogState.CANCEL_REQUESTED, LogState.CREATED]


@covers("dlq.list", "dlq.get", "dlq.delete")
async def test_a_failed_message_goes_through_the_dead_letter_queue(client: Any, destination: Destination) -> None:
    url = f"{destination.url}/500"
    message_id = (await client.message.publish(url=url, body="b", retries=0, label="dead")).message_id

    async def found() -> Any:
        return (await client.dlq.list(filter={"message_id": message_id, "url": url, "response_status": 500})).messages

    (listed,) = await eventually(found)
    letter = await client.dlq.get(listed.dlq_id)
    assert (letter.message_id, letter.body, letter.response_status) == (message_id, "b", 500)
    assert (letter.response_body, letter.response_headers["X-Answer"], letter.label) == ("said no", ["yes"], "dead")
    await client.dlq.delete(letter.dlq_id)
    with pytest.raises(QStashError, match="404"):
        await client.dlq.get(letter.dlq_id)
    with pytest.raises(QStashError, match="404"):
        await client.dlq.delete(letter.dlq_id)


@covers("dlq.list", "dlq.delete_many")
async def test_dead_letters_are_paged_and_deleted_together(client: Any, destination: Destination) -> None:
    for _ in range(5):
        await client.message.publish(url=f"{destination.url}/404", retries=0, label="many")

    async def all_there() -> bool:
        return len((await client.dlq.list(filter={"label": "many"})).messages) == 5

    await eventually(all_there)
    found: list[str] = []
    cursor = None
    while True:
        page = await client.dlq.list(cursor=cursor, count=2, filter={"label": "many"})
        found += [letter.dlq_id for letter in page.messages]
        cursor = page.cursor
        if cursor is None:
            break
    assert len(found) == len(set(found)) == 5
    assert await client.dlq.delete_many(found) == 5
    assert await client.dlq.delete_many(found) == 0


@covers("log.list")
async def test_the_log_is_listed_and_filtered(
    client: Any, destination: Destination, request: pytest.FixtureRequest
) -> None:
    label, url = request.node.callspec.id, f"{destination.url}/logged"
    message_id = (await client.message.publish(url=url, label=label, retry_delay="7000", body="b")).message_id

    async def complete() -> Any:
        logs = (await client.log.list(filter={"message_id": message_id})).logs
        return logs if len(logs) == 3 else None

    logs = await eventually(complete)
    assert [entry.state for entry in logs] == [LogState.DELIVERED, LogState.ACTIVE, LogState.CREATED]
    assert {entry.label for entry in logs} == {label}
    assert (logs[0].retry_delay_expression, logs[0].body_base64) == ("7000", "Yg==")
    delivered = (await client.log.list(filter={"message_id": message_id, "state": LogState.DELIVERED})).logs
    assert len(delivered) == 1
    page = await client.log.list(filter={"message_id": message_id}, count=2)
    rest = await client.log.list(filter={"message_id": message_id}, count=2, cursor=page.cursor)
    assert [len(page.logs), len(rest.logs), rest.cursor] == [2, 1, None]
    assert (await client.log.list(filter={"label": label, "url": url})).logs == logs
    since_ms = logs[-1].time
    assert len((await client.log.list(filter={"label": label, "from_time": since_ms, "to_time": since_ms})).logs) > 0
    assert (await client.log.list(filter={"label": label, "to_time": since_ms - 1})).logs == []
    assert (await client.log.list(filter={"message_ids": [message_id], "caller_ip": "127.0.0.1"})).logs == logs


async def test_a_callback_tells_the_outcome(client: Any, destination: Destination) -> None:
    mark = f"/failed?m={time.monotonic_ns()}"
    message_id = (
        await client.message.publish(
            url=f"{destination.url}/500", retries=0, failure_callback=f"{destination.url}{mark}"
        )
    ).message_id

    async def told() -> Any:
        return [request for request in destination.received if request.target == mark]

    report = json.loads((await eventually(told))[0].body)
    assert (report["sourceMessageId"], report["status"]) == (message_id, 500)
    assert (await client.dlq.get(report["dlqId"])).message_id == message_id


async def test_redacted_fields_are_never_shown_and_always_sent(
    client: Any, destination: Destination, arrived: Arrived
) -> None:
    reply = await client.message.publish(
        url=f"{destination.url}/redacted",
        body="secret",
        headers={"X-Secret": "hidden", "X-Plain": "shown"},
        redact={"body": True, "header": ["X-Secret"]},
    )
    request = arrived(reply.message_id)
    assert (request.body, request.headers["x-secret"]) == (b"secret", "hidden")
    message = await client.message.get(reply.message_id)
    assert message.body.startswith("REDACTED:")
    assert message.headers["X-Plain"] == ["shown"]
    assert message.headers["X-Secret"][0].startswith("REDACTED:")


async def test_errors_carry_the_reason(client: Any) -> None:
    with pytest.raises(QStashError, match="endpoint has invalid scheme, add http:// or https://"):
        await client.message.publish(url="example.com")
    with pytest.raises(QStashError, match="invalid retry delay expression"):
        await client.message.publish(url="https://example.com", retry_delay="pow(")
