"""Pages of the log and of dead letters: however few rows are looked at for one, all of them together miss nothing."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from idioteque.database import Transaction
from idioteque.server.core.settlement import ERROR_AND_CANCELED, ERROR_AND_FAILED, ERROR_AND_RETRY
from idioteque.server.model import States
from idioteque.server.storage import filters
from idioteque.server.storage.dead_letters import list_dead_letters
from idioteque.server.storage.log_pages import FREQUENT, RARE, list_logs
from idioteque.server.wire.filters import DEAD_LETTERS, LOGS, parse_selection
from tests.server.house import House, open_house

LOG_FILTERS = [
    "", "state=CREATED", "state=ACTIVE", "state=DELIVERED", "state=ERROR", "state=RETRY", "state=FAILED",
    "state=CANCELED", "state=CANCEL_REQUESTED", "state=IN_PROGRESS", "state=FAILED&state=DELIVERED",
    "url=https://b.test/", "host=b.test", "path=/c", "label=l1", "label=l1,l2&state=FAILED", "host=a.test&state=RETRY",
    "callerIp=192.0.2.7", "label=nobody", "queueName=q",
]  # fmt: skip
LETTER_FILTERS = [
    "", "responseStatus=404", "responseStatus=404&responseStatus=500", "responseStatus=418", "label=l1",
    "url=https://b.test/", "label=l1&responseStatus=500", "queueName=q", "callerIp=192.0.2.7",
]  # fmt: skip


async def fill(house: House) -> None:
    """Publish messages of all kinds, several in the same millisecond, and let most of them end."""
    urls, labels = ("https://a.test/", "https://b.test/", "https://a.test/c"), ("l1", "l2", "l1,l2", "")
    for place, (url, label, retries) in enumerate(itertools.product(urls, labels, (0, 1))):
        given = {"retries": str(retries), "retry_delay": "5000"} | ({"label": label} if label else {})
        message_id = await house.publish(url, **given)
        if place % 5 == 4:
            await house.call("DELETE", f"/v2/messages/{message_id}")
        if place % 3 == 2:
            await house.clock.advance(1)
    await house.call("POST", "/v2/enqueue/q/https://a.test/", headers={"Upstash-Retries": "0"})
    await house.clock.advance(60)
    await house.publish(delay="1h", label="l1")


async def walk(house: House, path: str, query: str) -> list[dict[str, Any]]:
    """Return all entries of a list, page by page."""
    found: list[dict[str, Any]] = []
    cursor, pages = "", 0
    while pages < 2000:
        reply = await house.call("GET", f"{path}?{query}{cursor}")
        assert reply.status == 200, reply.text
        found += reply.json["events" if "events" in reply.json else "messages"]
        pages += 1
        if not reply.json.get("cursor"):
            return found
        cursor = f"&cursor={reply.json['cursor']}"
    raise AssertionError(f"{path}?{query} never ends")


@pytest.mark.parametrize("order", ["earliestFirst", "latestFirst"])
@pytest.mark.parametrize("looked_at", [1, 2, 7])
async def test_what_is_looked_at_in_parts_is_listed_whole(
    order: str, looked_at: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = itertools.cycle([200, 500, 404, 500, 200])
    async with open_house(lambda _: next(answers)) as house:
        await fill(house)
        for path, queries in (("/v2/logs", LOG_FILTERS), ("/v2/dlq", LETTER_FILTERS)):
            for query in queries:
                monkeypatch.setattr(filters, "LOOKED_AT_MAX", 10_000)
                whole = await walk(house, path, f"{query}&order={order}&count=100")
                assert whole or query in ("label=nobody", "responseStatus=418"), query
                monkeypatch.setattr(filters, "LOOKED_AT_MAX", looked_at)
                assert await walk(house, path, f"{query}&order={order}&count=2") == whole, query


async def test_a_page_compares_a_bounded_number_of_rows() -> None:
    async with open_house([500]) as house:
        for number in range(30):
            await house.publish(retries="0", label="rare" if number == 0 else "frequent")
            await house.clock.advance(1)
        for path, most in (("/v2/logs", 2), ("/v2/dlq", 1)):
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(filters, "LOOKED_AT_MAX", 10)
                reply = await house.call("GET", f"{path}?label=rare&order=latestFirst")
                assert len(reply.json.get("events", reply.json.get("messages"))) == 0
                assert reply.json["cursor"]
                assert len(await walk(house, path, "label=rare&order=latestFirst")) >= most


def test_every_rare_state_has_its_rows_in_the_index() -> None:
    rows = {ERROR_AND_RETRY, ERROR_AND_FAILED, ERROR_AND_CANCELED}
    rows |= {States.CANCEL_REQUESTED, States.CANCEL_REQUESTED | States.CANCELED}
    assert {int(row) for row in rows} == set(RARE)
    assert all(not value & FREQUENT and value > 4 for value in RARE)


LISTS = [(LOGS, query) for query in LOG_FILTERS] + [(DEAD_LETTERS, query) for query in LETTER_FILTERS]


@pytest.mark.parametrize(("kind", "query"), LISTS, ids=[f"{'logs' if k is LOGS else 'dlq'}?{q}" for k, q in LISTS])
@pytest.mark.parametrize("order", ["earliestFirst", "latestFirst"])
async def test_no_page_is_sorted_and_no_walk_is_without_bounds(kind: Any, query: str, order: str) -> None:
    plans: list[str] = []

    async with open_house() as house:

        def explain(tx: Transaction) -> None:
            class Explained:
                def execute(self, sql: str, parameters: Any = None) -> list[tuple[object, ...]]:
                    plans.extend(str(row[3]) for row in tx.execute(f"EXPLAIN QUERY PLAN {sql}", parameters))
                    return []

            explained: Transaction = Explained()  # type: ignore[assignment]
            chosen, page = parse_selection(kind, f"{query}&order={order}" if query else f"order={order}")
            if kind is LOGS:
                list_logs(explained, chosen, page, 0)
            else:
                list_dead_letters(explained, chosen, page)

        await house.server.database.read(explain)
    if "queueName" not in query:
        assert not [line for line in plans if "TEMP B-TREE" in line or line.startswith("SCAN")], plans
