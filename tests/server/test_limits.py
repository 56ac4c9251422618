"""What an operator may limit, and what is refused, thrown away or warned about when a limit is reached."""

from __future__ import annotations

import logging
import re
from pathlib import Path

import pytest

from idioteque.errors import ConfigurationError
from idioteque.server.config import DAY_S, ServerConfig, with_settings
from tests.server.house import SHOP, House, open_house

HOURLY = ServerConfig(housekeeping_every_s=3600, lease_s=DAY_S)  # rare duties: virtual days pass in a second


async def test_a_delay_of_a_year_is_accepted_and_a_longer_one_is_a_quota_error(house: House) -> None:
    for headers, status in (
        ({"Upstash-Delay": "365d"}, 200),
        ({"Upstash-Delay": "367d"}, 412),
        ({"Upstash-Not-Before": str(house.clock.now_ms() // 1000 + 365 * DAY_S)}, 200),
        ({"Upstash-Not-Before": str(house.clock.now_ms() // 1000 + 367 * DAY_S)}, 412),
    ):
        reply = await house.call("POST", f"/v2/publish/{SHOP}", headers=headers)
        assert reply.status == status
    assert reply.json == {"error": f"quota maxDelay exceeded, current limit: {366 * DAY_S}"}
    assert len(await house.events("?state=CREATED")) == 2


async def test_more_retries_than_allowed_are_a_quota_error() -> None:
    async with open_house(config=ServerConfig(retries_max=5)) as house:
        reply = await house.call("POST", f"/v2/publish/{SHOP}", headers={"Upstash-Retries": "6"})
        assert (reply.status, reply.json) == (412, {"error": "quota maxRetries exceeded, current limit: 5"})


async def test_a_batch_beyond_its_limit_is_refused_as_a_whole() -> None:
    async with open_house(config=ServerConfig(batch_bytes_max=500, body_bytes_max=50)) as house:
        item = {"destination": SHOP, "body": "x" * 40}
        assert (await house.call("POST", "/v2/batch", document=[item] * 20)).status == 413
        reply = await house.call("POST", "/v2/batch", document=[item, {**item, "body": "x" * 51}])
        assert (reply.status, ["messageId" in each for each in reply.json]) == (200, [True, False])
        assert "at most 50" in reply.json[1]["error"]
        assert len(await house.events("?state=CREATED")) == 1


async def test_a_days_messages_are_counted_until_midnight_and_a_batch_as_a_whole() -> None:
    async with open_house(config=ServerConfig(messages_per_day_max=3)) as house:
        for _ in range(2):
            await house.publish()
        refused = await house.call("POST", "/v2/batch", document=[{"destination": SHOP}] * 2)
        assert (refused.status, refused.headers["ratelimit-limit"], refused.headers["ratelimit-remaining"]) == (
            429,
            "3",
            "1",
        )
        await house.publish()
        refused = await house.call("POST", f"/v2/publish/{SHOP}")
        reset_s = int(refused.headers["ratelimit-reset"])
        assert (refused.status, refused.headers["ratelimit-remaining"], reset_s % DAY_S) == (429, "0", 0)
        await house.clock.advance(reset_s - house.clock.now_ms() / 1000)
        await house.publish()
        assert len(await house.events("?state=CREATED")) == 4


async def test_management_is_limited_by_the_second_and_publishing_is_not() -> None:
    async with open_house(config=ServerConfig(management_per_s_max=2)) as house:
        replies = [await house.call("GET", "/v2/dlq") for _ in range(3)]
        assert [reply.status for reply in replies] == [200, 200, 429]
        assert replies[2].headers["burst-ratelimit-limit"] == "2"
        assert int(replies[2].headers["burst-ratelimit-reset"]) == house.clock.now_ms() // 1000 + 1
        await house.publish()
        await house.clock.advance(1)
        assert (await house.call("GET", "/v2/dlq")).status == 200


async def test_the_oldest_messages_leave_the_log_when_there_are_too_many() -> None:
    config = ServerConfig(log_messages_max=10)
    async with open_house(lambda request: 500 if "dead" in request.url else 200, config=config) as house:
        dead = await house.publish("https://dead.test/", retries="0")
        waiting = await house.publish(delay="1d")
        ids: list[str] = []
        for _ in range(25):
            ids.append(await house.publish())
            await house.clock.advance(0.001)
        await house.clock.advance(61)
        kept = {entry["messageId"] for entry in await house.events("?count=1000")}
        assert kept == {dead, waiting, *ids[-10:]}
        assert [letter["messageId"] for letter in await house.dead_letters()] == [dead]
        assert (await house.call("GET", f"/v2/messages/{waiting}")).status == 200
        assert (await house.call("GET", f"/v2/messages/{ids[0]}")).status == 404
        rows = await house.server.database.read(lambda tx: tx.execute("SELECT COUNT(*) FROM messages"))
        assert rows == [(12,)]


async def test_the_log_is_kept_for_three_days_and_dead_letters_for_thirty() -> None:
    async with open_house([500], config=HOURLY) as house:
        await house.publish(retries="0")
        await house.clock.advance(3 * DAY_S)
        assert len(await house.events()) == 4
        await house.clock.advance(3600)
        assert await house.events() == []
        await house.clock.advance(27 * DAY_S - 3600)
        assert len(await house.dead_letters()) == 1
        await house.clock.advance(3600)
        assert await house.dead_letters() == []


async def test_the_operator_is_warned_once_a_day_before_dead_letters_are_deleted(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with open_house([500], config=HOURLY) as house:
        await house.publish(retries="0")
        await house.clock.advance(27 * DAY_S - 3600)
        assert caplog.messages == []
        with caplog.at_level(logging.WARNING):
            await house.clock.advance(2 * DAY_S + 7200)
    warnings = [
        message for message in caplog.messages if "1 dead letters are deleted within the next 3 days" in message
    ]
    assert len(warnings) == 3


@pytest.mark.parametrize(
    ("text", "name", "value"),
    [
        ("body_bytes_max=65536", "body_bytes_max", 65_536),
        ("probe_every_s=0.25", "probe_every_s", 0.25),
        ("token_in_query=false", "token_in_query", False),
        ("messages_per_day_max=1000", "messages_per_day_max", 1000),
        ("messages_per_day_max=none", "messages_per_day_max", None),
        ("retries_default=0", "retries_default", 0),
    ],
)
def test_a_setting_is_read_by_its_kind(text: str, name: str, value: object) -> None:
    assert getattr(with_settings(ServerConfig(), [text]), name) == value


@pytest.mark.parametrize(
    "text",
    [
        "", "x", "nothing=1", "body_bytes_max", "body_bytes_max=", "body_bytes_max=-1", "body_bytes_max=1.5",
        "body_bytes_max=1e3", "token_in_query=yes", "probe_every_s=0", "probe_every_s=nan", "probe_every_s=inf",
        "lease_s=0", "in_flight_max=0", "port=1", "dev=true", "database=x", "body_bytes_max=none",
    ],
)  # fmt: skip
def test_a_bad_setting_is_a_clear_error(text: str) -> None:
    with pytest.raises(ConfigurationError, match="--set"):
        with_settings(ServerConfig(), [text])


def test_the_guide_names_every_setting_with_its_default() -> None:
    guide = (Path(__file__).parents[2] / "docs" / "guides" / "limits.md").read_text()
    rows = dict(re.findall(r"^\| `(\w+)` \| (\S+) \|", guide, re.MULTILINE))
    shown = {name: str(getattr(ServerConfig(), name)) for name in rows}
    assert {name: value.lower() for name, value in shown.items()} == rows
    with pytest.raises(ConfigurationError) as refusal:
        with_settings(ServerConfig(), ["nothing=1"])
    assert sorted(rows) == sorted(str(refusal.value).rpartition("there are ")[2].split(", "))


async def test_a_long_destination_is_refused() -> None:
    async with open_house(config=ServerConfig(url_bytes_max=30)) as house:
        assert (await house.call("POST", "/v2/publish/https://x.test/" + "a" * 15)).status == 200
        reply = await house.call("POST", "/v2/publish/https://x.test/" + "a" * 16)
        assert reply.json == {"error": "invalid destination url: it is longer than 30 bytes"}
