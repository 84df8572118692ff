"""Keeping many deliveries under way in one process.

One thread of a process drives: it claims, starts and settles in sets, and
an engine waits for the endpoints. A slow endpoint occupies a few of its
places, never the driver.
"""

from __future__ import annotations

import json
import logging
import threading
import time
import uuid
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from sqlalchemy.exc import SQLAlchemyError

from .. import config, encryption, owners
from ..model import WebhookState, connected
from ..topics import PING
from ..visibility import OwnerLabels, Sending
from . import message, settle, signing, transport, withheld
from .attempt import Attempted, Outcome, Request
from .books import Books
from .claim import Claimed, claim, told_under
from .lease import Due
from .logged import Logged, replaced
from .places import Bounds, Place, Places

log = logging.getLogger(__name__)

# While nothing ends and nobody wakes the driver, it looks for due rows so often.
_LOOK_EVERY = 1.0
# Deliveries of one claim: some 50 ms of work, for which whatever comes meanwhile
# waits. What they refer to is in memory at once.
_MOST_AT_ONCE = 500
# After so many starts, what has been started is sent and what has ended is taken: a
# handle that is used again at once is still in the processor's cache.
_STARTED_TOGETHER = 50

_driving = threading.Lock()
_wanted = threading.Event()
# Kept from one drive to the next, with its connections.
_engine: transport.Engine | None = None
_engine_settings: tuple[transport.Settings, int] | None = None


def deliver_due(stopping: Callable[[], bool] = lambda: False) -> int:
    """Send what is due, until nothing is due or under way.

    Where another thread of this process is already at it, that one is made
    to look again, and this call returns at once.

    :param stopping: asked now and then; when true, nothing more is claimed
        and what is under way is finished
    :returns: how many attempts were made
    """
    made = 0
    _wanted.set()
    while _wanted.is_set():
        if not _driving.acquire(blocking=False):
            if _engine is not None:
                _engine.wake()
            return made
        try:
            _wanted.clear()
            made += _Drive(stopping).run()
        finally:
            _driving.release()
    return made


def _opened_engine() -> transport.Engine:
    """Give the engine for the settings of now."""
    global _engine, _engine_settings
    wanted = (
        transport.Settings(tuple(config.allowed_networks()), config.proxy(), config.ca_bundle()),
        config.max_in_flight(),
    )
    if _engine is None or _engine_settings != wanted:
        if _engine is not None:
            _engine.close()
        _engine, _engine_settings = transport.open_engine(*wanted), wanted
    return _engine


def _bounds(all_: int) -> Bounds:
    # No host and no owner has more than half, where nothing else is said.
    half = max(1, all_ // 2)
    return Bounds(
        all_,
        config.max_in_flight_per_webhook(),
        config.max_in_flight_per_host() or half,
        config.max_in_flight_per_owner() or half,
    )


class _Drive:
    """One run of the driver: what is under way, and what is yet to be settled."""

    def __init__(self, stopping: Callable[[], bool]) -> None:
        self.stopping = stopping
        self.engine = _opened_engine()
        self.timeout = config.timeout()
        self.schedule = config.retry_schedule()
        self.disable_after = config.disable_after()
        self.keys = tuple(config.secret_keys())
        self.site_url = config.site_url()
        self.places = Places(_bounds(self.engine.places))
        self.under_way: dict[int, tuple[Due, str, int, Place, list[str]]] = {}
        self.books = Books(self._settle, self.engine.wake)
        # Whether more may be due than was claimed, or has a place now.
        self.more = True
        self.is_crowded = False
        self.next_look = 0.0
        self.made = 0

    def run(self) -> int:
        while True:
            found = self._start()
            again = self.books.turn()
            if not found and not self.under_way and self.books.is_empty:
                return self.made
            if self.more and self._may_claim():
                self._collect(0)
            else:
                self._collect(_LOOK_EVERY if again is None else min(again, _LOOK_EVERY))

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
        except SQLAlchemyError:
            if not self.under_way and self.books.is_empty:
                raise
            return 0  # what is under way is to be settled first, and says the same
        if claimed is None:
            return 0
        self.more, self.is_crowded = claimed.more, claimed.is_crowded
        self._prepare(claimed)
        return len(claimed.deliveries)

    def _may_claim(self) -> bool:
        return self.places.room > 0 and not self.books.is_behind and not self.stopping()

    def _has_reason(self) -> bool:
        """That something ended is none, unless something waited for its place."""
        return (
            not self.under_way
            or self.more
            or _wanted.is_set()
            or time.monotonic() >= self.next_look
        )

    def _collect(self, seconds: float) -> None:
        """Wait until something ended or somebody calls, and take all there is."""
        for delivery_id, outcome in self.engine.wait(seconds):
            delivery, until, sent_at, place, confidential = self.under_way.pop(delivery_id)
            self.more = self.places.give_back(place) or self.more
            self.places.note(delivery.webhook_id, outcome.duration)
            kept = withheld.withhold(outcome, confidential)
            self.books.add(Attempted(delivery, until, sent_at, kept))
            self.made += 1

    def _settle(self, attempted: Sequence[Attempted]) -> None:
        settle.settle(attempted, self.schedule, self.disable_after)

    def _prepare(self, claimed: Claimed) -> None:
        """Decide what of each delivery may still be sent, and start that."""
        standing = owners.standing({d.user_id for d in claimed.deliveries if d.user_id})
        again = _told_again(claimed)
        since = owners.since({delivery.user_id for delivery in again})
        old = _replaced({delivery.event_id for delivery in again})
        entities: dict[tuple[str, Sending], str] = {}
        decided: dict[tuple[str, str, str, bool], Sending | None] = {}
        cancelled: dict[int, str] = {}
        unsure: list[Due] = []
        late: list[Due] = []
        for number, delivery in enumerate(claimed.deliveries, 1):
            if number % _STARTED_TOGETHER == 0:
                self._collect(0)
            event = claimed.events.get(delivery.event_id)
            reason = _refusal(delivery, event, standing)
            if reason is not None:
                cancelled[delivery.id] = reason
                continue
            # One owner's webhooks are told the same.
            is_again = event is not None and event.is_told_again(delivery)
            key = (delivery.event_id, delivery.topic, delivery.user_id, is_again)
            if key not in decided:
                labels = standing[delivery.user_id].labels
                asked = (since[delivery.user_id], delivery.event_id in old) if is_again else None
                decided[key] = _may_send(delivery, event, labels, asked)
            what = decided[key]
            if what is None:
                continue  # the lease keeps it waiting until it is known
            if what is Sending.NOTHING:
                unsure.append(delivery)
            elif claimed.is_over():
                late.append(delivery)
            else:
                self._send(claimed, delivery, what, entities)
        # Of the others the owner lost rights a moment ago. Dispatch tells what
        # that means; until then the lease keeps them waiting.
        settle.cancel(
            {**cancelled, **dict.fromkeys(_said_otherwise(claimed, unsure), "superseded")}
        )
        if late:
            self.more = True
            _log_late(len(late), claimed.seconds)

    def _send(
        self,
        claimed: Claimed,
        delivery: Due,
        what: Sending,
        entities: dict[tuple[str, Sending], str],
    ) -> None:
        """Write, sign and start one; one that cannot be written stops no other."""
        sent_at = int(claimed.now())
        until = claimed.until[delivery.id]
        event = claimed.events.get(delivery.event_id)
        try:
            if event is None:
                body = self._ping(delivery)
            else:
                body = self._body(delivery, event.row, what, entities)
            custom = self._custom_headers(delivery)
            request = self._request(delivery, body, custom, sent_at)
        except Exception as error:
            outcome = Outcome(error=_log_failure(delivery, error))
            self.books.add(Attempted(delivery, until, sent_at, outcome))
            return
        place = self.places.take(delivery, time.monotonic())
        confidential = withheld.confidential(custom)
        self.under_way[delivery.id] = (delivery, until, sent_at, place, confidential)
        self.engine.start(delivery.id, request)

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
    if not standing[delivery.user_id].exists:
        return "the owner is not an active user any more"
    return None


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


def _told_again(claimed: Claimed) -> list[Due]:
    """Give the deliveries that were asked for after their events were told."""
    return [
        delivery
        for delivery in claimed.deliveries
        if (event := claimed.events.get(delivery.event_id)) and event.is_told_again(delivery)
    ]


def _replaced(event_ids: Collection[str]) -> set[str]:
    if not event_ids:
        return set()
    with connected() as connection:
        return replaced(connection, event_ids)


def _may_send(
    delivery: Due,
    event: Logged | None,
    labels: OwnerLabels | None,
    asked: tuple[owners.Since, bool] | None,
) -> Sending | None:
    """Say what of a delivery may be sent now, None where that is not known.

    :param asked: of what is told again, since when its owner has had these labels, and
        whether there is something newer
    """
    if event is None:  # a ping, which says nothing of any dataset
        return Sending.CONTENT
    if labels is None:
        return None
    if asked is None:
        return _sending(delivery, event, labels)
    return event.sending_again(delivery.topic.split("/")[1], labels, *asked)


def _sending(delivery: Due, event: Logged, labels: OwnerLabels) -> Sending:
    return event.sending(delivery.topic.split("/")[1], labels)
