"""One run: all is broken as the schedule says, left to come to rest, and judged."""

from __future__ import annotations

import contextlib
import datetime
import time
from collections.abc import Callable, Collection, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import psutil
import psycopg2

from bench.chaos import writer
from bench.chaos.faults import BREAKING, LOSE_ANSWERS
from bench.chaos.ledger import Balance, Disturbance, Receipt, balance, first_after
from bench.chaos.schedule import Moment
from bench.chaos.stand import WORKERS, Database, Stand, await_ready, standing
from ckanext.webhooks.tests.site import Process, SiteError

# As many saves a second as leave two cores some room for what is started anew.
WRITERS, RATE = 3, 1.0
# Seconds in which all must have come to rest when nothing is broken any more: the
# last tries of stand.SCHEDULE, and the longest pauses of an endpoint's circuit.
REST = 300.0


@dataclass(frozen=True)
class Happened:
    """A moment as it was.

    :ivar began, ended: seconds since 1970
    :ivar failed: why a fault did not come about, empty where it did
    """

    moment: Moment
    began: float
    ended: float
    failed: str = ""

    def __str__(self) -> str:
        began = datetime.datetime.fromtimestamp(self.began)
        line = f"{began:%H:%M:%S}  {self.ended - self.began:5.1f} s  {self.moment}"
        return f"{line}  DID NOT COME ABOUT: {self.failed}" if self.failed else line


@dataclass(frozen=True)
class Result:
    """What a run is judged by.

    :ivar first: by moment, seconds from its end to the first delivery
    :ivar caught_up: by moment, seconds from its end until all that waited then had ended
    :ivar deaths: what died by itself and was started again, and when
    :ivar rested: seconds until nothing was under way, None where that never came
    """

    happened: list[Happened]
    first: list[float | None]
    caught_up: list[float | None]
    balance: Balance
    outcomes: list[writer.Outcome]
    deaths: list[tuple[str, float]]
    rested: float | None


def run(
    folder: Path,
    moments: Sequence[Moment],
    database: Database | None,
    before: Path | None,
    said: Callable[[str], None],
    rest: float = REST,
    plant: str = "",
    workers: int = WORKERS,
    writers: int = WRITERS,
) -> Result:
    """Run a schedule.

    :param said: is given a line after each moment
    :param rest: seconds in which all must have come to rest at the end
    :param plant: a safeguard that the workers are without: see plants
    :raises SiteError: something does not even start
    """
    with standing(folder, database, before, plant=plant, workers=workers) as stand:
        writing = [stand.start_writer(number, RATE) for number in range(1, writers + 1)]
        happened = []
        _await_writing(writing)
        try:
            for moment in moments:
                happened.append(_break(stand, moment))
                said(str(happened[-1]))
            time.sleep(moments[-1].pause)
        finally:
            for process in writing:
                process.kill()
        _compare(stand)
        rested = _come_to_rest(stand, rest)
        receipts = stand.receipts()
        return Result(
            happened,
            [first_after(receipts, h.ended) for h in happened],
            [stand.tables.caught_up(h.ended) for h in happened],
            _balance(stand, receipts, happened),
            [o for process in writing for o in writer.read(process.log.with_suffix(".jsonl"))],
            stand.supervisor.deaths,
            rested,
        )


def _break(stand: Stand, moment: Moment) -> Happened:
    time.sleep(moment.pause)
    # What the last moment did is over, or it would be measured with this one.
    for name in stand.supervisor.names("worker"):
        await_ready(stand.supervisor, name)
    began, failed = time.time(), ""
    try:
        with ExitStack() as stack:
            for name in moment.faults:
                stack.enter_context(BREAKING[name](stand, moment.draw))
            time.sleep(moment.lasts)
    except (SiteError, OSError, psutil.Error, psycopg2.Error) as error:
        failed = f"{type(error).__name__}: {error}"
    return Happened(moment, began, time.time(), failed)


def _await_writing(writing: Collection[Process], timeout: float = 120.0) -> None:
    """Wait until each writer has saved something, as a short run may be over before that.

    :raises SiteError: one has not in so many seconds
    """
    deadline = time.monotonic() + timeout
    for process in writing:
        while not writer.read(process.log.with_suffix(".jsonl")):
            if time.monotonic() > deadline or not process.alive:
                raise process.error("saved nothing")
            time.sleep(0.1)


def _compare(stand: Stand) -> None:
    """Start a worker anew, which compares log and catalogue, as one does hourly.

    The others are to go on with what they hold, whatever has befallen them.
    """
    first, *_others = stand.supervisor.names("worker")
    stand.supervisor.start_anew(first)
    await_ready(stand.supervisor, first)


def _come_to_rest(stand: Stand, rest: float) -> float | None:
    """Give the seconds until nothing is under way, None where that never comes."""
    began = time.monotonic()
    quiet = 0
    # Thrice: what is found in comparing may come a little later.
    while quiet < 3:
        if time.monotonic() - began > rest:
            return None
        time.sleep(1)
        with contextlib.suppress(psycopg2.Error):
            quiet = 0 if stand.tables.under_way() else quiet + 1
    return time.monotonic() - began


def _balance(stand: Stand, receipts: Sequence[Receipt], happened: Sequence[Happened]) -> Balance:
    disturbances = [
        Disturbance(name, h.began, h.ended)
        for h in happened
        for name in h.moment.faults
        if name in LOSE_ANSWERS
    ]
    disturbances += [
        Disturbance(f"{name} died by itself", at, at)
        for name, at in stand.supervisor.deaths
        if name not in ("web", "redis")
    ]
    return balance(
        stand.tables.marks(),
        stand.tables.memberships(),
        stand.tables.events(),
        list(stand.subscribers.values()),
        stand.tables.deliveries(),
        receipts,
        disturbances,
    )
