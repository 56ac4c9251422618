"""What happens after an attempt: retries in virtual time, the expression, `Retry-After`, and the end of patience."""

from __future__ import annotations

import pytest

from idioteque.errors import ConnectFailed, ExchangeTimeout
from idioteque.signing import verify
from idioteque.transport import HttpResponse
from tests.server.house import CURRENT_KEY, SHOP, open_house


async def test_the_default_back_off_is_the_protocols_own_curve() -> None:
    async with open_house([503, 503, 200]) as house:
        message_id = await house.publish()
        await house.clock.advance(200)
        assert house.wire.gaps_s == [12, 148]
        assert [request.header("Upstash-Retried") for request in house.wire.requests] == ["0", "1", "2"]
        assert await house.states(message_id) == [
            *("CREATED", "ACTIVE", "ERROR", "RETRY", "ACTIVE", "ERROR", "RETRY", "ACTIVE", "DELIVERED"),
        ]


async def test_later_waits_are_half_an_hour_then_six_hours_then_a_day() -> None:
    async with open_house([500]) as house:
        await house.publish(retries="6")
        await house.clock.advance(4 * 86_400)
        assert house.wire.gaps_s == [12, 148, 1808, 22_026, 86_400, 86_400]


async def test_each_attempt_is_signed_anew_and_verifies() -> None:
    async with open_house([503, 200]) as house:
        await house.publish(body=b'{"a": 1}')
        await house.clock.advance(600)
        first, second = (request.header("Upstash-Signature") or "" for request in house.wire.requests)
        assert first != second
        claims = verify(second, b'{"a": 1}', [CURRENT_KEY], house.wire.times_ms[1], url=SHOP)
        assert claims.url == SHOP


async def test_a_retry_delay_counts_in_milliseconds_from_zero_retries() -> None:
    async with open_house([500]) as house:
        await house.publish(retries="3", retry_delay="1000 * (1 + retried)")
        await house.clock.advance(60)
        assert house.wire.gaps_s == [1, 2, 3]


async def test_an_expression_without_a_value_later_on_falls_back_to_the_curve() -> None:
    async with open_house([500]) as house:
        await house.publish(retries="2", retry_delay="1000 / (1 - retried)")
        await house.clock.advance(600)
        assert house.wire.gaps_s == [1, 148]


@pytest.mark.parametrize(
    ("headers", "wait_s"),
    [
        ([("Retry-After", "30")], 30),
        ([("Retry-After", "0")], 0),
        ([("retry-after", "Tue, 14 Nov 2023 22:14:20 GMT")], 60),
        ([("Retry-After", "Tue, 14 Nov 2022 22:14:20 GMT")], 0),
        ([("X-RateLimit-Reset", "6m5s")], 365),
        ([("X-RateLimit-Reset-Requests", "1500ms")], 2),
        ([("X-RateLimit-Reset-Tokens", "7")], 7),
        ([("X-RateLimit-Reset", "9"), ("Retry-After", "3")], 3),
        ([("Retry-After", "86401")], 12),
        ([("X-RateLimit-Reset", "1700000300")], 12),
        ([("Retry-After", "soon")], 12),
        ([("Retry-After", "-5")], 12),
        ([("Retry-After", "99999999999999999999")], 12),
    ],
)
async def test_a_destination_may_say_when_to_come_back(headers: list[tuple[str, str]], wait_s: int) -> None:
    async with open_house([HttpResponse(429, headers), 200]) as house:
        await house.publish()
        await house.clock.advance(400)
        assert house.wire.gaps_s == [wait_s]


async def test_the_destinations_wish_wins_over_the_expression() -> None:
    async with open_house([HttpResponse(503, [("Retry-After", "40")]), 200]) as house:
        await house.publish(retry_delay="1000")
        await house.clock.advance(100)
        assert house.wire.gaps_s == [40]


async def test_a_message_whose_retries_are_used_up_is_in_the_dead_letter_queue_only() -> None:
    async with open_house([HttpResponse(500, [("X-Why", "broken")], b"no")]) as house:
        message_id = await house.publish(body=b"payload", retries="1", retry_delay="0")
        await house.clock.advance(1)
        assert await house.states(message_id) == ["CREATED", "ACTIVE", "ERROR", "RETRY", "ACTIVE", "ERROR", "FAILED"]
        (letter,) = await house.dead_letters()
        assert letter["messageId"] == message_id
        assert letter["responseStatus"] == 500
        assert letter["responseBody"] == "no"
        assert letter["responseHeader"] == {"X-Why": ["broken"]}
        assert letter["body"] == "payload"
        assert (await house.call("GET", f"/v2/messages/{message_id}")).status == 404


async def test_no_retries_means_one_attempt() -> None:
    async with open_house([500]) as house:
        await house.publish(retries="0")
        await house.clock.advance(100_000)
        assert len(house.wire.requests) == 1
        assert len(await house.dead_letters()) == 1


@pytest.mark.parametrize("status", [489, 500, 301])
async def test_a_non_retryable_answer_ends_a_message_at_once(status: int) -> None:
    async with open_house([HttpResponse(status, [("upstash-nonretryable-error", "true")])]) as house:
        message_id = await house.publish(retries="5")
        assert await house.states(message_id) == ["CREATED", "ACTIVE", "ERROR", "FAILED"]
        assert (await house.dead_letters())[0]["responseStatus"] == status


@pytest.mark.parametrize("answer", [HttpResponse(489), HttpResponse(200, [("Upstash-NonRetryable-Error", "true")])])
async def test_the_header_decides_and_only_on_a_failure(answer: HttpResponse) -> None:
    async with open_house([answer, 200]) as house:
        message_id = await house.publish()
        await house.clock.advance(20)
        assert (await house.states(message_id))[-1] == "DELIVERED"
        assert await house.dead_letters() == []


async def test_a_redirect_is_a_failure() -> None:
    async with open_house([HttpResponse(307, [("Location", "https://other.test/")]), 200]) as house:
        await house.publish()
        await house.clock.advance(20)
        assert [request.url for request in house.wire.requests] == [SHOP, SHOP]


async def test_an_attempt_without_an_answer_is_retried_and_says_why() -> None:
    async with open_house([ExchangeTimeout("https://shop.test did not answer within 5 s"), 200]) as house:
        message_id = await house.publish()
        await house.clock.advance(20)
        errors = await house.events(f"?messageId={message_id}&state=ERROR")
        assert errors[0]["responseStatus"] == 0
        assert errors[0]["error"] == "https://shop.test did not answer within 5 s"
        assert (await house.states(message_id))[-1] == "DELIVERED"


async def test_an_unforeseen_error_of_the_transport_is_a_failed_attempt() -> None:
    async with open_house([RuntimeError("never seen before"), 200]) as house:
        message_id = await house.publish()
        await house.clock.advance(20)
        assert (await house.states(message_id))[-1] == "DELIVERED"


async def test_the_log_says_when_the_next_attempt_is_due() -> None:
    async with open_house([503]) as house:
        message_id = await house.publish()
        (retry,) = await house.events(f"?messageId={message_id}&state=RETRY")
        assert retry["nextDeliveryTime"] == house.wire.times_ms[0] + 12_000


async def test_a_delay_puts_the_first_attempt_off() -> None:
    async with open_house() as house:
        begun_ms = house.clock.now_ms()
        message_id = await house.publish(delay="1h30m")
        assert house.wire.requests == []
        assert (await house.states(message_id)) == ["CREATED"]
        await house.clock.advance(2 * 3600)
        assert house.wire.times_ms == [begun_ms + 5400 * 1000]


async def test_not_before_wins_over_a_delay_and_a_past_one_means_now() -> None:
    async with open_house() as house:
        now_s = house.clock.now_ms() // 1000
        await house.publish(delay="1h", not_before=str(now_s + 60))
        await house.publish(not_before="5")
        await house.clock.advance(100)
        assert house.wire.times_ms == [now_s * 1000, (now_s + 60) * 1000]


async def test_the_server_goes_on_with_others_while_one_waits() -> None:
    async with open_house(lambda request: ConnectFailed("no") if "down" in request.url else 200) as house:
        await house.publish("https://down.test/")
        message_id = await house.publish("https://up.test/")
        assert (await house.states(message_id))[-1] == "DELIVERED"
