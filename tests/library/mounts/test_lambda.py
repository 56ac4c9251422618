"""The mount as a Lambda handler, behind everything that calls one over HTTP."""

from __future__ import annotations

import base64
from collections.abc import Callable
from typing import Any

import pytest

from idioteque import Context
from idioteque.clock import SystemClock
from tests.library.mounts.shop import Order, Shop, headers, order, text_of

Event = dict[str, Any]


def function_url(body: bytes, given: dict[str, str], method: str = "POST") -> Event:
    return {
        "version": "2.0",
        "rawPath": "/api/worker",
        "headers": {name.lower(): value for name, value in given.items()},
        "requestContext": {"http": {"method": method, "path": "/api/worker"}},
        "body": body.decode(),
        "isBase64Encoded": False,
    }


def function_url_in_base64(body: bytes, given: dict[str, str], method: str = "POST") -> Event:
    encoded = base64.b64encode(body).decode()
    return {**function_url(b"", given, method), "body": encoded, "isBase64Encoded": True}


def api_gateway_v1(body: bytes, given: dict[str, str], method: str = "POST") -> Event:
    return {
        "resource": "/{proxy+}",
        "path": "/api/worker",
        "httpMethod": method,
        "headers": given,
        "multiValueHeaders": {name: [value] for name, value in given.items()},
        "requestContext": {"httpMethod": method, "stage": "prod"},
        "body": body.decode(),
        "isBase64Encoded": False,
    }


def load_balancer(body: bytes, given: dict[str, str], method: str = "POST") -> Event:
    return {
        "requestContext": {"elb": {"targetGroupArn": "arn"}},
        "httpMethod": method,
        "path": "/api/worker",
        "headers": {name.lower(): value for name, value in given.items()},
        "body": body.decode(),
        "isBase64Encoded": False,
    }


def load_balancer_with_lists(body: bytes, given: dict[str, str], method: str = "POST") -> Event:
    event = load_balancer(body, {}, method)
    del event["headers"]
    return {**event, "multiValueHeaders": {name.lower(): [value] for name, value in given.items()}}


DOORS = [function_url, function_url_in_base64, api_gateway_v1, load_balancer, load_balancer_with_lists]
Door = Callable[..., Event]


@pytest.fixture(params=DOORS, ids=lambda door: door.__name__)
def door(request: pytest.FixtureRequest) -> Door:
    made: Door = request.param
    return made


@pytest.fixture
def shop() -> Shop:
    return Shop()


def test_a_delivery_and_its_redelivery(door: Door, shop: Shop) -> None:
    body = order(note="é")
    for _ in range(2):
        answer = shop.mount.aws_lambda(door(body, headers(body)), None)
        assert (answer["statusCode"], answer["isBase64Encoded"]) == (200, False)
        assert answer["headers"]["Content-Type"] == "application/json"
    assert text_of(answer["body"])
    assert shop.paid == {"1": 1}


def test_every_refusal_gets_through_as_it_is(door: Door, shop: Shop) -> None:
    unsigned = shop.mount.aws_lambda(door(order(), {}), None)
    poison = shop.mount.aws_lambda(door(b"not json", headers(b"not json")), None)
    method = shop.mount.aws_lambda(door(b"", {}, "GET"), None)
    assert [unsigned["statusCode"], poison["statusCode"], method["statusCode"]] == [401, 489, 405]
    assert poison["headers"]["Upstash-NonRetryable-Error"] == "true"


def test_a_load_balancer_that_sends_lists_is_answered_with_lists(shop: Shop) -> None:
    answer = shop.mount.aws_lambda(load_balancer_with_lists(order(), headers(order())), None)
    assert answer["multiValueHeaders"] == {"Content-Type": ["application/json"]}
    assert "multiValueHeaders" not in shop.mount.aws_lambda(load_balancer(order(), headers(order())), None)


def test_two_signatures_in_a_list_are_none(shop: Shop) -> None:
    event = load_balancer_with_lists(order(), headers(order()))
    event["multiValueHeaders"]["upstash-signature"] *= 2
    assert shop.mount.aws_lambda(event, None)["statusCode"] == 401


def test_bytes_that_are_no_text_come_in_base64(shop: Shop) -> None:
    body = b"\xff\xfe"
    answer = shop.mount.aws_lambda(function_url_in_base64(body, headers(body)), None)
    assert answer["statusCode"] == 489


@pytest.mark.parametrize(
    "event",
    [
        {},
        {"body": None, "headers": None},
        {"body": "\ud800", "headers": {}},
        {"body": "not base64!", "isBase64Encoded": True},
        {"requestContext": {"http": {}}, "headers": {"upstash-signature": 5}},
        {"multiValueHeaders": {"upstash-signature": []}},
        {"Records": [{"body": "{}"}]},
    ],
    ids=repr,
)
def test_an_event_of_something_else_is_refused(shop: Shop, event: Event) -> None:
    assert shop.mount.aws_lambda(event, None)["statusCode"] == 401
    assert shop.paid == {}


class Invocation:
    """What Lambda gives a handler beside the event."""

    def __init__(self, remaining_ms: int) -> None:
        self.remaining_ms = remaining_ms

    def get_remaining_time_in_millis(self) -> int:
        return self.remaining_ms


def three_steps(shop: Shop, seconds: float) -> list[str]:
    """Give the shop a function of three steps, each of which takes so long, and return which were run."""
    done: list[str] = []

    async def work(key: str) -> None:
        shop.clock.now_s += seconds  # type: ignore[attr-defined]
        done.append(key)

    async def handler(event: Order, ctx: Context) -> None:
        for key in ("a", "b", "c"):
            await ctx.execute(key, work, key)

    function = shop.worker.create_function("three", "order", handler)
    shop.mount = shop.dispatcher.mount(shop.worker, functions=[function])
    return done


class Stopwatch(SystemClock):
    """The host's clock, but for what it measures."""

    now_s = 0.0

    def monotonic_s(self) -> float:
        return self.now_s


@pytest.mark.parametrize(("remaining_ms", "starts"), [(9_000, ["a"]), (30_000, ["a", "b", "c"]), (0, ["a"])])
def test_no_step_starts_when_an_invocation_is_about_to_end(remaining_ms: int, starts: list[str]) -> None:
    shop = Shop(clock=Stopwatch())
    done = three_steps(shop, 8)

    answer = shop.mount.aws_lambda(function_url(order(), headers(order())), Invocation(remaining_ms))

    assert (answer["statusCode"], done) == (200, starts)
    assert len(shop.sent.requests) == (len(starts) < 3), "the message that goes on"


def test_a_minute_at_most_is_left_of_a_long_invocation() -> None:
    shop = Shop(clock=Stopwatch())
    done = three_steps(shop, 410)
    shop.mount.aws_lambda(function_url(order(), headers(order())), Invocation(900_000))
    assert done == ["a", "b", "c"], "820 s had passed, 840 were there"


def test_a_context_that_tells_no_time_sets_no_deadline() -> None:
    shop = Shop(clock=Stopwatch())
    done = three_steps(shop, 10_000)
    shop.mount.aws_lambda(function_url(order(), headers(order())), object())
    assert done == ["a", "b", "c"]


async def test_a_handler_may_be_called_where_a_loop_runs(shop: Shop) -> None:
    answer = shop.mount.aws_lambda(function_url(order(), headers(order())), None)
    assert answer["statusCode"] == 200
