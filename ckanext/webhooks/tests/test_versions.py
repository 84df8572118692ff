"""On which CKANs a test is run: the table names each file once, and the docs show it."""

from __future__ import annotations

from pathlib import Path

import pytest

from .versions import ROWS, ckans_of, row_of

TESTS = Path(__file__).parent
DOCS = TESTS.parents[2] / "docs" / "development.md"

FILES = [str(path.relative_to(TESTS)) for path in sorted(TESTS.rglob("test_*.py"))]


@pytest.mark.parametrize("file", FILES)
def test_each_file_has_a_row(file):
    assert row_of(f"{file}::test_anything")


@pytest.mark.parametrize("named", [named for row in ROWS for named in row.tests])
def test_what_a_row_names_is_there(named):
    path, _, test = named.partition("::")
    assert (TESTS / path).exists()
    assert f"def {test.partition('[')[0]}" in (TESTS / path).read_text() if test else True
    assert sum(named in row.tests for row in ROWS) == 1


def test_the_closest_name_counts():
    assert row_of("capture/test_ways.py::test_anything").ckans == ("2.10", "2.11", "2.12")
    assert row_of("deliver/test_claim.py::test_anything").ckans == ("2.10", "2.12")
    assert row_of("deliver/test_retry.py::test_anything").ckans == ("2.12",)


def test_a_file_is_read_where_one_of_its_tests_runs():
    assert ckans_of("deliver/test_transport.py") == {"2.10", "2.11", "2.12"}
    assert ckans_of("deliver/test_retry.py") == {"2.12"}


def test_a_file_without_a_row_is_an_error():
    with pytest.raises(LookupError, match=r"no row for test_new\.py"):
        row_of("test_new.py")


def test_the_docs_show_the_table():
    shown = [line for line in DOCS.read_text().splitlines() if line.startswith("| 2.1")]
    wanted = [
        f"| {', '.join(row.ckans)} | {row.why} | {', '.join(f'`{one}`' for one in row.tests)} |"
        for row in ROWS
    ]
    assert shown == wanted
