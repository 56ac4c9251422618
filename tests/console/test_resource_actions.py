"""What can be done to schedules, queues, URL groups, flow-control keys and signing keys, by the console's own buttons
in a browser, down to its effect.
"""

from __future__ import annotations

import json
from typing import Any

from playwright.sync_api import Locator, Page, expect

from tests.console.actions import does
from tests.console.conftest import Place
from tests.console.test_browser import violations
from tests.console.test_message_actions import arrived, states, sure
from tests.destination import until

NEVER = "0 0 1 1 *"


def told(place: Place, path: str) -> Any:
    return json.loads(place.get(path))


def row_of(page: Page, name: str) -> Locator:
    return page.locator("main [data-row]", has=page.get_by_text(name, exact=True))


def said(page: Page, text: str) -> None:
    """Expect that the page tells what came of the action."""
    expect(page.get_by_role("alert")).to_have_text(text)


@does("/act/schedules run", "/act/schedules pause", "/act/schedules resume", "/act/schedules delete")
def test_a_schedule_is_run_paused_resumed_and_deleted(page: Page, place: Place) -> None:
    for name in ("nightly", "kept"):
        headers = {"Cron": NEVER, "Schedule_Id": name, "Forward_X_Note": "n"}
        place.call(f"/v2/schedules/{place.destination.url}/{name}", b"{}", **headers)
    page.goto(f"{place.server.url}/schedules")
    row_of(page, "nightly").get_by_role("button", name="Run now").click()
    said(page, "run: nightly")
    until(lambda: arrived(place, "/nightly") == [b"{}"])
    assert [one.headers["x-note"] for one in place.destination.received if one.target == "/nightly"] == ["n"]
    row_of(page, "nightly").get_by_role("button", name="Pause").click()
    said(page, "pause: nightly")
    assert told(place, "/v2/schedules/nightly")["isPaused"] is True
    row_of(page, "nightly").get_by_role("button", name="Resume").click()
    said(page, "resume: nightly")
    assert told(place, "/v2/schedules/nightly")["isPaused"] is False
    row_of(page, "nightly").get_by_role("button", name="Delete").click()
    expect(page.get_by_role("dialog")).to_contain_text("Delete this schedule?")
    assert violations(page) == []
    page.keyboard.press("Escape")
    expect(page.get_by_role("dialog")).to_have_count(0)
    assert {one["scheduleId"] for one in told(place, "/v2/schedules")} == {"nightly", "kept"}
    row_of(page, "nightly").get_by_role("button", name="Delete").click()
    sure(page, "Delete")
    said(page, "delete: nightly")
    assert {one["scheduleId"] for one in told(place, "/v2/schedules")} == {"kept"}
    assert arrived(place, "/kept") == []
    acts = [act["target"] for act in place.trail() if act["what"] == "resource"]
    assert acts == [f"{verb} nightly" for verb in ("run", "pause", "resume", "delete")]


@does("/act/queues pause", "/act/queues resume", "/act/queues set", "/act/queues delete")
def test_a_queue_is_paused_widened_resumed_and_deleted(page: Page, place: Place) -> None:
    place.call("/v2/queues", b'{"queueName": "mails", "parallelism": 1}')
    page.goto(f"{place.server.url}/queues")
    row_of(page, "mails").get_by_role("button", name="Pause").click()
    said(page, "pause: mails")
    assert told(place, "/v2/queues/mails")["paused"] is True
    for number in range(2):
        place.call(f"/v2/enqueue/mails/{place.destination.url}/mail-{number}")
    page.get_by_role("link", name="mails").click()
    expect(page.get_by_role("region", name="Who waits").locator("tbody tr")).to_have_count(2)
    page.get_by_label("Messages at once").fill("4")
    page.get_by_role("button", name="Set").click()
    said(page, "set: mails")
    queue = told(place, "/v2/queues/mails")
    assert (queue["parallelism"], queue["paused"], queue["lag"]) == (4, True, 2), "it stays paused"
    page.get_by_role("button", name="Resume").click()
    said(page, "resume: mails")
    until(lambda: bool(arrived(place, "/mail-0") and arrived(place, "/mail-1")))
    page.get_by_role("button", name="Pause").click()
    said(page, "pause: mails")
    text = place.call(f"/v2/enqueue/mails/{place.destination.url}/mail-never")
    page.get_by_role("button", name="Delete").click()
    sure(page, "Delete")
    said(page, "delete: mails")
    assert told(place, "/v2/queues") == []
    assert states(place, json.loads(text)["messageId"])[-1] == "CANCELED"
    assert arrived(place, "/mail-never") == []


@does("/act/flow-control pause", "/act/flow-control resume", "/act/flow-control pin", "/act/flow-control unpin",
      "/act/flow-control resetRate")  # fmt: skip
def test_a_flow_control_key_is_paused_pinned_unpinned_and_its_rate_reset(page: Page, place: Place) -> None:
    def key() -> Any:
        return told(place, "/v2/flowControl/shop/eu")

    def send(target: str) -> None:
        place.publish(target, Flow_Control_Key="shop/eu", Flow_Control_Value="rate=1, period=1d")

    send("/first")
    until(lambda: bool(arrived(place, "/first")))
    send("/second")
    until(lambda: key()["waitListSize"] == 1)
    page.goto(f"{place.server.url}/flow-control")
    page.get_by_role("link", name="shop/eu").click()
    page.get_by_role("button", name="Pause").click()
    said(page, "pause: shop/eu")
    assert key()["isPaused"] is True
    page.get_by_role("button", name="Reset rate").click()
    said(page, "resetRate: shop/eu")
    assert (key()["rateCount"], key()["waitListSize"]) == (0, 1), "a paused key lets nothing go"
    page.get_by_role("button", name="Resume").click()
    said(page, "resume: shop/eu")
    until(lambda: bool(arrived(place, "/second")))
    send("/third")
    until(lambda: key()["waitListSize"] == 1)
    page.get_by_label("Rate").fill("3")
    page.get_by_label("Period").fill("2m")
    page.get_by_role("button", name="Pin these limits").click()
    said(page, "pin: shop/eu")
    until(lambda: bool(arrived(place, "/third")))
    send("/fourth")
    pinned = key()
    assert (pinned["isPinnedRate"], pinned["rateMax"], pinned["ratePeriod"]) == (True, 3, 120), "whatever messages say"
    page.get_by_role("button", name="Unpin").click()
    said(page, "unpin: shop/eu")
    assert key()["isPinnedRate"] is False
    page.goto(f"{place.server.url}/flow-control?search=shop")
    row_of(page, "shop/eu").get_by_role("button", name="Pause").click()
    said(page, "pause: shop/eu")
    assert key()["isPaused"] is True


@does("/act/url-groups add", "/act/url-groups remove", "/act/url-groups delete")
def test_a_url_group_is_made_extended_published_to_and_deleted(page: Page, place: Place) -> None:
    def ends() -> Any:
        return [(one["name"], one["endpoints"]) for one in told(place, "/v2/topics")]

    one, two = (f"{place.destination.url}/{name}" for name in ("stock", "mail"))
    page.goto(f"{place.server.url}/url-groups")
    page.get_by_label("Group").fill("orders")
    page.get_by_label("URL").fill(one)
    page.get_by_label("Name").fill("stock")
    page.get_by_role("button", name="Make the group").click()
    said(page, "add: orders")
    assert ends() == [("orders", [{"name": "stock", "url": one}])]
    card = page.locator("section[data-row]")
    card.get_by_text("Add an endpoint").click()
    card.get_by_label("URL").fill(two)
    card.get_by_role("button", name="Add").click()
    said(page, "add: orders")
    assert [end["url"] for end in ends()[0][1]] == [one, two]
    place.call("/v2/publish/orders", b"both")
    until(lambda: arrived(place, "/stock") == arrived(place, "/mail") == [b"both"])
    card.get_by_role("listitem").filter(has_text="stock").get_by_role("button", name="Remove").click()
    sure(page, "Remove")
    said(page, "remove: orders")
    assert [end["url"] for end in ends()[0][1]] == [two]
    card.get_by_role("button", name="Delete").click()
    sure(page, "Delete")
    said(page, "delete: orders")
    assert ends() == []


@does("/keys/rotate")
def test_the_signing_keys_are_rotated_once_one_is_sure(page: Page, place: Place) -> None:
    before = told(place, "/v2/keys")
    page.goto(f"{place.server.url}/keys")
    assert page.locator("main dd").all_inner_texts() == [f"{before[name][:8]}…" for name in ("current", "next")]
    page.get_by_role("button", name="Rotate").click()
    sure(page, "Leave it")
    expect(page.get_by_role("dialog")).to_have_count(0)
    assert told(place, "/v2/keys") == before
    page.get_by_role("button", name="Rotate").click()
    expect(page.get_by_role("dialog")).to_contain_text("receivers need both")
    sure(page, "Rotate")
    said(page, "the keys are rotated: the next one signs now")
    after = told(place, "/v2/keys")
    assert after["current"] == before["next"]
    assert after["next"] not in before.values()
    assert not any(key in line for line in place.server.lines for key in (*before.values(), *after.values()))
    assert page.locator("main dd").all_inner_texts() == [f"{after[name][:8]}…" for name in ("current", "next")]
