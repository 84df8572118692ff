"""On which CKANs a test is run when all are, and why: the table of docs/development.md.

``bin/test --all`` runs everything on the newest CKAN. On the others it leaves out what would only
give the same answer again. A single test can be run on any of them: ``CKAN=2.10 bin/test -k …``.
"""

from __future__ import annotations

from typing import NamedTuple


class Row(NamedTuple):
    """One row of the table.

    :ivar ckans: those that run its tests
    :ivar why: what the tests depend on
    :ivar tests: folders and files below tests/, and single tests of a file that is in another row
    """

    ckans: tuple[str, ...]
    why: str
    tests: tuple[str, ...]


ROWS = (
    Row(
        ("2.10", "2.11", "2.12"),
        "CKAN itself: its ways to save, its rules of who may see, its forms, its packaging; and"
        " Celery, kombu and redis-py, which each CKAN has in another version",
        (
            "browser/test_story.py",
            "capture/",
            "deliver/test_transport.py::test_an_answer_is_an_outcome",
            "deliver/test_transport.py::test_an_own_bundle_is_trusted",
            "deliver/test_transport.py::test_what_is_sent_is_a_post",
            "dispatch/test_rights.py",
            "model/test_migration.py",
            "test_mirror.py",
            "test_owners.py",
            "test_packaging.py",
            "test_path.py",
            "test_queue.py",
            "test_redis_broker.py",
            "test_tasks.py",
            "test_upgrade.py",
            "test_visibility_table.py",
            "test_web_form.py",
            "test_worker.py",
            "views/",
        ),
    ),
    Row(
        ("2.10", "2.12"),
        "SQLAlchemy, of which CKAN 2.10 and 2.11 have 1.4, and CKAN 2.12 has 2.0",
        (
            "cli/",
            "deliver/",
            "dispatch/",
            "logic/",
            "model/",
            "sweep/",
            "test_any_json.py",
            "test_doctor.py",
            "test_isolation.py",
            "test_secrets.py",
            "test_sweep.py",
        ),
    ),
    Row(
        ("2.12",),
        "neither: decisions, HTTP, several machines and long runs, the pages' texts and looks, the"
        " documentation",
        (
            "browser/test_looks.py",
            "browser/test_story.py::test_a_webhook_from_its_form_to_its_end[no scripts]",
            "browser/test_story.py::test_what_is_saved_unchanged_stays_as_it_was[no scripts]",
            "cli/test_listen.py",
            "cli/test_output.py",
            "cli/test_running.py",
            "deliver/test_addresses.py",
            "deliver/test_conformance.py",
            "deliver/test_given_up.py",
            "deliver/test_health.py",
            "deliver/test_places.py",
            "deliver/test_retry.py",
            "deliver/test_signing.py",
            "deliver/test_transport.py",
            "test_apart.py",
            "test_bench.py",
            "test_big_tables.py",
            "test_chaos.py",
            "test_config.py",
            "test_difference.py",
            "test_docs.py",
            "test_docs_run.py",
            "test_encryption.py",
            "test_languages.py",
            "test_logs.py",
            "test_pgbouncer.py",
            "test_phrases.py",
            "test_rabbitmq.py",
            "test_scaling.py",
            "test_soak.py",
            "test_three_workers.py",
            "test_topics.py",
            "test_versions.py",
            "test_visibility.py",
            "test_wellformed.py",
            "views/test_receivers.py",
        ),
    ),
)


def ckans_of(file: str) -> set[str]:
    """Give the CKANs that run some test of a file.

    :param file: below tests/, as ``capture/test_ways.py``
    """
    single = (row for row in ROWS for named in row.tests if named.startswith(f"{file}::"))
    return {ckan for row in (row_of(file), *single) for ckan in row.ckans}


def row_of(test: str) -> Row:
    """Find the row of a test: the one that names it most closely.

    :param test: below tests/, as ``capture/test_ways.py::test_…``
    :raises LookupError: no row names it
    """
    naming = [(len(named), row) for row in ROWS for named in row.tests if test.startswith(named)]
    if not naming:
        raise LookupError(f"tests/versions.py has no row for {test}")
    return max(naming)[1]
