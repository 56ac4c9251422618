"""What can be done to runs and events, by the console's own buttons in a browser, down to its effect in the store: the
worker of these runs is at work beside the console.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page, expect

from tests.console.actions import does
from tests.console.conftest import Place
from tests.console.live import open_shop, placed, send
from tests.console.test_browser import violations
from tests.console.test_message_actions import sure
from tests.destination import until


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    with open_shop(tmp_path_factory.mktemp("runs")) as shop:
        yield shop


@pytest.fixture
def broken(place: Place) -> Iterator[Path]:
    """Let orders that say they are broken fail, until this file is there."""
    mended = Path(place.runs["folder"]) / "mended"
    yield mended
    mended.unlink(missing_ok=True)


def run_of(place: Place, run_id: str) -> Any:
    return place.twin(f"/runs/{run_id}")["run"]


def ended(place: Place, run_id: str, status: str) -> None:
    until(lambda: run_of(place, run_id)["status"] == status)


def events(place: Place, order: str) -> list[Any]:
    """Return the events of an order that have arrived, the latest first."""
    found = place.twin("/events")["events"]
    return [event for event in found if f'"{order}"' in event["event"]["text"]]


@does("/runs/{id}/cancel")
def test_a_run_is_cancelled_once_one_is_sure_and_its_event_comes_too_late(page: Page, place: Place) -> None:
    run_id = placed(place, "c-1", express=True)
    page.goto(f"{place.server.url}/runs/{run_id}")
    page.get_by_role("button", name="Cancel").click()
    sure(page, "Leave it")
    expect(page.get_by_role("dialog")).to_have_count(0)
    assert run_of(place, run_id)["status"] == "waiting"
    page.get_by_role("button", name="Cancel").click()
    expect(page.get_by_role("dialog")).to_contain_text("Cancel this run?")
    sure(page, "Cancel")
    expect(page.get_by_role("alert")).to_have_text("the run is cancelled")
    expect(page.locator("h1 .status")).to_have_text("cancelled")
    send(place, id="paid-c-1", event={"type": "order.paid", "order": "c-1"})
    until(lambda: [one["woke"] for one in events(place, "c-1") if one["type"] == "order.paid"] == [[]])
    assert run_of(place, run_id)["status"] == "cancelled"


@does("/runs/{id}/retry")
def test_a_failed_run_is_retried_and_keeps_what_its_steps_gave(page: Page, place: Place, broken: Path) -> None:
    run_id = placed(place, "broken-1")
    broken.touch()
    page.goto(f"{place.server.url}/runs/{run_id}")
    expect(page.locator("h1 .status")).to_have_text("failed")
    page.get_by_role("button", name="Retry").click()
    expect(page.get_by_role("alert")).to_have_text("the run goes on")
    expect(page.locator("h1 .status")).to_have_text("completed")
    assert place.twin(f"/runs/{run_id}")["output"]["text"] == '"parcel of broken-1"'
    attempts = [(one["where"], one["status"]) for one in place.twin(f"/runs/{run_id}")["attempts"]]
    assert attempts.count(("reserve", "completed")) == 1, "it did not run again"
    assert attempts.count(("pack", "completed")) == 1


@does("/runs/{id}/resume")
def test_a_run_is_resumed_from_a_step_beside_the_old_one(page: Page, place: Place, broken: Path) -> None:
    run_id = placed(place, "broken-2")
    broken.touch()
    page.goto(f"{place.server.url}/runs/{run_id}")
    page.get_by_text("Resume from step").click()
    page.get_by_label("Step", exact=True).select_option("pack")
    page.get_by_role("button", name="Run from here").click()
    expect(page.get_by_role("alert")).to_contain_text("goes on from pack")
    again = page.url.rpartition("/")[2]
    ended(place, again, "completed")
    assert run_of(place, run_id)["status"] == "failed"
    assert again != run_id


@does("/runs/{id}/again")
def test_a_run_is_run_again_with_another_event(page: Page, place: Place) -> None:
    run_id = placed(place, "first")
    page.goto(f"{place.server.url}/runs/{run_id}?tab=input")
    page.get_by_text("Edit and run again").click()
    page.get_by_label("The event of a new run").fill('{"type": "order.placed", "order": "second"}')
    page.get_by_role("button", name="Run", exact=True).click()
    expect(page.get_by_role("alert")).to_contain_text("is on its way")
    [again] = [word for word in page.get_by_role("alert").inner_text().split() if word.startswith("run_")]
    until(lambda: bool(place.twin(f"/runs?id={again}")["runs"]))
    ended(place, again, "completed")
    assert place.twin(f"/runs/{again}")["output"]["text"] == '"parcel of second"'
    assert place.twin(f"/runs/{run_id}")["output"]["text"] == '"parcel of first"'


@does("/runs/bulk/count", "/runs/bulk cancel")
def test_the_runs_that_fit_the_filters_are_counted_and_then_cancelled(page: Page, place: Place) -> None:
    meant = [placed(place, f"b-{number}", express=True) for number in range(3)]
    done = placed(place, "b-done")
    page.goto(f"{place.server.url}/runs")
    page.get_by_role("search").get_by_label("Status").select_option("waiting")
    page.get_by_label("Function").fill("ship")
    page.get_by_role("button", name="Filter").click()
    page.get_by_role("button", name="Cancel…").click()
    expect(page.get_by_role("heading", name="Cancel 3 runs?")).to_be_visible()
    assert violations(page) == []
    assert {run_of(place, one)["status"] for one in meant} == {"waiting"}, "counting changes nothing"
    page.get_by_role("button", name="Cancel 3 runs").click()
    expect(page.get_by_role("alert")).to_have_text("cancel: 3 of 3 runs")
    assert {run_of(place, one)["status"] for one in meant} == {"cancelled"}
    assert run_of(place, done)["status"] == "completed"
    [act] = [act for act in place.trail() if act["what"] == "run.bulk"]
    assert set(act["target"].split(", ")) == set(meant)


@does("/runs/bulk/count", "/runs/bulk retry")
def test_ticked_runs_are_counted_and_then_retried(page: Page, place: Place, broken: Path) -> None:
    first, second, left = (placed(place, f"broken-{name}") for name in ("x", "y", "z"))
    broken.touch()
    page.goto(f"{place.server.url}/runs?status=failed")
    for one in (first, second):
        page.get_by_label(f"Tick run {one}").check()
    page.get_by_role("button", name="Retry…").click()
    expect(page.get_by_role("heading", name="Retry 2 runs?")).to_be_visible()
    assert run_of(place, first)["status"] == "failed", "counting changes nothing"
    page.get_by_role("button", name="Retry 2 runs").click()
    expect(page.get_by_role("alert")).to_have_text("retry: 2 of 2 runs")
    for one in (first, second):
        ended(place, one, "completed")
    assert run_of(place, left)["status"] == "failed"


def test_what_is_copied_of_a_run_starts_another_and_is_a_test(page: Page, place: Place) -> None:
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    run_id = placed(place, "copied")
    page.goto(f"{place.server.url}/runs/{run_id}")
    page.get_by_role("button", name="Copy as pytest case").click()
    expect(page.get_by_role("button", name="Copied")).to_be_visible()
    case = str(page.evaluate("navigator.clipboard.readText()"))
    assert case == place.twin(f"/runs/{run_id}")["pytest"], "which is run as a test elsewhere"
    page.get_by_role("button", name="Copy as curl").click()
    until(lambda: page.evaluate("navigator.clipboard.readText()") != case)
    command = str(page.evaluate("navigator.clipboard.readText()"))
    environment = {**os.environ, "QSTASH_TOKEN": place.server.token}
    done = subprocess.run(
        ["sh", "-c", f"{command} -sS"], env=environment, capture_output=True, text=True, timeout=60, check=True
    )
    message = json.loads(done.stdout)["messageId"]
    until(lambda: "ship" in {run["function_id"] for run in place.twin(f"/runs?id={message}")["runs"]})


@does("/events/send", "/events/{id}/again")
def test_an_event_is_written_in_a_form_or_as_json_and_sent_again(page: Page, place: Place) -> None:
    page.goto(f"{place.server.url}/events")
    page.get_by_role("link", name="Send an event").click()
    page.get_by_role("link", name="order.paid").click()
    page.get_by_label("order").fill("by-form")
    page.get_by_role("button", name="Send").click()
    expect(page.get_by_role("alert")).to_contain_text("is accepted")
    until(lambda: [one["type"] for one in events(place, "by-form")] == ["order.paid"])
    page.goto(f"{place.server.url}/events/new")
    page.get_by_role("link", name="JSON").click()
    page.get_by_label("Event", exact=True).fill('{"type": "order.placed", "order": "by-json", "count": 3}')
    page.get_by_role("button", name="Send").click()
    expect(page.get_by_role("alert")).to_contain_text("is accepted")
    until(lambda: [json.loads(one["event"]["text"])["count"] for one in events(place, "by-json")] == [3])
    [event] = events(place, "by-json")
    page.goto(f"{place.server.url}/events/{event['message_id']}")
    page.get_by_role("button", name="Send again").click()
    expect(page.get_by_role("alert")).to_contain_text("is accepted")
    until(lambda: len(events(place, "by-json")) == 2)
    assert len({one["event_id"] for one in events(place, "by-json")}) == 2, "it is an event of its own"
    until(lambda: all(len(one["started"]) == 2 for one in events(place, "by-json")))
    page.goto(f"{place.server.url}/events/{event['message_id']}")
    page.get_by_role("link", name="Send another like it").click()
    expect(page.get_by_label("Event", exact=True)).to_have_value(event["event"]["text"])
