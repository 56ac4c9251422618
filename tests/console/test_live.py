"""The console beside a worker that really runs: events and what they did, a run's past, and runs that go on from it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page, expect

from tests.console.conftest import READONLY, Place
from tests.console.live import APP, ROOT, open_shop, placed, send, twin
from tests.console.test_browser import violations
from tests.destination import until


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    with open_shop(tmp_path_factory.mktemp("live")) as shop:
        yield shop


def test_an_event_shows_which_runs_it_started_and_which_waits_it_ended(page: Page, place: Place) -> None:
    run_id = placed(place, "o-1", express=True)
    assert twin(place, f"/runs/{run_id}")["why"]["cause"] == "waiting_for_event"
    message = send(place, id="paid-1", event={"type": "order.paid", "order": "o-1"})
    until(lambda: bool(twin(place, f"/events/{message}")["event"]["woke"]))
    page.goto(f"{place.server.url}/events?type=order.paid")
    page.get_by_role("link", name="order.paid").click()
    did = page.locator("main")
    expect(did).to_contain_text("started thank")
    expect(did).to_contain_text("at payment")
    assert violations(page) == []
    page.locator(f'a[href="/runs/{run_id}"]').click()
    expect(page.locator("h1")).to_contain_text("ship")
    event = twin(place, f"/events/{message}")["event"]
    assert [one["function_id"] for one in event["started"]] == ["thank"]
    assert event["woke"] == [{"run_id": run_id, "step": "payment"}]


def test_an_event_that_did_nothing_says_why(page: Page, place: Place) -> None:
    message = send(place, id="unheard", event={"type": "nobody.listens"})
    odd = send(place, id="odd", event={"type": "no.such.type"})
    until(lambda: twin(place, f"/events/{message}")["event"]["state"] == "DELIVERED")
    until(lambda: twin(place, f"/events/{odd}")["event"]["state"] == "FAILED")
    page.goto(f"{place.server.url}/events/{message}")
    expect(page.locator("main")).to_contain_text("started nothing: no mounted function wants 'nobody.listens'")
    assert "does not fit the schema" in twin(place, f"/events/{odd}")["event"]["why"]
    assert twin(place, f"/events/{odd}")["event"]["started"] == []


def test_an_event_is_sent_again_as_an_event_of_its_own(page: Page, place: Place) -> None:
    placed(place, "o-2")
    before = twin(place, "/events?type=order.placed")["events"]
    [message] = [one["message_id"] for one in before if one["event_id"] == "evt_o-2"]
    page.goto(f"{place.server.url}/events/{message}")
    page.get_by_role("button", name="Send again").click()
    expect(page.get_by_role("alert")).to_contain_text("is accepted")
    until(lambda: len(twin(place, "/events?type=order.placed")["events"]) == len(before) + 1)
    again = twin(place, "/events?type=order.placed")["events"][0]
    assert again["event_id"] != "evt_o-2"
    assert json.loads(again["event"]["text"])["order"] == "o-2"
    until(lambda: len(twin(place, f"/events/{again['message_id']}")["event"]["started"]) == 2)


def test_a_new_event_is_written_in_a_form_made_from_the_workers_schema(page: Page, place: Place) -> None:
    page.goto(f"{place.server.url}/events/new")
    expect(page.get_by_label("URL of the mount")).to_have_value(f"http://127.0.0.1:{place.runs['port']}/api/worker")
    assert violations(page) == []
    page.get_by_label("order").fill("o-form")
    page.get_by_label("count").fill("2")
    page.get_by_label("express").select_option("false")
    page.get_by_label("size").select_option("large")
    page.get_by_label("items").fill('["pen", "ink"]')
    page.get_by_role("button", name="Send").click()
    expect(page.get_by_role("alert")).to_contain_text("is accepted")
    sent: list[Any] = []

    def arrived() -> bool:
        sent[:] = [
            json.loads(one["event"]["text"])
            for one in twin(place, "/events")["events"]
            if "o-form" in one["event"]["text"]
        ]
        return bool(sent)

    until(arrived)
    [event] = sent
    assert event == {"type": "order.placed", "order": "o-form", "count": 2, "express": False, "size": "large",
                     "items": ["pen", "ink"]}  # fmt: skip
    fields = {"type": "order.placed", "url": "http://127.0.0.1:1/", "field.order": "o-odd", "field.count": "two"}
    odd = place.visitor().act("/events/new", "/events/send", fields)
    assert (odd.status, "field &#39;count&#39; must be a whole number" in odd.text) == (400, True)
    unread = place.visitor().act("/events/new", "/events/send", {"as": "json", "url": fields["url"], "event": "{"})
    assert (unread.status, "the event is not JSON" in unread.text) == (400, True)


def test_attempts_messages_and_logs_tell_a_runs_past(page: Page, place: Place) -> None:
    run_id = placed(place, "o-3")
    page.goto(f"{place.server.url}/runs/{run_id}?tab=attempts")
    rows = page.locator("tbody tr")
    expect(rows.first).to_contain_text("no shelf for o-3 yet")
    assert violations(page) == []
    attempts = twin(place, f"/runs/{run_id}")["attempts"]
    assert [(one["where"], one["attempt"], one["status"]) for one in attempts] == [
        ("reserve", 1, "failed"),
        ("reserve", 2, "completed"),
        ("pack", 1, "completed"),
        ("the function", 1, "completed"),
    ]
    assert all(one["took_ms"] is not None for one in attempts[:3])
    until(lambda: bool(twin(place, f"/runs/{run_id}?tab=messages")["deliveries"][0]["entries"][-1]["status"]))
    page.goto(f"{place.server.url}/runs/{run_id}?tab=messages")
    expect(page.locator(".states")).to_contain_text("answered 200 after")
    page.get_by_text("Headers and body").first.click()
    expect(page.locator("main")).to_contain_text("order.placed")
    assert violations(page) == []
    page.goto(f"{place.server.url}/runs/{run_id}?tab=logs")
    journal = page.get_by_role("region", name="Journal")
    expect(journal).to_contain_text("reserve, attempt 1: ValueError: no shelf for o-3 yet")
    expect(journal).to_contain_text("the run is completed")
    said = page.get_by_role("region", name="Lines").locator("tbody tr")
    expect(said).to_have_count(2)
    expect(said.nth(0)).to_contain_text("reserving for o-3")
    expect(said.nth(1)).to_contain_text("warning")
    expect(said.nth(1).locator(".said")).to_have_text("packed o-3")
    assert violations(page) == []
    times = [line["at_ms"] for line in twin(place, f"/runs/{run_id}?tab=logs")["journal"]]
    assert times == sorted(times)


def test_a_run_is_resumed_from_a_step_as_a_new_run(page: Page, place: Place) -> None:
    run_id = placed(place, "o-broken")
    assert twin(place, f"/runs/{run_id}")["run"]["status"] == "failed"
    (Path(place.runs["folder"]) / "mended").touch()
    page.goto(f"{place.server.url}/runs/{run_id}")
    page.get_by_text("Resume from step").click()
    assert violations(page) == []
    page.get_by_label("Step", exact=True).select_option("pack")
    page.get_by_role("button", name="Run from here").click()
    expect(page.get_by_role("alert")).to_contain_text("goes on from pack")
    expect(page.locator("h1 .status")).to_have_text("completed")
    expect(page.locator("main")).to_contain_text(f"goes on from step pack of run {run_id}")
    again = page.url.rpartition("/")[2]
    attempts = twin(place, f"/runs/{again}")["attempts"]
    assert [one["where"] for one in attempts if one["where"] == "reserve"] == ["reserve"], "it was taken over, not run"
    assert twin(place, f"/runs/{run_id}")["run"]["status"] == "failed"
    refused = place.visitor(READONLY).act("/runs", f"/runs/{run_id}/resume", {"step": "pack"})
    assert refused.status == 403
    unknown = place.visitor().act("/runs", f"/runs/{run_id}/resume", {"step": "no such step"})
    assert (unknown.status, "has no step" in unknown.text) == (400, True)


def test_the_copied_test_of_a_run_passes(place: Place, tmp_path: Path) -> None:
    run_id = placed(place, "o-4")
    case = twin(place, f"/runs/{run_id}")["pytest"]
    (tmp_path / "test_case.py").write_text(case.replace("from your_app import", f"from {APP} import"))
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-o",
        "asyncio_mode=auto",
        "-p",
        "no:cacheprovider",
        "test_case.py",
    ]
    environment = {**os.environ, "SHOP_FOLDER": str(tmp_path), "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 passed" in done.stdout


def test_the_copied_curl_of_a_run_starts_another(place: Place) -> None:
    run_id = placed(place, "o-5")
    command = twin(place, f"/runs/{run_id}")["curl"]
    environment = {**os.environ, "QSTASH_TOKEN": place.server.token}
    done = subprocess.run(
        ["sh", "-c", f"{command} -sS"], env=environment, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    message = json.loads(done.stdout)["messageId"]
    until(lambda: len(twin(place, f"/runs?id={message}")["runs"]) == 2)


def test_runs_are_counted_found_by_event_and_show_their_messages(page: Page, place: Place) -> None:
    run_id = placed(place, "o-6")
    page.goto(f"{place.server.url}/runs")
    counts = {one["status"]: one["count"] for one in twin(place, "/runs?function=ship")["counts"]}
    everything = twin(place, "/runs?function=ship")["runs"]
    assert counts["completed"] == sum(run["status"] == "completed" for run in everything)
    page.get_by_role("navigation", name="Runs by status").get_by_role("link", name="Completed").click()
    expect(page).to_have_url(f"{place.server.url}/runs?status=completed")
    page.get_by_label("Run or event").fill("evt_o-6")
    page.get_by_role("button", name="Filter").click()
    expect(page.locator("tbody tr")).to_have_count(2)
    shown = twin(place, f"/runs?id={run_id}")["runs"]
    assert [(run["id"], run["messages"]) for run in shown] == [(run_id, 1)]
    assert twin(place, "/runs?id=evt_unknown")["runs"] == []
    assert twin(place, "/runs")["functions"][-2:] == ["ship", "thank"]


def why(place: Place, run: str) -> Any:
    return twin(place, f"/runs/{run}")["why"]


def test_a_run_that_is_throttled_says_at_which_place_its_message_waits(page: Page, place: Place) -> None:
    runs: list[str] = []
    for order in ("t-1", "t-2"):
        send(place, id=order, event={"type": "poured", "order": order})
        until(
            lambda order=order: [run["status"] for run in twin(place, f"/runs?id=evt_{order}")["runs"]] == ["waiting"]
        )
        runs.append(twin(place, f"/runs?id=evt_{order}")["runs"][0]["id"])
    place.call("/v2/flowControl/pour/pause")
    for order in ("t-2", "t-1"):
        message = send(place, id=f"paid-{order}", event={"type": "order.paid", "order": order})
        until(lambda message=message: bool(twin(place, f"/events/{message}")["event"]["woke"]))
    for run, number in zip(runs, (2, 1), strict=True):  # a wake is on record before its message is published
        until(
            lambda run=run, end=f"waiting there: 2; its own is number {number}": why(place, run)["text"].endswith(end)
        )
        assert why(place, run)["cause"] == "throttled"
    page.goto(f"{place.server.url}/runs/{runs[0]}")
    expect(page.get_by_label("Why it is not moving")).to_contain_text("its own is number 2")
    place.call("/v2/flowControl/pour/resume")
    expect(page.locator("h1 .status")).to_have_text("completed")


def test_events_are_told_and_sent_again_by_commands_too(place: Place) -> None:
    run_id = placed(place, "o-cli", express=True)
    paid = send(place, id="paid-cli", event={"type": "order.paid", "order": "o-cli"})
    until(lambda: bool(twin(place, f"/events/{paid}")["event"]["woke"]))

    def command(*arguments: str) -> str:
        store = f"sqlite:///{place.runs['folder']}/runs.db"
        own = {"QSTASH_URL": place.server.url, "QSTASH_TOKEN": place.server.token, "IDIOTEQUE_STORE": store}
        line = [sys.executable, "-m", "idioteque", "events", *arguments]
        done = subprocess.run(line, env={**os.environ, **own}, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    listed = json.loads(command("list", "--type", "order.paid", "--json"))
    [one] = [event for event in listed if event["message_id"] == paid]
    assert [run["function_id"] for run in one["started"]] == ["thank"]
    assert one["woke"] == [{"run_id": run_id, "step": "payment"}]
    assert f"woke {run_id} at payment" in command("show", paid)
    sent = json.loads(command("again", paid, "--json"))["sent"]
    until(lambda: sent in {event["event_id"] for event in twin(place, "/events?type=order.paid")["events"]})
