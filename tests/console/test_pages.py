"""The console's pages over a real server and a real store: what is shown to whom, and what actions do."""

from __future__ import annotations

import hashlib
import html
import json
import re

import pytest

from idioteque.console.rendering import brief
from idioteque.console.writing import body_text, written_body
from idioteque.function import run_id
from idioteque.ids import new_id
from tests.console.browse import HOSTILE, Visitor
from tests.console.conftest import READONLY, Place
from tests.destination import until

PAGES = ("/", "/runs", "/events", "/messages", "/messages/publish", "/messages/signature", "/dead-letters",
         "/schedules", "/queues", "/url-groups", "/flow-control", "/keys", "/system")  # fmt: skip


@pytest.mark.parametrize("page", PAGES)
def test_every_page_is_shown_to_who_has_logged_in_and_has_a_twin_in_json(place: Place, page: str) -> None:
    visitor = place.visitor()
    shown = visitor.get(page)
    assert shown.status == 200, shown.text
    assert "<main" in shown.text
    assert not re.search(r"<[^<>]*\s(?:style|on\w+)=", shown.text), "the policy forbids inline styles and handlers"
    assert "script-src 'self'" in shown.headers["content-security-policy"]
    by_name = visitor.get("/index.json" if page == "/" else f"{page}.json")
    by_header = visitor.get(page, Accept="application/json")
    assert isinstance(json.loads(by_header.text), dict)
    if page != "/":
        assert json.loads(by_name.text).keys() == json.loads(by_header.text).keys()


@pytest.mark.parametrize("page", [*PAGES, "/nowhere", "/live?page=/runs"])
def test_nothing_is_shown_before_the_login(place: Place, page: str) -> None:
    stranger = Visitor(place.server.url)
    shown = stranger.get(page)
    assert shown.status in (303, 401)
    assert place.runs["good"] not in shown.text
    assert stranger.get(page, Accept="application/json").status == 401


def test_a_wrong_token_opens_nothing_and_five_of_them_are_enough(place: Place) -> None:
    guesser = Visitor(place.server.url)
    assert [guesser.log_in(f"guess-{n}").status for n in range(6)] == [403] * 5 + [429]
    assert not guesser.cookies
    assert guesser.log_in(place.server.token).status == 303, "others behind that address are not locked out"


def test_a_cookie_is_kept_from_scripts_and_other_sites_and_ends_with_the_logout(place: Place) -> None:
    visitor = place.visitor(READONLY)
    stolen = dict(visitor.cookies)
    assert Visitor(place.server.url, stolen).get("/runs").status == 200
    forged = {name: value[:-1] + ("0" if value[-1] != "0" else "1") for name, value in stolen.items()}
    assert Visitor(place.server.url, forged).get("/runs").status == 303
    assert visitor.act("/runs", "/logout").status == 303
    assert Visitor(place.server.url, stolen).get("/runs").status == 303


def test_the_login_leads_on_inside_the_console_only(place: Place) -> None:
    for target in ("https://evil.example", "//evil.example", "/\\evil.example", "/\t/evil.example"):
        shown = Visitor(place.server.url).post("/login", {"token": place.server.token, "next": target})
        assert shown.headers["location"] == "/", target


def test_a_run_shows_its_steps_its_result_and_its_payloads(place: Place) -> None:
    visitor, run_id = place.visitor(), place.runs["good"]
    summary = visitor.get(f"/runs/{run_id}")
    assert "payment" in summary.text
    assert "charge" in summary.text
    assert "receipt of good" in visitor.get(f"/runs/{run_id}?tab=output").text
    whole = visitor.get(f"/runs/{run_id}/raw/input")
    assert whole.headers["content-disposition"].startswith("attachment")
    assert json.loads(whole.text) == {"type": "order", "id": "good"}
    twin = json.loads(visitor.get(f"/runs/{run_id}.json").text)
    assert [lane["path"] for lane in twin["waterfall"]["lanes"]] == [["payment"], ["payment", "charge"]]


def test_a_run_that_does_not_move_says_why(place: Place) -> None:
    twin = json.loads(place.visitor().get(f"/runs/{place.runs['later']}.json").text)
    assert twin["why"]["cause"] == "sleeping"
    assert twin["why"]["until_ms"] > twin["run"]["created_at_ms"]


def test_runs_are_narrowed_by_what_stands_in_the_address(place: Place) -> None:
    visitor = place.visitor()
    failed = json.loads(visitor.get("/runs.json?status=failed").text)
    assert [run["id"] for run in failed["runs"]] == [place.runs["bad"]]
    paid = json.loads(visitor.get("/runs.json?function=pay").text)
    assert [run["id"] for run in paid["runs"]] == [place.runs["good"]]
    assert visitor.get("/runs?status=odd").status == 400


def test_what_users_sent_is_text_wherever_it_is_shown(place: Place) -> None:
    visitor = place.visitor()
    message_id = place.publish("/bad-hook", HOSTILE.encode(), Retries="0", Label="x", Forward_X_Note="<img src=x>")
    until(lambda: message_id in visitor.get("/dead-letters").text)
    letter = json.loads(visitor.get("/dead-letters.json").text)["groups"][0]["letters"][0]["id"]
    pages = [f"/runs/{place.runs['bad']}?tab=error", f"/messages/{message_id}", f"/dead-letters/{letter}", "/messages"]
    for page in pages:
        text = visitor.get(page).text
        assert "<script>alert" not in text, page
        assert "<img src=x" not in text, page
        assert "\u202e" not in text, page
        assert "\x1b" not in text, page


def test_an_action_needs_the_sessions_own_form(place: Place) -> None:
    visitor, path = place.visitor(), f"/runs/{place.runs['later']}/cancel"
    assert visitor.post(path, {}).status == 403
    assert visitor.post(path, {"csrf": "0" * 64}).status == 403
    other = re.search(r'name="csrf" value="([0-9a-f]+)"', place.visitor().get("/runs").text)
    assert other is not None
    assert visitor.post(path, {"csrf": other[1]}).status == 403
    own = re.search(r'name="csrf" value="([0-9a-f]+)"', visitor.get("/runs").text)
    assert own is not None
    for header in ({"Origin": "https://evil.example"}, {"Sec_Fetch_Site": "cross-site"}):
        assert visitor.post(path, {"csrf": own[1]}, **header).status == 403
    assert visitor.get(path).status == 405


def test_a_read_only_token_sees_and_changes_nothing(place: Place) -> None:
    reader = place.visitor(READONLY)
    assert reader.get(f"/runs/{place.runs['later']}").status == 200
    assert "read-only" in reader.get("/keys").text
    refused = reader.act("/runs", f"/runs/{place.runs['later']}/cancel")
    assert refused.status == 403
    assert json.loads(reader.get(f"/runs/{place.runs['later']}.json").text)["run"]["status"] == "waiting"


def test_a_message_is_published_shown_sent_again_and_left_in_the_trail(place: Place) -> None:
    visitor = place.visitor()
    fields = {"url": f"{place.destination.url}/form", "method": "PUT", "body": "hello", "headers": "X-Note: 1"}
    done = visitor.act("/messages/publish", "/messages/publish/send", fields)
    assert done.status == 303, done.text
    until(lambda: any(request.target == "/form" for request in place.destination.received))
    [received] = [request for request in place.destination.received if request.target == "/form"]
    assert (received.method, received.body, received.headers["x-note"]) == ("PUT", b"hello", "1")
    page = done.headers["location"]
    until(lambda: "DELIVERED" in visitor.get(page).text.upper())
    assert visitor.act(page, f"{page}/again").status == 303
    until(lambda: sum(request.target == "/form" for request in place.destination.received) == 2)
    trail = json.loads(visitor.get("/system.json").text)["acts"]
    assert [act["what"] for act in trail[:2]] == ["message.again", "message.publish"]
    assert any("message.publish" in line for line in place.server.lines)


OPTIONS = {
    "Retries": "2", "Retry_Delay": "1000 * 2", "Label": "kept", "Timeout": "20s", "Forward_X_Note": "mine",
    "Flow_Control_Key": "kept", "Flow_Control_Value": "parallelism=3, rate=5, period=1m",
    "Callback": "https://example.com/after", "Failure_Callback": "https://example.com/failed",
    "Failure_Callback_Forward_X_Kind": "failure",
}  # fmt: skip
KEPT = ("maxRetries", "retryDelayExpression", "labels", "timeout", "flowControlKey", "parallelism", "rate", "period",
        "callback", "failureCallback", "failureCallbackHeaders", "header", "body", "method")  # fmt: skip


def logged(place: Place, message_id: str) -> dict[str, object]:
    entry: dict[str, object] = json.loads(place.get(f"/v2/logs?messageId={message_id}&count=1"))["logs"][0]
    return entry


def test_what_is_sent_again_keeps_everything_that_it_was_sent_with(place: Place) -> None:
    visitor = place.visitor()
    first = place.publish("/keep", b'{"n": 1}', **OPTIONS)
    until(lambda: logged(place, first)["state"] == "DELIVERED")
    again = visitor.act(f"/messages/{first}", f"/messages/{first}/again").headers["location"].rpartition("/")[2]
    bad = place.publish("/bad-keep", b'{"n": 1}', **{**OPTIONS, "Retries": "0"})
    until(lambda: bad in visitor.get("/dead-letters").text)
    letter = json.loads(place.get(f"/v2/dlq?messageId={bad}"))["messages"][0]["dlqId"]
    fields = {"url": f"{place.destination.url}/keep-mended", "body": '{"n": 1}'}
    mended = visitor.act("/runs", f"/dead-letters/{letter}/edit", fields).headers["location"].rpartition("/")[2]
    before = logged(place, first)
    assert all(name in before for name in KEPT)
    for copy, retries in ((again, 2), (mended, 0)):
        after = logged(place, copy)
        assert {name: after.get(name) for name in KEPT} == {
            **{name: before[name] for name in KEPT},
            "maxRetries": retries,
        }
    assert visitor.act(f"/messages/{first}", f"/messages/{first}/retry").status == 400, "it is over"


@pytest.mark.parametrize(
    ("body", "is_carried"),
    [
        (b"a\x1b[1m\x00\tb\r\nc\n", False),
        (b"line\r\nline\n", False),
        (b"\xff\x00\xfe", False),
        ("\u202eabc".encode(), False),
        (b"x" * 100_001, False),
        (b"\nfirst", True),
        (b"line\r\nline\r\n", True),
        (b"", True),
    ],
)
def test_a_body_that_was_not_edited_is_sent_byte_by_byte(place: Place, body: bytes, is_carried: bool) -> None:
    visitor, path = place.visitor(), f"/bytes-{hashlib.sha256(body).hexdigest()[:9]}"
    bad = place.publish(f"/bad{path}", body, Retries="0")
    until(lambda: bad in visitor.get("/dead-letters").text)
    letter = json.loads(place.get(f"/v2/dlq?messageId={bad}"))["messages"][0]["dlqId"]
    filled = re.search(r'<textarea id="body"[^>]*>\n([^<]*)</textarea>', visitor.get(f"/dead-letters/{letter}").text)
    assert (filled is not None) is is_carried
    fields = {"url": f"{place.destination.url}{path}"}
    if filled is None:
        refused = visitor.act("/runs", f"/dead-letters/{letter}/edit", {**fields, "body": "other"})
        assert refused.status == 400, "what was not edited of it would be sent altered"
    else:
        fields["body"] = html.unescape(filled[1]).replace("\n", "\r\n")  # as browsers send it
    assert visitor.act("/runs", f"/dead-letters/{letter}/edit", fields).status == 303
    until(lambda: any(request.target == path for request in place.destination.received))
    assert [request.body for request in place.destination.received if request.target == path] == [body]


def test_an_edited_body_keeps_the_line_ends_that_it_has() -> None:
    assert body_text(b"a\r\nb\r\n") == "a\nb\n"
    assert written_body("a\nc\n", b"a\r\nb\r\n") == b"a\r\nc\r\n"
    assert written_body("a\nc\n", b"a\nb\n") == b"a\nc\n"
    assert written_body("", b"a") == b""


def test_a_message_that_waits_is_retried_now(place: Place) -> None:
    visitor = place.visitor()
    waiting = place.publish("/now", b"soon", Delay="1h", Label="now")
    assert "Retry now" in visitor.get(f"/messages/{waiting}").text
    done = visitor.act(f"/messages/{waiting}", f"/messages/{waiting}/retry")
    assert done.status == 303, done.text
    until(lambda: any(request.target == "/now" for request in place.destination.received))
    assert str(logged(place, waiting)["state"]).startswith("CANCEL")
    copy = done.headers["location"].rpartition("/")[2]
    until(lambda: logged(place, copy)["state"] == "DELIVERED")
    took = json.loads(visitor.get(f"/messages/{copy}.json").text)["entries"][-1]["took_ms"]
    assert took is not None
    assert took >= 0


def test_a_redacted_message_is_not_sent_again_without_what_was_redacted(place: Place) -> None:
    visitor = place.visitor()
    secret = place.publish("/secret", b"card 4242", Redact_Fields="body")
    until(lambda: logged(place, secret)["state"] == "DELIVERED")
    refused = visitor.act(f"/messages/{secret}", f"/messages/{secret}/again")
    assert (refused.status, "was redacted" in refused.text) == (400, True)


def test_the_log_is_searched_by_every_filter_of_the_api(place: Place) -> None:
    visitor = place.visitor()
    found = place.publish("/filtered", b"x", Label="filtered", Flow_Control_Key="filters", Flow_Control_Value="rate=9")
    until(lambda: logged(place, found)["state"] == "DELIVERED")
    host = place.destination.url.removeprefix("http://")
    for query in (
        "label=filtered", "flowControlKey=filters", f"messageId={found}", "state=DELIVERED&label=filtered",
        "label=filtered&path=/filtered", "label=filtered&fromDate=2020-01-31T12:00&toDate=2099-01-01",
        f"label=filtered&host={host}", f"url={place.destination.url}/filtered",
    ):  # fmt: skip
        entries = json.loads(visitor.get(f"/messages.json?{query}").text)["entries"]
        assert {entry["message_id"] for entry in entries} == {found}, query
    for query in ("label=filtered&queueName=none", "label=filtered&toDate=2020-01-01", "scheduleId=none"):
        assert json.loads(visitor.get(f"/messages.json?{query}").text)["entries"] == [], query
    assert visitor.get("/messages?fromDate=soon").status == 400


def test_dead_letters_are_grouped_counted_and_retried(place: Place) -> None:
    visitor = place.visitor()
    sent = {place.publish("/bad-batch", b"x", Retries="0") for _ in range(2)}
    until(lambda: all(one in visitor.get("/dead-letters").text for one in sent))
    groups = json.loads(visitor.get("/dead-letters.json").text)["groups"]
    [group] = [group for group in groups if "/bad-batch" in group["fingerprint"]]
    ids = [letter["id"] for letter in group["letters"]]
    assert len(ids) == 2
    csrf = re.search(r'name="csrf" value="([0-9a-f]+)"', visitor.get("/runs").text)
    assert csrf is not None
    fields = [("csrf", csrf[1]), ("verb", "delete"), *(("id", one) for one in ids)]
    counted = visitor.post("/dead-letters/bulk/count", fields)
    assert "Delete 2 dead letters?" in counted.text
    assert all(one in visitor.get("/dead-letters").text for one in sent), "counting changes nothing"
    assert visitor.post("/dead-letters/bulk", fields).status == 303
    assert not any(one in visitor.get("/dead-letters").text for one in sent)


def test_runs_are_cancelled_in_bulk_after_their_count(place: Place) -> None:
    visitor = place.visitor()
    counted = visitor.act("/runs", "/runs/bulk/count", {"verb": "cancel", "status": "waiting"})
    assert place.runs["later"] in counted.text
    assert json.loads(visitor.get(f"/runs/{place.runs['later']}.json").text)["run"]["status"] == "waiting"
    visitor.act("/runs", "/runs/bulk", {"verb": "cancel", "id": place.runs["later"]})
    assert json.loads(visitor.get(f"/runs/{place.runs['later']}.json").text)["run"]["status"] == "cancelled"


def test_static_files_are_named_and_nothing_else_is_served(place: Place) -> None:
    stranger = Visitor(place.server.url)
    assert stranger.get("/static/console.css").headers["content-type"].startswith("text/css")
    for path in ("/static/..%2fapp.py", "/static/%2e%2e/app.py", "/static/..%5capp.py", "/static/", "/static/x%00.css"):
        assert stranger.get(path).status in (303, 404), path


def test_the_api_stays_where_it_is(place: Place) -> None:
    stranger = Visitor(place.server.url)
    assert stranger.get("/health").text == '{"status":"ok"}'
    assert stranger.get("/v2/queues").status == 401


def test_ids_of_one_moment_can_be_told_apart_where_they_are_cut_short() -> None:
    ids = [new_id("msg", 1_700_000_000_000) for _ in range(5)]
    ids += [run_id(new_id("evt", 1_700_000_000_000), "f") for _ in range(5)]
    assert len({brief(each) for each in ids}) == 10
    assert {len(brief(each)) for each in ids} == {17}
    assert brief("run_of-mine") == "run_of-mine"
