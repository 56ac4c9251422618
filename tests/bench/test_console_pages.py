"""The tool that times the console's pages: it fills a store as the library would, and every page answers."""

from __future__ import annotations

from pathlib import Path

from bench.console_pages import FUNCTIONS, ONE_RARE_OF, STEPS, filled, pages, timed

from idioteque.stores import SqlStore

RUNS = 3000


async def test_a_filled_store_is_read_as_any_other_and_every_page_answers(tmp_path: Path) -> None:
    path = tmp_path / "runs.db"
    await filled(path, RUNS)
    store = SqlStore(f"sqlite:///{path}")
    counts = dict(await store.counts(None, RUNS))
    assert counts == {"running": 0, "waiting": 3, "completed": RUNS - 6, "failed": 3, "cancelled": 0}
    assert RUNS // ONE_RARE_OF == 3
    assert len(await store.functions(FUNCTIONS + 1)) == FUNCTIONS
    run = await store.get("run_00000010")
    assert run is not None
    assert (run.status, len(run.steps), run.deliveries[0].message_id) == ("completed", STEPS, "msg_00000010")
    [effects] = await store.effects(["evt_00000011"])
    assert [one.run_id for one in effects.runs] == ["run_00000011"]
    assert list(effects.woke) == [("run_00000010", ("step-1",))]
    await store.close()
    found = await timed(path, RUNS, repeats=2)
    assert [one.page for one in found] == list(pages(RUNS))
    assert all(one.bytes > 1000 and 0 < one.p50_ms <= one.p99_ms for one in found)
