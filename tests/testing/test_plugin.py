"""The pytest plugin, as its users meet it: in sessions of their own, on tests of their own."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib

import pytest

from idioteque.testing import harness, plugin
from tests.house.source import ROOT

pytest_plugins = ["pytester"]

SHOP = """
import uuid
from typing import Literal

from pydantic import BaseModel

from idioteque import Context, QStashDispatcher, Worker


class Order(BaseModel):
    type: Literal["order"] = "order"
    id: str = "1"


dispatcher = QStashDispatcher(mount_url="https://app.example.com/api/worker", token="token")
worker = Worker(events_schema=Order, store="sqlite:///runs.db", dispatcher=dispatcher)
charges = []


async def charge(order_id: str, key: str) -> str:
    if key not in [known for known, _ in charges]:
        charges.append((key, order_id))
    return f"receipt-{order_id}"


def ship(order_id: str) -> str:
    return f"parcel-{order_id}"


@worker.function("pay", on=Order)
async def pay(event: Order, ctx: Context) -> str:
    async def charge_once() -> str:
        return await charge(event.id, ctx.idempotency_key)

    receipt = await ctx.execute("charge", charge_once)
    await ctx.sleep("cool-down", "3d")
    return receipt + " " + await ctx.execute("ship", ship, event.id)


@worker.function("drawn", on=Order)
async def drawn(event: Order, ctx: Context) -> str:
    await ctx.execute(f"charge-{uuid.uuid4()}", charge, event.id, event.id)
    return await ctx.execute("ship", ship, event.id)


@worker.function("unsafe", on=Order)
async def unsafe(event: Order, ctx: Context) -> str:
    charges.append(("outside of a step", event.id))
    return await ctx.execute("ship", ship, event.id)


@worker.function("once", on=Order)
async def once(event: Order, ctx: Context) -> str:
    return await ctx.execute("charge", charge, event.id, event.id, at_most_once=True)
"""

TESTS = """
import pytest

import shop


@pytest.fixture(autouse=True)
def no_charges():
    shop.charges.clear()


async def test_{name}(idioteque_harness):
    async with idioteque_harness(shop.worker, functions=[shop.{name}]) as h:
        published = await h.publish(shop.Order(id="7"))
        await h.advance("3d")
        run = await h.run(published)
    assert run.status == "completed"
    {check}
"""


@pytest.fixture
def project(pytester: pytest.Pytester) -> pytest.Pytester:
    """A user's project: no options but the one that runs coroutines, and warnings are errors."""
    pytester.makeini(
        "[pytest]\nasyncio_mode = auto\nasyncio_default_fixture_loop_scope = function\nfilterwarnings = error\n"
    )
    pytester.makepyfile(shop=SHOP)
    return pytester


def write(project: pytest.Pytester, name: str, check: str = "pass") -> None:
    project.makepyfile(**{f"test_{name}": TESTS.format(name=name, check=check)})


def run(project: pytest.Pytester, *arguments: str) -> pytest.RunResult:
    """Run the project's tests in this process; the plugin is given, whether it is installed or not."""
    return project.runpytest_inprocess("-p", "no:idioteque", "-p", "no:cacheprovider", *arguments, plugins=[plugin])


def passes(result: pytest.RunResult) -> int:
    """Return how many passes with a fault the summary tells of."""
    found = re.search(r"(\d+) passes with a fault", result.stdout.str())
    assert found is not None, result.stdout.str()
    return int(found[1])


# ---- without chaos


def test_the_fixture_is_there_without_a_word_and_warns_of_nothing(project: pytest.Pytester) -> None:
    write(project, "pay", 'assert run.result == "receipt-7 parcel-7"')
    options = ("-p", "no:idioteque", "-p", "idioteque.testing.plugin", "-p", "no:cacheprovider")
    result = project.runpytest_subprocess(*options, timeout=60)
    result.assert_outcomes(passed=1)
    assert "idioteque chaos" not in result.stdout.str()
    assert result.stderr.str() == ""


def test_the_fixture_gives_the_worker_back_when_a_harness_was_not_left(project: pytest.Pytester) -> None:
    project.makepyfile(
        test_left="""
        import shop

        async def test_first(idioteque_harness):
            await idioteque_harness(shop.worker).__aenter__()
            assert shop.worker.dispatcher is not shop.dispatcher

        def test_second():
            assert shop.worker.dispatcher is shop.dispatcher
        """
    )
    run(project).assert_outcomes(passed=2)


def test_an_installation_offers_the_plugin_to_pytest() -> None:
    pyproject = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert pyproject["project"]["entry-points"]["pytest11"] == {"idioteque": plugin.__name__}
    assert harness is not None


def test_loading_the_plugin_loads_no_harness() -> None:
    code = "import idioteque.testing.plugin, sys; assert 'idioteque.testing.virtual' not in sys.modules"
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, timeout=60, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")


# ---- with chaos


def test_a_function_that_is_right_ends_alike_at_every_boundary(project: pytest.Pytester) -> None:
    write(project, "pay", 'assert run.result == "receipt-7 parcel-7" and len(shop.charges) == 1')
    result = run(project, "--idioteque-chaos")
    result.assert_outcomes(passed=1)
    assert passes(result) > 20
    assert "1 tests use the harness" in result.stdout.str()
    assert "did not come up a second time" not in result.stdout.str()


def test_a_bug_that_only_a_replay_shows_is_found_and_named_and_reproduced(project: pytest.Pytester) -> None:
    write(project, "drawn", 'assert run.result == "parcel-7"')
    run(project).assert_outcomes(passed=1)
    result = run(project, "--idioteque-chaos")
    result.assert_outcomes(failed=1)
    found = re.search(
        r"boundary (\d+): the process was lost after commit of step 'charge-\S+' of 'drawn'", result.stdout.str()
    )
    assert found is not None, result.stdout.str()
    result.stdout.fnmatch_lines(
        ["*without: run of drawn: completed, 2 steps*", "*with:*run of drawn: completed, 3 steps*"]
    )
    number = found[1]
    again = run(project, f"--idioteque-chaos={number}")
    again.assert_outcomes(failed=1)
    assert f"boundary {number}: the process was lost after commit of step 'charge-" in again.stdout.str()
    assert passes(again) == 1
    run(project, "--idioteque-chaos=1").assert_outcomes(passed=1)


def test_an_effect_outside_of_a_step_fails_the_test_s_own_assertion(project: pytest.Pytester) -> None:
    write(project, "unsafe", "assert len(shop.charges) == 1")
    run(project).assert_outcomes(passed=1)
    result = run(project, "--idioteque-chaos")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        [
            "*assert len(shop.charges) == 1*",
            "*idioteque chaos*",
            "boundary *: the process was lost before *: the test fails",
        ]
    )
    assert "pytest 'test_unsafe.py::test_unsafe' --idioteque-chaos=" in result.stdout.str()


def test_a_step_at_most_once_is_not_interrupted_on_purpose(project: pytest.Pytester) -> None:
    write(project, "once", "assert len(shop.charges) == 1")
    run(project, "--idioteque-chaos").assert_outcomes(passed=1)


def test_a_repeated_and_an_overtaken_delivery_are_boundaries_too(project: pytest.Pytester) -> None:
    project.makepyfile(
        test_order="""
        import shop
        from idioteque.testing import harness

        seen = []

        async def note(text: str) -> None:
            seen.append(text)

        @shop.worker.function("first", on=shop.Order)
        async def first(event: shop.Order, ctx: shop.Context) -> None:
            await ctx.execute("note", note, "first")

        @shop.worker.function("second", on=shop.Order)
        async def second(event: shop.Order, ctx: shop.Context) -> None:
            await ctx.execute("note", note, "second")

        async def test_order():
            seen.clear()
            async with harness(shop.worker, functions=[first, second]) as h:
                await h.publish(shop.Order())
            assert seen[:2] == ["first", "second"]
        """
    )
    run(project).assert_outcomes(passed=1)
    result = run(project, "--idioteque-chaos")
    result.assert_outcomes(failed=1)
    assert "the delivery of a message of 'first' was overtaken by all others: the test fails" in result.stdout.str()
    assert "was repeated: the test fails" not in result.stdout.str()


def test_tests_without_a_harness_run_once_and_failures_are_left_alone(project: pytest.Pytester) -> None:
    project.makepyfile(
        test_other="""
        import unittest

        import shop
        from idioteque.testing import harness

        ran = []

        def test_plain():
            ran.append("plain")
            assert ran.count("plain") == 1

        class TestCase(unittest.TestCase):
            def test_old_style(self):
                ran.append("old")
                assert ran.count("old") == 1

        async def test_that_fails():
            ran.append("fails")
            async with harness(shop.worker, functions=[shop.pay]) as h:
                await h.publish(shop.Order())
            assert False, ran.count("fails")
        """
    )
    result = run(project, "--idioteque-chaos")
    result.assert_outcomes(passed=2, failed=1)
    result.stdout.fnmatch_lines(["*AssertionError: 1*", "*0 tests use the harness; 0 passes with a fault, 0 failed*"])


def test_a_test_that_does_not_repeat_is_told_so(project: pytest.Pytester) -> None:
    project.makepyfile(
        test_state="""
        import shop
        from idioteque.testing import harness

        state = []

        async def test_state():
            state.append(1)
            async with harness(shop.worker, functions=[shop.pay]) as h:
                await h.publish(shop.Order())
            assert len(state) == 1
        """
    )
    result = run(project, "--idioteque-chaos")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["The test passes once, but not twice in a row*"])


def test_every_pass_has_fixtures_of_its_own(project: pytest.Pytester) -> None:
    project.makepyfile(
        test_fixtures="""
        import pytest

        import shop

        opened = []

        @pytest.fixture(scope="module")
        def shared():
            opened.append("shared")
            yield
            opened.append("shared closed")

        @pytest.fixture(params=["a", "b"])
        async def h(request, idioteque_harness, shared, tmp_path):
            (tmp_path / "made").touch(exist_ok=False)
            async with idioteque_harness(shop.worker, functions=[shop.pay]) as h:
                yield h

        @pytest.mark.parametrize("order_id", ["1", "2"])
        async def test_fixtures(h, order_id):
            published = await h.publish(shop.Order(id=order_id))
            await h.finish()
            assert (await h.run(published)).result == f"receipt-{order_id} parcel-{order_id}"
        """
    )
    result = run(project, "--idioteque-chaos")
    result.assert_outcomes(passed=4)
    assert "4 tests use the harness" in result.stdout.str()


@pytest.mark.parametrize(
    "arguments",
    [
        ["--idioteque-chaos", "test_pay.py"],
        ["test_pay.py", "--idioteque-chaos"],
        ["--idioteque-chaos", "test_pay.py::test_pay", "-q"],
        ["-q", "--idioteque-chaos", ".", "--deselect", "test_drawn.py"],
    ],
)
def test_a_path_after_the_option_is_a_path(project: pytest.Pytester, arguments: list[str]) -> None:
    write(project, "pay")
    write(project, "drawn")
    result = run(project, *arguments)
    result.assert_outcomes(passed=1, deselected=int("--deselect" in arguments))
    assert passes(result) > 20


def test_a_number_that_no_test_has_runs_nothing_more(project: pytest.Pytester) -> None:
    write(project, "pay")
    result = run(project, "--idioteque-chaos=9999")
    result.assert_outcomes(passed=1)
    assert passes(result) == 0
