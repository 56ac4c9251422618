"""Cancelling all messages that fit: which ones these are, told by our own server or read out of a log."""

from __future__ import annotations

import json
import re
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit

import pytest

from idioteque.client import QStash
from idioteque.console.app import Console
from idioteque.console.pages.messages import LOOKED_AT_MAX, TIMELINE_MAX
from idioteque.console.settings import ConsoleSettings
from idioteque.environment import Account
from idioteque.testing import ManualClock, ScriptedTransport
from idioteque.transport import HttpRequest, HttpResponse
from tests.console.conftest import READONLY, Place
from tests.console.test_places import get, log_in, verify
from tests.destination import until
from tests.server.house import Reply, call_app

LOG = {"a": ["CREATED"], "b": ["DELIVERED", "CREATED"], "c": ["RETRY", "ERROR"], "d": ["CANCEL_REQUESTED", "ACTIVE"]}
"""The states of messages in a log, the newest first."""


class Logged(ScriptedTransport):
    """A QStash that has a log and tells nothing beyond the protocol; `endless` gives a cursor with each page."""

    def __init__(self, *, endless: bool = False) -> None:
        super().__init__([200])
        self.endless = endless
        self.asked: list[dict[str, str]] = []

    async def send(self, request: HttpRequest, **options: Any) -> HttpResponse:
        parts = urlsplit(request.url)
        if (request.method, parts.path) == ("DELETE", "/v2/messages"):
            return self._json({"cancelled": len(parse_qsl(parts.query))})
        if parts.path != "/v2/events":
            return HttpResponse(404)
        self.asked.append(dict(parse_qsl(parts.query)))
        rows = [{"messageId": one, "state": state} for one, states in LOG.items() for state in states]
        return self._json({"events": rows, **({"cursor": "more"} if self.endless else {})})

    def _json(self, document: object) -> HttpResponse:
        return HttpResponse(200, [], json.dumps(document).encode(), complete=True)


async def counted(transport: Logged, bulk_max: int = 1000, **filters: str) -> Any:
    """Return the JSON twin of the page that counts."""
    settings = ConsoleSettings("https://qstash.example.com", bulk_max=bulk_max)
    app = Console(settings, verify, transport=transport, clock=ManualClock())
    cookie = (await log_in(app)).headers["set-cookie"].partition(";")[0]
    reply = await sent(app, cookie, "/messages/bulk/count", filters)
    assert reply.status == 200, reply.text
    return reply.json


async def sent(app: Console, cookie: str, path: str, fields: dict[str, str]) -> Reply:
    found = re.search(r'name="csrf" value="([0-9a-f]+)"', (await get(app, "/messages", Cookie=cookie)).text)
    assert found is not None
    kind = ("Content-Type", "application/x-www-form-urlencoded")
    headers = [kind, ("Cookie", cookie), ("Accept", "application/json")]
    return await call_app(app, "POST", path, headers, urlencode({"csrf": found[1], **fields}).encode())


async def test_a_log_tells_by_its_newest_entries_what_is_under_way() -> None:
    view = await counted(Logged(), label="x")
    assert (view["ids"], view["filters"], view["has_more"]) == (["a", "c"], {"label": "x"}, False)


async def test_a_state_is_that_of_the_newest_entry_and_not_one_that_a_message_once_had() -> None:
    transport = Logged()
    assert (await counted(transport, state="CREATED"))["ids"] == ["a"], "b has been delivered meanwhile"
    assert all("state" not in query for query in transport.asked[1:])
    assert (await counted(Logged(), state="RETRY"))["ids"] == ["c"]
    assert (await counted(Logged(), state="DELIVERED"))["ids"] == []


async def test_what_is_looked_at_and_what_is_changed_is_bounded_and_both_are_said() -> None:
    transport = Logged(endless=True)
    assert (await counted(transport))["has_more"] is True
    assert len(transport.asked) == 1 + LOOKED_AT_MAX // TIMELINE_MAX
    view = await counted(Logged(), bulk_max=1)
    assert (view["ids"], view["has_more"], view["count_max"]) == (["a"], True, 1)


def test_our_own_server_names_them_also_by_state(place: Place) -> None:
    visitor = place.visitor()
    later = [place.publish("/later", Delay="1h", Label="named") for _ in range(3)]
    failed = place.publish("/bad-once", Label="named", Retries="1", Retry_Delay="3600000")
    until(lambda: json.loads(place.get(f"/v2/logs?messageId={failed}"))["logs"][0]["state"] == "RETRY")

    def found(**filters: str) -> list[str]:
        page = visitor.get("/messages").text
        csrf = re.search(r'name="csrf" value="([0-9a-f]+)"', page)
        assert csrf is not None
        shown = visitor.post("/messages/bulk/count", {"csrf": csrf[1], **filters}, Accept="application/json")
        assert shown.status == 200, shown.text
        ids: list[str] = json.loads(shown.text)["ids"]
        return ids

    assert found(label="named") == [*later, failed]
    assert found(label="named", state="RETRY") == [failed]
    assert sorted(found(label="named", state="CREATED")) == sorted(later)
    assert found(label="named", url=f"{place.destination.url}/bad-once") == [failed]


@pytest.mark.parametrize("field", ["fromDate", "toDate"])
def test_a_date_that_is_none_is_refused_and_not_left_out(place: Place, field: str) -> None:
    assert place.visitor().act("/messages", "/messages/bulk/count", {field: "yesterday"}).status == 400


def test_a_reader_counts_and_cancels_nothing(place: Place) -> None:
    message = place.publish("/later", Delay="1h")
    reader = place.visitor(READONLY)
    assert reader.act("/messages", "/messages/bulk/count", {"messageId": message}).status == 200
    assert reader.act("/messages", "/messages/bulk", {"id": message}).status == 403
    assert place.visitor().post("/messages/bulk", {"id": message}).status == 403, "without the session's own token"
    assert json.loads(place.get(f"/v2/logs?messageId={message}"))["logs"][0]["state"] == "CREATED"


def test_a_form_that_names_no_message_cancels_none(place: Place) -> None:
    message = place.publish("/later", Delay="1h")
    visitor = place.visitor()
    assert visitor.act("/messages", "/messages/bulk").status == 303
    assert visitor.act("/messages", "/messages/bulk", {"id": ""}).status == 400
    assert json.loads(place.get(f"/v2/logs?messageId={message}"))["logs"][0]["state"] == "CREATED"


async def test_a_client_that_is_given_no_ids_asks_for_nothing() -> None:
    transport = ScriptedTransport([200])
    account = Account("https://qstash.example.com", "token", None, None)
    assert await QStash(account, transport).cancel_many([]) == 0
    assert transport.requests == [], "without ids it would mean all"
