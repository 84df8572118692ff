"""How many requests one process has under way, and for whom: no I/O.

What one webhook, one host or one owner may take is bounded, and the last
places are kept for endpoints that are known to answer quickly: whatever
others do, these are served at once.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

from ..topics import PING

# What is at its bound for so long (seconds) without any end is stuck: what
# waits for it is held back. Before that it may go in a moment.
PATIENCE = 0.25
# A webhook whose last attempt took longer than that (seconds) is slow.
SLOW = 1.0
# This share of all places is for webhooks that succeeded last and are not slow.
KEPT_FOR_QUICK = 0.25
# One that is neither slow nor unproven may have this many times as many under way as
# others: at 100 ms each, 8 would be 80 a second, two minutes for a harvest of 10,000.
MORE_FOR_QUICK = 4
# So many slow ones are remembered; then those that were noticed first go.
_MOST_SLOW = 10_000

# Of all bodies under way, where they are large: with what else a worker holds they
# leave it below 200 MB. One that is larger goes alone.
MOST_BYTES = 48 * 1024 * 1024

# What is bounded, and for whom: ("webhook", id), ("all", "").
Key = tuple[str, str]
_ALL = ("all", "")
_UNPROVEN = ("unproven", "")


class Place(NamedTuple):
    """What one request takes; ``size`` is the bytes of its body, about."""

    keys: tuple[Key, ...]
    size: int


@dataclass(frozen=True)
class Bounds:
    """The most requests under way: in all, and for one webhook, host, owner.

    :param webhook: of one that is slow or unproven; see :data:`MORE_FOR_QUICK`
    :param bytes: of their bodies
    """

    all: int
    webhook: int
    host: int
    owner: int
    bytes: int = MOST_BYTES

    @cached_property
    def by_kind(self) -> dict[str, int]:
        """Give the bounds of what has places, by the kind of its key."""
        return {
            "all": self.all,
            "webhook": self.webhook,
            "quick": self.webhook * MORE_FOR_QUICK,
            "host": self.host,
            "owner": self.owner,
            "unproven": self.all - int(self.all * KEPT_FOR_QUICK),
        }


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

    Its rows are deliveries with ``webhook_id``, ``host``, ``user_id``, ``size``
    and ``is_proven``: whether the webhook's last attempt succeeded.
    """

    def __init__(self, bounds: Bounds) -> None:
        self.bounds = bounds
        self._bound = bounds.by_kind
        self._taken: dict[Key, int] = {}
        self._full_since: dict[Key, float] = {}
        self._slow: dict[str, None] = {}
        self._bytes = 0

    @property
    def taken(self) -> int:
        return self._taken.get(_ALL, 0)

    @property
    def is_any_full(self) -> bool:
        return bool(self._full_since) or self._bytes >= self.bounds.bytes

    @property
    def room(self) -> int:
        return self.bounds.all - self.taken

    def take(self, row: Any, now: float) -> Place:
        """Take a place, which is to be given back.

        :param now: seconds of any clock that only goes forward
        """
        place = Place(self._keys(row), row.size)
        self._occupy(place, now)
        return place

    def _occupy(self, place: Place, now: float) -> None:
        self._bytes += place.size
        for key in place.keys:
            taken = self._taken.get(key, 0) + 1
            self._taken[key] = taken
            if taken >= self._bound[key[0]]:
                self._full_since.setdefault(key, now)

    def give_back(self, place: Place) -> bool:
        """Give a place back; true where somebody may have waited for it."""
        was_full = self._bytes >= self.bounds.bytes
        self._bytes -= place.size
        for key in place.keys:
            if key in self._full_since:
                del self._full_since[key]
                was_full = True
            taken = self._taken[key] - 1
            if taken:
                self._taken[key] = taken
            else:
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

        What is to be cancelled needs none.

        :param rows: the oldest first
        :param count: at most so many
        """
        chosen = Chosen([], [])
        for row in rows:
            if len(chosen.take) == count or not self._fits(row.size):
                break
            place = Place(self._keys(row), row.size)
            full = [k for k in place.keys if self._taken.get(k, 0) >= self._bound[k[0]]]
            if row.topic == PING or row.state != "active" or not (row.is_gated or full):
                self._occupy(place, now)
                chosen.take.append(row)
            elif row.is_gated or any(self._is_in_the_way(key, now) for key in full):
                chosen.hold.append(row)
        return chosen

    def within_bytes(self, rows: Iterable[Any]) -> Iterator[Any]:
        """Give rows, with their ``size``, as long as their bodies may all be under way."""
        left, goes_alone = self.bounds.bytes - self._bytes, not self._bytes
        for row in rows:
            left -= row.size
            if left < 0 and not goes_alone:
                return
            goes_alone = False
            yield row

    def _fits(self, size: int) -> bool:
        return not self._bytes or self._bytes + size <= self.bounds.bytes

    def quota(self, row: Any, count: int) -> int:
        """Give how many of one webhook's deliveries may be taken, of ``count``."""
        free = min(self._bound[key[0]] - self._taken.get(key, 0) for key in self._keys(row))
        return max(0, min(count, free))

    def full(self, *kinds: str) -> list[str]:
        """Name those of some kinds that are at their bound."""
        return [name for kind, name in self._full_since if kind in kinds]

    def slow(self) -> list[str]:
        """Name the slow webhooks."""
        return list(self._slow)

    def _keys(self, row: Any) -> tuple[Key, ...]:
        host, owner = ("host", row.host or ""), ("owner", row.user_id or "")
        if row.is_proven and row.webhook_id not in self._slow:
            return (_ALL, ("quick", row.webhook_id), host, owner)
        return (_ALL, ("webhook", row.webhook_id), host, owner, _UNPROVEN)

    def _is_in_the_way(self, key: Key, now: float) -> bool:
        # What is behind others of its own webhook waits for these in any case.
        return key[0] in ("webhook", "quick") or (
            key in self._full_since and now - self._full_since[key] >= PATIENCE
        )

    def copy(self) -> Places:
        copied = Places(self.bounds)
        copied._taken = dict(self._taken)
        copied._full_since = dict(self._full_since)
        copied._slow = self._slow
        copied._bytes = self._bytes
        return copied
