"""What a store must do that keeps lines of runs, as tests: subclass `RunLogContract` as one does `StoreContract`."""

from __future__ import annotations

from typing import cast

from idioteque.paths import BODY, Path
from idioteque.runlog import LINES_KEPT, LOG_BYTES_MAX, Log, LogLine, RunLog
from idioteque.store import Store
from idioteque.testing.clock import ManualClock
from idioteque.testing.leases import FAILURE, OK, RUN, STEP, held
from idioteque.testing.upkeep import LIMIT, upkeep

ODD_TEXT = "'; DROP TABLE runs; --\n\t\r\x01\x1b[31m e\u0301 \U0001f600 \u202e {} %s \\x00 "


def line(number: int, text: str = "", path: Path = BODY, at_ms: int = 1000) -> LogLine:
    return LogLine(f"log_{number}", at_ms, number, "INFO", path, 1, text or f"line {number}")


def run_log(store: Store) -> RunLog:
    return cast(RunLog, store)


async def kept(store: Store, run_id: str = RUN) -> Log:
    found = await run_log(store).lines(run_id)
    return Log(list(found.lines), found.cut)


class RunLogContract:
    """The rules of the lines that runs keep."""

    async def test_lines_come_back_as_they_were_in_the_order_of_their_times(self, store: Store) -> None:
        await held(store, "a")
        said = [
            line(2, ODD_TEXT, at_ms=1000),
            LogLine("log_a", 1000, 1, "WARNING", ("a", "b/c", "\x00"), 3, "two\nlines"),
            line(1, at_ms=2000),
            line(0, at_ms=2**45),
        ]
        assert await kept(store) == Log([])
        await run_log(store).note_lines(RUN, said[2:], 0)
        await run_log(store).note_lines(RUN, said[:2], 0)
        assert await kept(store) == Log([said[1], said[0], said[2], said[3]])

    async def test_a_line_that_comes_again_stays_as_it_is(self, store: Store) -> None:
        await held(store, "a")
        await run_log(store).note_lines(RUN, [line(1, "first"), line(2)], 0)
        await run_log(store).note_lines(RUN, [line(1, "second", at_ms=5000), line(3)], 0)
        assert await kept(store) == Log([line(1, "first"), line(2), line(3)])

    async def test_the_latest_lines_are_kept_and_the_others_counted(self, store: Store) -> None:
        await held(store, "a")
        for first in range(0, LINES_KEPT + 50, 50):
            await run_log(store).note_lines(RUN, [line(n) for n in range(first, first + 50)], 0)
        assert await kept(store) == Log([line(n) for n in range(50, LINES_KEPT + 50)], 50)
        await run_log(store).note_lines(RUN, [line(LINES_KEPT + 50)], 7)
        assert await kept(store) == Log([line(n) for n in range(51, LINES_KEPT + 51)], 58)

    async def test_the_text_of_a_run_is_bounded_in_bytes(self, store: Store) -> None:
        await held(store, "a")
        long = "é" * 1000
        fit = LOG_BYTES_MAX // 2000
        await run_log(store).note_lines(RUN, [line(n, long) for n in range(fit + 3)], 0)
        assert await kept(store) == Log([line(n, long) for n in range(3, fit + 3)], 3)

    async def test_lines_are_those_of_their_run_alone_and_of_no_run_none(self, store: Store) -> None:
        await held(store, "a")
        await held(store, "b", run="run_2")
        await run_log(store).note_lines(RUN, [line(1)], 0)
        await run_log(store).note_lines("run_2", [line(1, "of another")], 0)
        await run_log(store).note_lines("run_3", [line(1)], 5)
        assert (await kept(store)).lines == [line(1)]
        assert (await kept(store, "run_2")).lines == [line(1, "of another")]
        assert await kept(store, "run_3") == Log([])

    async def test_lines_change_nothing_that_a_run_is(self, store: Store) -> None:
        lease = await held(store, "a")
        await store.commit(lease, STEP, OK)
        before = await store.get(RUN)
        await run_log(store).note_lines(RUN, [line(1)], 0)
        assert await store.get(RUN) == before

    async def test_lines_are_kept_after_the_end_and_when_the_run_goes_on(self, store: Store) -> None:
        lease = await held(store, "a")
        await run_log(store).note_lines(RUN, [line(1)], 0)
        await store.commit(lease, BODY, FAILURE)
        await run_log(store).note_lines(RUN, [line(2)], 0)
        assert await store.reopen(RUN) == 1
        await held(store, "b")
        await run_log(store).note_lines(RUN, [line(3)], 0)
        assert await kept(store) == Log([line(1), line(2), line(3)])

    async def test_lines_go_with_their_run(self, store: Store, clock: ManualClock) -> None:
        await store.commit(await held(store, "a"), BODY, OK)
        await run_log(store).note_lines(RUN, [line(1)], 2)
        await clock.advance(60)
        assert await upkeep(store).purge(clock.now_ms(), LIMIT) == 1
        assert await kept(store) == Log([])
        await held(store, "b")
        assert await kept(store) == Log([])
