"""What an endpoint sends back of its custom headers is not kept."""

from __future__ import annotations

import pytest

from ...deliver.attempt import Outcome
from ...deliver.withheld import confidential, withhold

HEADERS = {
    "Authorization": "Bearer s3cr3t-token",
    "X-Key": 'quo"ted\\value',
    "X-Version": "1",
}


def kept(answer: str | bytes) -> str:
    raw = answer.encode() if isinstance(answer, str) else answer
    return withhold(Outcome(200, answer=raw), confidential(HEADERS)).answer.decode()


def test_what_is_the_owner_s_is_confidential():
    assert set(confidential(HEADERS)) == {
        "Bearer s3cr3t-token",
        "s3cr3t-token",
        'quo"ted\\value',
    }


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("", ""),
        ("thanks, version 1", "thanks, version 1"),
        ("got Bearer s3cr3t-token!", "got [withheld]!"),
        ("token=s3cr3t-token", "token=[withheld]"),
        ('{"X-Key": "quo\\"ted\\\\value"}', '{"X-Key": "[withheld]"}'),
        ('X-Key: quo"ted\\value', "X-Key: [withheld]"),
        # Only so much of an answer is kept: the rest of it was cut off.
        ("token=s3cr3t-to", "token=[withheld]"),
        ("token=s3c", "token=s3c"),
        ("webhook-id: e7495e6a", "webhook-id: e7495e6a"),
    ],
)
def test_it_is_withheld_and_nothing_else(answer, expected):
    assert kept(answer) == expected


def test_an_error_is_an_answer_too():
    found = withhold(Outcome(error="bad header 'Bearer s3cr3t-token'"), confidential(HEADERS))
    assert found.error == "bad header '[withheld]'"
    assert withhold(Outcome(error="refused"), confidential({})).error == "refused"
