"""A run copied as a test: the text, in a file beside the app, goes the run's way without running a step again."""

from __future__ import annotations

import ast
import importlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from idioteque import Worker
from idioteque.console.cases import GIVEN_CHARS_MAX, pytest_case
from idioteque.function import FAILURE_SUFFIX, failure_event_id, run_id
from idioteque.paths import path_text
from idioteque.store import Outcome, RunRecord, StepRecord
from idioteque.testing import harness
from tests.house.source import ROOT

JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=10,
)

APP = """
import asyncio
import os
from typing import Annotated, Literal

from pydantic import BaseModel, Field

from idioteque import Context, InlineDispatcher, NonRetryableError, Retry, RunFailure, Tick, Worker


class Order(BaseModel):
    type: Literal["order"] = "order"
    kind: str
    text: str = 'quotes \\" and \\' and \\\\u202e, a line\\\\nend and a \\x00'


class Paid(BaseModel):
    type: Literal["paid"] = "paid"
    by: str


worker = Worker(
    events_schema=Annotated[Order | Paid, Field(discriminator="type")],
    store="sqlite:///runs.db",
    dispatcher=InlineDispatcher(),
)


def act(what: str) -> str:
    assert "ACTS" in os.environ, f"{what} was done again"
    if what == "decline":
        raise NonRetryableError("no 'funds'\\nat all")
    return what


async def sorry(failure: RunFailure, ctx: Context) -> None:
    await ctx.execute("mail", act, "mail")


@worker.function("sell", on=Order, retry=Retry(max_attempts=2), on_failure=sorry)
async def sell(event: Order, ctx: Context) -> list[str]:
    async def pack() -> list[str]:
        return list(await asyncio.gather(*(ctx.execute(f"{n}/'", act, f"{n}") for n in range(3))))

    packed = await ctx.execute("pack", pack)
    await ctx.sleep("nap", "2h")
    await ctx.execute("charge", act, "decline" if event.kind == "poor" else "charge")
    if event.kind != "quick":
        paid = await ctx.wait_for_event("paid", Paid)
        packed.append(paid.by)
    await ctx.execute("big", act, "x" * 300)
    return packed


@worker.function("audit", on=Order)
async def audit(event: Order, ctx: Context) -> None:
    await ctx.execute("audit", act, "audit")


@worker.function("nightly", on=None, cron="0 3 * * *")
async def nightly(tick: Tick, ctx: Context) -> str:
    return await ctx.execute("count", act, "count")
"""


@pytest.fixture
def app(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """The app in a file of its own, imported from there; its steps may act in this process and in no other."""
    (tmp_path / "your_app.py").write_text(APP, encoding="utf-8")
    monkeypatch.setenv("ACTS", "1")
    monkeypatch.syspath_prepend(str(tmp_path))
    yield importlib.import_module("your_app")
    del sys.modules["your_app"]


def passes(folder: Path, case: str, *options: str) -> str:
    """Run a test in a file beside the app, and assert that it passes; return what pytest says."""
    (folder / "test_case.py").write_text(case, encoding="utf-8")
    command = [sys.executable, "-m", "pytest", "-q", "-o", "asyncio_mode=auto", "-p", "no:cacheprovider", *options]
    environment = {name: value for name, value in os.environ.items() if name != "ACTS"}
    done = subprocess.run(
        [*command, "test_case.py"],
        cwd=folder,
        env={**environment, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, case + done.stdout + done.stderr
    assert "1 passed" in done.stdout
    return done.stdout


async def record_of(worker: Worker, run: str) -> RunRecord:
    store = worker.options["store"]
    record = await store.get(run)
    assert record is not None
    return record


async def test_a_completed_run_completes_again(app: ModuleType, tmp_path: Path) -> None:
    async with harness(app.worker, [app.sell]) as h:
        published = await h.publish(app.Order(kind="rich"))
        await h.advance("2h")
        await h.publish(app.Paid(by="card"))
        record = await record_of(app.worker, published.run_id("sell"))
    case = pytest_case(record)
    assert "'pack'" in case
    assert "pack/" not in case, "what lies in a step that ended is not asked for"
    assert "1 tests use the harness" in passes(tmp_path, case, "--idioteque-chaos")


async def test_a_failed_run_fails_again_and_its_handler_runs_nothing(app: ModuleType, tmp_path: Path) -> None:
    async with harness(app.worker, [app.sell]) as h:
        published = await h.publish(app.Order(kind="poor"))
        await h.finish()
        run = published.run_id("sell")
        record = await record_of(app.worker, run)
        failure = await record_of(app.worker, run_id(failure_event_id(run, 0), f"sell{FAILURE_SUFFIX}"))
    case = pytest_case(record, failure)
    assert case.startswith("from idioteque import StepFailed\n")
    assert "0 failed" in passes(tmp_path, case, "--idioteque-chaos")
    assert pytest_case(failure) == "", "no event of a test starts it"


async def test_a_run_that_waits_waits_again(app: ModuleType, tmp_path: Path) -> None:
    async with harness(app.worker, [app.sell]) as h:
        published = await h.publish(app.Order(kind="rich"))
        napping = await record_of(app.worker, published.run_id("sell"))
        await h.advance("2h")
        waiting = await record_of(app.worker, published.run_id("sell"))
        await app.worker.runs.cancel(waiting.run_id)
        cancelled = await record_of(app.worker, published.run_id("sell"))
    for record, pending in ((napping, "nap"), (waiting, "paid"), (cancelled, "paid")):
        case = pytest_case(record)
        assert f"\n# Without an outcome: '{pending}'\n" in case
        assert "run.status == 'waiting'" in case
        passes(tmp_path, case)


async def test_a_run_of_a_schedule_is_started_by_a_tick(app: ModuleType, tmp_path: Path) -> None:
    async with harness(app.worker) as h:
        published = await h.tick(app.nightly)
        record = await record_of(app.worker, published.run_id("nightly"))
    case = pytest_case(record)
    assert "EVENT" not in case
    passes(tmp_path, case)


async def test_without_an_outcome_a_step_is_run_and_with_one_it_is_not(app: ModuleType, tmp_path: Path) -> None:
    async with harness(app.worker) as h:
        published = await h.tick(app.nightly)
        record = await record_of(app.worker, published.run_id("nightly"))
    case = pytest_case(record).replace("'count': 'count',", "")
    with pytest.raises(AssertionError, match="count was done again"):
        passes(tmp_path, case)


def made(steps: Mapping[str, Outcome], event: bytes = b"{}") -> RunRecord:
    records = [StepRecord((key,), one, at, 1, 0, 0, 0, None) for at, (key, one) in enumerate(steps.items(), 1)]
    return RunRecord("run_1", "evt_1", "pay", "completed", event, b"{}", None, 0, 0, 0, 0, 0, 0, None, steps=records)


def given_in(case: str) -> Any:
    """Return what stands in a case as GIVEN; Python has to be able to read the whole."""
    values = {
        target.id: node.value
        for node in ast.parse(case).body
        if isinstance(node, ast.Assign)
        for target in node.targets
        if isinstance(target, ast.Name)
    }
    return ast.literal_eval(values["GIVEN"])


def test_what_is_too_long_or_has_no_python_form_is_left_for_the_reader() -> None:
    half = json.dumps("x" * (GIVEN_CHARS_MAX // 2 + 10)).encode()
    outcomes = {"one": Outcome(True, half), "two": Outcome(True, half), "short": Outcome(True, b"[1]")}
    given = given_in(pytest_case(made(outcomes)))
    assert list(given) == ["one", "two", "short"]
    assert [given["one"], given["two"]].count(...) == 1
    assert given["short"] == [1]
    odd = {"infinite": b"1e999", "deep": b"[" * 9999 + b"]" * 9999, "digits": b"9" * 5000, "none": b"{"}
    assert given_in(pytest_case(made({key: Outcome(True, text) for key, text in odd.items()}))) == dict.fromkeys(
        odd, ...
    )


@given(st.dictionaries(st.text(min_size=1), JSON_VALUES), JSON_VALUES)
def test_whatever_is_on_record_is_written_as_python(steps: dict[str, Any], event: Any) -> None:
    outcomes = {key: Outcome(True, json.dumps(value).encode()) for key, value in steps.items()}
    case = pytest_case(made(outcomes, json.dumps(event).encode()))
    assert given_in(case) == {path_text((key,)): value for key, value in steps.items()}
