"""What a process holds of a run is not read again, and is never mistaken for another history."""

from __future__ import annotations

from typing import Any

import pytest

from idioteque import Context, Retry, StepFailed
from idioteque.engine.remembered import OVERHEAD_BYTES, Remembered
from idioteque.store import Outcome, Recorded, Started
from tests.library.engine.rig import STORES, Order, Rig

RUN = "run_1"


@pytest.fixture(params=STORES)
def store(request: pytest.FixtureRequest) -> str:
    return str(request.param)


async def test_a_run_with_many_deliveries_reads_each_outcome_about_once(store: str) -> None:
    rig = Rig(store, "isolated")

    @rig.worker.function("f", on="order")
    async def f(event: Order, ctx: Context) -> list[str]:
        return [await ctx.execute(f"s{n}", rig.effect, f"s{n}") for n in range(40)]

    run = await rig.run()

    assert run.result == [f"s{n}" for n in range(40)]
    read = sum(len(answer.outcomes) for answer in rig.store.told)
    assert read <= 3 * 40, "each claim hears the last one it knows, and what is new"


async def test_what_a_pass_recorded_itself_is_not_read_by_the_next(store: str) -> None:
    rig = Rig(store)

    @rig.worker.function("f", on="order")
    async def f(event: Order, ctx: Context) -> list[str]:
        before = [await ctx.execute(f"s{n}", rig.effect, f"s{n}") for n in range(20)]
        await ctx.sleep("nap", "1h")
        return before

    run = await rig.run()

    assert run.result == [f"s{n}" for n in range(20)]
    assert [len(answer.outcomes) for answer in rig.store.told] == [0, 1]


async def test_a_value_that_the_function_changes_is_the_recorded_one_in_the_next_replay(store: str) -> None:
    rig = Rig(store)
    seen: list[list[int]] = []

    async def numbers() -> list[int]:
        return [1, 2]

    @rig.worker.function("f", on="order")
    async def f(event: Order, ctx: Context) -> None:
        for pause in ("1h", "2h"):
            numbers_ = await ctx.execute(f"numbers-{pause}", numbers)
            seen.append(list(numbers_))
            numbers_.append(3)
            await ctx.sleep(f"nap-{pause}", pause)

    assert (await rig.run()).status == "completed"
    assert set(map(tuple, seen)) == {(1, 2)}
    assert len(seen) == 1 + 2 + 2, "the first delivery, and one after each sleep"


async def test_a_run_that_was_opened_again_forgets_failures_that_this_process_remembers(store: str) -> None:
    rig = Rig(store)
    mended = False

    async def bad() -> str:
        rig.effects["bad"] += 1
        if not mended:
            raise ValueError("not yet")
        return "fine"

    @rig.worker.function("f", on="order")
    async def f(event: Order, ctx: Context) -> list[Any]:
        first = await ctx.execute("first", rig.effect, "first")
        try:
            second = await ctx.execute("bad", bad, retry=Retry(max_attempts=1))
        except StepFailed as error:
            second = error.type
        third = await ctx.execute("third", rig.effect, "third")
        await ctx.sleep("nap", "1h")
        return [first, second, third]

    rig.mount()
    published = await rig.worker.publish(Order())
    await rig.clock.advance(60)
    await rig.worker.runs.cancel(published.run_id("f"))
    mended = True
    await rig.worker.runs.retry(published.run_id("f"))
    await rig.finish()

    assert await rig.worker.runs.result(published.run_id("f")) == ["first", "fine", "third"]
    assert rig.effects == {"first": 1, "bad": 2, "third": 1}


# ---- what is kept


def recorded(seq: int, payload: bytes = b"1") -> Recorded:
    return Recorded((f"s{seq}",), Outcome(True, payload), seq)


def started(*outcomes: Recorded, epoch: int = 0, created_at_ms: int = 5) -> Started:
    return Started(1, 0, 1, "evt", "f", b"{}", b"{}", created_at_ms, outcomes, {}, epoch)


def told(one: Remembered, known: int, answer: Started) -> list[int] | None:
    whole = one.completed(RUN, known, answer)
    return None if whole is None else [entry.seq for entry in whole.outcomes]


def test_a_history_is_put_together_from_what_is_remembered_and_what_is_new() -> None:
    one = Remembered()
    one.learn(RUN, started(recorded(1), recorded(2)), [recorded(4), recorded(3), recorded(6)])
    assert one.known(RUN) == 4, "the fifth is missing, so the sixth does not follow"
    assert told(one, 4, started(recorded(4), recorded(5))) == [1, 2, 3, 4, 5]
    assert told(one, 2, started(recorded(2), recorded(3))) == [1, 2, 3], "asked before the third was known"
    assert told(one, 4, started(recorded(1), recorded(2))) == [1, 2], "of a store that always tells everything"


@pytest.mark.parametrize(
    "answer",
    [
        started(),
        started(recorded(3)),
        started(recorded(2, b"another")),
        started(recorded(2), epoch=1),
        started(recorded(2), created_at_ms=6),
    ],
    ids=["lost", "elsewhere", "another outcome", "opened again", "another run"],
)
def test_another_history_under_the_same_name_is_told_apart(answer: Started) -> None:
    one = Remembered()
    one.learn(RUN, started(recorded(1), recorded(2)))
    assert told(one, 2, answer) is None
    assert one.known(RUN) == 0


def test_no_more_is_kept_than_the_bound_and_what_was_used_last_stays() -> None:
    one = Remembered(bytes_max=2 * (100 + OVERHEAD_BYTES))
    for name in ("run_a", "run_b", "run_a", "run_c"):
        one.learn(name, started(recorded(1, b"x" * 100)))
    assert [one.known(name) for name in ("run_a", "run_b", "run_c")] == [1, 0, 1]
    one.learn("run_d", started(recorded(1, b"x" * 1000)))
    assert [one.known(name) for name in ("run_a", "run_c", "run_d")] == [0, 0, 0]


def test_a_run_that_grows_is_counted_once() -> None:
    one = Remembered(bytes_max=10 * (100 + OVERHEAD_BYTES))
    history: list[Recorded] = []
    for seq in range(1, 11):
        history.append(recorded(seq, b"x" * 100))
        answer = started(*history) if seq == 1 else one.completed(RUN, seq - 1, started(*history[-2:]))
        assert answer is not None
        one.learn(RUN, answer)
    assert one.known(RUN) == 10
