"""How many requests one process has under way, and for whom: no I/O.

What one webhook, one host or one owner may take is bounded, and the last
places are kept for endpoints that are known to answer quickly: whatever
others do, these are served at once.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from ..topics import PING

# What is at its bound for so long (seconds) without any end is stuck: what
# waits for it is held back. Before that it may go in a moment.
PATIENCE = 0.25
# A webhook whose last attempt took longer than that (seconds) is slow.
SLOW = 1.0
# This share of all places is for webhooks that succeeded last and are not slow.
KEPT_FOR_QUICK = 0.25
# So many slow ones are remembered; then those that were noticed first go.
_MOST_SLOW = 10_000

# What is bounded, and for whom: ("webhook", id), ("all", "").
Key = tuple[str, str]
Place = tuple[Key, ...]


@dataclass(frozen=True)
class Bounds:
    """The most requests under way: in all, and for one webhook, host, owner."""

    all: int
    webhook: int
    host: int
    owner: int

    def of(self, key: Key) -> int:
        if key[0] == "unproven":
            return self.all - int(self.all * KEPT_FOR_QUICK)
        return int(getattr(self, key[0]))


@dataclass(frozen=True)
class Chosen:
    """What becomes of rows that are due; the others stay in line.

    :param take: to be sent now
    :param hold: to be held back
    """

    take: list[Any]
    hold: list[Any]


class Places:
    """The requests under way in this process.

    Its rows are deliveries with ``webhook_id``, ``host``, ``user_id`` and
    ``is_proven``: whether the webhook's last attempt succeeded.
    """

    def __init__(self, bounds: Bounds) -> None:
        self.bounds = bounds
        self._taken: Counter[Key] = Counter()
        self._full_since: dict[Key, float] = {}
        self._slow: dict[str, None] = {}

    @property
    def taken(self) -> int:
        return self._taken[("all", "")]

    @property
    def room(self) -> int:
        return self.bounds.all - self.taken

    def take(self, row: Any, now: float) -> Place:
        """Take a place, which is to be given back.

        :param now: seconds of any clock that only goes forward
        """
        place = self._place(row)
        for key in place:
            self._taken[key] += 1
            if self._taken[key] >= self.bounds.of(key):
                self._full_since.setdefault(key, now)
        return place

    def give_back(self, place: Place) -> bool:
        """Give a place back; true where somebody may have waited for it."""
        was_full = False
        for key in place:
            was_full = self._full_since.pop(key, None) is not None or was_full
            self._taken[key] -= 1
            if not self._taken[key]:
                del self._taken[key]
        return was_full

    def note(self, webhook_id: str, duration: float) -> None:
        """Remember how long a webhook's last attempt took (seconds)."""
        self._slow.pop(webhook_id, None)
        if duration > SLOW:
            self._slow[webhook_id] = None
            if len(self._slow) > _MOST_SLOW:
                del self._slow[next(iter(self._slow))]

    def choose(self, rows: Iterable[Any], count: int, now: float) -> Chosen:
        """Say which of the rows that are due are to be sent now, and which held back.

        Their places are taken: a claim does so on a :meth:`copy`, since it may
        get less. A row that is ``is_gated`` has a webhook that takes what it
        gets by a clock of its own. A ping is asked for by somebody who waits.

        :param rows: the oldest first
        :param count: at most so many
        """
        chosen = Chosen([], [])
        for row in rows:
            if len(chosen.take) == count:
                break
            full = self._full(row)
            if row.topic == PING or not (row.is_gated or full):
                self.take(row, now)
                chosen.take.append(row)
            elif row.is_gated or any(self._is_in_the_way(key, now) for key in full):
                chosen.hold.append(row)
        return chosen

    def quota(self, row: Any, count: int) -> int:
        """Give how many of one webhook's deliveries may be taken, of ``count``."""
        free = min(self.bounds.of(key) - self._taken[key] for key in self._place(row))
        return max(0, min(count, free))

    def full(self, kind: str) -> list[str]:
        """Name those of a kind that are at their bound."""
        return [name for found, name in self._full_since if found == kind]

    def slow(self) -> list[str]:
        """Name the slow webhooks."""
        return list(self._slow)

    def _place(self, row: Any) -> Place:
        place: Place = (
            ("all", ""),
            ("webhook", row.webhook_id),
            ("host", row.host or ""),
            ("owner", row.user_id or ""),
        )
        if row.is_proven and row.webhook_id not in self._slow:
            return place
        return (*place, ("unproven", ""))

    def _full(self, row: Any) -> list[Key]:
        return [k for k in self._place(row) if self._taken[k] >= self.bounds.of(k)]

    def _is_in_the_way(self, key: Key, now: float) -> bool:
        # What is behind others of its own webhook waits for these in any case.
        return key[0] == "webhook" or (
            key in self._full_since and now - self._full_since[key] >= PATIENCE
        )

    def copy(self) -> Places:
        copied = Places(self.bounds)
        copied._taken = Counter(self._taken)
        copied._full_since = dict(self._full_since)
        copied._slow = self._slow
        return copied
