"""The console in a real browser: every screen, keys, live content, accessibility, and no violation of the policy."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from axe_core_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, expect

from tests.console.conftest import WAIT_MS, Place
from tests.destination import until


def violations(page: Page) -> list[str]:
    report: Any = Axe().run(page, options={"resultTypes": ["violations"]})
    return [f"{one['id']}: {[node['html'][:120] for node in one['nodes']][:3]}" for one in report["violations"]]


def test_a_new_message_appears_by_itself(page: Page, place: Place) -> None:
    page.goto(f"{place.server.url}/messages")
    expect(page.locator(".live.on")).to_be_visible()
    message = place.publish("/live")
    expect(page.locator(f'a[href="/messages/{message}"]').first).to_be_visible()


def test_the_focus_stays_where_it_was_when_a_page_changes(page: Page, place: Place) -> None:
    for name in ("one", "two"):
        place.call("/v2/queues", f'{{"queueName": "{name}", "paused": true}}'.encode())
    page.goto(f"{place.server.url}/queues")
    expect(page.locator(".live.on")).to_be_visible()
    row = page.locator("tr", has=page.get_by_role("link", name="two"))
    row.get_by_role("button", name="Delete").focus()
    place.call(f"/v2/enqueue/two/{place.destination.url}/two")
    expect(row.locator(".num").last).to_have_text("1")
    expect(row.get_by_role("button", name="Delete")).to_be_focused()


def test_what_comes_while_somebody_is_typing_is_shown_afterwards(page: Page, place: Place) -> None:
    page.goto(f"{place.server.url}/messages")
    expect(page.locator(".live.on")).to_be_visible()
    field = page.get_by_role("search").locator("[data-search]")
    field.fill("half a wo")
    message = place.publish("/typing")
    until(lambda: message in place.visitor().get("/messages").text)
    expect(field).to_have_value("half a wo")
    field.blur()
    expect(page.locator(f'a[href="/messages/{message}"]').first).to_be_visible()


def test_keys_lead_through_the_runs_and_into_one(page: Page, place: Place) -> None:
    page.goto(f"{place.server.url}/runs")
    page.keyboard.press("/")
    expect(page.get_by_label("Function")).to_be_focused()
    page.keyboard.press("Escape")
    page.keyboard.press("j")
    page.keyboard.press("j")
    page.keyboard.press("k")
    expect(page.locator("tr.at")).to_have_count(1)
    page.keyboard.press("Enter")
    page.wait_for_url("**/runs/run_*")
    page.keyboard.press("?")
    expect(page.get_by_role("heading", name="Keyboard")).to_be_visible()


def test_a_run_is_cancelled_and_says_so(page: Page, place: Place) -> None:
    page.goto(f"{place.server.url}/runs/{place.runs['later']}")
    expect(page.get_by_label("Why it is not moving")).to_contain_text("sleeping")
    page.get_by_role("button", name="Cancel").click()
    page.get_by_role("dialog").get_by_role("button", name="Cancel").click()
    expect(page.get_by_role("alert")).to_contain_text("the run is cancelled")
    expect(page.locator("h1 .status")).to_have_text("cancelled")


def test_the_screens_are_drawn(page: Page, place: Place, tmp_path: Path) -> None:
    page.goto(f"{place.server.url}/runs/{place.runs['good']}")
    bars = page.locator(".waterfall rect.bar").all()
    assert len(bars) == 2
    boxes = [bar.bounding_box() for bar in bars]
    assert all(box is not None and box["width"] > 0 and box["height"] == 10 for box in boxes)


def test_a_narrow_screen_shows_where_one_is_and_an_axis_that_can_be_read(page: Page, place: Place) -> None:
    page.set_viewport_size({"width": 400, "height": 800})
    page.goto(f"{place.server.url}/schedules")
    expect(page.locator("nav [aria-current]")).to_be_in_viewport(ratio=1)
    page.goto(f"{place.server.url}/runs/{place.runs['good']}")
    boxes = [box for text in page.locator(".axis text").all() if (box := text.bounding_box()) is not None]
    assert len(boxes) == 3
    assert all(a["x"] + a["width"] <= b["x"] for a, b in pairwise(boxes)), boxes


HELD = """() => {
  const within = (one) => one !== null && one.closest("dialog[open]") !== null;
  return within(document.activeElement) || document.activeElement === document.body;
}"""
"""Whether the focus is in the dialog; between its last and its first control, the browser's own bars have it."""


@pytest.mark.parametrize("closed_by", ["Escape", "Enter"])
def test_a_question_holds_the_focus_and_gives_it_back(page: Page, place: Place, closed_by: str) -> None:
    message = place.publish("/never", Delay="1h")
    page.goto(f"{place.server.url}/messages/{message}")
    cancel = page.locator("main").get_by_role("button", name="Cancel")
    cancel.focus()
    page.keyboard.press("Enter")
    dialog = page.get_by_role("dialog")
    expect(dialog).to_have_accessible_name("Cancel this message?")
    expect(dialog.get_by_role("button", name="Leave it")).to_be_focused()
    for _ in range(5):
        page.keyboard.press("Tab")
        assert page.evaluate(HELD)
    for key in ("?", "r", "/"):
        page.keyboard.press(key)
    expect(page.get_by_role("dialog")).to_have_count(1)
    dialog.get_by_role("button", name="Leave it").focus()
    page.keyboard.press(closed_by)
    expect(page.get_by_role("dialog")).to_have_count(0)
    expect(cancel).to_be_focused()
    assert json.loads(place.get(f"/v2/logs?messageId={message}"))["logs"][0]["state"] == "CREATED"


def test_the_help_gives_the_focus_back_and_keys_mean_nothing_behind_it(page: Page, place: Place) -> None:
    page.goto(f"{place.server.url}/runs")
    link = page.get_by_role("link", name="Messages")
    link.focus()
    page.keyboard.press("?")
    help_ = page.get_by_role("dialog", name="Keyboard shortcuts")
    expect(help_.get_by_role("button", name="Close")).to_be_focused()
    page.keyboard.press("j")
    expect(page.locator("tr.at")).to_have_count(0)
    page.keyboard.press("Escape")
    expect(help_).to_be_hidden()
    expect(link).to_be_focused()


def test_without_scripts_the_buttons_do_what_they_say_unasked(browser: Browser, place: Place) -> None:
    message = place.publish("/never", Delay="1h")
    context = browser.new_context(java_script_enabled=False)
    context.set_default_timeout(WAIT_MS)
    page = context.new_page()
    page.goto(f"{place.server.url}/login?next=/messages/{message}")
    page.get_by_label("The server's token").fill(place.server.token)
    page.get_by_role("button", name="Log in").click()
    page.get_by_role("button", name="Cancel").click()
    expect(page.get_by_role("alert")).to_have_text("the message is cancelled")
    context.close()
