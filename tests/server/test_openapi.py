"""`/openapi.json` describes what is served: no more, no less, and in a form that tools read."""

from __future__ import annotations

import re

import pytest

from idioteque.server.api.openapi import OPERATIONS, served
from idioteque.server.api.rest import ROUTES
from tests.server.house import House


def test_every_route_is_described_and_every_description_is_served() -> None:
    routed = set(served(ROUTES))
    assert routed - set(OPERATIONS) == set(), "describe these routes in OPERATIONS"
    assert set(OPERATIONS) - routed == set(), "these are described, but not served"


async def test_the_document_is_open_to_everybody(house: House) -> None:
    reply = await house.call("GET", "/openapi.json", token=None)
    assert (reply.status, reply.json["openapi"]) == (200, "3.1.0")


async def test_everything_that_the_document_refers_to_is_in_it(house: House) -> None:
    reply = await house.call("GET", "/openapi.json", token=None)
    names = set(re.findall(r'"#/components/schemas/(\w+)"', reply.text))
    assert names <= set(reply.json["components"]["schemas"])
    ids = [operation["operationId"] for path in reply.json["paths"].values() for operation in path.values()]
    assert len(ids) == len(set(ids)) == len(OPERATIONS)
    for path, operations in reply.json["paths"].items():
        for operation in operations.values():
            named = {p["name"] for p in operation["parameters"] if p["in"] == "path"}
            assert named == set(re.findall(r"\{(\w+)\}", path))


@pytest.mark.parametrize(("method", "path"), sorted(OPERATIONS))
async def test_every_operation_is_reached(house: House, method: str, path: str) -> None:
    target = re.sub(r"\{\w+(?::\w+)?\}", "x", path)
    reply = await house.call(method, target)
    assert reply.status != 405
    assert not reply.text.startswith('{"error":"no such path')
