"""The pytest plugin: the fixture `idioteque_harness`, and `--idioteque-chaos`, which rehearses tests with faults.

Every pytest session loads this module, so it imports nothing but pytest until it is used.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest
from _pytest.runner import runtestprotocol

if TYPE_CHECKING:
    from idioteque.testing.chaos import Boundary, Comparison, Rehearsal
    from idioteque.testing.virtual import Harness

ALL = 0
FAILURES_SHOWN_MAX = 20


class ChaosOption(argparse.Action):
    """`--idioteque-chaos` alone or with `=NUMBER`; what follows after a space is a path, as ever."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: str | Sequence[Any] | None,
        option_string: str | None = None,
    ) -> None:
        number = ALL
        if isinstance(values, str) and values.isascii() and values.isdigit() and int(values) > 0:
            number = int(values)
        elif isinstance(values, str) and option_string is not None:
            vars(namespace).setdefault("_unrecognized_args", []).append(values)  # argparse goes on with these
        setattr(namespace, self.dest, number)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.getgroup("idioteque").addoption(
        "--idioteque-chaos",
        action=ChaosOption,
        nargs="?",
        default=None,
        metavar="BOUNDARY",
        help="run each test that uses the harness once more per boundary, with a fault there: a process lost before or"
        " after a call to store or dispatcher, a delivery repeated or overtaken; with =BOUNDARY for that one only",
    )


def pytest_configure(config: pytest.Config) -> None:
    number: int | None = config.getoption("idioteque_chaos")
    if number is not None:
        config.pluginmanager.register(Chaos(number), "idioteque-chaos")


@pytest.fixture
def idioteque_harness() -> Iterator[Any]:
    """Return `idioteque.testing.harness`; workers get back what they had even if a harness was not left properly."""
    from idioteque.testing.virtual import harness

    made: list[Harness] = []

    def make(*args: Any, **kwargs: Any) -> Harness:
        made.append(harness(*args, **kwargs))
        return made[-1]

    yield make
    for one in reversed(made):
        one.restore()


@dataclass(slots=True)
class Finding:
    """A test that fails at a boundary."""

    nodeid: str
    boundary: Boundary
    reason: str


class Chaos:
    """Runs each test once without a fault, once more to see whether it repeats, and once per boundary."""

    def __init__(self, number: int) -> None:
        from idioteque.testing import chaos

        self._chaos = chaos
        self._stage = chaos.Stage()
        chaos.stage.set(self._stage)
        self._number = number
        self._tests = 0
        self._passes = 0
        self._missed = 0
        self._findings: list[Finding] = []

    def pytest_unconfigure(self) -> None:
        self._chaos.stage.set(None)

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_protocol(self, item: pytest.Item, nextitem: pytest.Item | None) -> bool | None:
        if not isinstance(item, pytest.Function):
            return None
        item.ihook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
        for report in self._rehearsed(item, nextitem):
            item.ihook.pytest_runtest_logreport(report=report)
        item.ihook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)
        return True

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        terminalreporter.section("idioteque chaos")
        terminalreporter.line(
            f"{self._tests} tests use the harness; {self._passes} passes with a fault, {len(self._findings)} failed"
        )
        if self._missed:
            terminalreporter.line(f"{self._missed} boundaries did not come up a second time: those tests vary")
        for finding in self._findings[:FAILURES_SHOWN_MAX]:
            terminalreporter.line(f"{finding.nodeid}: {finding.boundary}")
            terminalreporter.line(f"  reproduce with: pytest '{finding.nodeid}' {_option(finding.boundary)}")

    def _rehearsed(self, item: pytest.Function, nextitem: pytest.Item | None) -> list[pytest.TestReport]:
        first, reports = self._pass(item, nextitem, None)
        chosen = self._chosen(first)
        if not _passed(reports) or not chosen:
            return reports
        self._tests += 1
        control, again = self._pass(item, nextitem, None)
        if not _passed(again):
            return _failed(again, "The test passes once, but not twice in a row: rehearsals need one that repeats.")
        comparison = self._chaos.Comparison(first.endings, control.endings)
        findings: list[tuple[Finding, list[pytest.TestReport]]] = []
        for boundary in chosen:
            found = self._with_fault(item, nextitem, boundary, comparison)
            findings += [found] if found is not None else []
        self._findings += [finding for finding, _ in findings]
        return _failed(findings[0][1], _told([finding for finding, _ in findings])) if findings else reports

    def _chosen(self, first: Rehearsal) -> Sequence[Boundary]:
        boundaries = first.boundaries[: self._chaos.BOUNDARIES_MAX]
        return boundaries if self._number == ALL else boundaries[self._number - 1 : self._number]

    def _with_fault(
        self, item: pytest.Function, nextitem: pytest.Item | None, boundary: Boundary, comparison: Comparison
    ) -> tuple[Finding, list[pytest.TestReport]] | None:
        rehearsal, reports = self._pass(item, nextitem, boundary)
        self._passes += 1
        self._missed += not rehearsal.is_reached
        if not _passed(reports):
            return Finding(item.nodeid, boundary, "the test fails"), reports
        difference = comparison.difference(rehearsal.endings)
        if difference is None:
            return None
        for report in reports:
            if report.when == "call":
                report.outcome, report.longrepr = "failed", f"{boundary}\n{difference}"
        return Finding(item.nodeid, boundary, difference), reports

    def _pass(
        self, item: pytest.Function, nextitem: pytest.Item | None, fault: Boundary | None
    ) -> tuple[Rehearsal, list[pytest.TestReport]]:
        rehearsal = self._stage.rehearsal = self._chaos.Rehearsal(fault)
        try:
            return rehearsal, runtestprotocol(item, log=False, nextitem=nextitem)
        finally:
            self._stage.rehearsal = None


def _passed(reports: Sequence[pytest.TestReport]) -> bool:
    return all(report.passed for report in reports)


def _failed(reports: list[pytest.TestReport], text: str) -> list[pytest.TestReport]:
    for report in reports:
        if report.failed:
            report.sections.insert(0, ("idioteque chaos", text))
    return reports


def _told(findings: Sequence[Finding]) -> str:
    lines = [f"{finding.boundary}: {finding.reason.splitlines()[0]}" for finding in findings[:FAILURES_SHOWN_MAX]]
    more = len(findings) - len(lines)
    lines += [f"and {more} more"] if more else []
    return "\n".join(
        [*lines, f"The failure shown is that of the first; reproduce it with {_option(findings[0].boundary)}"]
    )


def _option(boundary: Boundary) -> str:
    return f"--idioteque-chaos={boundary.number}"
