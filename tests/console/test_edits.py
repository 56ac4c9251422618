"""What is written into the console's forms arrives as it was written."""

from __future__ import annotations

from playwright.sync_api import Page, expect

from tests.console.conftest import Place
from tests.destination import until


def test_lines_written_in_a_browser_arrive_with_the_line_ends_they_had(page: Page, place: Place) -> None:
    page.goto(f"{place.server.url}/messages/publish")
    page.get_by_label("URL, or the name").fill(f"{place.destination.url}/lines")
    page.get_by_label("Body").fill("one\ntwo\n")
    page.get_by_role("button", name="Publish").click()
    expect(page.locator("h1 .status")).to_have_text("delivered")
    assert [one.body for one in place.destination.received if one.target == "/lines"] == [b"one\ntwo\n"]


def test_a_dead_letter_is_sent_with_other_headers(page: Page, place: Place) -> None:
    message = place.publish("/bad-headers", b"a\nb", Retries="0", Forward_X_Old="1")
    until(lambda: message in place.visitor().get("/dead-letters").text)
    page.goto(f"{place.server.url}/dead-letters")
    page.get_by_role("link", name=message).click()
    page.get_by_text("Edit and retry").click()
    headers = page.get_by_label("Headers, one a line")
    assert sorted(headers.input_value().splitlines()) == ["Content-Type: application/json", "X-Old: 1"]
    page.get_by_label("URL").fill(f"{place.destination.url}/other-headers")
    headers.fill("Content-Type: text/plain\nX-New: 2")
    page.get_by_role("button", name="Send, and delete").click()
    expect(page.locator("h1 .status")).to_have_text("delivered")
    [arrived] = [one for one in place.destination.received if one.target == "/other-headers"]
    assert (arrived.body, arrived.headers["content-type"], arrived.headers["x-new"]) == (b"a\nb", "text/plain", "2")
    assert "x-old" not in arrived.headers
