"""What ``bin/soak`` judges by, and a short run of it: growth is found."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from bench.soak import verdict
from bench.soak.figures import TABLES, Figures, Part, Table
from bench.soak.run import WEBHOOKS, Told
from bench.stand import Arrival

ROOT = Path(__file__).parents[3]


def figures(minute: float, memory: float = 160.0, size: float = 100.0, p99: float = 10.0):
    return Figures(
        at=minute * 60,
        arrived=600,
        p50=3.0,
        p99=p99,
        save=100.0,
        waited=0.0,
        transaction=5.0,
        parts={"worker": Part(memory, 30, 7)},
        tables=dict.fromkeys(TABLES, Table(1_000, 10, size)),
    )


def bad(taken, lost=0) -> list[str]:
    return [line.what for line in verdict.judge(taken, lost) if not line.holds]


def test_a_run_in_which_nothing_grows_is_well():
    assert bad([figures(n) for n in range(30)]) == []


def test_what_is_learnt_at_the_start_is_no_growth():
    assert bad([figures(n, memory=100 + 6 * min(n, 10)) for n in range(30)]) == []


def test_memory_that_grows_to_the_end_is_found():
    (found,) = bad([figures(n, memory=100 + n) for n in range(30)])
    assert found.startswith("memory of worker: 129 MiB, +60.0 MiB an hour")


def test_tables_that_nothing_is_pruned_from_are_found():
    found = bad([figures(n, size=10 * n) for n in range(30)])
    assert [what.split(":")[0] for what in found] == list(TABLES)


def test_a_saw_is_no_growth():
    assert bad([figures(n, size=100 + n % 3) for n in range(30)]) == []


def test_latency_that_grows_is_found():
    (found,) = bad([figures(n, p99=10 + n) for n in range(30)])
    assert found.startswith("p99 from commit to arrival")


def test_what_did_not_arrive_is_found_in_a_short_run_too():
    assert [line.holds for line in verdict.judge([figures(0)], 1, growth=False)] == [False]


def test_an_event_is_known_until_all_webhooks_were_told():
    told = Told()
    told.expect("e")
    told.commit("e")
    at = told.committed["e"]
    few = [Arrival("e", f"good/{n}", at + 0.01) for n in range(WEBHOOKS - 1)]
    assert len(told.take([*few, Arrival("of-a-save", "good/1", at)])) == WEBHOOKS - 1
    assert told.missing == {"e": 1}
    assert [round(took) for took in told.take([Arrival("e", "good/0", at + 0.02)])] == [20]
    assert told.missing == {}


@pytest.mark.acceptance
@pytest.mark.parametrize(
    ("minutes", "rate"), [(0.05, 2), pytest.param(0.5, 5, marks=pytest.mark.long)]
)
def test_a_short_run_gives_figures_a_picture_and_a_verdict(tmp_path, minutes, rate):
    command = [sys.executable, "-W", "ignore", "-m", "bench.soak", str(tmp_path)]
    run = subprocess.run(
        [*command, "--minutes", str(minutes), "--rate", str(rate)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    written = json.loads((tmp_path / "soak.json").read_text())
    assert sum(one["arrived"] for one in written["figures"]) > 0
    assert set(written["figures"][-1]["parts"]) == {
        "worker",
        "web",
        "PostgreSQL",
        "Redis",
        "receiver",
    }
    assert written["verdict"] == [{"what": "0 deliveries are missing in the end", "holds": True}]
    assert (tmp_path / "soak.png").stat().st_size > 10_000
