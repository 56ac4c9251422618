"""What strangers may send, in bodies, headers, names, answers and addresses, on every screen of a real browser: nothing
of it becomes markup, runs, or makes the browser ask for anything.
"""

from __future__ import annotations

import asyncio
import base64
import json
import re
import subprocess
import sys
import threading
import urllib.error
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal
from urllib.parse import quote
from uuid import uuid4

import pytest
from playwright.sync_api import Browser, Page
from pydantic import BaseModel

from idioteque import Context, InlineDispatcher, NonRetryableError, Retry, Worker
from tests.console.browse import Visitor
from tests.console.conftest import WAIT_MS, Place
from tests.destination import Received, open_destination, until
from tests.processes import TOKEN, server_environment, start_server

CORPUS = (
    "<script>window.hit=1</script>",
    '"><script>window.hit=1</script>',
    "'><img src=x onerror=window.hit=1>",
    '" autofocus onfocus=window.hit=1 x="',
    "<svg/onload=window.hit=1>",
    "</textarea><script>window.hit=1</script>",
    "</title></pre><img src=/hit onerror=window.hit=1>",
    "<iframe srcdoc='<script>parent.hit=1</script>'></iframe>",
    "<base href=//evil.example/><link rel=stylesheet href=//evil.example/x.css>",
    "<style>@import '//evil.example/x.css'; body{background:url(//evil.example/y)}</style>",
    "<form action=//evil.example><button>Log in</button></form><meta http-equiv=refresh content='0;//evil.example'>",
    "<a href=javascript:window.hit=1>here</a>",
    "javascript:window.hit=1//",
    "{{7*7}}{% raw %}${7*7}",
    "&lt;script&gt;window.hit=1&lt;/script&gt;",
    "<math><mtext></form><form><mglyph><style></math><img src onerror=window.hit=1>",
    "data:text/html,<script>window.hit=1</script>",
)
CONTROLS = "\u202egpj.exe\u2066\u200b\x1b[31mred\x1b]0;title\x07\x00\x7f\r\n"
EVERYTHING = " ".join(CORPUS) + CONTROLS

WATCH = """
window.hit = 0; window.violations = [];
document.addEventListener('securitypolicyviolation', (event) => window.violations.push(event.violatedDirective));
"""
MARKUP = """() => {
    const own = new Set([...document.querySelectorAll('head > script[src^="/static/"], header img, h1 > img')]);
    const foreign = 'script, img, iframe, object, embed, base, style, meta[http-equiv], math, mtext';
    return [...document.querySelectorAll(foreign)]
        .filter((one) => !own.has(one)).map((one) => one.outerHTML.slice(0, 120))
        .concat([...document.querySelectorAll('a[href]')].filter((one) => !['http:', 'https:'].includes(one.protocol)
            || one.host !== location.host).map((one) => one.outerHTML.slice(0, 120)))
        .concat([...document.querySelectorAll('form')].filter((one) => new URL(one.action).host !== location.host)
            .map((one) => one.outerHTML.slice(0, 120)))
        .concat([...document.querySelectorAll('main *')].flatMap((one) => one.getAttributeNames())
            .filter((name) => name.startsWith('on') || name === 'style' || name === 'srcdoc'));
}"""
"""Whatever stands in the page that our templates do not write."""


class Hostile(BaseModel):
    type: Literal["hostile"] = "hostile"
    text: str


def fill_store(path: Path) -> list[str]:
    """Leave runs whose event, step keys, results, errors and logs are hostile; return their ids."""

    async def fill() -> list[str]:
        dispatcher = InlineDispatcher()
        worker = Worker(events_schema=Hostile, store=f"sqlite:///{path}", dispatcher=dispatcher)

        async def echo(text: str, ctx: Context) -> str:
            ctx.log.info(text)
            return text

        async def fail(text: str) -> None:
            raise NonRetryableError(text)

        @worker.function("returns", on=Hostile)
        async def returns(event: Hostile, ctx: Context) -> str:
            for payload in CORPUS:
                await ctx.execute(payload, echo, payload + CONTROLS, ctx)
            return event.text

        @worker.function("fails", on=Hostile, retry=Retry(max_attempts=1))
        async def fails(event: Hostile, ctx: Context) -> None:
            ctx.log.error(event.text)
            await ctx.execute(CORPUS[0], fail, event.text)

        dispatcher.mount(worker)
        published = await worker.publish(Hostile(text=EVERYTHING))
        ids = [published.run_id(name) for name in ("returns", "fails")]
        for run_id in ids:
            while (run := await worker.runs.get(run_id)) is None or run.status in ("running", "waiting"):
                await asyncio.sleep(0.01)
        await worker.close()
        return ids

    with ThreadPoolExecutor(1) as thread:  # a loop of its own, whatever runs in this one
        return thread.submit(lambda: asyncio.run(fill())).result()


def answer(request: Received) -> tuple[int, dict[str, str], bytes]:
    if "answers" not in request.target:
        return 200, {}, EVERYTHING.encode()
    headers = {f"X-Answer-{n}": payload for n, payload in enumerate(CORPUS)}
    return 500, {"Content-Type": "text/html", **headers}, EVERYTHING.encode()


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    directory: Path = tmp_path_factory.mktemp("hostile")
    runs = fill_store(directory / "runs.db")
    with open_destination(answer) as destination:
        server = start_server(directory, args=["--store", f"sqlite:///{directory / 'runs.db'}"])
        try:
            yield Place(server, destination, {str(n): run for n, run in enumerate(runs)})
        finally:
            assert server.stop() == 0


def test_what_was_logged_is_told_in_json_as_it_is(place: Place) -> None:
    visitor = place.visitor()
    steps, failing = (json.loads(visitor.get(f"/runs/{place.runs[n]}.json?tab=logs").text)["lines"] for n in "01")
    logged = [payload + CONTROLS.replace("\x00", "\\x00") for payload in CORPUS]
    assert [line["text"] for line in steps] == logged
    assert [(line["level"], line["where"]) for line in failing] == [("ERROR", "the function")]


def taken(place: Place, path: str, body: bytes, headers: dict[str, str]) -> str | None:
    """Send to the API; return what it says, None when it refuses."""
    try:
        return place.call(path, body, **headers)
    except urllib.error.HTTPError as error:
        return None if error.code in (400, 404) else pytest.fail(f"{path} was answered {error.code}")


def plant(place: Place) -> list[str]:
    """Send the corpus wherever the API takes it; return the addresses of the screens that show it."""
    to, body = place.destination.url, EVERYTHING.encode()
    messages = [place.publish("/answers", body, Retries="0", Label="hostile")]
    planted = 0
    for payload in CORPUS:
        escaped = quote(payload, safe="")
        for path, headers in (
            (f"/v2/publish/{to}/answers/{escaped}?q={escaped}", {"Retries": "0", "Forward_X_Note": payload}),
            (f"/v2/publish/{to}/ok", {"Label": payload}),
            (f"/v2/publish/{to}/ok", {"Deduplication_Id": payload}),
            (f"/v2/publish/{to}/ok", {"Flow_Control_Key": payload, "Flow_Control_Value": "parallelism=1"}),
            (f"/v2/enqueue/{escaped}/{to}/ok", {}),
            (f"/v2/schedules/{to}/{escaped}", {"Cron": "0 0 1 1 *", "Schedule_Id": payload}),
            (f"/v2/schedules/{to}/{escaped}", {"Cron": "0 0 1 1 *", "Forward_X_Note": payload}),
        ):
            said = taken(place, path, body, headers)
            planted += said is not None
            if said is not None and "messageId" in said:
                messages.append(json.loads(said)["messageId"])
        for group, name in (("hostile", "end"), (escaped, "end"), ("hostile", payload)):
            ends = [{"name": name, "url": f"{to}/{escaped}"}]
            taken(place, f"/v2/topics/{group}/endpoints", json.dumps({"endpoints": ends}).encode(), {})
    assert planted > 2 * len(CORPUS)
    until(lambda: json.loads(place.get("/v2/dlq?count=100"))["messages"] and _letters(place) >= len(CORPUS) + 1)
    letters = [row["dlqId"] for row in json.loads(place.get("/v2/dlq"))["messages"]]
    hostile = quote(EVERYTHING, safe="")
    events = [_event(place, "/answers"), _event(place, "/ok")]
    until(lambda: all(place.visitor().get(f"/events/{one}").status == 200 for one in events))
    return [
        "/", "/runs", "/events", *(f"/events/{one}" for one in events), "/events/new", f"/events/new?type={hostile}",
        "/messages", "/dead-letters", "/schedules", "/queues", "/url-groups", "/flow-control",
        "/keys", "/system", "/system/doctor", "/messages/publish", "/messages/signature",
        *(f"/runs/{run}?tab={tab}" for run in place.runs.values()
          for tab in ("summary", "input", "output", "error", "attempts", "messages", "logs")),
        *(f"/messages/{one}" for one in messages[:4]), *(f"/dead-letters/{one}" for one in letters[:4]),
        *(f"{path}?{name}={hostile}" for path, name in (
            ("/runs", "function"), ("/flow-control", "search"), ("/messages", "url"), ("/messages", "label"),
            ("/messages/publish", "url"), ("/messages/signature", "url"), ("/events", "type"),
        )),
        *(f"/messages?{name}={quote(payload)}" for name in ("state", "cursor") for payload in CORPUS[:3]),
        *(f"/{quote(payload, safe='')}" for payload in CORPUS[:3]),
        f"/runs/{quote(CORPUS[0], safe='')}", f"/queues/{quote(CORPUS[1], safe='')}",
        f"/runs/{place.runs['0']}?tab={quote(CORPUS[0])}",
    ]  # fmt: skip


def _event(place: Place, target: str) -> str:
    """Send an event as a mount is sent one, to whoever answers there; return its message's id."""
    wrapped = {"idioteque": 1, "kind": "event", "event_id": f"evt_{uuid4().hex}",
               "event": {"type": EVERYTHING, **{payload: payload + CONTROLS for payload in CORPUS}}}  # fmt: skip
    return place.publish(target, json.dumps(wrapped).encode(), Retries="0", Label="hostile")


def _letters(place: Place) -> int:
    return len(json.loads(place.get("/v2/dlq?count=100"))["messages"])


@pytest.fixture
def watched(browser: Browser, place: Place) -> Iterator[Page]:
    """A page that has logged in and notes what the policy forbids."""
    context = browser.new_context()
    context.set_default_timeout(WAIT_MS)
    context.add_init_script(WATCH)
    page = context.new_page()
    page.goto(place.server.url)
    page.get_by_label("The server's token").fill(place.server.token)
    page.get_by_role("button", name="Log in").click()
    page.wait_for_url("**/")
    yield page
    context.close()


def harm(page: Page) -> dict[str, Any]:
    return {
        "ran": page.evaluate("window.hit"),
        "violations": page.evaluate("window.violations"),
        "markup": page.evaluate(MARKUP),
    }


SIGNS = "\u202e\u2066\u200b\x1b\x07\x00\x7f"
HARMLESS = {"ran": 0, "violations": [], "markup": []}


def test_nothing_that_was_sent_becomes_markup_on_any_screen(watched: Page, place: Place) -> None:
    asked: list[str] = []
    watched.on("request", lambda request: asked.append(request.url))
    watched.on("dialog", lambda dialog: asked.append(f"dialog {dialog.message}"))
    for address in plant(place):
        watched.goto(place.server.url + address)
        watched.evaluate("document.querySelectorAll('details').forEach((one) => { one.open = true; })")
        assert harm(watched) == HARMLESS, address
        text = watched.content()
        assert not any(sign in text for sign in SIGNS), address
    assert [url for url in asked if not url.startswith(place.server.url)] == []


def test_what_an_action_answers_is_text_as_well(watched: Page, place: Place) -> None:
    watched.goto(f"{place.server.url}/messages/publish")
    watched.get_by_label("URL, or the name").fill(f"{place.destination.url}/{CORPUS[0]}")
    watched.get_by_label("Headers").fill(f"X-Note: {CORPUS[1]}")
    watched.get_by_label("Label").fill(CORPUS[2])
    watched.get_by_label("Body").fill(EVERYTHING.replace("\x00", ""))
    watched.get_by_role("button", name="Publish").click()
    watched.wait_for_load_state()
    assert harm(watched) == HARMLESS
    watched.goto(f"{place.server.url}/messages/signature")
    watched.get_by_label("Upstash-Signature").fill(CORPUS[5])
    watched.get_by_role("button", name="Check").click()
    watched.wait_for_load_state()
    assert harm(watched) == HARMLESS
    watched.goto(f"{place.server.url}/system")
    assert harm(watched) == HARMLESS, "the trail shows what was done to what"


def test_live_content_is_text_as_well(watched: Page, place: Place) -> None:
    watched.goto(f"{place.server.url}/messages")
    watched.wait_for_selector(".live.on")
    message = place.publish("/answers/live", EVERYTHING.encode(), Retries="0", Forward_X_Note=CORPUS[2])
    watched.wait_for_selector(f'a[href="/messages/{message}"]')
    assert harm(watched) == HARMLESS


def test_the_login_shows_where_it_leads_as_text(browser: Browser, place: Place) -> None:
    context = browser.new_context()
    context.add_init_script(WATCH)
    page = context.new_page()
    for payload in CORPUS:
        page.goto(f"{place.server.url}/login?next=/{quote(payload, safe='')}")
        assert harm(page) == HARMLESS, payload
    context.close()


def test_a_download_is_never_shown_as_a_page(place: Place) -> None:
    visitor = Visitor(place.server.url)
    visitor.log_in(place.server.token)
    message = place.publish("/answers/raw", EVERYTHING.encode(), Retries="0", Forward_Content_Type="text/html")
    paths = [f"/messages/{message}/raw", *(f"/runs/{run}/raw/input" for run in place.runs.values())]
    for path in paths:
        found = visitor.get(path)
        assert found.status == 200, path
        assert found.headers["content-type"].startswith("application/octet-stream"), path
        assert found.headers["content-disposition"].startswith("attachment"), path
        assert found.headers["x-content-type-options"] == "nosniff", path
        assert "script-src 'self'" in found.headers["content-security-policy"], path


# ---- over a QStash that is hostile itself: names that ours would refuse


def lies(request: Received) -> tuple[int, dict[str, str], bytes]:
    """Answer in the forms of the protocol, with the corpus in every text."""
    path = request.target.partition("?")[0]
    text, packed = EVERYTHING, base64.b64encode(EVERYTHING.encode()).decode()
    now_ms = 1_700_000_000_000
    headers = {text: [text], "X-Note": [text]}
    message = {
        "messageId": text, "url": text, "method": text, "header": headers, "body": packed, "state": text,
        "time": now_ms, "error": text, "responseBody": packed, "responseHeader": headers, "responseStatus": 500,
        "label": text,
        "labels": [text], "queueName": text, "scheduleId": text, "topicName": text, "endpointName": text, "dlqId": text,
        "flowControlKey": text, "callback": text, "failureCallback": text, "callerIP": text, "createdAt": now_ms,
        "retryDelayExpression": text, "maxRetries": text,
    }  # fmt: skip
    schedule = {**message, "cron": text, "destination": text, "lastScheduleStates": {text: text}, "isPaused": True}
    queue = {"name": text, "parallelism": 1, "lag": 3, "paused": True}
    key = {"flowControlKey": text, "waitListSize": 1, "isPaused": True, "isPinnedRate": True, "rateMax": 3}
    waiting = {"place": 1, "messageId": text, "url": text, "createdAt": now_ms, "isUnderWay": True}
    answers: dict[str, object] = {
        "/v2/events": {"events": [message], "cursor": text},
        "/v2/dlq": {"messages": [message], "cursor": text},
        "/v2/schedules": [schedule],
        "/v2/queues": [queue],
        "/v2/topics": [{"name": text, "endpoints": [{"name": text, "url": text}]}],
        "/v2/flowControl": [key],
        "/v2/keys": {"current": text, "next": text},
        "/status": {"activity": [], "version": text, "durability": text, "retention": {}, "rows": {text: 1}},
        "/waiting": {"waiting": [waiting]},
        "/pending": {"pending": [text]},
    }
    one = {"queues": queue, "flowControl": key, "dlq": message}.get(path.split("/")[2] if path.count("/") > 2 else "")
    return 200, {"Content-Type": "application/json"}, json.dumps(answers.get(path, one or {})).encode()


@pytest.fixture(scope="module")
def liar(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a console over such a QStash."""
    with open_destination(lies) as qstash:
        command = [sys.executable, "-m", "idioteque", "console", "--port", "0"]
        environment = server_environment({"QSTASH_URL": qstash.url})
        process = subprocess.Popen(
            command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        watch = threading.Timer(300, process.kill)
        watch.start()
        try:
            assert process.stdout is not None
            found = re.search(r"http://[\d.:]+", process.stdout.readline())
            assert found is not None
            yield found[0]
        finally:
            watch.cancel()
            process.terminate()
            process.communicate(timeout=30)


def test_a_qstash_that_lies_writes_no_markup_either(browser: Browser, liar: str) -> None:
    context = browser.new_context()
    context.add_init_script(WATCH)
    page = context.new_page()
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.goto(liar)
    page.get_by_label("The server's token").fill(TOKEN)
    page.get_by_role("button", name="Log in").click()
    page.wait_for_url("**/")
    for path in ("/", "/messages", "/messages/any", "/events", "/dead-letters", "/dead-letters/any", "/schedules",
                 "/queues", "/queues/any", "/url-groups", "/flow-control", "/flow-control/any", "/keys", "/system",
                 "/system/doctor"):  # fmt: skip
        shown = page.goto(liar + path)
        assert shown is not None
        assert shown.status == 200, path
        assert harm(page) == HARMLESS, path
        assert not any(sign in page.content() for sign in SIGNS), path
    page.goto(f"{liar}/messages?url={quote(EVERYTHING, safe='')}")
    page.get_by_role("button", name="Cancel…").click()
    page.wait_for_url("**/bulk/count")
    assert page.get_by_role("heading", name="Cancel 1 message?").is_visible()
    assert harm(page) == HARMLESS
    assert not any(sign in page.content() for sign in SIGNS)
    assert [url for url in asked if not url.startswith(liar)] == []
    context.close()
