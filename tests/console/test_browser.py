"""The console in a real browser: every screen, keys, live content, accessibility, and no violation of the policy."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

from axe_core_python.sync_playwright import Axe
from playwright.sync_api import Page, expect

from tests.console.conftest import Place
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
    expect(page.get_by_role("alert")).to_contain_text("the run is cancelled")
    expect(page.locator("h1 .status")).to_have_text("cancelled")


def test_a_message_is_published_by_its_form(page: Page, place: Place) -> None:
    page.goto(f"{place.server.url}/messages/publish")
    page.get_by_label("URL, or the name").fill(f"{place.destination.url}/from-browser")
    page.get_by_label("Body").fill('{"hello": "world"}')
    page.get_by_role("button", name="Publish").click()
    expect(page.locator("h1 .status")).to_have_text("delivered")
    assert any(request.target == "/from-browser" for request in place.destination.received)


def test_a_dead_letter_is_edited_and_sent_again(page: Page, place: Place) -> None:
    message = place.publish("/bad-edit", b'{"wrong": 1}', Retries="0")
    until(lambda: message in place.visitor().get("/dead-letters").text)
    page.goto(f"{place.server.url}/dead-letters")
    page.get_by_role("link", name=message).click()
    page.get_by_text("Edit and retry").click()
    page.get_by_label("URL").fill(f"{place.destination.url}/mended")
    page.get_by_label("Body").fill('{"right": 1}')
    page.get_by_role("button", name="Send, and delete").click()
    expect(page.locator("h1 .status")).to_have_text("delivered")
    assert [r.body for r in place.destination.received if r.target == "/mended"] == [b'{"right": 1}']
    assert message not in place.visitor().get("/dead-letters").text


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
