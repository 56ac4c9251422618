"""What can be done to messages and dead letters, by the console's own buttons in a browser, down to its effect."""

from __future__ import annotations

import json
import os
import subprocess
from typing import Any

from playwright.sync_api import Page, expect

from tests.console.actions import does
from tests.console.conftest import Place
from tests.console.test_browser import violations
from tests.destination import until


def states(place: Place, message_id: str) -> list[str]:
    """Return the states of a message, the first one first."""
    found = json.loads(place.get(f"/v2/logs?messageId={message_id}&order=earliestFirst"))["logs"]
    return [entry["state"] for entry in found]


def letters(place: Place, *message_ids: str) -> list[str]:
    """Return the ids of the dead letters of these messages."""
    query = "&".join(f"messageId={one}" for one in message_ids)
    return [letter["dlqId"] for letter in json.loads(place.get(f"/v2/dlq?{query}"))["messages"]]


def arrived(place: Place, target: str) -> list[bytes]:
    return [request.body for request in list(place.destination.received) if request.target == target]


def die(place: Place, *targets: str) -> list[str]:
    """Publish messages that end as dead letters; return their ids."""
    sent = [place.publish(target, b'{"wrong": 1}', Retries="0") for target in targets]
    until(lambda: len(letters(place, *sent)) == len(sent))
    return sent


def sure(page: Page, button: str) -> None:
    """Press the button of the question that is asked now."""
    page.get_by_role("dialog").get_by_role("button", name=button).click()


@does("/messages/{id}/retry")
def test_a_message_that_waits_is_sent_now_in_its_place(page: Page, place: Place) -> None:
    waiting = place.publish("/wait", b"soon", Delay="1h")
    page.goto(f"{place.server.url}/messages/{waiting}")
    page.get_by_role("button", name="Retry now").click()
    expect(page.get_by_role("alert")).to_contain_text("in place of this one")
    expect(page.locator("h1 .status")).to_have_text("delivered")
    assert arrived(place, "/wait") == [b"soon"]
    assert states(place, waiting)[-1] == "CANCELED"
    copy = page.url.rpartition("/")[2]
    assert states(place, copy)[-1] == "DELIVERED"


@does("/messages/{id}/cancel")
def test_a_message_is_cancelled_once_one_is_sure(page: Page, place: Place) -> None:
    waiting = place.publish("/never", Delay="1h")
    page.goto(f"{place.server.url}/messages/{waiting}")
    page.get_by_role("button", name="Cancel").click()
    expect(page.get_by_role("dialog")).to_contain_text("Cancel this message?")
    assert violations(page) == []
    sure(page, "Leave it")
    expect(page.get_by_role("dialog")).to_have_count(0)
    assert states(place, waiting) == ["CREATED"]
    page.get_by_role("button", name="Cancel").click()
    sure(page, "Cancel")
    expect(page.get_by_role("alert")).to_contain_text("the message is cancelled")
    expect(page.locator("h1 .status")).to_have_text("canceled")
    assert states(place, waiting) == ["CREATED", "CANCEL_REQUESTED", "CANCELED"]
    assert [act["target"] for act in place.trail() if act["what"] == "message.cancel"] == [waiting]
    assert arrived(place, "/never") == []


@does("/messages/{id}/again")
def test_a_message_that_is_over_is_sent_again_and_copied_as_curl(page: Page, place: Place) -> None:
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    first = place.publish("/again", b"it's 1", Label="again", Forward_X_Note="n")
    until(lambda: states(place, first)[-1] == "DELIVERED")
    page.goto(f"{place.server.url}/messages/{first}")
    page.get_by_role("button", name="Copy as curl").click()
    expect(page.get_by_role("button", name="Copied")).to_be_visible()
    command = str(page.evaluate("navigator.clipboard.readText()"))
    page.get_by_role("button", name="Send again").click()
    expect(page.get_by_role("alert")).to_contain_text("is accepted")
    until(lambda: len(arrived(place, "/again")) == 2)
    environment = {**os.environ, "QSTASH_TOKEN": place.server.token}
    done = subprocess.run(
        ["sh", "-c", f"{command} -sS"], env=environment, capture_output=True, text=True, timeout=60, check=True
    )
    assert json.loads(done.stdout)["messageId"].startswith("msg_")
    until(lambda: arrived(place, "/again") == [b"it's 1"] * 3)
    notes = [one.headers["x-note"] for one in place.destination.received if one.target == "/again"]
    assert notes == ["n"] * 3


@does("/messages/bulk/count", "/messages/bulk")
def test_the_messages_that_fit_the_filters_are_counted_and_then_cancelled(page: Page, place: Place) -> None:
    meant = [place.publish("/many", Delay="1h", Label="many") for _ in range(3)]
    other = place.publish("/many", Delay="1h", Label="other")
    ended = place.publish("/ended", Label="many")
    until(lambda: states(place, ended)[-1] == "DELIVERED")
    page.goto(f"{place.server.url}/messages")
    page.get_by_label("Label").fill("many")
    page.get_by_role("button", name="Filter").click()
    page.get_by_role("button", name="Cancel…").click()
    expect(page.get_by_role("heading", name="Cancel 3 messages?")).to_be_visible()
    expect(page.locator("main")).to_contain_text("with label many")
    assert violations(page) == []
    assert [states(place, one) for one in meant] == [["CREATED"]] * 3, "counting changes nothing"
    page.get_by_role("button", name="Cancel 3 messages").click()
    expect(page.get_by_role("alert")).to_contain_text("cancel: 3 of 3 messages")
    assert {states(place, one)[-1] for one in meant} == {"CANCELED"}
    assert states(place, other) == ["CREATED"]
    assert states(place, ended)[-1] == "DELIVERED"
    [act] = [act for act in place.trail() if act["what"] == "message.bulk-cancel"]
    assert set(act["target"].split(", ")) == set(meant)


@does("/messages/publish/send")
def test_a_message_is_published_with_all_that_the_form_offers(page: Page, place: Place) -> None:
    page.goto(f"{place.server.url}/messages")
    page.get_by_role("link", name="Publish").click()
    page.get_by_label("URL, or the name").fill(f"{place.destination.url}/form")
    page.get_by_label("Method").select_option("PUT")
    page.get_by_label("Content type").fill("text/plain")
    page.get_by_label("Retries").fill("1")
    page.get_by_label("Label").fill("form")
    page.get_by_label("Headers").fill("X-Order: 7\nX-Note: two words")
    page.get_by_label("Body").fill("hello")
    page.get_by_role("button", name="Publish").click()
    expect(page.locator("h1 .status")).to_have_text("delivered")
    [got] = [request for request in place.destination.received if request.target == "/form"]
    assert (got.method, got.body) == ("PUT", b"hello")
    assert [got.headers[name] for name in ("x-order", "x-note", "content-type")] == ["7", "two words", "text/plain"]
    [entry, *_] = json.loads(place.get("/v2/logs?label=form"))["logs"]
    assert (entry["messageId"], entry["maxRetries"]) == (page.url.rpartition("/")[2], 1)


@does("/messages/signature/check")
def test_a_signature_is_accepted_or_refused_by_name_of_the_rule(page: Page, place: Place) -> None:
    place.publish("/signed", b"signed")
    until(lambda: bool(arrived(place, "/signed")))
    [got] = [request for request in place.destination.received if request.target == "/signed"]

    def check(body: str) -> Any:
        page.goto(f"{place.server.url}/messages/signature?url={place.destination.url}/signed")
        page.get_by_label("Upstash-Signature").fill(got.headers["upstash-signature"])
        page.get_by_label("The body").fill(body)
        page.get_by_role("button", name="Check").click()
        return page.get_by_role("alert")

    expect(check("signed")).to_contain_text("accepted")
    expect(check("forged")).to_contain_text("refused")
    assert [act for act in place.trail() if act["what"].startswith("signature")] == [], "it changes nothing"


@does("/dead-letters/bulk/count", "/dead-letters/bulk retry")
def test_the_dead_letters_of_one_cause_are_ticked_counted_and_retried(page: Page, place: Place) -> None:
    meant = die(place, "/bad-cause", "/bad-cause", "/bad-cause")
    other = die(place, "/bad-other")
    page.goto(f"{place.server.url}/dead-letters")
    group = page.locator("section", has=page.get_by_role("heading", name="/bad-cause"))
    group.get_by_label("Tick all of this cause").check()
    expect(page.locator('input[name="id"]:checked')).to_have_count(3)
    page.get_by_role("button", name="Retry…").click()
    expect(page.get_by_role("heading", name="Retry 3 dead letters?")).to_be_visible()
    assert len(arrived(place, "/bad-cause")) == 3, "counting changes nothing"
    page.get_by_role("button", name="Retry 3 dead letters").click()
    expect(page.get_by_role("alert")).to_contain_text("retry: 3 of 3 dead letters")
    until(lambda: len(arrived(place, "/bad-cause")) == 3 + 3)
    assert letters(place, *meant) == [], "they are new messages now"
    assert len(letters(place, *other)) == 1


@does("/dead-letters/bulk/count", "/dead-letters/bulk delete")
def test_ticked_dead_letters_are_counted_and_deleted_for_good(page: Page, place: Place) -> None:
    first, second, kept = die(place, "/bad-first", "/bad-second", "/bad-kept")
    page.goto(f"{place.server.url}/dead-letters")
    for one in letters(place, first, second):
        page.get_by_label(f"Tick {one}").check()
    page.get_by_role("button", name="Delete…").click()
    expect(page.get_by_role("heading", name="Delete 2 dead letters?")).to_be_visible()
    assert len(letters(place, first, second)) == 2, "counting changes nothing"
    page.get_by_role("button", name="Delete 2 dead letters").click()
    expect(page.get_by_role("alert")).to_contain_text("delete: 2 of 2 dead letters")
    assert letters(place, first, second) == []
    assert len(letters(place, kept)) == 1
    assert len(arrived(place, "/bad-first")) == 1, "nothing was sent"


@does("/dead-letters/bulk retry", "/dead-letters/bulk delete", "/dead-letters/{id}/edit")
def test_one_dead_letter_is_retried_edited_or_deleted_on_its_page(page: Page, place: Place) -> None:
    retried, edited, deleted = die(place, "/bad-one", "/bad-two", "/bad-three")
    [letter] = letters(place, retried)
    page.goto(f"{place.server.url}/dead-letters/{letter}")
    page.get_by_role("button", name="Retry", exact=True).click()
    expect(page.get_by_role("alert")).to_contain_text("retry: 1 of 1")
    until(lambda: len(arrived(place, "/bad-one")) == 2)
    [letter] = letters(place, edited)
    page.goto(f"{place.server.url}/dead-letters/{letter}")
    page.get_by_text("Edit and retry").click()
    page.get_by_label("URL").fill(f"{place.destination.url}/right")
    page.get_by_label("Body").fill('{"right": 1}')
    page.get_by_role("button", name="Send, and delete").click()
    expect(page.locator("h1 .status")).to_have_text("delivered")
    assert arrived(place, "/right") == [b'{"right": 1}']
    [letter] = letters(place, deleted)
    page.goto(f"{place.server.url}/dead-letters/{letter}")
    page.get_by_role("button", name="Delete").click()
    expect(page.get_by_role("dialog")).to_contain_text("for good?")
    sure(page, "Delete")
    expect(page.get_by_role("alert")).to_contain_text("delete: 1 of 1")
    assert letters(place, retried, edited, deleted) == []
    assert len(arrived(place, "/bad-three")) == 1
