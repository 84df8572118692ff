"""One odd member of a set keeps no other waiting: the set is halved until that one stands alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

Member = TypeVar("Member")


def apart(
    members: Sequence[Member],
    work: Callable[[Sequence[Member]], None],
    alone: Callable[[Member, Exception], None],
    may_be_of_one: Callable[[Exception], bool],
) -> None:
    """Do a work for all members of a set, in order, and for as few of them together as it takes.

    :param work: done for a set, or not at all where it raises
    :param alone: called with each member for which it fails, and with the error; what it
        raises is raised when the others had their turn
    :param may_be_of_one: tells whether an error may be due to a single member; any
        other would come with every half, and is raised
    """
    if not members:
        return
    try:
        work(members)
    except Exception as error:
        if not may_be_of_one(error):
            raise
        if len(members) == 1:
            alone(members[0], error)
            return
    else:
        return
    half = len(members) // 2
    try:
        apart(members[:half], work, alone, may_be_of_one)
    finally:
        apart(members[half:], work, alone, may_be_of_one)
