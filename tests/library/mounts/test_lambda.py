"""The mount as a Lambda handler, behind everything that calls one over HTTP."""

from __future__ import annotations

import base64
from collections.abc import Callable
from typing import Any

import pytest

from tests.library.mounts.shop import Shop, headers, order, text_of

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


async def test_a_handler_may_be_called_where_a_loop_runs(shop: Shop) -> None:
    answer = shop.mount.aws_lambda(function_url(order(), headers(order())), None)
    assert answer["statusCode"] == 200
