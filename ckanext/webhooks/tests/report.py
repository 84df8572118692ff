"""What is said at the end of a run: figures that were measured, tiers, and where the time went."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest

TIERS = ("pure", "database", "acceptance")
SLOWEST = 20
# Seconds. What takes less is not worth a line, a fixture that takes more is worth sharing.
SLOW = 0.5
SLOW_FIXTURE = 5.0


@pytest.hookimpl(wrapper=True)
def pytest_fixture_setup(fixturedef: Any, request: Any) -> Iterator[None]:
    """Keep how long a slow fixture took, with the test that it was set up for."""
    began = time.monotonic()
    result = yield
    took = time.monotonic() - began
    if took > SLOW_FIXTURE:
        request._pyfuncitem.user_properties.append(("fixture", (fixturedef.argname, took)))
    return result


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Say what was measured, how many tests of each tier ran, and which took longest."""
    reports = [
        report
        for outcome, some in terminalreporter.stats.items()
        if outcome != "deselected"
        for report in some
        if getattr(report, "when", None) in ("setup", "call", "teardown")
    ]
    write = terminalreporter.write_line
    for report in reports:
        if report.when == "call" and report.passed:
            for name, figure in report.user_properties:
                if name == "figure":
                    write(figure)
    seconds = _seconds(reports)
    if len(seconds) > SLOWEST:
        for line in _slowest(reports, seconds):
            write(line)
    count = Counter(tier for tier, _test in seconds)
    # One that ran none shows.
    write(", ".join(f"{tier}: {count[tier]}" for tier in TIERS))


def _seconds(reports: list[Any]) -> Counter[tuple[str, str]]:
    """Give what each test took in all, by its tier and its name."""
    seconds: Counter[tuple[str, str]] = Counter()
    for report in reports:
        for tier in TIERS:
            if tier in report.keywords:
                seconds[tier, report.nodeid] += report.duration
    return seconds


def _slowest(reports: list[Any], seconds: Counter[tuple[str, str]]) -> Iterator[str]:
    for tier in TIERS:
        of_tier = Counter({test: took for (its, test), took in seconds.items() if its == tier})
        yield f"{tier}: {of_tier.total():.0f} s in all, the slowest of {len(of_tier)}:"
        for test, took in of_tier.most_common(SLOWEST):
            if took > SLOW:
                yield f"  {took:6.1f} s  {test}"
        fixtures = {
            (value[1], value[0], report.nodeid)
            for report in reports
            if report.when == "teardown" and tier in report.keywords
            for name, value in report.user_properties
            if name == "fixture"
        }
        for took, name, test in sorted(fixtures, reverse=True):
            yield f"  {took:6.1f} s  fixture {name}, for {test}"
