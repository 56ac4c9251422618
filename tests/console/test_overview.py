"""The overview and the system page: what our own server tells, and what is left over a QStash that tells nothing."""

from __future__ import annotations

import base64
import json
from typing import Any
from urllib.parse import urlsplit

from idioteque.console.app import Console
from idioteque.console.charts import HEIGHT, WIDTH, Moment, Span, counts_chart, times_chart
from idioteque.console.pages.overview import Tile, told
from idioteque.console.rendering import duration
from idioteque.console.settings import ConsoleSettings
from idioteque.testing import ManualClock, ScriptedTransport
from idioteque.transport import HttpRequest, HttpResponse
from tests.console.conftest import READONLY, Place
from tests.console.test_places import get, log_in, verify
from tests.destination import until

NOW_MS = 1_700_000_000_000
MINUTE_MS = 60_000


def tiles(some: tuple[Tile, ...] | list[dict[str, Any]]) -> dict[str, Any]:
    return {(one["name"] if isinstance(one, dict) else one.name): one for one in some}


def test_what_the_server_tells_is_what_is_shown() -> None:
    stretch = {"from": NOW_MS // 300_000 * 300_000, "accepted": 90, "delivered": 80, "retried": 3, "deadLettered": 2,
               "p50Seconds": 0.02, "p95Seconds": 1.5}  # fmt: skip
    status: dict[str, Any] = {
        "startedAt": NOW_MS - 10 * MINUTE_MS, "stretchMs": 300_000, "activity": [stretch], "pending": 12, "inFlight": 2,
        "retrying": 3, "deadLetters": 10_000, "countedMax": 10_000, "oldestDueAt": None,
        "latency": {"p50Seconds": 0.02, "p95Seconds": None},
    }  # fmt: skip
    lately = told(status, NOW_MS)
    found = tiles(lately.tiles)
    assert (found["in flight"].value, found["waiting"].value, found["retrying"].value) == (2, 7, 3)
    assert (found["dead letters"].value, found["dead letters"].is_more) == (10_000, True)
    assert found["accepted a minute"].value == 9.0, "since the start, which is less than a quarter of an hour ago"
    assert (found["median, due to delivered"].value, found["95th percentile"].value) == (20, None)
    assert found["oldest due message"].value == 0
    assert lately.moments == (Moment(stretch["from"], 90, 80, 5, 20, 1500),)
    assert lately.span.until_ms > NOW_MS >= lately.span.until_ms - 300_000


def test_a_chart_draws_each_stretch_inside_its_frame_and_tells_its_figures() -> None:
    span = Span(NOW_MS, NOW_MS + 24 * 60 * MINUTE_MS, 5 * MINUTE_MS)
    moments = [Moment(NOW_MS + n * 60 * MINUTE_MS, 0, n, 1, 10, 10 * (n + 1)) for n in range(24)]
    for chart in (counts_chart(moments, span, duration), times_chart(moments, span, duration)):
        assert len(chart.parts) == 24
        assert chart.parts[-1].x + chart.parts[-1].width == WIDTH
        for series in chart.series:
            heights = [float(part.split("H")[0]) for part in series.path.split("V")[1::2]]
            assert heights
            assert all(0 <= height <= HEIGHT for height in heights)
    assert counts_chart(moments, span, duration).parts[5].title == "5 delivered, 1 failed"
    assert "95 % within 60 ms" in times_chart(moments, span, duration).parts[5].title
    assert counts_chart(moments, span, duration).top == "24 in 5 m at most"
    assert counts_chart((), span, duration).parts == ()


def test_the_overview_counts_what_the_server_has(place: Place) -> None:
    visitor = place.visitor()
    letter = place.publish("/bad-overview", b"{}", Retries="0")
    place.publish("/bad-retried", b"{}", Retries="1", Retry_Delay="3600000")
    place.publish("/later", b"{}", Delay="1h")
    until(lambda: letter in visitor.get("/dead-letters").text)

    def figures() -> dict[str, Any]:
        view = json.loads(visitor.get("/", Accept="application/json").text)
        assert view["is_told"]
        return {name: one["value"] for name, one in tiles(view["messages"]).items()}

    until(lambda: figures()["retrying"] == 1)
    found = figures()
    assert found["dead letters"] == 1
    assert found["waiting"] == 1
    assert found["accepted a minute"] > 0
    runs = json.loads(visitor.get("/", Accept="application/json").text)["run_counts"]
    assert {name: one["value"] for name, one in tiles(runs).items()} == {"running": 0, "waiting": 1, "failed": 1}


def test_the_system_page_tells_sizes_and_how_long_things_are_kept(place: Place) -> None:
    server = json.loads(place.visitor().get("/system.json").text)["server"]
    assert server["file_bytes"] + server["wal_bytes"] > 0
    assert dict(server["rows"]).keys() == {"messages", "log rows", "dead letters"}
    assert (server["log_s"], server["dead_letter_s"], server["durability"]) == (3 * 86_400, 30 * 86_400, "full")


def test_the_doctor_tells_what_it_finds_and_to_a_reader_what_it_may(place: Place) -> None:
    found = {one["check"]: one for one in json.loads(place.visitor().get("/system/doctor.json").text)["findings"]}
    assert {name: one["verdict"] for name, one in found.items()} == dict.fromkeys(
        ("versions", "sqlite", "server", "store"), "ok"
    )
    shown = place.visitor(READONLY).get("/system/doctor").text
    assert "gives the token no right" in shown
    assert place.server.token not in shown


# ---- over a QStash that tells nothing beyond the protocol


class Hosted(ScriptedTransport):
    """Answers as the hosted service does, and 404 to what is not of the protocol."""

    def __init__(self) -> None:
        super().__init__([200])
        self.events: list[dict[str, Any]] = []

    async def send(self, request: HttpRequest, **options: Any) -> HttpResponse:
        path = urlsplit(request.url).path
        answers: dict[str, Any] = {
            "/v2/events": {"events": self.events},
            "/v2/dlq": {"messages": []},
            "/v2/queues": [{"name": "mails", "parallelism": 1, "lag": 4}],
            "/v2/queues/mails": {"name": "mails", "parallelism": 1, "lag": 4},
            "/v2/schedules": [{"scheduleId": "daily", "cron": "0 4 * * *", "lastScheduleStates": {"msg_7": "FAIL"}}],
            "/v2/flowControl/shop/eu": {"flowControlKey": "shop/eu", "waitListSize": 2},
        }
        answer = answers.get(path)
        return HttpResponse(404 if answer is None else 200, [], json.dumps(answer).encode(), complete=True)


async def hosted() -> tuple[Console, Hosted, str]:
    transport = Hosted()
    app = Console(ConsoleSettings("https://qstash.example.com"), verify, transport=transport, clock=ManualClock())
    return app, transport, (await log_in(app)).headers["set-cookie"].partition(";")[0]


async def test_over_the_hosted_service_the_overview_is_a_sample_and_says_so() -> None:
    app, transport, cookie = await hosted()
    now_ms = app.services.clock.now_ms()
    for number in range(20):
        row = {"messageId": f"msg_{number}", "url": "https://shop.test", "time": now_ms - number * 1000}
        transport.events += [
            {**row, "state": "DELIVERED" if number % 4 else "ERROR", "responseBody": base64.b64encode(b"x").decode()},
            {**row, "state": "ACTIVE", "time": row["time"] - 40},
        ]
    shown = await get(app, "/", Cookie=cookie)
    assert (shown.status, "not told by this server" in shown.text) == (200, True)
    view = (await get(app, "/", Cookie=cookie, Accept="application/json")).json
    found = tiles(view["messages"])
    assert (view["is_told"], found["in queues"]["value"], found["median attempt"]["value"]) == (False, 4, 40)
    assert sum(one["delivered"] for one in view["moments"]) == 15
    assert sum(one["failed"] for one in view["moments"]) == 5


async def test_over_the_hosted_service_nothing_is_made_up() -> None:
    app, _, cookie = await hosted()
    assert "Not told by this server" in (await get(app, "/system", Cookie=cookie)).text
    assert (await get(app, "/system/doctor", Cookie=cookie)).status == 404, "nobody gave this console a doctor"
    for path in ("/queues/mails", "/flow-control/shop/eu"):
        shown = await get(app, path, Cookie=cookie)
        assert (shown.status, "does not tell who waits" in shown.text) == (200, True), path


async def test_a_schedule_leads_to_what_became_of_its_last_messages() -> None:
    app, _, cookie = await hosted()
    [schedule] = (await get(app, "/schedules", Cookie=cookie, Accept="application/json")).json["schedules"]
    assert schedule["results"] == [["msg_7", "FAIL"]]
    assert '<a href="/messages/msg_7"><span class="status fail">' in (await get(app, "/schedules", Cookie=cookie)).text
