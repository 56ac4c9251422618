"""The official Python SDK, unmodified, against our server; its `Receiver` verifies what real destinations get."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator

import pytest
from qstash import QStash, Receiver
from qstash.errors import QStashError
from qstash.log import LogState
from qstash.message import BatchRequest

from tests.destination import Destination, Received, until
from tests.processes import CURRENT_KEY, NEXT_KEY, ServerProcess


@pytest.fixture
def client(server: ServerProcess) -> Iterator[QStash]:
    made = QStash(server.token, base_url=server.url)
    yield made
    made.http._client.close()  # the SDK has no other way


def received(destination: Destination, message_id: str) -> Received:
    until(lambda: message_id in destination.message_ids)
    return next(request for request in destination.received if request.message_id == message_id)


def test_published_json_arrives_and_the_receiver_verifies_it(client: QStash, destination: Destination) -> None:
    url = f"{destination.url}/hook?a=b%20c"
    reply = client.message.publish_json(url=url, body={"ünï": [1, 2]}, headers={"X-Test": "hi"}, label="compat")
    request = received(destination, reply.message_id)
    assert json.loads(request.body) == {"ünï": [1, 2]}
    assert (request.headers["x-test"], request.headers["content-type"]) == ("hi", "application/json")
    receiver = Receiver(current_signing_key=CURRENT_KEY, next_signing_key=NEXT_KEY)
    receiver.verify(signature=request.headers["upstash-signature"], body=request.body.decode(), url=url)
    with pytest.raises(Exception, match="verification failed"):
        receiver.verify(signature=request.headers["upstash-signature"], body=request.body.decode(), url=destination.url)


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "PATCH", "DELETE"])
def test_every_method_is_delivered_with_its_body(client: QStash, destination: Destination, method: str) -> None:
    reply = client.message.publish(url=f"{destination.url}/m", body="text", method=method)  # type: ignore[arg-type]
    request = received(destination, reply.message_id)
    assert (request.method, request.body) == (method, b"text")


def test_an_empty_body_verifies_too(client: QStash, destination: Destination) -> None:
    request = received(destination, client.message.publish(url=destination.url).message_id)
    Receiver(current_signing_key=CURRENT_KEY, next_signing_key=NEXT_KEY).verify(
        signature=request.headers["upstash-signature"], body="", url=destination.url
    )


def test_a_message_is_read_back_with_all_its_fields(client: QStash, destination: Destination) -> None:
    reply = client.message.publish_json(
        url=destination.url,
        body={"a": 1},
        delay="1h",
        retries=5,
        retry_delay="1000 * retried",
        callback=f"{destination.url}/cb",
        failure_callback=f"{destination.url}/fcb",
        timeout="30s",
        label="a,b",
    )
    message = client.message.get(reply.message_id)
    assert (message.message_id, message.url, message.method) == (reply.message_id, destination.url, "POST")
    assert (message.body, message.max_retries) == ('{"a": 1}', 5)
    assert message.headers == {"Content-Type": ["application/json"]}
    assert message.not_before - message.created_at == 3_600_000
    assert (message.callback, message.failure_callback) == (f"{destination.url}/cb", f"{destination.url}/fcb")
    assert (message.retry_delay_expression, message.label) == ("1000 * retried", "a")
    client.message.cancel(reply.message_id)
    with pytest.raises(QStashError, match="404"):
        client.message.get(reply.message_id)


def test_a_delivered_message_can_still_be_read(client: QStash, destination: Destination) -> None:
    message_id = client.message.publish(url=destination.url, body="x").message_id
    received(destination, message_id)
    assert client.message.get(message_id).body == "x"


def test_a_delay_and_a_not_before_are_kept(client: QStash, destination: Destination) -> None:
    begun_s = time.monotonic()
    delayed = client.message.publish(url=destination.url, delay="1s").message_id
    timed = client.message.publish(url=destination.url, not_before=int(time.time()) + 2).message_id
    assert received(destination, delayed).at_s - begun_s >= 0.9
    assert received(destination, timed).at_s - begun_s >= 0.9


def test_duplicates_are_named(client: QStash, destination: Destination) -> None:
    first = client.message.publish(url=destination.url, deduplication_id="compat-1")
    second = client.message.publish(url=destination.url, deduplication_id="compat-1")
    assert (second.message_id, first.deduplicated, second.deduplicated) == (first.message_id, False, True)
    third = client.message.publish(url=destination.url, body="same", content_based_deduplication=True)
    fourth = client.message.publish(url=destination.url, body="same", content_based_deduplication=True)
    assert (fourth.message_id, fourth.deduplicated) == (third.message_id, True)


def test_a_batch_is_delivered(client: QStash, destination: Destination) -> None:
    replies = client.message.batch(
        [
            BatchRequest(url=f"{destination.url}/b?n=1", body="one", content_type="text/plain"),
            BatchRequest(url=f"{destination.url}/b?n=2", method="PUT", retries=0),
        ]
    )
    first, second = (received(destination, reply.message_id) for reply in replies)
    assert (first.target, first.body, first.headers["content-type"]) == ("/b?n=1", b"one", "text/plain")
    assert (second.target, second.method) == ("/b?n=2", "PUT")
    (third,) = client.message.batch_json([{"url": destination.url, "body": {"x": 1}}])
    assert json.loads(received(destination, third.message_id).body) == {"x": 1}


def test_messages_are_cancelled(client: QStash, destination: Destination) -> None:
    ids = [client.message.publish(url=destination.url, delay="1h").message_id for _ in range(4)]
    client.message.cancel(ids[0])
    assert client.message.cancel_many(ids[:3]) == 2
    assert client.message.cancel_all() == 1


def test_a_failed_message_goes_through_the_dead_letter_queue(client: QStash, destination: Destination) -> None:
    message_id = client.message.publish(url=f"{destination.url}/500", body="b", retries=0, label="dead").message_id
    until(lambda: bool(client.dlq.list(filter={"message_id": message_id}).messages))
    (listed,) = client.dlq.list(filter={"message_id": message_id}).messages
    letter = client.dlq.get(listed.dlq_id)
    assert (letter.message_id, letter.body, letter.response_status) == (message_id, "b", 500)
    assert letter.response_body == "said no"
    assert letter.response_headers is not None
    assert letter.response_headers["X-Answer"] == ["yes"]
    client.dlq.delete(letter.dlq_id)
    with pytest.raises(QStashError, match="404"):
        client.dlq.get(letter.dlq_id)


def test_dead_letters_are_paged_and_deleted_together(client: QStash, destination: Destination) -> None:
    for _ in range(5):
        client.message.publish(url=f"{destination.url}/404", retries=0, label="many")
    until(lambda: len(client.dlq.list(filter={"label": "many"}).messages) == 5)
    found: list[str] = []
    cursor = None
    while True:
        page = client.dlq.list(cursor=cursor, count=2, filter={"label": "many"})
        found += [letter.dlq_id for letter in page.messages]
        cursor = page.cursor
        if cursor is None:
            break
    assert len(found) == len(set(found)) == 5
    assert client.dlq.delete_many(found) == 5
    assert client.dlq.delete_many(found) == 0


def test_the_log_is_listed_and_filtered(client: QStash, destination: Destination) -> None:
    message_id = client.message.publish(url=destination.url, label="logged", retry_delay="7000").message_id
    until(lambda: len(client.log.list(filter={"message_id": message_id}).logs) == 3)
    logs = client.log.list(filter={"message_id": message_id}).logs
    assert [entry.state for entry in logs] == [LogState.DELIVERED, LogState.ACTIVE, LogState.CREATED]
    assert {entry.label for entry in logs} == {"logged"}
    assert logs[0].retry_delay_expression == "7000"
    delivered = client.log.list(filter={"message_id": message_id, "state": LogState.DELIVERED}).logs
    assert len(delivered) == 1
    page = client.log.list(filter={"message_id": message_id}, count=2)
    rest = client.log.list(filter={"message_id": message_id}, count=2, cursor=page.cursor)
    assert [len(page.logs), len(rest.logs), rest.cursor] == [2, 1, None]
    assert client.log.list(filter={"label": "logged", "url": destination.url}).logs == logs


def test_a_callback_tells_the_outcome(client: QStash, destination: Destination) -> None:
    message_id = client.message.publish(
        url=f"{destination.url}/500", retries=0, failure_callback=f"{destination.url}/failed?m=1"
    ).message_id
    until(lambda: any(request.target == "/failed?m=1" for request in destination.received))
    report = json.loads(next(r for r in destination.received if r.target == "/failed?m=1").body)
    assert (report["sourceMessageId"], report["status"]) == (message_id, 500)
    assert client.dlq.get(report["dlqId"]).message_id == message_id


def test_the_signing_keys_are_the_configured_ones(client: QStash) -> None:
    keys = client.signing_key.get()
    assert (keys.current, keys.next) == (CURRENT_KEY, NEXT_KEY)


def test_errors_carry_the_reason(client: QStash, server: ServerProcess) -> None:
    with pytest.raises(QStashError, match="endpoint has invalid scheme, add http:// or https://"):
        client.message.publish(url="example.com")
    with pytest.raises(QStashError, match="invalid retry delay expression"):
        client.message.publish(url="https://example.com", retry_delay="pow(")
    stranger = QStash("wrong", base_url=server.url)
    with pytest.raises(QStashError, match="401"):
        stranger.signing_key.get()
    stranger.http._client.close()
