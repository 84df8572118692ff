"""What ``bin/bench`` makes of its figures. That they are right, a bench cannot say of itself."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from bench import table
from bench.table import Row

RATE = Row(
    "throughput",
    "rate",
    "/s",
    [9_000, 12_000, 30_000],
    12_000,
    more_is_better=True,
    way_2015=[400, 500, 600],
    ceiling=[40_000],
    ceiling_is="a bare client",
)
TIME = Row("fanout", "time", "ms", [3.0, 4.0, 5.0], 5.0, ceiling=[2.0], ceiling_is="alone")


def committed(row: Row, **changed: object) -> list[dict]:
    return [{**row.as_json(), **changed}]


@pytest.mark.parametrize(
    ("row", "goal", "met"),
    [(RATE, 12_000, True), (RATE, 12_001, False), (TIME, 4.0, True), (TIME, 3.9, False)],
)
def test_the_median_meets_the_goal_or_not(row, goal, met):
    assert replace(row, goal=goal).met is met


def test_a_figure_is_compared_with_the_2015_way_and_else_with_the_ceiling():
    assert RATE.ratio == 24
    assert TIME.ratio == 2
    assert replace(TIME, ceiling=()).ratio is None


def test_what_is_as_before_is_no_regression():
    assert table.regressions([RATE, TIME], committed(RATE) + committed(TIME)) == []


def test_a_machine_of_half_the_speed_is_no_regression():
    slower = replace(RATE, values=[n / 2 for n in RATE.values], way_2015=[200, 250, 300])
    assert table.regressions([slower], committed(RATE)) == []


def test_a_rate_that_fell_and_a_time_that_rose_are_regressions():
    rate = replace(RATE, values=[7_000, 8_000, 9_000])
    time = replace(TIME, values=[6.0, 6.5, 7.0])
    found = table.regressions([rate, time], committed(RATE) + committed(TIME))
    assert found == [
        "rate: 1.50 times worse: 16 times the 2015 way, and 24 times in the committed results",
        "time: 1.62 times worse: 3.25 times alone, and 2 times in the committed results",
    ]


def test_it_is_none_where_one_run_was_as_good_as_before():
    assert table.regressions([replace(RATE, values=[7_000, 8_000, 13_000])], committed(RATE)) == []


def test_nor_where_there_is_nothing_to_compare_with():
    worse = replace(RATE, values=[1.0])
    assert table.regressions([worse], []) == []
    assert table.regressions([worse], committed(RATE, ratio=None)) == []
    assert table.regressions([replace(worse, way_2015=(), ceiling=())], committed(RATE)) == []


def test_results_are_what_the_table_is_made_of(tmp_path):
    results = tmp_path / "results.json"
    table.write(results, [RATE.as_json()], {"CPU": "of this machine"})
    read = table.read(results)
    (row,) = json.loads(results.read_text())["rows"]
    assert read["rows"] == [row]
    assert {"name", "value", "unit", "goal", "met", "way_2015", "min", "max", "ceiling"} <= set(row)
    shown = table.markdown(read["rows"], read["settings"])
    assert "| rate | **12,000** /s (9,000 to 30,000) | ≥ 12,000 | met | 500 |" in shown
    assert "CPU of this machine" in shown


def test_only_what_is_between_the_markers_is_replaced():
    page = "Before.\n<!-- bench -->\nold\n<!-- /bench -->\nAfter.\n"
    new = table.between(page, "bench", "new")
    assert new == "Before.\n<!-- bench -->\nnew\n<!-- /bench -->\nAfter.\n"
    with pytest.raises(ValueError):
        table.between("a page without", "bench", "new")
