"""Of what waits, only the newest state of each entity: a decision, no I/O."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Coalesced:
    """
    :param take: rows to be sent, each with the topic that says what came of
        it and of the older ones, and how many these are
    :param cancel: rows that are not to be sent
    """

    take: list[tuple[Any, str, int]] = field(default_factory=list)
    cancel: list[Any] = field(default_factory=list)


def coalesce(rows: Sequence[Any], count: int) -> Coalesced:
    """Choose what to send of what waits for one webhook.

    The entities take their turns by their oldest rows; what is sent is the
    newest of each. What came and went meanwhile is not told at all.

    :param rows: with entity (None where it is not known), topic and tries;
        the oldest first
    :param count: at most so many
    """
    found = Coalesced()
    for group in _by_entity(rows):
        if len(found.take) == count:
            break
        *older, newest = group
        topic = _net_topic(group)
        if topic is None:
            found.cancel.extend(group)
            continue
        found.take.append((newest, topic, len(older)))
        found.cancel.extend(older)
    return found


def _by_entity(rows: Sequence[Any]) -> list[list[Any]]:
    groups: dict[Any, list[Any]] = {}
    for index, row in enumerate(rows):
        groups.setdefault(index if row.entity is None else row.entity, []).append(row)
    return list(groups.values())


def _net_topic(group: Sequence[Any]) -> str | None:
    """Say what several changes of one entity come to; None for nothing.

    An attempt may have arrived although its answer did not: what was tried
    is taken as known.
    """
    first, last = group[0], group[-1]
    if len(group) == 1:
        return str(last.topic)
    kind, verb = last.topic.split("/")
    is_new = first.topic.endswith("/create") and not first.tries
    if is_new and verb == "delete":
        return None if all(row.tries == 0 for row in group) else str(last.topic)
    return f"{kind}/create" if is_new and verb == "update" else str(last.topic)
