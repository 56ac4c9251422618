"""Where a run's time went, drawn: what each stretch of a step is, where it stands, and which idle time is cut short."""

from __future__ import annotations

import time
from collections.abc import Sequence

from idioteque.console.waterfall import GAP_WIDTH, LANES_MAX, Lane, waterfall
from idioteque.paths import BODY, Path
from idioteque.records import DeliveryRecord, Outcome, RunRecord, Status, StepRecord

BEGIN_MS = 1_700_000_000_000


def run(
    *steps: StepRecord, status: Status = "completed", end_ms: int | None = 1000, came: Sequence[DeliveryRecord] = ()
) -> RunRecord:
    return RunRecord(
        run_id="run_1", event_id="evt_1", function_id="f", status=status, event=b"{}", options=b"{}", outcome=None,
        attempts=0, strikes=0, due_at_ms=0, lease_until_ms=0, created_at_ms=BEGIN_MS,
        finished_at_ms=None if end_ms is None else BEGIN_MS + end_ms, error=None, steps=steps, deliveries=came,
    )  # fmt: skip


def ended(path: Path, at_ms: int, took_ms: int | None, *, ok: bool = True, attempts: int = 0) -> StepRecord:
    outcome = Outcome(ok, b"null", took_ms)
    return StepRecord(path, outcome, 1, attempts, 0, 0, BEGIN_MS + at_ms, None, took_ms=took_ms)


def unended(path: Path, *, attempts: int = 0, due_ms: int = 0, waits_for: str | None = None) -> StepRecord:
    due_at_ms = BEGIN_MS + due_ms if due_ms else 0
    return StepRecord(path, None, None, attempts, 0, due_at_ms, None, "no" if attempts else None, waits_for)


def came(path: Path, at_ms: int) -> DeliveryRecord:
    return DeliveryRecord(path, "msg_1", 0, BEGIN_MS + at_ms)


def bars(lane: Lane) -> list[tuple[str, float, float]]:
    return [(bar.kind, bar.x, bar.width) for bar in lane.bars]


def test_steps_in_place_stand_where_they_ran() -> None:
    picture = waterfall(run(ended(("a",), 400, 300), ended(("b",), 1000, 500, ok=False)), BEGIN_MS + 9000)
    assert [bars(lane) for lane in picture.lanes] == [[("run", 10, 30)], [("failed", 50, 50)]]
    assert [(lane.status, lane.took_ms) for lane in picture.lanes] == [("completed", 300), ("failed", 500)]
    assert [(tick.x, tick.at_ms) for tick in picture.ticks] == [(x, x * 10) for x in (0, 20, 40, 60, 80, 100)]


def test_steps_side_by_side_share_their_time() -> None:
    picture = waterfall(run(ended(("a",), 400, 400), ended(("b",), 1000, 1000)), BEGIN_MS)
    assert [bars(lane) for lane in picture.lanes] == [[("run", 0, 40)], [("run", 0, 100)]]
    deliveries = [came(("a",), 100), came(("b",), 200)]
    picture = waterfall(run(ended(("a",), 400, 300), ended(("b",), 1000, 800), came=deliveries), BEGIN_MS)
    assert [bars(lane) for lane in picture.lanes] == [
        [("queued", 0, 10), ("run", 10, 30)],
        [("queued", 0, 20), ("run", 20, 80)],
    ]


def test_a_step_in_a_delivery_of_its_own_shows_how_long_it_lay_in_the_queue() -> None:
    deliveries = [came(BODY, 0), came(("a",), 300), came(("a",), 600)]
    [lane] = waterfall(run(ended(("a",), 1000, 200, attempts=1), came=deliveries), BEGIN_MS).lanes
    assert bars(lane) == [("queued", 0, 30), ("backoff", 30, 50), ("run", 80, 20)]
    [lane] = waterfall(run(ended(("a",), 1000, 200), came=[came(BODY, 300)]), BEGIN_MS).lanes
    assert bars(lane) == [("run", 80, 20)]


def test_a_step_that_has_not_ended_is_drawn_up_to_now() -> None:
    now_ms = BEGIN_MS + 1000
    steps = {
        "open": unended(("a",)),
        "backoff": unended(("a",), attempts=2, due_ms=5000),
        "wait": unended(("a",), waits_for="order.paid"),
    }
    for kind, step in steps.items():
        [lane] = waterfall(run(step, status="waiting", end_ms=None), now_ms).lanes
        assert bars(lane) == [(kind, 0, 100)], kind
        assert (lane.status, lane.took_ms) == ("pending", None)
    [lane] = waterfall(run(unended(("a",), due_ms=5000), status="waiting", end_ms=None), now_ms).lanes
    assert [bar.title for bar in lane.bars] == ["sleeps"]
    [lane] = waterfall(run(unended(("a",)), status="running", end_ms=None, came=[came(("a",), 250)]), now_ms).lanes
    assert bars(lane) == [("queued", 0, 25), ("open", 25, 75)]


def test_long_idle_time_is_cut_short_and_says_how_long_it_was() -> None:
    day_ms = 86_400_000
    record = run(ended(("a",), 1000, 1000), ended(("nap",), day_ms, None), ended(("b",), day_ms + 1000, 1000),
                 end_ms=day_ms + 1000)  # fmt: skip
    picture = waterfall(record, BEGIN_MS)
    [gap] = picture.gaps
    assert gap.ms == day_ms - 1000
    assert gap.width == GAP_WIDTH * 100
    shown = {lane.name: lane.bars[0] for lane in picture.lanes}
    assert shown["a"].width == shown["b"].width == 47
    assert shown["nap"].x == gap.x
    assert all(bar.x >= 0 and bar.x + bar.width <= 100 for bar in shown.values())


def test_a_run_that_does_nothing_but_wait_is_drawn_without_a_cut() -> None:
    record = run(unended(("payment",), waits_for="a payment"), status="waiting", end_ms=None)
    picture = waterfall(record, BEGIN_MS + 86_400_000)
    assert picture.gaps == ()
    assert [bars(lane) for lane in picture.lanes] == [[("wait", 0, 100)]]


def test_a_step_stands_below_the_one_it_lies_in_in_the_order_of_beginnings() -> None:
    steps = [ended(("late",), 900, 100), ended(("outer", "second"), 700, 100), ended(("outer", "first"), 300, 100)]
    picture = waterfall(run(*steps), BEGIN_MS)
    assert [(lane.path, lane.depth) for lane in picture.lanes] == [
        (("outer",), 0),
        (("outer", "first"), 1),
        (("outer", "second"), 1),
        (("late",), 0),
    ]
    assert picture.lanes[0].bars == ()


def test_a_run_without_steps_and_one_with_too_many_are_drawn() -> None:
    assert waterfall(run(end_ms=0), BEGIN_MS).lanes == ()
    began_s = time.process_time()
    many = waterfall(run(*(ended((f"s{n}",), n, 1) for n in range(20_000)), end_ms=20_000), BEGIN_MS)
    assert time.process_time() - began_s < 5, "the time grows with the steps, not with their square"
    many = waterfall(run(*(ended((f"s{n}",), 1000, 1) for n in range(LANES_MAX + 3))), BEGIN_MS)
    assert (len(many.lanes), many.left_out) == (LANES_MAX, 3)
    assert all(bar.width > 0 for lane in many.lanes for bar in lane.bars)


def test_clocks_that_disagree_draw_nothing_outside_the_picture() -> None:
    [lane] = waterfall(run(ended(("a",), 100, 60_000)), BEGIN_MS).lanes
    assert bars(lane) == [("run", 0, 10)]
