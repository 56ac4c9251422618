"""The arithmetic of the table."""

from __future__ import annotations

import pytest
from bench.figures import OURS, Measure, Results, Target, number, percentile
from bench.plot import Chart, Series, svg
from bench.profiling import summary
from bench.table import markdown_table

RATE = Measure("W1.rate", "W1 events/s", True, Target(2.5, against=("restate", "W1.rate")))
SECONDS = Measure("W3.seconds", "W3 1,000 parallel steps, s", target=Target(0.5, is_least=False))


def results(**values: list[float]) -> Results:
    made = Results()
    for subject, repeats in values.items():
        for value in repeats:
            made.add("W1", subject, {"rate": value})
    return made


def test_the_table_has_the_median_and_how_far_the_repeats_are_apart() -> None:
    found = results(idioteque=[900.0, 1000.0, 1200.0]).summary("W1.rate", OURS)

    assert found is not None
    assert (found.median, found.low, found.high, found.count) == (1000.0, 900.0, 1200.0, 3)
    assert found.spread == pytest.approx(0.3)


def test_a_ratio_says_how_many_times_as_good_we_are_whichever_way_is_better() -> None:
    measured = results(idioteque=[3000.0], restate=[1000.0])
    measured.add("W3", OURS, {"seconds": 0.5})
    measured.add("W3", "restate", {"seconds": 2.0})

    assert measured.ratio(RATE, "restate") == 3.0
    assert measured.ratio(SECONDS, "restate") == 4.0
    assert measured.ratio(RATE, "dbos-sqlite") is None


@pytest.mark.parametrize(("ours", "met"), [(2500.0, True), (2499.0, False)])
def test_a_target_may_be_a_multiple_of_a_peer(ours: float, met: bool) -> None:
    assert results(idioteque=[ours], restate=[1000.0]).is_met(RATE) is met


def test_a_target_is_neither_met_nor_missed_without_the_peer_it_is_held_against() -> None:
    assert results(idioteque=[5000.0]).is_met(RATE) is None


def test_an_upper_bound_is_met_at_the_bound() -> None:
    measured = Results()
    measured.add("W3", OURS, {"seconds": 0.5})

    assert measured.is_met(SECONDS) is True


def test_a_percentile_is_a_value_that_was_measured() -> None:
    values = [float(value) for value in range(1, 101)]

    assert [percentile(values, part) for part in (0.5, 0.95, 0.99, 1.0)] == [50.0, 95.0, 99.0, 100.0]
    assert percentile([7.0], 0.5) == 7.0


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.0, "0"), (0.0214, "0.021"), (3.0, "3"), (2.345, "2.35"), (45.67, "45.7"), (12345.6, "12,346"), (80.0, "80")],
)
def test_a_number_is_written_with_the_digits_that_count(value: float, text: str) -> None:
    assert number(value) == text


def test_the_page_has_a_row_for_each_figure_that_was_measured() -> None:
    measured = results(idioteque=[2000.0, 2400.0, 2200.0], restate=[1000.0])

    assert markdown_table(measured, [OURS, "restate"]).splitlines() == [
        "|  | target | idioteque |  | restate |",
        "|---|---|---|---|---|",
        "| W1 events/s | ≥ 2.5 x restate | 2,200 (2,000 to 2,400) | missed | 1,000 x 2.2 |",
    ]


def test_a_chart_names_each_of_its_lines() -> None:
    series = (Series("inline", ((100, 0.1), (1000, 1.0))), Series("isolated <b>", ((100, 0.5), (1000, 6.0))))
    drawn = svg(Chart("rows", "Steps in a row", "steps", "seconds", series))

    assert drawn.count("<polyline") == 2
    assert ">inline</text>" in drawn
    assert "isolated &lt;b&gt;" in drawn


def test_a_profile_is_summed_up_by_function() -> None:
    text = summary(["run (a.py:1);send (b.py:7) 30", "run (a.py:2) 10"])

    assert "40 samples" in text
    assert " 75.0 %  send (b.py" in text
    assert "100.0 %  run (a.py" in text
