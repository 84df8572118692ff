"""The guilty member of a set is found, and all others are done once and in order."""

from __future__ import annotations

import pytest

from ..apart import apart


class Away(Exception):
    pass


def may_be_of_one(error: Exception) -> bool:
    return not isinstance(error, Away)


@pytest.mark.parametrize("odd", ["", "a", "e", "j", "ej", "abcdefghij"])
def test_the_others_are_done_once_and_in_order(odd):
    done: list[str] = []
    alone: list[str] = []

    def work(members):
        if set(odd) & set(members):
            raise ValueError("as planted")
        done.extend(members)

    apart("abcdefghij", work, lambda member, _error: alone.append(member), may_be_of_one)
    assert "".join(done) == "".join(sorted(set("abcdefghij") - set(odd)))
    assert "".join(alone) == odd


def test_a_set_that_fails_only_for_its_size_is_done_in_parts():
    done: list[str] = []

    def work(members):
        if len(members) > 3:
            raise ValueError("cut off")
        done.append(members)

    apart("abcdefghij", work, pytest.fail, may_be_of_one)
    assert done == ["ab", "cde", "fg", "hij"]


def test_what_would_come_with_every_half_is_raised_at_once():
    tries: list[str] = []

    def work(members):
        tries.append(members)
        raise Away

    with pytest.raises(Away):
        apart("abcdefghij", work, pytest.fail, may_be_of_one)
    assert tries == ["abcdefghij"]


def test_what_goes_wrong_with_the_guilty_one_keeps_no_other_waiting():
    done: list[str] = []

    def work(members):
        if "c" in members:
            raise ValueError("as planted")
        done.extend(members)

    def put_aside(_member, _error):
        raise Away

    with pytest.raises(Away):
        apart("abcdefghij", work, put_aside, may_be_of_one)
    assert "".join(done) == "abdefghij"


def test_of_nothing_nothing_is_done():
    apart("", pytest.fail, pytest.fail, may_be_of_one)
