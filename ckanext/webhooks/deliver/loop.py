"""Keeping many deliveries under way in one process.

One thread of a process drives: it claims, starts and settles in sets, and
an engine waits for the endpoints. A slow endpoint occupies a few of its
places, never the driver.
"""

from __future__ import annotations

import itertools
import json
import threading
import time
import uuid
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from typing import Any, NamedTuple

from ckan import model

from .. import config, encryption, logs, owners
from ..apart import apart
from ..model import WebhookState, connected
from ..model.base import may_be_of_one
from ..topics import PING
from ..visibility import OwnerLabels, Replaced, Sending
from . import aside, message, settle, signing, transport, withheld
from .attempt import Attempted, Outcome, Request
from .books import Books
from .claim import LEASE_MARGIN, Claimed, claim, told_under
from .lease import Due
from .logged import Logged, replaced
from .places import Bounds, Place, Places

log = logs.logger(__name__)

# While nothing ends and nobody wakes the driver, it looks for due rows so often.
_LOOK_EVERY = 1.0
# Deliveries of one claim: some 50 ms of work, for which whatever comes meanwhile
# waits. What they refer to is in memory at once.
_MOST_AT_ONCE = 500
# After so many starts, what has been started is sent and what has ended is taken: a
# handle that is used again at once is still in the processor's cache.
_STARTED_TOGETHER = 50
# So many are superseded in one transaction: dispatch waits for it, and what is under way.
_SUPERSEDED_TOGETHER = 50

# No two requests of this process have one key: what an engine gives back belongs to no other.
_keys = itertools.count()
_driving = threading.Lock()
_wanted = threading.Event()
# Kept from one drive to the next, with its connections.
_engine: transport.Engine | None = None
_engine_settings: tuple[transport.Settings, int] | None = None


# Tells webhooks how that is now which some deliveries, by their ids, may not tell any more; gives
# those that may end.
Telling = Callable[[Sequence[int]], Collection[int]]


def deliver_due(tell_newest: Telling, stopping: Callable[[], bool] = lambda: False) -> int:
    """Send what is due, until nothing is due or under way.

    Where another thread of this process is already at it, that one is made
    to look again, and this call returns at once.

    :param tell_newest: called before deliveries end whose content may not be published any more
    :param stopping: asked now and then; when true, nothing more is claimed
        and what is under way is finished
    :returns: how many attempts were made
    """
    made = 0
    _wanted.set()
    while _wanted.is_set():
        if not _driving.acquire(blocking=False):
            engine = _engine
            if engine is not None:
                engine.wake()
            return made
        try:
            _wanted.clear()
            made += _Drive(tell_newest, stopping).run()
        finally:
            _driving.release()
    return made


def _opened_engine() -> tuple[transport.Engine, transport.Settings]:
    """Give the engine for the settings of now, and these."""
    global _engine, _engine_settings
    wanted = (
        transport.Settings(tuple(config.allowed_networks()), config.proxy(), config.ca_bundle()),
        config.max_in_flight(),
    )
    if _engine is None or _engine_settings != wanted:
        _close_engine()
        _engine, _engine_settings = transport.open_engine(*wanted), wanted
    return _engine, wanted[0]


def _close_engine() -> None:
    """Close the engine, and with it what is under way; the next drive opens another."""
    global _engine, _engine_settings
    engine, _engine, _engine_settings = _engine, None, None
    if engine is not None:
        # One that is broken may not even close: it is left behind all the same.
        with suppress(Exception):
            engine.close()


def _bounds(all_: int) -> Bounds:
    # No host and no owner has more than half, where nothing else is said.
    half = max(1, all_ // 2)
    return Bounds(
        all_,
        config.max_in_flight_per_webhook(),
        config.max_in_flight_per_host() or half,
        config.max_in_flight_per_owner() or half,
    )


class _UnderWay(NamedTuple):
    """A request that was started.

    :param until: when its lease ends, as PostgreSQL writes it
    :param sent_at: seconds since 1970, by PostgreSQL's clock
    :param started: by this process's clock
    :param confidential: what is not kept of its answer
    """

    delivery: Due
    until: str
    sent_at: int
    started: float
    place: Place
    confidential: list[str]


class _Rights(NamedTuple):
    """What the owners of a set of deliveries may see.

    :param standing: each owner, by the user's id
    :param since: since when those have had their labels who are told something again, or
        something that is older than a right
    :param replaced: by event id, how much of that something newer has replaced
    """

    standing: Mapping[str, owners.Owner]
    since: Mapping[str, owners.Since]
    replaced: Mapping[str, Replaced]


class _Known(NamedTuple):
    """What is known of a set before it is sent.

    :param failed: by delivery id, why that could not be had for a delivery
    """

    rights: _Rights
    failed: Mapping[int, Exception]


class _Ends(NamedTuple):
    """What of a set is not sent.

    :param cancelled: by delivery id, why it is not to be sent at all
    :param unsent: those that their owners may not see now, and those that were replaced
        before their owners could see them
    :param failed: by delivery id, what prevented it, which is no endpoint's fault
    """

    cancelled: dict[int, str]
    unsent: dict[Sending, list[Due]]
    failed: dict[int, Exception]


class _Drive:
    """One run of the driver: what is under way, and what is yet to be settled.

    One that ends by an exception leaves nothing behind: what it had under way is given up
    and comes due again when its lease is over.
    """

    def __init__(self, tell_newest: Telling, stopping: Callable[[], bool]) -> None:
        self.tell_newest = tell_newest
        self.stopping = stopping
        self.engine, self.settings = _opened_engine()
        self.timeout = config.timeout()
        self.schedule = config.retry_schedule()
        self.disable_after = config.disable_after()
        self.keys = tuple(config.secret_keys())
        self.site_url = config.site_url()
        self.places = Places(_bounds(self.engine.places))
        self.under_way: dict[int, _UnderWay] = {}
        self.books = Books(self._settle, self.engine.wake)
        # Whether more may be due than was claimed, or has a place now.
        self.more = True
        self.is_crowded = False
        self.next_look = 0.0
        self.made = 0

    def run(self) -> int:
        try:
            return self._run()
        except BaseException:
            if self.under_way:
                _close_engine()
            self.books.finish()
            raise

    def _run(self) -> int:
        while True:
            # The last look comes after the last settlement, which may have made something due.
            self.books.turn()
            found = self._start()
            if not found and self._is_idle:
                return self.made
            again = self.books.turn()
            if self.more and self._may_claim():
                self._collect(0)
            else:
                self._collect(_LOOK_EVERY if again is None else min(again, _LOOK_EVERY))
            self._check_engine()

    def _start(self) -> int:
        """Claim what there is room for, and start it."""
        if not self._may_claim() or not self._has_reason():
            return 0
        _wanted.clear()
        self.more = False
        self.next_look = time.monotonic() + _LOOK_EVERY
        try:
            count = min(self.places.room, _MOST_AT_ONCE)
            claimed = claim(count, self.places, self.timeout, self.is_crowded)
            if claimed is None:
                return 0
            known = _rights_of_all(claimed)
        except Exception:
            self._put_off()
            if self._is_idle:
                raise
            return 0
        self.more, self.is_crowded = claimed.more, claimed.is_crowded
        ends = self._send_all(claimed, known)
        try:
            self._end(claimed, ends)
        except Exception:
            self._put_off()
        return len(claimed.deliveries)

    @property
    def _is_idle(self) -> bool:
        return not self.under_way and self.books.is_empty

    def _put_off(self) -> None:
        """Finish what is under way, where something cannot be asked or said now.

        What was leased for it is due again when the lease is over.
        """
        model.Session.rollback()
        log.exception(
            "webhooks [%s]: some of what is due is not sent now, and is tried again in some"
            " seconds. If it goes on, look at PostgreSQL, at plugins that implement"
            " IPermissionLabels, and at the lines below.",
            uuid.uuid4(),
        )

    def _may_claim(self) -> bool:
        return self.places.room > 0 and not self.books.is_behind and not self.stopping()

    def _has_reason(self) -> bool:
        """That something ended is none, unless something waited for its place.

        What came of it is written down first, and then is the last look.
        """
        return self._is_idle or self.more or _wanted.is_set() or time.monotonic() >= self.next_look

    def _collect(self, seconds: float) -> None:
        """Wait until something ended or somebody calls, and take all there is."""
        untaken: dict[int, Exception] = {}
        for key, outcome in self.engine.wait(seconds):
            ended = self.under_way.pop(key, None)
            if ended is None:
                continue  # it could not be started, as the engine said, and was all the same
            self.more = self.places.give_back(ended.place) or self.more
            try:
                self._take(ended, outcome)
            except Exception as error:
                # What else ended is in no list but this one.
                untaken[ended.delivery.id] = error
        for delivery_id, why in untaken.items():
            aside.put_aside(delivery_id, why)

    def _take(self, ended: _UnderWay, outcome: Outcome) -> None:
        self.places.note(ended.delivery.webhook_id, outcome.duration)
        kept = withheld.withhold(outcome, ended.confidential)
        self.books.add(Attempted(ended.delivery, ended.until, ended.sent_at, kept))
        self.made += 1

    def _check_engine(self) -> None:
        """See that what was started ends: the oldest is the first.

        :raises RuntimeError: it did not, and its lease is over, so that others may have it
        """
        for oldest in self.under_way.values():
            if time.monotonic() - oldest.started > self.timeout + LEASE_MARGIN:
                raise RuntimeError(f"the {self.engine.name} engine does not end a request")
            return

    def _settle(self, attempted: Sequence[Attempted]) -> None:
        settle.settle(attempted, self.schedule, self.disable_after)

    def _send_all(self, claimed: Claimed, known: _Known) -> _Ends:
        """Decide what of each delivery may still be sent, and start that."""
        entities: dict[tuple[str, Sending], str] = {}
        decided: dict[tuple[str, str, str, bool], Sending | None] = {}
        ends = _Ends({}, {Sending.NOTHING: [], Sending.NEWEST: []}, dict(known.failed))
        late = 0
        for number, delivery in enumerate(claimed.deliveries, 1):
            if number % _STARTED_TOGETHER == 0:
                self._collect(0)
            if delivery.id in ends.failed:
                continue
            event = claimed.events.get(delivery.event_id)
            try:
                reason = _refusal(delivery, event, known.rights.standing)
                if reason is not None:
                    ends.cancelled[delivery.id] = reason
                    continue
                what = _decided(delivery, event, known.rights, decided)
                if what is None:
                    continue  # the lease keeps it waiting
                elif what in ends.unsent:
                    ends.unsent[what].append(delivery)
                elif claimed.is_over():
                    late += 1
                else:
                    self._send(claimed, delivery, what, entities)
            except Exception as error:
                if delivery.topic == PING:  # somebody waits for what comes of it
                    self._note_failure(claimed, delivery, error)
                elif not isinstance(error, transport.NobodyTrusted):  # the lease keeps it waiting
                    ends.failed[delivery.id] = error
        if late:
            self.more = True
            _log_late(late, claimed.seconds)
        return ends

    def _end(self, claimed: Claimed, ends: _Ends) -> None:
        """End what is not to be sent, and put aside what cannot be.

        Of those with nothing to be sent the owner lost rights a moment ago. Where nobody has
        noticed yet, dispatch will tell what that means, and the lease keeps them waiting until
        then. The others end, and what is to be told in their place is told before.
        """
        for delivery_id, error in ends.failed.items():
            aside.put_aside(delivery_id, error)
        settle.cancel(ends.cancelled)
        superseded = [delivery.id for delivery in ends.unsent[Sending.NEWEST]]
        apart(
            ends.unsent[Sending.NOTHING],
            lambda some: superseded.extend(_said_otherwise(claimed, some)),
            lambda delivery, error: aside.put_aside(delivery.id, error),
            may_be_of_one,
        )
        for first in range(0, len(superseded), _SUPERSEDED_TOGETHER):
            some = superseded[first : first + _SUPERSEDED_TOGETHER]
            apart(some, self._supersede, aside.put_aside, may_be_of_one)
            self._collect(0)
        unsent = {*ends.cancelled, *superseded, *ends.failed}
        probing = {d.webhook_id for d in claimed.deliveries if d.is_gated and d.id in unsent}
        settle.probe_again(probing)
        # What is told instead is due at once.
        self.more = self.more or bool(superseded or probing)

    def _supersede(self, delivery_ids: Sequence[int]) -> None:
        may_end = self.tell_newest(delivery_ids)
        settle.cancel(dict.fromkeys(may_end, "superseded"))
        aside.wait_for_changes(set(delivery_ids) - set(may_end))

    def _send(
        self,
        claimed: Claimed,
        delivery: Due,
        what: Sending,
        entities: dict[tuple[str, Sending], str],
    ) -> None:
        """Write, sign and start one.

        :raises Exception: it cannot be written or signed, which is no endpoint's fault
        """
        transport.check_trust(delivery.url, self.settings)
        event = claimed.events.get(delivery.event_id)
        sent_at = int(claimed.now())
        if event is None:
            body = self._ping(delivery)
        else:
            body = self._body(delivery, event.row, what, entities)
        custom = self._custom_headers(delivery)
        confidential = withheld.confidential(custom)
        request = self._request(delivery, body, custom, sent_at)
        key, now = next(_keys), time.monotonic()
        until = claimed.until[delivery.id]
        place = self.places.take(delivery, now)
        try:
            self.engine.start(key, request)
        except Exception as error:
            self.places.give_back(place)
            self._note_failure(claimed, delivery, error)
            return
        self.under_way[key] = _UnderWay(delivery, until, sent_at, now, place, confidential)

    def _note_failure(self, claimed: Claimed, delivery: Due, error: Exception) -> None:
        outcome = Outcome(error=_log_failure(delivery, error))
        until = claimed.until[delivery.id]
        self.books.add(Attempted(delivery, until, int(claimed.now()), outcome))

    def _ping(self, delivery: Due) -> bytes:
        return message.ping(
            delivery.event_id,
            delivery.created_at,
            self.site_url,
            delivery.address,
            delivery.webhook_id,
            delivery.user_id,
            delivery.format,
            delivery.challenge,
        )

    def _body(
        self, delivery: Due, event: Any, what: Sending, entities: dict[tuple[str, Sending], str]
    ) -> bytes:
        """Write a body.

        :param entities: what was written of the set's entities so far
        """
        key = (event.id, what)
        if key not in entities:
            entities[key] = message.entity_of(event, what)
        facts = message.facts_of(
            event, delivery, delivery.user_id, self.site_url, what, entities[key]
        )
        return message.compose(facts, delivery.format)

    def _request(self, delivery: Due, body: bytes, custom: dict[str, str], sent_at: int) -> Request:
        tokens = [delivery.secret]
        if delivery.previous_secret:
            tokens.append(delivery.previous_secret)
        secrets = [encryption.decrypt_again(token, self.keys) for token in tokens]
        headers = message.headers(delivery.format, custom)
        headers.update(signing.headers(delivery.event_id, sent_at, body, secrets))
        return Request(delivery.url, headers, body, self.timeout)

    def _custom_headers(self, delivery: Due) -> dict[str, str]:
        if not delivery.headers:
            return {}
        found: dict[str, str] = json.loads(encryption.decrypt_again(delivery.headers, self.keys))
        return found


def _refusal(delivery: Due, event: Logged | None, standing: Mapping[str, Any]) -> str | None:
    """Say why a delivery is not to be sent at all, or None."""
    is_ping = delivery.topic == PING
    # A ping is sent whatever the state: a person asked for it.
    if delivery.user_id is None or not (is_ping or delivery.state == WebhookState.ACTIVE.value):
        return "the webhook is not active"
    if event is None and not is_ping:
        return "the event is not in the log any more"
    if is_ping and not standing[delivery.user_id].exists:
        return "the owner is not an active user any more"
    return None


def _rights_of_all(claimed: Claimed) -> _Known:
    """Ask what the owners of a set may see; one who cannot be asked for keeps no other waiting."""
    parts: list[_Rights] = []
    failed = {
        delivery.id: claimed.unread[delivery.event_id]
        for delivery in claimed.deliveries
        if delivery.event_id in claimed.unread
    }

    def fail(delivery: Due, error: Exception) -> None:
        failed[delivery.id] = error

    apart(
        [delivery for delivery in claimed.deliveries if delivery.id not in failed],
        lambda some: parts.append(_rights(some, claimed.events)),
        fail,
        may_be_of_one,
    )
    return _Known(
        _Rights(
            {id_: owner for part in parts for id_, owner in part.standing.items()},
            {id_: since for part in parts for id_, since in part.since.items()},
            {id_: how_much for part in parts for id_, how_much in part.replaced.items()},
        ),
        failed,
    )


def _rights(deliveries: Sequence[Due], events: Mapping[str, Logged]) -> _Rights:
    """Ask what the owners of some deliveries may see."""
    # That is said by the events, in the statement that read them.
    is_noted = not events or any(event.row.is_noted for event in events.values())
    old = [
        delivery
        for delivery in deliveries
        if (event := events.get(delivery.event_id)) and event.is_old(delivery)
    ]
    return _Rights(
        owners.standing({d.user_id for d in deliveries if d.user_id}, None if is_noted else ()),
        owners.since({delivery.user_id for delivery in old}),
        _replaced({delivery.event_id for delivery in old}),
    )


def _decided(
    delivery: Due,
    event: Logged | None,
    rights: _Rights,
    known: dict[tuple[str, str, str, bool], Sending | None],
) -> Sending | None:
    """Say what of a delivery may be sent now, None where that is not known.

    Nothing is known of events for who is no active user any more: the sweep cancels what waits,
    and notes from when on it was missed. Who comes back before that has missed nothing.

    :param known: what was decided of the set so far: one owner's webhooks are told the same
    """
    if event is None:  # a ping, which says nothing of any dataset
        return Sending.CONTENT
    if not rights.standing[delivery.user_id].exists:
        return None
    is_again = event.is_told_again(delivery)
    key = (delivery.event_id, delivery.topic, delivery.user_id, is_again)
    if key not in known:
        known[key] = _may_send(delivery, event, rights, is_again)
    return known[key]


def _may_send(delivery: Due, event: Logged, rights: _Rights, is_again: bool) -> Sending | None:
    labels = rights.standing[delivery.user_id].labels
    if labels is None:
        return None
    if not (is_again or event.is_older_than_a_right):
        return _sending(delivery, event, labels)
    verb = delivery.topic.split("/")[1]
    since, replaced = rights.since[delivery.user_id], rights.replaced[delivery.event_id]
    return event.sending_old(verb, labels, since, replaced, is_again)


def _said_otherwise(claimed: Claimed, deliveries: Sequence[Due]) -> list[int]:
    """Name those of which what the owner is told, or is being told, says it already."""
    if not deliveries:
        return []
    labels = told_under({d.user_id for d in deliveries})
    return [
        d.id
        for d in deliveries
        if _sending(d, claimed.events[d.event_id], labels.get(d.user_id, frozenset()))
        is Sending.NOTHING
    ]


def _log_failure(delivery: Due, error: Exception) -> str:
    """Log what no endpoint is to blame for, and say it in words for the attempt."""
    log.exception(
        "webhooks [%s]: delivery %s could not be sent and is tried again later",
        uuid.uuid4(),
        delivery.id,
    )
    return f"{type(error).__name__}: {error}"


def _log_late(count: int, lease: float) -> None:
    log.warning(
        "webhooks [%s]: %d deliveries are not sent, since their lease is over; whoever claims"
        " them next sends them. Was this worker stopped, or does PostgreSQL take more than"
        " %g s to answer it?",
        uuid.uuid4(),
        count,
        lease,
    )


def _replaced(event_ids: Collection[str]) -> Mapping[str, Replaced]:
    if not event_ids:
        return {}
    with connected() as connection:
        return replaced(connection, event_ids)


def _sending(delivery: Due, event: Logged, labels: OwnerLabels) -> Sending:
    return event.sending(delivery.topic.split("/")[1], labels)
