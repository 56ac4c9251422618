"""Queues and schedules that an operator makes and changes in a browser, and what the forms say to what is wrong."""

from __future__ import annotations

import json
from datetime import datetime

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.console.actions import does
from tests.console.conftest import WAIT_MS, Place
from tests.console.test_browser import violations

SIZES = {"narrow": (400, 800), "wide": (1600, 900)}


def schedule(place: Place, schedule_id: str) -> dict[str, object]:
    shown: dict[str, object] = json.loads(place.get(f"/v2/schedules/{schedule_id}"))
    return shown


@does("/queues")
def test_a_queue_is_made(page: Page, place: Place) -> None:
    page.goto(f"{place.server.url}/queues")
    page.get_by_label("Name").fill("orders")
    page.get_by_label("Messages at once").fill("4")
    page.get_by_role("button", name="Make the queue").click()
    expect(page.get_by_role("alert")).to_have_text("queue orders is made")
    expect(page.locator("tr", has=page.get_by_role("link", name="orders")).locator(".num").first).to_have_text("4")
    assert json.loads(place.get("/v2/queues/orders"))["parallelism"] == 4


@pytest.mark.parametrize(
    ("name", "parallelism", "said"),
    [
        ("there", "2", "there is a queue 'there': change that one"),
        ("fresh", "0", "the parallelism must be a whole number above 0"),
        ("a/b", "1", "queue name"),
    ],
)
def test_a_queue_that_cannot_be_made_is_told_beside_its_form(
    place: Place, browser: Browser, name: str, parallelism: str, said: str
) -> None:
    place.call("/v2/queues", b'{"queueName": "there", "parallelism": 7}')
    context = browser.new_context()
    context.set_default_timeout(WAIT_MS)
    page = context.new_page()
    page.goto(f"{place.server.url}/login?next=/queues")
    page.get_by_label("The server's token").fill(place.server.token)
    page.get_by_role("button", name="Log in").click()
    page.goto(f"{place.server.url}/queues")
    page.get_by_label("Name").fill(name)
    page.get_by_label("Messages at once").fill(parallelism)
    page.get_by_role("button", name="Make the queue").click()
    expect(page.locator("#error")).to_contain_text(said)
    expect(page.get_by_label("Name")).to_have_value(name)
    expect(page.get_by_label("Messages at once")).to_have_value(parallelism)
    assert violations(page) == []
    assert page.url.endswith("/queues")
    assert json.loads(place.get("/v2/queues/there"))["parallelism"] == 7
    context.close()


@does("/schedules/new")
def test_a_schedule_is_made_with_all_that_its_form_has(page: Page, place: Place) -> None:
    page.goto(f"{place.server.url}/schedules")
    page.get_by_role("link", name="New schedule").click()
    page.get_by_label("URL, or the name").fill(f"{place.destination.url}/report")
    page.get_by_label("Cron").fill("0 4 * * *")
    page.get_by_label("Time zone").fill("Europe/Paris")
    ticks = page.locator("[data-ticks] li")
    expect(ticks).to_have_count(5)
    expect(ticks.first).to_contain_text("04:00 CE")
    assert ticks.first.inner_text().endswith(("02:00 UTC", "03:00 UTC"))
    page.get_by_label("Method").select_option("PUT")
    page.get_by_label("Retries").fill("5")
    page.get_by_label("Queue").fill("reports")
    page.get_by_label("Label").fill("nightly")
    page.get_by_label("Id", exact=True).fill("report")
    page.get_by_label("Headers, one a line").fill("Content-Type: application/json\nX-Of: shop")
    page.get_by_label("Body").fill('{\n  "of": "today"\n}')
    page.get_by_role("button", name="Make the schedule").click()
    expect(page.get_by_role("alert")).to_have_text("schedule report is made")
    made = schedule(place, "report")
    assert (made["cron"], made["destination"]) == ("CRON_TZ=Europe/Paris 0 4 * * *", f"{place.destination.url}/report")
    assert (made["method"], made["retries"], made["queueName"], made["label"]) == ("PUT", 5, "reports", "nightly")
    assert made["header"] == {"Content-Type": ["application/json"], "X-Of": ["shop"]}
    assert made["body"] == '{\n  "of": "today"\n}'
    acts = json.loads(place.visitor().get("/system.json").text)["acts"]
    assert ("schedule.make", "report", "schedule report is made") in [
        (act["what"], act["target"], act["outcome"]) for act in acts
    ]


@does("/schedules/{id}/edit")
def test_a_schedule_is_edited_and_keeps_what_the_form_has_no_field_for(page: Page, place: Place) -> None:
    place.call(
        f"/v2/schedules/{place.destination.url}/old", b"line\r\nline", Cron="CRON_TZ=Asia/Tokyo 30 7 * * 1",
        Schedule_Id="kept", Retries="2", Delay="90s", Timeout="20s", Callback=f"{place.destination.url}/told",
        Callback_Forward_X_Of="me", Forward_X_Old="1", Label="a", Flow_Control_Key="shop",
        Flow_Control_Value="parallelism=2",
    )  # fmt: skip
    before = schedule(place, "kept")
    page.goto(f"{place.server.url}/schedules")
    page.locator("tr", has_text="kept").get_by_role("link", name="Edit").click()
    expect(page.get_by_label("Cron")).to_have_value("30 7 * * 1")
    expect(page.get_by_label("Time zone")).to_have_value("Asia/Tokyo")
    expect(page.locator("[data-ticks] li")).to_have_count(5)
    page.get_by_label("Cron").fill("*/5 * * * *")
    page.get_by_label("Time zone").fill("")
    expect(page.locator("[data-ticks] li").first).to_contain_text("UTC")
    page.get_by_label("URL, or the name").fill(f"{place.destination.url}/new")
    page.get_by_label("Headers, one a line").fill("X-New: 2")
    page.get_by_role("button", name="Save").click()
    expect(page.get_by_role("alert")).to_have_text("schedule kept is changed")
    after = schedule(place, "kept")
    changed = {name for name in before if before[name] != after.get(name)}
    assert changed - {"callerIP", "callerIp"} == {"cron", "destination", "header", "nextScheduleTime"}
    assert (after["cron"], after["header"]) == ("*/5 * * * *", {"X-New": ["2"]})
    assert (after["body"], after["delay"], after["timeout"]) == ("line\r\nline", 90, 20)


def test_a_body_that_no_form_can_show_stays_to_the_byte(page: Page, place: Place) -> None:
    place.call(f"/v2/schedules/{place.destination.url}/b", bytes(range(256)), Cron="0 0 1 1 *", Schedule_Id="binary")
    page.goto(f"{place.server.url}/schedules/binary/edit")
    expect(page.get_by_text("stays as it is.")).to_be_visible()
    before = schedule(place, "binary")["bodyBase64"]
    page.get_by_label("Label").fill("new")
    page.get_by_role("button", name="Save").click()
    expect(page.get_by_role("alert")).to_have_text("schedule binary is changed")
    assert (schedule(place, "binary")["bodyBase64"], schedule(place, "binary")["label"]) == (before, "new")


def test_the_ticks_say_what_is_wrong_while_a_cron_is_written(page: Page, place: Place) -> None:
    page.goto(f"{place.server.url}/schedules/new")
    page.get_by_label("Cron").fill("61 * * * *")
    expect(page.locator("[data-ticks] .error")).to_contain_text("61 * * * *")
    page.get_by_label("Cron").fill("0 0 1 1 *")
    expect(page.locator("[data-ticks] li")).to_have_count(5)
    page.get_by_label("Time zone").fill("Europe/Atlantis")
    expect(page.locator("[data-ticks] .error")).to_contain_text("Europe/Atlantis")


GOOD = {"destination": "https://shop.test/hook", "cron": "0 4 * * *", "zone": "UTC", "method": "POST", "body": "{}"}


@pytest.mark.parametrize(
    ("wrong", "field", "said"),
    [
        ({"cron": "never"}, "cron", "five fields"),
        ({"cron": "0 0 30 2 *"}, "cron", "Bad day-of-month"),
        ({"zone": "Europe/Atlantis"}, "cron", "Europe/Atlantis"),
        ({"cron": ""}, "cron", "Upstash-Cron"),
        ({"destination": "nowhere at all"}, "destination", "nowhere at all"),
        ({"destination": "http://169.254.169.254/"}, "destination", "169.254.169.254"),
        ({"retries": "many"}, "retries", "Upstash-Retries"),
        ({"headers": "nothing"}, "headers", "must be like Name: value"),
        ({"headers": "X-A: 1\nX-B"}, "headers", "'X-B'"),
        ({"queue": "a b/c"}, "queue", "Upstash-Queue-Name"),
        ({"id": "a b/c"}, "id", "Upstash-Schedule-Id"),
        ({"method": "BREW"}, "method", "Upstash-Method"),
    ],
)
def test_what_is_wrong_is_said_at_its_field_and_nothing_that_was_written_is_lost(
    place: Place, wrong: dict[str, str], field: str, said: str
) -> None:
    visitor = place.visitor()
    before = place.get("/v2/schedules")
    answer = visitor.act("/schedules/new", "/schedules/new", {**GOOD, **wrong})
    assert answer.status == 400
    at_field = f'id="{field}" name="{field}" aria-invalid="true"'
    assert answer.text.count('aria-invalid="true"') == answer.text.count(at_field) == 1, answer.text
    told = answer.text.split('role="alert">')[1].split("<")[0]
    assert said in told.replace("&#39;", "'")
    assert 'value="https://shop.test/hook"' in answer.text or "destination" in wrong
    assert place.get("/v2/schedules") == before
    acts = json.loads(visitor.get("/system.json").text)["acts"]
    assert (acts[0]["what"], acts[0]["outcome"][:7]) == ("schedule.make", "failed:")
    twin = visitor.post(
        "/schedules/new", {"csrf": answer.text.split('name="csrf" value="')[1].split('"')[0], **GOOD, **wrong},
        Accept="application/json",
    )  # fmt: skip
    assert (twin.status, json.loads(twin.text)["field"]) == (400, field)


def test_a_schedule_of_that_id_is_not_overwritten_by_a_new_one(place: Place) -> None:
    place.call("/v2/schedules/https://shop.test/first", b"", Cron="0 4 * * *", Schedule_Id="taken")
    answer = place.visitor().act("/schedules/new", "/schedules/new", {**GOOD, "id": "taken"})
    assert answer.status == 400
    assert "there is a schedule" in answer.text
    assert schedule(place, "taken")["destination"] == "https://shop.test/first"


def test_a_redacted_schedule_is_not_sent_back_as_its_hash(place: Place) -> None:
    place.call(
        "/v2/schedules/https://shop.test/h", b"secret", Cron="0 4 * * *", Schedule_Id="shy", Redact_Fields="body"
    )
    answer = place.visitor().get("/schedules/shy/edit")
    assert answer.status == 400
    assert "redacted" in answer.text


def test_no_schedule_and_no_token_no_form(place: Place) -> None:
    assert place.visitor().get("/schedules/none/edit").status == 404
    reader = place.visitor("readonly-token-of-the-tests")
    assert "disabled" in reader.get("/schedules/new").text
    assert reader.act("/schedules/new", "/schedules/new", GOOD).status == 403
    assert reader.act("/queues", "/queues", {"name": "x", "parallelism": "1"}).status == 403
    assert place.visitor().post("/schedules/new", GOOD).status == 403


def test_the_form_has_a_twin_in_json(place: Place) -> None:
    place.call("/v2/schedules/https://shop.test/t", b"hi", Cron="CRON_TZ=Europe/Paris 0 4 * * *", Schedule_Id="twin")
    view = json.loads(place.visitor().get("/schedules/twin/edit.json").text)
    assert (view["draft"]["cron"], view["draft"]["zone"], view["draft"]["body"]) == ("0 4 * * *", "Europe/Paris", "hi")
    assert len(view["ticks"]) == 5
    told = json.loads(place.visitor().get("/schedules/ticks.json?cron=0+4+*+*+*&zone=Asia/Tokyo").text)
    first = datetime.fromtimestamp(told["ticks"][0]["at_ms"] / 1000).astimezone().utctimetuple()
    assert (told["error"], first.tm_hour, first.tm_min) == ("", 19, 0)


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", SIZES)
def test_the_forms_fit_and_are_accessible(browser: Browser, place: Place, size: str, scheme: str) -> None:
    place.call("/v2/schedules/https://shop.test/fit", b"hi", Cron="0 4 * * *", Schedule_Id="fit", Delay="5s")
    width, height = SIZES[size]
    context = browser.new_context(viewport={"width": width, "height": height}, color_scheme=scheme)  # type: ignore[arg-type]
    context.set_default_timeout(WAIT_MS)
    page = context.new_page()
    page.goto(place.server.url)
    page.get_by_label("The server's token").fill(place.server.token)
    page.get_by_role("button", name="Log in").click()
    for path in ("/schedules/new", "/schedules/fit/edit", "/schedules", "/queues"):
        page.goto(place.server.url + path)
        assert page.evaluate("document.documentElement.scrollWidth") <= width, path
        assert violations(page) == [], path
    page.goto(f"{place.server.url}/schedules/new")
    page.get_by_label("URL, or the name").fill("https://shop.test/x")
    page.get_by_label("Cron").fill("never")
    page.get_by_role("button", name="Make the schedule").click()
    expect(page.locator("#error")).to_be_visible()
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert violations(page) == []
    context.close()
