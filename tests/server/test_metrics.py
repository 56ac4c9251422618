"""`/metrics`: what is counted, who may see it, and that the papers about it are true."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import re
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from idioteque.database import open_database
from idioteque.server.config import ServerConfig
from idioteque.transport import HttpRequest
from tests.destination import open_destination, until
from tests.house.source import ROOT
from tests.processes import ServerProcess, start_server
from tests.server.house import READONLY, House, open_house

GUIDE = ROOT / "docs" / "guides" / "monitoring.md"
DASHBOARD = ROOT / "docs" / "grafana-dashboard.json"


def samples(text: str) -> dict[str, float]:
    """Every sample by its name and, in braces, the values of its labels but `le`."""
    found: dict[str, float] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            if "le" not in sample.labels:
                labels = ",".join(sample.labels.values())
                found[sample.name + (f"{{{labels}}}" if labels else "")] = sample.value
    return found


async def scrape(house: House) -> dict[str, float]:
    reply = await house.call("GET", "/metrics")
    assert reply.status == 200, reply.text
    return {name.removeprefix("idioteque_"): value for name, value in samples(reply.text).items()}


async def test_what_becomes_of_messages_is_counted() -> None:
    async with open_house([200, 500, 200, 500]) as house:
        await house.publish()  # delivered
        await house.publish(retries="1", retry_delay="1000")  # fails, is delivered by its retry
        await house.clock.advance(2)
        await house.publish(retries="0")  # becomes a dead letter
        waiting = await house.publish(delay="1h")
        await house.call("DELETE", f"/v2/messages/{waiting}")
        await house.publish(delay="1h", deduplication_id="one")
        reply = await house.call(
            "POST",
            "/v2/publish/https://shop.test/hook",
            headers={"Upstash-Delay": "1h", "Upstash-Deduplication-Id": "one"},
        )
        assert reply.status == 202
        found = await scrape(house)
    assert found["messages_accepted_total"] == 5
    assert found["messages_deduplicated_total"] == 1
    assert found["messages_delivered_total"] == 2
    assert found["messages_retried_total"] == 1
    assert found["messages_dead_lettered_total"] == 1
    assert found["messages_cancelled_total"] == 1
    assert found["messages_pending"] == 1
    assert (found["attempts_total{2xx}"], found["attempts_total{5xx}"]) == (2, 2)
    assert found["attempt_duration_seconds_count"] == 4
    assert found["delivery_latency_seconds_count"] == 2
    assert found["delivery_latency_seconds_sum"] == pytest.approx(1, abs=0.1)
    assert found["database_commit_seconds_count"] == found["database_commit_operations_count"] > 5


async def test_every_answer_is_there_from_the_start_so_that_a_rate_sees_the_first(house: House) -> None:
    found = await scrape(house)
    answers = {name: value for name, value in found.items() if name.startswith("attempts_total")}
    assert answers == {f"attempts_total{{{answer}}}": 0 for answer in ("2xx", "3xx", "4xx", "5xx", "none")}
    assert [found[f"requests_refused_total{{{status}}}"] for status in (400, 401, 507)] == [0, 0, 0]


async def test_dead_letters_sent_again_schedules_and_callbacks_count_as_accepted() -> None:
    async with open_house([500, 200]) as house:
        await house.publish(retries="0", failure_callback="https://shop.test/failed")
        await house.clock.settle()
        assert (await scrape(house))["messages_accepted_total"] == 2
        reply = await house.call("POST", "/v2/dlq/retry")
        assert reply.status == 201
        await house.clock.settle()
        await house.call("POST", "/v2/schedules/https://shop.test/x", headers={"Upstash-Cron": "* * * * *"})
        await house.clock.advance(60)
        found = await scrape(house)
    assert found["messages_accepted_total"] == 4
    assert found["messages_delivered_total"] == 3
    assert found["messages_pending"] == 0


async def test_messages_that_an_earlier_process_left_are_pending(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'server.db'}"
    async with open_house(database=open_database(url, threads=False)) as house:
        for _ in range(3):
            await house.publish(delay="1h")
        await house.publish(delay="1h", flow_control_key="k", flow_control_value="parallelism=1")
    async with open_house(database=open_database(url, threads=False)) as house:
        assert (await scrape(house))["messages_pending"] == 4
        await house.call("DELETE", "/v2/messages")
        found = await scrape(house)
        assert (found["messages_pending"], found["messages_cancelled_total"]) == (0, 4)
        assert found["database_file_bytes"] > 0


async def test_a_deleted_queue_takes_its_messages_off_the_count(house: House) -> None:
    await house.call("POST", "/v2/queues", document={"queueName": "q", "parallelism": 1, "paused": True})
    for _ in range(2):
        assert (await house.call("POST", "/v2/enqueue/q/https://shop.test/x")).status == 200
    assert (await scrape(house))["messages_pending"] == 2
    await house.call("DELETE", "/v2/queues/q")
    assert (await scrape(house))["messages_pending"] == 0


async def test_a_due_message_without_a_slot_grows_old() -> None:
    config = ServerConfig(in_flight_max=1)
    release = asyncio.Event()

    async def answer(request: HttpRequest) -> int:
        await release.wait()
        return 200

    async with open_house(answer, config=config) as house:
        await house.publish("https://a.test/")
        await house.publish("https://b.test/")
        await house.clock.advance(30)
        found = await scrape(house)
        release.set()
    assert (found["attempts_in_flight"], found["attempts_in_flight_max"]) == (1, 1)
    assert found["oldest_due_age_seconds"] == pytest.approx(30, abs=1)


async def test_a_key_at_its_limit_holds_its_line(house: House) -> None:
    limits = {"flow_control_key": "k", "flow_control_value": "rate=1, period=1h"}
    assert (await scrape(house))["lines_held"] == 0
    await house.publish(**limits)
    await house.publish(**limits)
    found = await scrape(house)
    assert (found["lines_held"], found["messages_pending"]) == (1, 1)


async def test_refused_requests_are_counted_by_status(house: House) -> None:
    await house.call("GET", "/v2/dlq", token="wrong")
    await house.call("POST", "/v2/publish/ftp://x")
    found = await scrape(house)
    assert (found["requests_refused_total{401}"], found["requests_refused_total{400}"]) == (1, 1)


async def test_metrics_need_a_token_and_the_readonly_one_will_do(house: House) -> None:
    assert (await house.call("GET", "/metrics", token=None)).status == 401
    assert (await house.call("GET", "/metrics", token="wrong")).status == 401
    assert (await house.call("GET", "/metrics", token=READONLY)).status == 200
    assert (await house.call("POST", "/metrics")).status == 405


async def test_metrics_are_open_under_dev() -> None:
    async with open_house(config=ServerConfig(dev=True)) as house:
        assert (await house.call("GET", "/metrics", token=None)).status == 200


async def test_a_scrape_reads_no_table(house: House) -> None:
    await house.publish()
    await house.server.database.close()
    assert (await scrape(house))["messages_accepted_total"] == 1


async def test_no_label_grows_with_what_is_sent(house: House) -> None:
    for number in range(20):
        await house.publish(f"https://shop{number}.test/{number}", label=f"l{number}", flow_control_key=f"k{number}",
                            flow_control_value="parallelism=1")  # fmt: skip
    text = (await house.call("GET", "/metrics")).text
    labels = set(re.findall(r'(\w+)="', "\n".join(line for line in text.splitlines() if "idioteque_" in line)))
    assert labels == {"le", "answer", "status", "version"}
    assert "shop1" not in text


@pytest.fixture
async def exposed() -> set[str]:
    """The name of every sample of a server that has seen something of each kind."""
    async with open_house() as house:
        await house.publish()
        await house.call("GET", "/v2/dlq", token="wrong")
        text = (await house.call("GET", "/metrics")).text
    return {sample.name for family in text_string_to_metric_families(text) for sample in family.samples}


def used_in(text: str) -> set[str]:
    return set(re.findall(r"\b(?:idioteque|process)_[a-z_]+\b", text))


async def test_the_dashboard_shows_metrics_that_exist(exposed: set[str]) -> None:
    dashboard = json.loads(DASHBOARD.read_text(encoding="utf-8"))
    expressions = [target["expr"] for panel in dashboard["panels"] for target in panel.get("targets", ())]
    assert len(expressions) > 10
    assert used_in(" ".join(expressions)) - exposed == set()


async def test_the_guide_names_every_metric_of_the_server_and_alerts_on_real_ones(exposed: set[str]) -> None:
    guide = GUIDE.read_text(encoding="utf-8")
    table, alerts = guide.partition("## Alerts")[::2]
    families = {re.sub(r"_(bucket|sum|count|created)$", "", name) for name in exposed if name.startswith("idioteque_")}
    assert families - set(re.findall(r"^\| `(idioteque_\w+)", table, re.MULTILINE)) == set()
    assert used_in(alerts.partition("## ")[0]) - exposed == set()


def call(server: ServerProcess, method: str, path: str) -> tuple[int, str]:
    with contextlib.closing(http.client.HTTPConnection("127.0.0.1", server.port, timeout=20)) as connection:
        connection.request(method, path, headers={"Authorization": f"Bearer {server.token}"})
        response = connection.getresponse()
        return response.status, response.read().decode()


def test_a_real_server_is_scraped(tmp_path: Path) -> None:
    server: ServerProcess = start_server(tmp_path)
    try:
        with open_destination() as destination:
            assert call(server, "POST", f"/v2/publish/{destination.url}")[0] == 200
            until(lambda: "idioteque_messages_delivered_total 1.0" in call(server, "GET", "/metrics")[1])
        status, text = call(server, "GET", "/metrics")
        found = samples(text)
        assert status == 200
        assert found["process_resident_memory_bytes"] > 1_000_000
        assert found["idioteque_database_wal_bytes"] > 0
        server.token = "wrong"
        assert call(server, "GET", "/metrics")[0] == 401
    finally:
        assert server.stop() == 0
