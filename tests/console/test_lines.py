"""A queue and a flow-control key from inside: who waits, in what order, and what an operator changes there."""

from __future__ import annotations

import json
from typing import Any

from playwright.sync_api import Page, expect

from tests.console.browse import Visitor
from tests.console.conftest import Place
from tests.console.test_browser import violations
from tests.destination import until


def view(visitor: Visitor, path: str) -> Any:
    shown = visitor.get(f"{path}.json")
    assert shown.status == 200, shown.text
    return json.loads(shown.text)


def test_the_wait_list_of_a_key_is_in_the_order_of_turns(page: Page, place: Place) -> None:
    place.call("/v2/flowControl/wait/eu/pause")
    limits = {"Flow_Control_Key": "wait/eu", "Flow_Control_Value": "parallelism=1, rate=10, period=1m"}
    sent = [place.publish(f"/turn-{n}", **limits) for n in range(3)]
    found = view(place.visitor(), "/flow-control/wait%2Feu")
    assert [one["message_id"] for one in found["waiting"]] == sent
    assert (found["key"]["waiting"], found["key"]["is_paused"]) == (3, True)
    page.goto(f"{place.server.url}/flow-control?search=wait")
    page.get_by_role("link", name="wait/eu").click()
    expect(page.get_by_role("region", name="Who waits").locator("tbody tr")).to_have_count(3)
    expect(page.locator(".live.on")).to_be_visible()
    assert violations(page) == []
    page.get_by_role("button", name="Resume").click()
    expect(page.get_by_role("heading", name="wait/eu")).to_be_visible()
    expect(page.get_by_text("Nobody.")).to_be_visible()
    until(lambda: {f"/turn-{n}" for n in range(3)} <= {one.target for one in place.destination.received})


def test_a_queue_shows_what_is_in_it_and_takes_another_parallelism(page: Page, place: Place) -> None:
    place.call("/v2/queues", b'{"queueName": "mails", "parallelism": 1, "paused": true}')
    for _ in range(2):
        place.call(f"/v2/enqueue/mails/{place.destination.url}/mail")
    page.goto(f"{place.server.url}/queues")
    page.get_by_role("link", name="mails").click()
    expect(page.get_by_role("region", name="Who waits").locator("tbody tr")).to_have_count(2)
    assert violations(page) == []
    page.get_by_label("Messages at once").fill("7")
    page.get_by_role("button", name="Set").click()
    expect(page.get_by_role("alert")).to_contain_text("set: mails")
    found = view(place.visitor(), "/queues/mails")["queue"]
    assert (found["parallelism"], found["is_paused"]) == (7, True), "a pause stays"
    refused = place.visitor().act("/queues/mails", "/act/queues", {"verb": "set", "id": "mails", "parallelism": "0"})
    assert refused.status == 400


def test_an_action_leads_back_to_its_own_page_and_nowhere_else(place: Place) -> None:
    place.call("/v2/queues", b'{"queueName": "back"}')
    visitor = place.visitor()

    def after(back: str) -> str:
        fields = {"verb": "pause", "id": "back", "back": back}
        return visitor.act("/queues/back", "/act/queues", fields).headers["location"]

    assert after("/queues/back") == "/queues/back"
    for elsewhere in ("https://evil.example", "//evil.example", "/runs", "/queues/\n//evil.example", ""):
        assert after(elsewhere) == "/queues", elsewhere


def test_a_schedule_that_is_run_now_sends_what_it_would_send_itself(place: Place) -> None:
    place.call("/v2/queues", b'{"queueName": "reports", "parallelism": 2, "paused": true}')
    place.call(
        f"/v2/schedules/{place.destination.url}/report-now", b'{"report": 1}', Cron="0 0 1 1 *", Schedule_Id="full",
        Method="PUT", Retries="7", Timeout="30s", Label="yearly", Queue_Name="reports", Forward_X_Note="kept",
        Flow_Control_Key="reports", Flow_Control_Value="parallelism=3, rate=5, period=2m",
        Callback=f"{place.destination.url}/told", Callback_Forward_X_Of="callback",
    )  # fmt: skip
    visitor = place.visitor()
    assert visitor.act("/schedules", "/act/schedules", {"verb": "run", "id": "full"}).status == 303
    [waiting] = view(visitor, "/queues/reports")["waiting"]
    message = json.loads(place.get(f"/v2/messages/{waiting['message_id']}"))
    wanted = {
        "method": "PUT", "maxRetries": 7, "labels": ["yearly"], "queueName": "reports", "body": '{"report": 1}',
        "flowControlKey": "reports", "parallelism": 3, "rate": 5, "period": 120,
        "callback": f"{place.destination.url}/told",
    }  # fmt: skip
    assert {name: message.get(name) for name in wanted} == wanted
    place.call("/v2/queues/reports/resume")
    until(lambda: any(one.target == "/told" for one in place.destination.received))
    [report] = [one for one in place.destination.received if one.target == "/report-now"]
    assert (report.method, report.headers["x-note"]) == ("PUT", "kept")
    [told] = [one for one in place.destination.received if one.target == "/told"]
    assert told.headers["x-of"] == "callback"


def test_a_schedule_whose_body_is_redacted_is_not_run_with_the_placeholder(place: Place) -> None:
    place.call(f"/v2/schedules/{place.destination.url}/secret", b"secret", Cron="0 0 1 1 *", Schedule_Id="hidden",
               Redact_Fields="body")  # fmt: skip
    refused = place.visitor().act("/schedules", "/act/schedules", {"verb": "run", "id": "hidden"})
    assert (refused.status, "redacted" in refused.text) == (400, True)
    assert not any(one.target == "/secret" for one in place.destination.received)
