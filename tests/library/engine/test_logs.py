"""What a function logs is kept with its run: once for all passes, beside writes that are made anyway, in bounds."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import pytest

from idioteque import Context, Retry, SyncContext
from idioteque.paths import path_text
from idioteque.runlog import LINE_BYTES_MAX, LINES_KEPT, Log, LogLine, line_text, run_log_in, run_log_of
from idioteque.stores import MemoryStore
from idioteque.testing import ManualClock
from tests.library.engine.rig import STORES, Order, Rig

SOON = Retry(max_attempts=3, initial_delay_s=60, jitter=0)


@pytest.fixture(params=STORES)
def rig(request: pytest.FixtureRequest) -> Rig:
    return Rig(request.param)


async def log_of(rig: Rig, run_id: str) -> Log:
    found = await run_log_in(rig.store).lines(run_id)  # type: ignore[arg-type]
    return Log(list(found.lines), found.cut)


async def said(rig: Rig, run_id: str) -> list[str]:
    """Return the lines of a run, each with the step that it was written in."""
    lines = (await log_of(rig, run_id)).lines
    return [f"{path_text(line.path)}: {line.text}" if line.path else line.text for line in lines]


async def test_what_passes_repeat_is_kept_once(rig: Rig) -> None:
    passes: list[int] = []

    @rig.worker.function("f", on="order")
    async def f(event: Order, ctx: Context) -> str:
        async def reserve() -> str:
            ctx.log.info("reserving %s", event.id)
            return "ok"

        passes.append(1)
        ctx.log.info("begins")
        await ctx.execute("reserve", reserve)
        ctx.log.info("sleeps")
        await ctx.sleep("night", "8h")
        ctx.log.warning("wakes")
        await ctx.sleep("day", "8h")
        ctx.log.info("ends")
        return "done"

    run = await rig.run()

    assert len(passes) == 3
    assert await said(rig, run.id) == ["begins", "reserve: reserving 1", "sleeps", "wakes", "ends"]
    log = await log_of(rig, run.id)
    assert [line.level for line in log.lines] == ["INFO", "INFO", "INFO", "WARNING", "INFO"]
    assert [line.at_ms for line in log.lines] == sorted(line.at_ms for line in log.lines)
    assert log.lines[3].at_ms - log.lines[2].at_ms == 8 * 3_600_000
    assert log.cut == 0


async def test_a_run_that_logs_nothing_makes_no_write_for_it(rig: Rig) -> None:
    @rig.worker.function("f", on="order")
    async def f(event: Order, ctx: Context) -> None:
        assert ctx.log.name == "idioteque.f"
        await ctx.execute("a", rig.effect, "a")
        await ctx.sleep("night", "8h")

    run = await rig.run()

    assert "note_lines" not in rig.faults.names
    assert await log_of(rig, run.id) == Log([])


async def test_lines_go_along_with_the_next_write(rig: Rig) -> None:
    @rig.worker.function("f", on="order")
    async def f(event: Order, ctx: Context) -> None:
        async def say() -> None:
            ctx.log.info("one")
            ctx.log.info("two")

        ctx.log.info("begins")
        await ctx.execute("a", say)
        await ctx.execute("b", rig.effect, "b")
        ctx.log.info("sleeps")
        await ctx.sleep("night", "8h")
        ctx.log.info("ends")

    await rig.run()

    writes = [name for name in rig.faults.names if name in ("note_lines", "commit", "release")]
    noted = ["note_lines", "commit"]
    assert writes == [*noted, "commit", "note_lines", "release", "commit", *noted]


async def test_a_step_that_runs_steps_says_once_what_its_replays_repeat(rig: Rig) -> None:
    @rig.worker.function("f", on="order")
    async def f(event: Order, ctx: Context) -> None:
        async def outer() -> None:
            ctx.log.info("before")
            await ctx.execute("a", rig.effect, "a")
            ctx.log.info("between")
            await ctx.sleep("night", "8h")
            ctx.log.info("after")

        await ctx.execute("outer", outer)

    run = await rig.run()
    assert await said(rig, run.id) == ["outer: before", "outer: between", "outer: after"]


async def test_attempts_say_what_they_say_each(rig: Rig) -> None:
    @rig.worker.function("f", on="order", retry=SOON)
    async def f(event: Order, ctx: Context) -> None:
        async def flaky() -> None:
            rig.effects["flaky"] += 1
            ctx.log.info("try")
            if rig.effects["flaky"] < 3:
                raise ValueError("not yet")

        ctx.log.info("begins")
        await ctx.execute("flaky", flaky, retry=SOON)
        ctx.log.info("attempt %d", ctx.attempt)
        if ctx.attempt == 1:
            raise ValueError("once more")

    run = await rig.run()

    assert run.status == "completed"
    assert [(line.text, line.attempt) for line in (await log_of(rig, run.id)).lines] == [
        ("begins", 1),
        ("try", 1),
        ("try", 2),
        ("try", 3),
        ("attempt 1", 1),
        ("attempt 2", 2),
    ]


async def test_branches_of_a_gather_are_kept_with_their_steps(rig: Rig) -> None:
    @rig.worker.function("f", on="order")
    async def f(event: Order, ctx: Context) -> None:
        async def work(name: str) -> None:
            ctx.log.info("works")
            await rig.clock.sleep(1)

        async def branch(name: str) -> None:
            await ctx.execute(name, work, name)
            ctx.log.info("%s has ended", name)
            await ctx.sleep(f"{name} rests", "1h")

        await asyncio.gather(*(branch(name) for name in "abc"))
        ctx.log.info("all have ended")

    run = await rig.run()

    assert sorted(await said(rig, run.id)) == sorted(
        [f"{n}: works" for n in "abc"] + [f"{n} has ended" for n in "abc"] + ["all have ended"]
    )


@pytest.mark.parametrize("store", STORES)
async def test_steps_with_deliveries_of_their_own_log_for_the_run(store: str) -> None:
    rig = Rig(store, mode="isolated")

    @rig.worker.function("f", on="order")
    async def f(event: Order, ctx: Context) -> None:
        def say(name: str) -> None:
            ctx.log.info("%s, in a thread", name)

        async def outer() -> None:
            ctx.log.info("outside")
            await ctx.execute("inner", say, "inner")

        ctx.log.info("begins")
        await asyncio.gather(ctx.execute("a", say, "a"), ctx.execute("outer", outer))
        await ctx.execute("b", say, "b")
        ctx.log.info("ends")

    run = await rig.run()

    assert run.status == "completed"
    found = await said(rig, run.id)
    assert (found[0], found[-1]) == ("begins", "ends")
    assert sorted(found) == [
        *("a: a, in a thread", "b: b, in a thread", "begins", "ends"),
        *("outer/inner: inner, in a thread", "outer: outside"),
    ]


async def test_a_plain_function_logs_for_its_run(rig: Rig) -> None:
    @rig.worker.function("f", on="order")
    def f(event: Order, ctx: SyncContext) -> None:
        def step() -> None:
            ctx.log.info("in a step")

        ctx.log.info("begins")
        ctx.execute("a", step)
        ctx.log.info("ends")

    run = await rig.run()
    assert await said(rig, run.id) == ["begins", "a: in a step", "ends"]


async def test_lines_that_the_store_does_not_take_hold_nothing_up(rig: Rig, caplog: pytest.LogCaptureFixture) -> None:
    @rig.worker.function("f", on="order")
    async def f(event: Order, ctx: Context) -> str:
        ctx.log.info("lost")
        await ctx.execute("a", rig.effect, "a")
        ctx.log.info("kept")
        return "done"

    rig.faults.fail_on = {("note_lines", 1)}
    run = await rig.run()

    assert (run.status, run.messages, rig.effects["a"]) == ("completed", 1, 1)
    assert await said(rig, run.id) == ["kept"]
    assert f"1 lines of run {run.id}: Died: before note_lines" in caplog.text


async def test_a_write_that_fails_fails_as_without_lines(rig: Rig) -> None:
    @rig.worker.function("f", on="order")
    async def f(event: Order, ctx: Context) -> str:
        async def say() -> None:
            rig.effects["a"] += 1
            ctx.log.info("try")

        await ctx.execute("a", say)
        ctx.log.info("ends")
        return "done"

    rig.faults.fail_on = {("commit", 1)}
    run = await rig.run()

    assert (run.status, rig.effects["a"]) == ("completed", 2)
    assert await said(rig, run.id) == ["a: try", "a: try", "ends"], "it ran twice"


async def test_what_a_pass_says_while_it_is_cleaned_up_is_not_kept(rig: Rig) -> None:
    @rig.worker.function("f", on="order")
    async def f(event: Order, ctx: Context) -> None:
        try:
            await ctx.sleep("night", "8h")
        finally:
            ctx.log.info("cleans up")

    run = await rig.run()
    assert await said(rig, run.id) == ["cleans up"]


async def test_a_retry_of_the_run_goes_on_with_its_log(rig: Rig) -> None:
    broken = [True]

    @rig.worker.function("f", on="order", retry=Retry(max_attempts=1))
    async def f(event: Order, ctx: Context) -> None:
        ctx.log.info("begins")
        await ctx.execute("a", rig.effect, "a")
        ctx.log.info("goes on")
        if broken:
            raise ValueError("broken")

    run = await rig.run()
    assert run.status == "failed"
    broken.clear()
    await rig.worker.runs.retry(run.id)
    await rig.finish()
    assert await said(rig, run.id) == ["begins", "goes on", "goes on"]


# ---- the lines


async def one_line(rig: Rig, *args: Any, level: int = logging.INFO, **kwargs: Any) -> list[LogLine]:
    @rig.worker.function("f", on="order")
    async def f(event: Order, ctx: Context) -> None:
        ctx.log.log(level, *args, **kwargs)

    run = await rig.run()
    assert run.status == "completed"
    return list((await log_of(rig, run.id)).lines)


@pytest.mark.parametrize(
    ("args", "text"),
    [
        (("%s and %d", "one", 2), "one and 2"),
        (("%(name)s", {"name": "x"}), "x"),
        (("100 %",), "100 %"),
        ((17,), "17"),
        (("%d", "no number"), "(a line that cannot be put into words)"),
        (("nul \x00, half a pair \ud800",), "nul \\x00, half a pair \\ud800"),
        (("two\nlines\x1b[31m",), "two\nlines\x1b[31m"),
    ],
)
async def test_any_line_can_be_kept(rig: Rig, args: tuple[Any, ...], text: str) -> None:
    logging.getLogger("idioteque.f").disabled = True  # the standard handlers would complain, as they should
    try:
        assert [line.text for line in await one_line(rig, *args)] == [text]
    finally:
        logging.getLogger("idioteque.f").disabled = False


async def test_an_error_is_kept_in_a_line_of_its_own(rig: Rig) -> None:
    error = ValueError("bad\nthing")
    assert [line.text for line in await one_line(rig, "failed", exc_info=error)] == ["failed\nValueError: bad thing"]


async def test_the_error_at_hand_is_kept(rig: Rig) -> None:
    @rig.worker.function("f", on="order")
    async def f(event: Order, ctx: Context) -> None:
        try:
            raise KeyError("x")
        except KeyError:
            ctx.log.exception("failed")

    run = await rig.run()
    assert [(line.level, line.text) for line in (await log_of(rig, run.id)).lines] == [
        ("ERROR", "failed\nKeyError: 'x'")
    ]


async def test_details_are_kept_only_where_they_are_printed(rig: Rig, caplog: pytest.LogCaptureFixture) -> None:
    logging.getLogger("idioteque.f").setLevel(logging.ERROR)
    try:
        assert await one_line(rig, "detail", level=logging.DEBUG) == []
        other = Rig()
        assert [line.text for line in await one_line(other, "news")] == ["news"]
        assert "news" not in caplog.text
        logging.getLogger("idioteque.f").setLevel(logging.DEBUG)
        assert [line.level for line in await one_line(Rig(), "detail", level=logging.DEBUG)] == ["DEBUG"]
    finally:
        logging.getLogger("idioteque.f").setLevel(logging.NOTSET)


async def test_a_record_in_the_workers_log_names_its_caller(rig: Rig, caplog: pytest.LogCaptureFixture) -> None:
    await one_line(rig, "warned", level=logging.WARNING)
    [record] = [record for record in caplog.records if record.getMessage() == "warned"]
    assert (record.funcName, record.module) == ("f", "test_logs")


async def test_a_flood_is_cut_to_the_latest_lines(rig: Rig) -> None:
    @rig.worker.function("f", on="order")
    async def f(event: Order, ctx: Context) -> None:
        for n in range(LINES_KEPT + 100):
            ctx.log.info("line %d", n)
        await ctx.execute("a", rig.effect, "a")
        ctx.log.info("the end")

    run = await rig.run()

    log = await log_of(rig, run.id)
    assert (len(log.lines), log.cut) == (LINES_KEPT, 101)
    assert [log.lines[0].text, log.lines[-1].text] == ["line 101", "the end"]


def test_a_long_line_is_cut_and_says_so() -> None:
    short = "é" * (LINE_BYTES_MAX // 2)
    assert line_text(short) == short
    cut = line_text(short + "é" * 1000)
    assert len(cut.encode()) <= LINE_BYTES_MAX
    kept, _, said = cut.partition("…")
    assert said == f" ({LINE_BYTES_MAX + 2000 - len(kept.encode())} bytes cut off)"


async def test_a_store_that_keeps_no_lines_runs_functions_all_the_same() -> None:
    class Plain:
        """A store without anything optional."""

        def __init__(self) -> None:
            self._store = MemoryStore(ManualClock())

        def __getattr__(self, name: str) -> Any:
            if name in ("note_lines", "lines"):
                raise AttributeError(name)
            return getattr(self._store, name)

    rig = Rig()
    rig.store._store = Plain()  # type: ignore[assignment]
    assert run_log_of(rig.store) is None  # type: ignore[arg-type]

    @rig.worker.function("f", on="order")
    async def f(event: Order, ctx: Context) -> str:
        ctx.log.info("nobody keeps this")
        return await ctx.execute("a", rig.effect, "a")

    assert (await rig.run()).result == "a"
