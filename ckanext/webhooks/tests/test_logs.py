"""Log lines that every handler can write."""

from __future__ import annotations

import io
import logging

import pytest

from .. import logs

ODD = "a\0b\ud800c"
MENDED = "a\ufffdb\ufffdc"


@pytest.fixture
def written():
    """What a logger of a module and a handler that writes UTF-8 have written."""
    stream = io.BytesIO()
    handler = logging.StreamHandler(io.TextIOWrapper(stream, "utf-8", write_through=True))
    log = logs.logger("ckanext.webhooks.of_a_test")
    log.propagate = False
    log.addHandler(handler)
    yield log, lambda: stream.getvalue().decode()
    log.removeHandler(handler)


def test_whatever_a_line_names_it_is_written(written):
    log, lines = written
    log.warning("webhooks [%s]: %s was refused", "uuid", ODD)
    assert lines() == f"webhooks [uuid]: {MENDED} was refused\n"


def test_so_is_the_traceback_below_it(written):
    log, lines = written
    try:
        raise ValueError(ODD)
    except ValueError:
        log.exception("webhooks [uuid]: it failed")
    assert lines().startswith("webhooks [uuid]: it failed\nTraceback (most recent call last):\n")
    assert lines().endswith(f"ValueError: {MENDED}\n")


def test_a_line_that_can_be_written_is_handed_on_as_it_was_given(caplog):
    logs.logger("ckanext.webhooks.of_another_test").warning("%s of %d", "one", 2)
    (record,) = caplog.records
    assert (record.msg, record.args) == ("%s of %d", ("one", 2))


def test_a_logger_has_one_filter_however_often_it_is_asked_for():
    assert len(logs.logger("ckanext.webhooks.of_a_test").filters) == 1
