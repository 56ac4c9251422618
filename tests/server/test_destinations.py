"""Slots and fairness: however many destinations hang, the others go on."""

from __future__ import annotations

from idioteque.server.config import ServerConfig
from idioteque.server.core.destinations import Destinations
from idioteque.transport import HttpRequest
from tests.server.house import open_house


def test_a_lone_destination_gets_a_third_and_an_idle_one_always_a_slot() -> None:
    slots = Destinations(in_flight_max=90, share=0.5)
    taken = 0
    while slots.reserve("a", 0):
        taken += 1
    assert taken == 27
    assert slots.reserve("b", 0)


def test_many_hanging_destinations_leave_room_for_the_others() -> None:
    slots = Destinations(in_flight_max=1000, share=0.5)
    for _ in range(1000):
        for hanging in range(90):
            slots.reserve(f"hanging-{hanging}", 0)
    assert slots.in_flight < 1000
    assert all(slots.reserve(f"healthy-{place}", 0) for place in range(10))


def test_new_messages_do_not_overtake_those_that_wait() -> None:
    slots = Destinations(in_flight_max=10, share=0.5)
    slots.note_due("a", 5)
    assert slots.reserve("a", 4)
    assert not slots.reserve("a", 5)
    assert slots.reserve("b", 5)


def test_a_destination_without_room_is_left_until_a_slot_is_free() -> None:
    slots = Destinations(in_flight_max=2, share=1.0)
    assert slots.reserve("a", 0)
    slots.note_due("a", 0)
    assert slots.take_due(0, 10) == []
    assert slots.next_due_ms() is None
    assert not slots.has_claimable()
    slots.release("a")
    assert slots.has_claimable()
    assert slots.take_due(0, 10) == [("a", 1)]
    slots.set_due("a", None)
    slots.release("a")
    assert not slots.has_messages("a")


def test_slots_are_taken_again_as_far_as_they_are_fair_and_nobody_waits_for_one() -> None:
    slots = Destinations(in_flight_max=30, share=1.0)
    slots.note_due("a", 0)
    assert slots.take_due(0, 4) == [("a", 4)]
    assert slots.retake("a", 2) == 2
    for _ in range(8):
        assert slots.reserve("b", 0)
    while slots.reserve(f"c{slots.in_flight}", 0):
        pass
    slots.note_due("d", 0)
    assert slots.take_due(0, 10) == []
    assert slots.retake("a", 1) == 0  # `d` has none at all
    assert slots.take_due(0, 10) == [("d", 1)]
    assert slots.retake("a", 3) < 3
    slots.set_due("a", None)


async def test_healthy_destinations_do_not_notice_that_ninety_percent_hang() -> None:
    async def answer(request: HttpRequest) -> int:
        await house.clock.sleep(900 if "hangs" in request.url else 0.01)
        return 200

    async with open_house(answer, config=ServerConfig(in_flight_max=200)) as house:
        for burst in range(5):
            for place in range(90):
                await house.server.publish(f"https://hangs-{place}.test/{burst}", retries=0)
        begun_ms = house.clock.now_ms()
        for place in range(10):
            await house.server.publish(f"https://healthy-{place}.test/")
        await house.clock.advance(0.2)
        healthy = [
            at_ms
            for request, at_ms in zip(house.wire.requests, house.wire.times_ms, strict=True)
            if "healthy" in request.url
        ]
        assert len(healthy) == 10
        assert max(healthy) - begun_ms < 100


async def test_everything_is_delivered_in_the_end_though_slots_are_few() -> None:
    async def answer(request: HttpRequest) -> int:
        await house.clock.sleep(1)
        return 200

    async with open_house(answer, config=ServerConfig(in_flight_max=4)) as house:
        ids = [await house.server.publish(f"https://d{place % 5}.test/{place}") for place in range(60)]
        await house.clock.advance(120)
        assert sorted(r.header("Upstash-Message-Id") or "" for r in house.wire.requests) == sorted(ids)
        assert house.server.deliverer.in_flight == 0
