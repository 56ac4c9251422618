"""The official Python SDK, both clients: URL groups, queues, schedules, flow control, signing keys."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from qstash import Receiver
from qstash.errors import QStashError

from tests.compat.rows import covers
from tests.destination import Destination, Received, until
from tests.processes import CURRENT_KEY, NEXT_KEY

Arrived = Callable[..., Received]


@covers(
    "url_group.upsert_endpoints", "url_group.remove_endpoints", "url_group.get", "url_group.list", "url_group.delete",
    "message.publish", "message.batch", "delivery Upstash-Topic-Name",
)  # fmt: skip
async def test_a_url_group_fans_out(client: Any, destination: Destination, arrived: Arrived) -> None:
    group = "group_for.tests-1"
    await client.url_group.delete(group)
    one, two = f"{destination.url}/one", f"{destination.url}/two"
    await client.url_group.upsert_endpoints(group, [{"url": one, "name": "first"}, {"url": two}])
    shown = await client.url_group.get(group)
    assert [(endpoint.url, endpoint.name) for endpoint in shown.endpoints] == [(one, "first"), (two, None)]
    assert [each.name for each in await client.url_group.list()] == [group]
    replies = await client.message.publish(url_group=group, body="b")
    assert [reply.url for reply in replies] == [one, two]
    for reply in replies:
        assert arrived(reply.message_id).headers["upstash-topic-name"] == group
    ((batched, _),) = await client.message.batch([{"url_group": group, "body": "c"}])
    assert arrived(batched.message_id, one).body == b"c"
    await client.url_group.remove_endpoints(group, [{"name": "first"}])
    assert [endpoint.url for endpoint in (await client.url_group.get(group)).endpoints] == [two]
    await client.url_group.delete(group)
    with pytest.raises(QStashError, match="404"):
        await client.url_group.get(group)


@covers(
    "queue.upsert", "queue.get", "queue.list", "queue.pause", "queue.resume", "queue.delete", "message.enqueue",
    "message.enqueue_json", "message.batch",
)  # fmt: skip
async def test_a_queue_keeps_its_order(client: Any, destination: Destination, arrived: Arrived) -> None:
    queue = "queue_for.tests-1"
    await client.queue.upsert(queue, parallelism=1, paused=True)
    ids = [(await client.message.enqueue(queue=queue, url=f"{destination.url}/q", body=str(n))).message_id
           for n in range(5)]  # fmt: skip
    ids.append((await client.message.enqueue_json(queue=queue, url=f"{destination.url}/q", body=5)).message_id)
    (batched,) = await client.message.batch([{"queue": queue, "url": f"{destination.url}/q", "body": "6"}])
    ids.append(batched.message_id)
    shown = await client.queue.get(queue)
    assert (shown.name, shown.parallelism, shown.lag, shown.paused) == (queue, 1, 7, True)
    assert [each.name for each in await client.queue.list()] == [queue]
    assert (await client.message.get(ids[0])).queue == queue
    await client.queue.resume(queue)
    arrived(ids[-1])
    order = [request.message_id for request in destination.received if request.message_id in ids]
    assert order == ids
    await client.queue.pause(queue)
    assert (await client.queue.get(queue)).paused is True
    await client.queue.delete(queue)
    with pytest.raises(QStashError, match="404"):
        await client.queue.get(queue)


@covers(
    "schedule.create", "schedule.create_json", "schedule.get", "schedule.list", "schedule.pause", "schedule.resume",
    "schedule.delete", "publish Upstash-Cron", "publish Upstash-Schedule-Id", "publish Upstash-Queue-Name",
)  # fmt: skip
async def test_a_schedule_is_kept_as_it_was_made(client: Any, destination: Destination) -> None:
    made = await client.schedule.create_json(
        destination="https://www.initial.com",
        cron="1 1 1 1 1",
        body={"ex_key": "ex_value"},
        schedule_id="schedule_for.tests-1",
        method="GET",
        headers={"Test-Header": "test-value"},
        retries=5,
        retry_delay="1000",
        delay=10,
        timeout=20,
        callback=f"{destination.url}/cb",
        failure_callback=f"{destination.url}/fcb",
        queue="queue_of_schedule",
        label="scheduled",
    )
    assert made == "schedule_for.tests-1"
    shown = await client.schedule.get(made)
    assert (shown.schedule_id, shown.destination, shown.cron) == (made, "https://www.initial.com", "1 1 1 1 1")
    assert (shown.method, shown.body, shown.retries, shown.delay) == ("GET", '{"ex_key": "ex_value"}', 5, 10)
    assert shown.headers == {"Content-Type": ["application/json"], "Test-Header": ["test-value"]}
    assert (shown.callback, shown.failure_callback) == (f"{destination.url}/cb", f"{destination.url}/fcb")
    assert (shown.queue, shown.timeout, shown.label, shown.paused) == ("queue_of_schedule", 20, "scheduled", False)
    assert (shown.retry_delay_expression, shown.next_schedule_time is not None) == ("1000", True)
    await client.schedule.pause(made)
    assert (await client.schedule.get(made)).paused is True
    await client.schedule.resume(made)
    assert (await client.schedule.get(made)).paused is False
    other = await client.schedule.create(destination=destination.url, cron="CRON_TZ=Europe/Paris 0 4 * * *")
    assert {each.schedule_id for each in await client.schedule.list()} == {made, other}
    for schedule_id in (made, other):
        await client.schedule.delete(schedule_id)
        with pytest.raises(QStashError, match="404"):
            await client.schedule.get(schedule_id)
    with pytest.raises(QStashError, match="400"):
        await client.schedule.create(destination=destination.url, cron="* * * * * *")


@covers(
    "flow_control.get", "flow_control.get_global_parallelism", "flow_control.pause", "flow_control.resume",
    "flow_control.pin", "flow_control.unpin", "flow_control.reset_rate", "publish Upstash-Flow-Control-Key",
    "publish Upstash-Flow-Control-Value",
)  # fmt: skip
async def test_a_flow_control_key_holds_its_messages_back(
    client: Any, destination: Destination, arrived: Arrived
) -> None:
    key = "key_for.tests-1"
    flow = {"key": key, "parallelism": 2, "rate": 100, "period": "1m"}
    first = (await client.message.publish(url=f"{destination.url}/f", flow_control=flow)).message_id
    arrived(first)
    shown = await client.flow_control.get(key)
    assert (shown.key, shown.parallelism_max, shown.rate_max, shown.rate_period) == (key, 2, 100, 60)
    message = await client.message.get(first)
    assert (message.flow_control.key, message.flow_control.parallelism, message.flow_control.rate) == (key, 2, 100)
    await client.flow_control.pause(key)
    second = (await client.message.publish(url=f"{destination.url}/f", flow_control=flow)).message_id
    shown = await client.flow_control.get(key)
    assert (shown.is_paused, shown.wait_list_size) == (True, 1)
    assert second not in destination.message_ids
    await client.flow_control.pin(key, {"parallelism": 5, "rate": 7, "period": 30})
    shown = await client.flow_control.get(key)
    assert (shown.is_pinned_parallelism, shown.is_pinned_rate, shown.parallelism_max) == (True, True, 5)
    await client.flow_control.unpin(key, {"parallelism": True})
    shown = await client.flow_control.get(key)
    assert (shown.is_pinned_parallelism, shown.is_pinned_rate) == (False, True)
    await client.flow_control.unpin(key, {"rate": True})
    await client.flow_control.reset_rate(key)
    await client.flow_control.resume(key)
    arrived(second)
    parallelism = await client.flow_control.get_global_parallelism()
    assert parallelism.parallelism_max > 0


@covers("signing_key.get", "signing_key.rotate", "Receiver.verify")
async def test_the_signing_keys_are_the_configured_ones_until_they_are_rotated(
    client: Any, destination: Destination, request: pytest.FixtureRequest
) -> None:
    before = await client.signing_key.get()
    if request.node.callspec.id == "sync":  # the first of the two
        assert (before.current, before.next) == (CURRENT_KEY, NEXT_KEY)
    after = await client.signing_key.rotate()
    assert (after.current, (await client.signing_key.get()).next) == (before.next, after.next)
    reply = await client.message.publish(url=f"{destination.url}/rotated", body="x")
    until(lambda: reply.message_id in destination.message_ids)
    received = next(each for each in destination.received if each.message_id == reply.message_id)
    # A receiver that still has the keys from before goes on working.
    receiver = Receiver(current_signing_key=before.current, next_signing_key=before.next)
    receiver.verify(signature=received.headers["upstash-signature"], body="x", url=f"{destination.url}/rotated")
    request.node.called.add("Receiver.verify")


async def test_an_unknown_thing_is_a_404(client: Any) -> None:
    with pytest.raises(QStashError, match="404"):
        await client.url_group.get("no-such-group")
