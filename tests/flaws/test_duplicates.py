"""Flaws 19 to 34: effects that were repeated, and values that were wrong."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from idioteque import ConfigurationError, Context, Retry, StepFailed
from idioteque.dispatcher import EventEnvelope, RunEnvelope, decode
from idioteque.engine import Delivery
from idioteque.store import Lease, Lost, Outcome
from idioteque.stores import open_store
from tests.library.engine.rig import Died, Order, Rig
from tests.library.engine.test_runs import event_of

WHEN = datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)
COMMITS_MIN = 20


async def again(rig: Rig) -> None:
    """Deliver every message that was ever sent once more, as messages of their own."""
    engine = rig.mount().engine
    for n, message in enumerate(list(rig.dispatcher.sent)):
        answer = await engine.deliver(decode(message.body, f"late-{n}"), Delivery(f"late-{n}"))
        assert answer.ok, answer
    await rig.finish()


async def test_flaw_19_a_first_message_that_comes_again_starts_nothing_anew(either: Rig) -> None:
    @either.worker.function("f", on="order")
    async def f(event: Order, ctx: Context) -> str:
        return await ctx.execute("pay", either.effect, "pay")

    engine = either.mount().engine
    for n in range(3):
        assert (await engine.deliver(event_of(Order()), Delivery(f"msg-{n % 2}", retried=n // 2))).ok
        await either.finish()
    assert either.effects == {"pay": 1}
    assert len((await either.worker.runs.list()).runs) == 1


async def test_flaw_20_a_step_that_is_delivered_again_is_not_run_again(rig: Rig) -> None:
    values = iter(range(100))

    async def pay() -> int:
        rig.effects["pay"] += 1
        return next(values)

    @rig.worker.function("f", on="order")
    async def f(event: Order, ctx: Context) -> list[Any]:
        first, _ = await asyncio.gather(ctx.execute("pay", pay), ctx.execute("mail", rig.effect, "mail"))
        await ctx.sleep("hour", "1h")
        return [first, await ctx.execute("ship", rig.effect, "ship")]

    rig.mount()
    published = await rig.worker.publish(Order())
    await rig.clock.settle()
    assert rig.effects == {"pay": 1, "mail": 1}
    await again(rig)
    run = await rig.worker.runs.get(published.run_id("f"))
    assert run is not None
    assert run.result == [0, "ship"]
    assert {step.key: step.result for step in run.steps}[("pay",)] == 0
    assert rig.effects == {"pay": 1, "mail": 1, "ship": 1}


async def test_flaw_21_a_step_that_is_at_work_is_not_started_beside_itself(rig: Rig) -> None:
    entered, leave = asyncio.Event(), asyncio.Event()

    async def slow() -> str:
        rig.effects["slow"] += 1
        entered.set()
        await leave.wait()
        return "slow"

    @rig.worker.function("f", on="order")
    async def f(event: Order, ctx: Context) -> list[str]:
        return list(await asyncio.gather(ctx.execute("slow", slow), ctx.execute("b", rig.effect, "b")))

    rig.mount()
    published = await rig.worker.publish(Order())
    await entered.wait()
    await again_while_at_work(rig)
    assert rig.effects["slow"] == 1
    leave.set()
    await rig.finish()
    run = await rig.worker.runs.get(published.run_id("f"))
    assert run is not None
    assert (run.result, dict(rig.effects)) == (["slow", "b"], {"slow": 1, "b": 1})
    assert rig.store.wins[("slow",)] == 1


async def again_while_at_work(rig: Rig) -> None:
    engine = rig.mount().engine
    for n, message in enumerate(list(rig.dispatcher.sent)):
        assert (await engine.deliver(decode(message.body, f"twice-{n}"), Delivery(f"twice-{n}"))).ok


@pytest.mark.parametrize("name", ["send", "claim", "commit", "release"])
@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
async def test_flaw_22_a_fault_of_the_engine_is_never_seen_by_the_function(either: Rig, name: str, after: bool) -> None:
    @either.worker.function("f", on="order")
    async def f(event: Order, ctx: Context) -> str:
        try:
            steps = (ctx.execute(name, either.effect, name) for name in ("charge", "ship"))
            return (await asyncio.gather(*steps))[0]
        except Exception:
            return await ctx.execute("refund", either.effect, "refund")

    either.faults.fail_on, either.faults.after = {(name, n) for n in (1, 2, 3)}, after
    run = await either.run()
    assert (run.status, run.result) == ("completed", "charge")
    assert either.effects["refund"] == 0


@pytest.mark.parametrize("text", ["<empty_execution_result>", "undefined", "null", "__pending__"])
async def test_flaw_23_no_result_means_something_else(either: Rig, text: str) -> None:
    @either.worker.function("f", on="order")
    async def f(event: Order, ctx: Context) -> str:
        value = await ctx.execute("s", either.effect, text)
        await ctx.sleep("then", "1h")
        return value

    assert (await either.run()).result == text
    assert either.effects == {text: 1}


async def test_flaw_24_one_key_twice_is_an_error_that_names_it(either: Rig) -> None:
    @either.worker.function("f", on="order")
    async def f(event: Order, ctx: Context) -> list[str]:
        return [await ctx.execute("x", either.effect, "first"), await ctx.execute("x", either.effect, "second")]

    run = await either.run()
    assert run.status == "failed"
    assert run.error is not None
    assert "DuplicateStepKey" in str(run.error)
    assert "'x'" in str(run.error)
    assert either.effects["second"] == 0


async def test_flaw_25_a_value_has_one_type_on_the_first_run_and_on_every_replay(either: Rig) -> None:
    seen: list[Any] = []

    async def when() -> datetime:
        return WHEN

    async def nothing_like_json() -> Any:
        return float("nan")

    @either.worker.function("f", on="order")
    async def f(event: Order, ctx: Context) -> str:
        seen.append(await ctx.execute("when", when))
        try:
            await ctx.execute("nan", nothing_like_json)
        except StepFailed as failure:
            await ctx.sleep("then", "1h")
            return failure.type
        return "written as something else"

    run = await either.run()
    assert run.result == "ResultNotSerializable"
    assert len(seen) > 1
    assert set(seen) == {WHEN}


async def test_flaw_26_a_result_that_is_false_is_a_result(either: Rig) -> None:
    falsy: list[Any] = [0, "", False, None, [], {}, 0.0]

    async def give(n: int) -> Any:
        either.effects[f"{n}"] += 1
        return falsy[n]

    @either.worker.function("f", on="order")
    async def f(event: Order, ctx: Context) -> list[Any]:
        values = [await ctx.execute(f"s{n}", give, n) for n in range(len(falsy))]
        await ctx.sleep("then", "1h")
        return values

    run = await either.run()
    assert run.result == falsy
    assert set(either.effects.values()) == {1}


async def test_flaw_27_no_name_is_special(either: Rig) -> None:
    names = ("constructor", "__proto__", "toString", "__init__", "hasOwnProperty")
    for name in names:

        @either.worker.function(name, on="order")
        async def f(event: Order, ctx: Context, name: str = name) -> str:
            return await ctx.execute(name, either.effect, name)

    for name in names:
        run = await either.run(name)
        assert (run.status, run.result) == ("completed", name)
    assert either.effects == dict.fromkeys(names, 1)


async def test_flaw_28_a_separator_inside_a_key_is_a_part_of_it(either: Rig) -> None:
    async def outer(ctx: Context) -> str:
        return await ctx.execute("b", either.effect, "nested")

    @either.worker.function("a", on="order")
    async def a(event: Order, ctx: Context) -> list[str]:
        flat = [await ctx.execute(key, either.effect, key) for key in ("a:b", "a/b", "b", ":", "a%2Fb")]
        return [*flat, await ctx.execute("a", outer, ctx)]

    assert (await either.run("a")).result == ["a:b", "a/b", "b", ":", "a%2Fb", "nested"]
    assert set(either.effects.values()) == {1}
    with pytest.raises(ConfigurationError, match="a:b"):
        either.worker.create_function("a:b", "order", a)  # type: ignore[arg-type]


async def test_flaw_29_an_end_is_kept_and_whatever_comes_late_changes_nothing(either: Rig) -> None:
    @either.worker.function("f", on="order")
    async def f(event: Order, ctx: Context) -> list[str]:
        return list(await asyncio.gather(*(ctx.execute(name, either.effect, name) for name in "ab")))

    run = await either.run()
    effects = dict(either.effects)
    await again(either)
    late = await either.store.commit(Lease(run.id, 1), ("late",), Outcome(True, b"1"))
    after = await either.worker.runs.get(run.id)
    assert after is not None
    assert (after.status, after.result, after.finished_at) == ("completed", ["a", "b"], run.finished_at)
    assert (late, dict(either.effects)) == (Lost(None, held=False), effects)
    assert [step.key for step in after.steps] == [step.key for step in run.steps]


WRITER = """
import asyncio, sys
from idioteque.store import Claim, Lease, NewRun, Outcome
from idioteque.stores import open_store

async def main(url):
    store = open_store(url)
    started = await store.claim(Claim("run_1", "me", "msg_1", 0, 60_000, NewRun("evt_1", "f", b"{}")))
    for n in range(100_000):
        await store.commit(Lease("run_1", started.token), (f"s{n}",), Outcome(True, b"x" * 5000 + b"%d" % n))
        print(n, flush=True)

asyncio.run(main(sys.argv[1]))
"""


async def test_flaw_30_a_commit_is_whole_or_not_there_whenever_its_process_dies(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/runs.db"
    command = [sys.executable, "-c", WRITER, url]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout is not None
        said = [int(writer.stdout.readline()) for _ in range(COMMITS_MIN)]
        writer.kill()
        said += [int(line) for line in writer.stdout.read().splitlines() if line]
    store = open_store(url)
    record = await store.get("run_1")
    await store.close()
    assert record is not None
    stored = {step.path[0]: step.outcome for step in record.steps}
    assert {f"s{n}" for n in said} <= set(stored)
    assert all(outcome == Outcome(True, b"x" * 5000 + key[1:].encode()) for key, outcome in stored.items())
    assert [step.seq for step in record.steps] == list(range(1, len(stored) + 1))


@pytest.mark.parametrize("retries", [0, 10])
async def test_flaw_31_retries_are_those_asked_for_and_every_message_of_the_run_has_them(
    either: Rig, retries: int
) -> None:
    @either.worker.function("f", on="order")
    async def f(event: Order, ctx: Context) -> None:
        await asyncio.gather(*(ctx.execute(name, either.effect, name) for name in "ab"))
        await ctx.sleep("then", "1h")

    either.mount()
    await either.worker.publish(Order(), retries=retries)
    await either.finish()
    assert len(either.dispatcher.sent) >= 2
    assert {message.retries for message in either.dispatcher.sent} == {retries}


async def test_flaw_32_a_publish_whose_answer_was_lost_may_be_repeated(either: Rig) -> None:
    @either.worker.function("f", on="order")
    async def f(event: Order, ctx: Context) -> str:
        return await ctx.execute("pay", either.effect, "pay")

    either.mount()
    either.faults.fail_on, either.faults.after = {("send", 1)}, True
    with pytest.raises(Died):
        await either.worker.publish(Order(), deduplication_id="order-1")
    first = await either.worker.publish(Order(), deduplication_id="order-1")
    await either.finish()
    await either.clock.advance(3600)
    second = await either.worker.publish(Order(), deduplication_id="order-1")
    await either.finish()
    assert first.event_id == second.event_id
    assert either.effects == {"pay": 1}


async def test_flaw_33_a_function_that_is_set_aside_cleans_up_and_leaves_nothing_pending(either: Rig) -> None:
    log: list[str] = []

    @either.worker.function("f", on="order")
    async def f(event: Order, ctx: Context) -> str:
        try:
            await ctx.sleep("hour", "1h")
            return "done"
        finally:
            log.append("finally")

    before = asyncio.all_tasks()
    run = await either.run()
    assert run.result == "done"
    assert len(log) >= 2, "once for each replay"
    await either.clock.advance(10)  # whoever renews leases finds none
    assert {task for task in asyncio.all_tasks() - before if not task.done()} == set()


@pytest.mark.parametrize("count", [1, 10, 40])
async def test_flaw_34_messages_carry_ids_and_grow_with_the_steps_alone(either: Rig, count: int) -> None:
    @either.worker.function("f", on="order")
    async def f(event: Order, ctx: Context) -> int:
        return sum([await ctx.execute(f"s{n}", either.effect, f"s{n}", 1) for n in range(count)])

    @either.worker.function("g", on="order", retry=Retry(max_attempts=1))
    async def g(event: Order, ctx: Context) -> None:
        return None

    run = await either.run(event=Order(id="x" * 5000))
    assert run.result == count
    of_f = [message.body for message in either.dispatcher.sent if b'"function_id":"f"' in message.body]
    assert len(of_f) <= (1 if either.mode == "inline" else count + 2)
    for body in of_f[1:]:
        envelope = decode(body, "m")
        assert isinstance(envelope, RunEnvelope)
        assert envelope.event is None
        assert len(body) < 1000
    assert isinstance(decode(either.dispatcher.sent[0].body, "m"), EventEnvelope)
