"""What came of attempts is written down beside the driver, which goes on sending meanwhile."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait

from .. import logs
from ..model.base import may_be_of_one
from .attempt import Attempted

log = logs.logger(__name__)

# Attempts of one set: some 10 ms of PostgreSQL's time.
MOST_AT_ONCE = 500
# What ends within so long (seconds) is one set: nobody waits for it, and a set of one
# costs PostgreSQL and this process nearly as much as one of ten.
GATHER = 0.02
# With so many that are not written down yet, nothing more is claimed.
_BEHIND = 4 * MOST_AT_ONCE
# While the database is away, it is tried again so often (seconds).
_TRY_EVERY = 1.0

_thread = ThreadPoolExecutor(1, thread_name_prefix="webhooks-books")


class Books:
    """Attempts that are yet to be written down, the oldest first.

    :param write: writes a set
    :param written: called in another thread when one was, or could not be
    """

    def __init__(
        self, write: Callable[[Sequence[Attempted]], None], written: Callable[[], None]
    ) -> None:
        self._write = write
        self._written = written
        self._open: list[Attempted] = []
        self._writing: Future[None] | None = None
        self._count = 0  # of those that are being written
        self._suspects = 0  # so many of the first hold one that cannot be written
        self._try_at = 0.0
        self.is_database_away = False

    def add(self, attempted: Attempted) -> None:
        if not self._open:
            self._try_at = max(self._try_at, time.monotonic() + GATHER)
        self._open.append(attempted)

    @property
    def is_empty(self) -> bool:
        return not self._open and self._writing is None

    @property
    def is_behind(self) -> bool:
        return self.is_database_away or len(self._open) >= _BEHIND

    @property
    def _together(self) -> int:
        """How many are written as one set at most: halved until the one stands alone."""
        return max(1, self._suspects // 2) if self._suspects else MOST_AT_ONCE

    def turn(self) -> float | None:
        """Take what came of one set, and begin the next.

        :returns: in how many seconds to call again; None where there is nothing to
            do before more is added or a set was written
        """
        if self._writing is not None:
            if not self._writing.done():
                return None
            self._take(self._writing)
        if not self._open:
            return None
        is_full = len(self._open) >= self._together and not self.is_database_away
        if not is_full and (wait := self._try_at - time.monotonic()) > 0:
            return wait
        some = self._open[: self._together]
        self._count = len(some)
        self._writing = _thread.submit(self._write, some)
        self._writing.add_done_callback(lambda _: self._written())
        return None

    def finish(self) -> None:
        """Write down what there is, for a drive that cannot go on, unless that fails, too."""
        while not self.is_empty and not self.is_database_away:
            self._try_at = 0.0
            self.turn()
            if self._writing is not None:
                wait((self._writing,))

    def _take(self, written: Future[None]) -> None:
        self._writing = None
        error = written.exception()
        self.is_database_away = error is not None and not may_be_of_one(error)
        if error is None:
            del self._open[: self._count]
            self._suspects = max(0, self._suspects - self._count)
            self._try_at = time.monotonic() + GATHER
        elif self.is_database_away:
            # What was learnt is kept.
            self._try_at = time.monotonic() + _TRY_EVERY
            log.error(
                "webhooks [%s]: %d attempts cannot be written down yet; trying again."
                " Is PostgreSQL reachable from the worker?",
                uuid.uuid4(),
                len(self._open),
                exc_info=error,
            )
        elif self._count > 1:
            self._suspects = self._count
        else:
            self._suspects = 0
            alone = self._open.pop(0)
            log.error(
                "webhooks [%s]: what came of delivery %s cannot be written down, so that it is"
                " sent again when its lease is over. Please report this with the lines below.",
                uuid.uuid4(),
                alone.delivery.id,
                exc_info=error,
            )
