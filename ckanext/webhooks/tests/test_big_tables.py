"""What ``bin/bench --big-tables`` judges by, and a short run of it."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from bench.big_tables import plans

ROOT = Path(__file__).parents[3]
COUNTS = dict.fromkeys(("webhooks_event", "webhooks_delivery", "webhooks_attempt"), 1_000_000)


def node(kind: str, rows: int, more: Mapping[str, Any] | None = None) -> dict[str, Any]:
    return {
        "Node Type": kind,
        "Relation Name": "webhooks_delivery",
        "Actual Rows": rows,
        "Actual Loops": 1,
        **(more or {}),
    }


def test_what_was_thrown_away_was_read_too():
    plan = node(
        "Index Scan",
        10,
        {"Rows Removed by Filter": 90, "Index Name": "webhooks_delivery_due_idx"},
    )
    read = plans.read_of({"Node Type": "Limit", "Shared Hit Blocks": 7, "Plans": [plan]})
    assert read.rows == {"webhooks_delivery": 100}
    assert read.indexes == {"webhooks_delivery_due_idx"}
    assert read.pages == 7
    assert read.whole(COUNTS) == set()


@pytest.mark.parametrize(
    "plan",
    [
        node("Seq Scan", 0),
        node("Index Scan", 900_000),
        node("Index Scan", 100, {"Actual Loops": 9_000}),
        node("Bitmap Heap Scan", 10, {"Rows Removed by Index Recheck": 900_000}),
    ],
)
def test_a_table_that_is_read_whole_is_named(plan):
    assert plans.read_of({"Node Type": "Limit", "Plans": [plan]}).whole(COUNTS) == {
        "webhooks_delivery"
    }


def test_a_scan_that_was_not_begun_and_a_small_table_are_well():
    assert plans.read_of(node("Seq Scan", 0, {"Actual Loops": 0})).whole(COUNTS) == set()
    small = {**COUNTS, "webhooks_event": 1_000}
    assert (
        plans.read_of(node("Seq Scan", 1_000, {"Relation Name": "webhooks_event"})).whole(small)
        == set()
    )


def test_what_is_written_is_not_read():
    insert = {"Operation": "Insert"}
    assert plans.read_of(node("ModifyTable", 5, insert)).rows == {}


def test_a_plan_is_shown_with_the_index_and_with_what_was_thrown_away():
    more = {"Index Name": "webhooks_delivery_due_idx", "Rows Removed by Filter": 90}
    scan = node("Index Scan", 10, {**more, "Index Cond": "(due_at <= now())"})
    plan = {"Node Type": "Limit", "Actual Rows": 10, "Actual Loops": 1, "Plans": [scan]}
    assert list(plans.Statement("SELECT\n    1", plans.read_of(plan), plan).lines()) == [
        "SELECT 1",
        "  Limit (rows=10 loops=1)",
        "    Index Scan using webhooks_delivery_due_idx on webhooks_delivery"
        " (rows=10 loops=1 removed=90)",
        "      Index Cond: (due_at <= now())",
    ]


@pytest.mark.acceptance
@pytest.mark.parametrize(
    ("rows", "repeats"), [(4_000, 0), pytest.param(1_000_000, 3, marks=pytest.mark.long)]
)
def test_a_short_run_asks_everything_and_prunes(tmp_path, rows, repeats):
    command = [sys.executable, "-W", "ignore", "-m", "bench.big_tables", str(tmp_path)]
    run = subprocess.run(
        [*command, "--rows", str(rows), "--repeats", str(repeats)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    printed = run.stdout + run.stderr
    # Small tables are read otherwise than large ones; these must never be.
    for what in ("deliver:", "webhook_patch to disabled", "webhook_delete", "sweep, an owner"):
        (line,) = [line for line in run.stdout.splitlines() if line.startswith(what)]
        assert "  ok" in line, printed
    # Of so few, the steps that are judged leave nothing to be pruned beside deliveries.
    pruned = r"^prune, ten steps +[\d,.]+ +[1-9]" if rows < 50_000 else "^pruned [1-9]"
    assert re.search(pruned, run.stdout, re.M), printed
    assert "commit to arrival meanwhile" in run.stdout, printed
