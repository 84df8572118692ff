"""Nobody takes what others need: bounds, and places that are kept."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from ...deliver.places import KEPT_FOR_QUICK, MORE_FOR_QUICK, PATIENCE, SLOW, Bounds, Places

BOUNDS = Bounds(all=8, webhook=2, host=3, owner=4)


def row(
    webhook="w",
    host="h",
    user="u",
    proven=True,
    gated=False,
    topic="dataset/update",
    state="active",
    size=0,
):
    return SimpleNamespace(
        webhook_id=webhook,
        host=host,
        user_id=user,
        is_proven=proven,
        is_gated=gated,
        topic=topic,
        state=state,
        size=size,
    )


def different(count, **same):
    return [
        row(**{"webhook": f"w{n}", "host": f"h{n}", "user": f"u{n}", **same}) for n in range(count)
    ]


def test_a_webhook_takes_its_bound_and_the_rest_of_its_line_is_held_back():
    line = [row(proven=False) for _ in range(5)]
    chosen = Places(BOUNDS).choose(line, 8, now=0)
    assert chosen.take == line[:2]
    assert chosen.hold == line[2:]


def test_an_endpoint_that_was_quick_the_last_time_may_have_more():
    bounds = Bounds(all=50, webhook=2, host=50, owner=50)
    line = [row() for _ in range(2 * MORE_FOR_QUICK + 1)]
    places = Places(bounds)
    assert places.choose(line, 50, now=0).hold == line[-1:]
    assert places.full("quick") == ["w"]
    places.note("w", SLOW + 1)
    assert places.choose([row(), row(), row()], 50, now=0).take == [row(), row()]


@pytest.mark.parametrize(("same", "bound"), [({"host": "h"}, 3), ({"user": "u"}, 4)])
def test_what_a_host_or_an_owner_has_no_place_for_stays_in_line_until_they_are_stuck(same, bound):
    line = different(6, **same)
    places = Places(BOUNDS)
    chosen = places.choose(line, 8, now=0)
    assert chosen.take == line[:bound]
    assert chosen.hold == []
    assert places.choose(line[bound:], 8, now=PATIENCE - 0.01).hold == []
    assert places.choose(line[bound:], 8, now=PATIENCE).hold == line[bound:]


def test_an_end_makes_room_and_nobody_is_stuck():
    line = different(6, host="h")
    places = Places(BOUNDS)
    taken = [places.take(r, 0) for r in line[:3]]
    assert places.full("host") == ["h"]
    assert places.give_back(taken[0]), "somebody may have waited for it"
    assert not places.give_back(taken[1])
    places.take(line[1], 0)
    assert places.full("host") == []
    chosen = places.choose(line[3:], 8, now=PATIENCE)
    assert chosen.take == line[3:4]
    assert chosen.hold == []


def test_the_last_places_are_for_those_who_answered_quickly():
    places = Places(BOUNDS)
    unproven = different(9, proven=False)
    chosen = places.choose(unproven, 9, now=0)
    assert len(chosen.take) == BOUNDS.all * (1 - KEPT_FOR_QUICK)
    assert places.full("unproven") == [""]
    quick = row("quick", "q", "q")
    assert places.choose([quick], 1, now=0).take == [quick]
    # They wait in nobody's way.
    assert places.choose(unproven[6:], 1, now=PATIENCE).hold == unproven[6:]


def test_slow_is_what_the_last_attempt_took():
    places = Places(BOUNDS)
    for unproven in different(6, proven=False):
        places.take(unproven, 0)
    places.note("w", SLOW + 1)
    assert places.slow() == ["w"]
    assert places.choose([row()], 1, now=0).take == []
    places.note("w", SLOW - 0.5)
    assert places.choose([row()], 1, now=0).take == [row()]


def test_a_gated_webhook_gets_nothing_from_the_line():
    gated, open_ = row("gated", gated=True), row("open")
    chosen = Places(BOUNDS).choose([gated, open_], 8, now=0)
    assert (chosen.take, chosen.hold) == ([open_], [gated])


def test_a_ping_waits_for_no_gate_and_no_bound():
    ping = row(gated=True, topic="ping")
    places = Places(BOUNDS)
    for _ in range(3):
        places.take(row(), 0)
    assert places.choose([ping], 8, now=1).take == [ping]


def test_what_is_beyond_the_count_is_left_alone():
    line = different(4)
    chosen = Places(BOUNDS).choose(line, 2, now=0)
    assert (chosen.take, chosen.hold) == (line[:2], [])


def test_a_copy_takes_nothing_from_the_original():
    places = Places(BOUNDS)
    places.copy().choose(different(4), 4, now=0)
    assert (places.taken, places.room) == (0, 8)


def test_a_quota_is_the_least_that_is_free():
    places = Places(BOUNDS)
    assert places.quota(row(), 8) == 3
    assert places.quota(row(proven=False), 8) == 2
    places.take(row("other"), 0)
    places.take(row("another"), 0)
    assert places.quota(row(), 8) == 1
    assert places.quota(row(), 0) == 0


def test_every_place_comes_back():
    places = Places(BOUNDS)
    slow = row(proven=False)
    place = places.take(slow, 0)
    places.note("w", SLOW + 1)  # what it is called meanwhile changes nothing
    places.give_back(place)
    assert places.taken == 0
    assert places.quota(row(proven=True), 8) == 2


def test_what_is_to_be_cancelled_waits_for_no_gate_and_no_bound():
    places = Places(BOUNDS)
    for _ in range(2):
        places.take(row(), 0)
    over = row(gated=True, state="disabled")
    assert places.choose([over], 8, now=0).take == [over]


class TestBytes:
    """Bodies are bounded by what they weigh, not by their number alone."""

    BOUNDS = Bounds(all=8, webhook=8, host=8, owner=8, bytes=100)

    def test_what_does_not_fit_stays_in_line_with_all_behind_it(self):
        line = [row(size=60), row(size=41), row(size=1)]
        chosen = Places(self.BOUNDS).choose(line, 8, now=0)
        assert chosen.take == line[:1]
        assert chosen.hold == []

    def test_one_that_is_larger_than_all_goes_alone(self):
        places = Places(self.BOUNDS)
        line = [row(size=500), row(size=1)]
        assert places.choose(line, 8, now=0).take == line[:1]
        assert places.choose(line[1:], 8, now=0).take == []

    def test_an_end_makes_room_for_who_waited(self):
        places = Places(self.BOUNDS)
        place = places.take(row(size=100), 0)
        assert places.give_back(place)
        assert len(places.choose([row(size=100)], 8, now=0).take) == 1

    def test_what_was_held_back_is_taken_as_far_as_it_fits(self):
        places = Places(self.BOUNDS)
        rows = [row(size=500), row(size=1)]
        assert list(places.within_bytes(rows)) == rows[:1]
        places.take(row(size=90), 0)
        assert len(list(places.within_bytes([row(size=10), row(size=1)]))) == 1
