"""Schedules and flow-control keys, as an operator looks at them and changes them in a browser."""

from __future__ import annotations

import json
from datetime import datetime

from playwright.sync_api import Page, expect

from idioteque.console.pages.resources import ticks_of
from tests.console.conftest import Place
from tests.console.test_browser import violations
from tests.destination import until

PARIS = "CRON_TZ=Europe/Paris 0 4 * * *"


def test_the_ticks_that_follow_are_told_in_the_zone_of_the_schedule() -> None:
    first_ms = round(datetime.fromisoformat("2026-03-28T03:00:00+00:00").timestamp() * 1000)
    assert [tick.local for tick in ticks_of(PARIS, first_ms)] == [
        "Sat 28 Mar 2026 04:00 CET",
        "Sun 29 Mar 2026 04:00 CEST",
        "Mon 30 Mar 2026 04:00 CEST",
        "Tue 31 Mar 2026 04:00 CEST",
        "Wed 01 Apr 2026 04:00 CEST",
    ]
    assert ticks_of(PARIS, 0) == ()
    assert ticks_of("every now and then", first_ms) == ()


def test_a_schedule_shows_when_it_is_due_next(page: Page, place: Place) -> None:
    place.call(f"/v2/schedules/{place.destination.url}/report", b"{}", Cron=PARIS, Schedule_Id="daily")
    page.goto(f"{place.server.url}/schedules")
    page.get_by_text("The next 5").click()
    ticks = page.locator(".ticks li")
    expect(ticks).to_have_count(5)
    for text in ticks.all_inner_texts():
        assert "04:00 CE" in text
        assert text.endswith(("03:00 UTC", "02:00 UTC"))
    assert violations(page) == []
    page.get_by_role("button", name="Run now").click()
    until(lambda: any(request.target == "/report" for request in place.destination.received))
    page.get_by_role("button", name="Pause").click()
    expect(page.locator("tbody .status").first).to_have_text("paused")
    expect(page.get_by_text("The next 5")).to_have_count(0)


def test_the_limits_of_a_key_are_pinned_and_unpinned(page: Page, place: Place) -> None:
    place.publish(Flow_Control_Key="shop", Flow_Control_Value="parallelism=5, rate=100, period=1m")
    page.goto(f"{place.server.url}/flow-control?search=shop")
    page.get_by_text("Pin", exact=True).click()
    assert violations(page) == []
    page.get_by_label("Parallelism").fill("2")
    page.get_by_label("Rate").fill("7")
    page.get_by_label("Period").fill("2m")
    page.get_by_role("button", name="Pin these limits").click()
    expect(page.get_by_role("alert")).to_contain_text("pin: shop")
    [key] = json.loads(place.visitor().get("/flow-control.json?search=shop").text)["keys"]
    assert (key["parallelism"], key["rate"], key["period_s"], key["is_pinned"]) == (2, 7, 120, True)
    page.get_by_role("button", name="Unpin").click()
    expect(page.get_by_role("alert")).to_contain_text("unpin: shop")
