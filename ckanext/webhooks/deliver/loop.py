"""Keeping many deliveries under way in one process.

One thread of a process drives: it claims, starts and settles in sets, while
a bounded pool of threads waits for the endpoints. A slow endpoint occupies
places in the pool (a few per webhook), never the driver.
"""

from __future__ import annotations

import json
import logging
import queue
import threading
import uuid
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from sqlalchemy.exc import SQLAlchemyError

from .. import config, encryption, owners
from ..version import __version__
from ..visibility import OwnerLabels, Sending, owner_labels
from . import message, settle, signing, transport
from .attempt import Attempted, Outcome, Request
from .claim import Claimed, claim
from .logged import Logged

log = logging.getLogger(__name__)

# While nothing ends and nobody wakes the driver, it looks for due rows so often.
_LOOK_EVERY = 1.0
USER_AGENT = f"ckanext-webhooks/{__version__}"

_driving = threading.Lock()
_wanted = threading.Event()
# What ended; None stands for a call to look for more.
_inbox: queue.SimpleQueue[Attempted | None] = queue.SimpleQueue()


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
            _inbox.put(None)
            return made
        try:
            _wanted.clear()
            made += _Drive(stopping).run()
        finally:
            _driving.release()
    return made


@dataclass(frozen=True)
class _Ready:
    """A delivery with all that its thread needs."""

    delivery: Any
    webhook: Any
    body: bytes


class _Drive:
    """One run of the driver: what is under way, and what is yet to be settled."""

    def __init__(self, stopping: Callable[[], bool]) -> None:
        self.stopping = stopping
        self.capacity = config.max_in_flight()
        self.per_webhook = config.max_in_flight_per_webhook()
        self.timeout = config.timeout()
        self.allowed_networks = tuple(config.allowed_networks())
        self.schedule = config.retry_schedule()
        self.keys = config.secret_keys()
        self.site_url = config.site_url()
        self.in_flight: Counter[str] = Counter()
        self.unsettled: list[Attempted] = []
        self.made = 0

    def run(self) -> int:
        with ThreadPoolExecutor(self.capacity, thread_name_prefix="webhooks-post") as pool:
            while True:
                found = self._start(pool)
                if not found and not self.in_flight.total() and not self.unsettled:
                    return self.made
                if self.in_flight.total() or self.unsettled:
                    self._collect()
                    self._settle()

    def _start(self, pool: ThreadPoolExecutor) -> int:
        """Claim what there is room for, and start it."""
        room = self.capacity - self.in_flight.total()
        if self.stopping() or room <= 0 or self.unsettled:
            return 0
        busy = [id_ for id_, n in self.in_flight.items() if n >= self.per_webhook]
        try:
            claimed = claim(room, self.per_webhook, busy, self.timeout)
        except SQLAlchemyError:
            if not self.in_flight.total():
                raise
            return 0  # what is under way is to be settled first, and says the same
        if claimed is None:
            return 0
        ready = self._prepare(claimed)
        for item in ready:
            self.in_flight[item.delivery.webhook_id] += 1
            pool.submit(self._attempt, item, claimed)
        return len(claimed.deliveries)

    def _collect(self) -> None:
        """Wait until something ended or somebody calls, and take all there is."""
        try:
            arrived = _inbox.get(timeout=_LOOK_EVERY)
            while True:
                if arrived is not None:
                    self.unsettled.append(arrived)
                    self.in_flight -= Counter([arrived.delivery.webhook_id])
                    self.made += 1
                arrived = _inbox.get_nowait()
        except queue.Empty:
            pass

    def _settle(self) -> None:
        try:
            settle.settle(self.unsettled, self.schedule)
        except SQLAlchemyError:
            # The database is away: keep what was learnt, and claim nothing.
            log.exception(
                "webhooks [%s]: %d attempts cannot be written down yet; trying again."
                " Is PostgreSQL reachable from the worker?",
                uuid.uuid4(),
                len(self.unsettled),
            )
            threading.Event().wait(_LOOK_EVERY)
        else:
            self.unsettled = []

    def _prepare(self, claimed: Claimed) -> list[_Ready]:
        """Decide what of each delivery may still be sent, and write its body."""
        standing = owners.standing({w.user_id for w in claimed.webhooks.values()})
        entities: dict[tuple[str, bool], str] = {}
        ready: list[_Ready] = []
        cancelled: dict[int, str] = {}
        for delivery in claimed.deliveries:
            webhook = claimed.webhooks.get(delivery.webhook_id)
            event = claimed.events.get(delivery.event_id)
            if webhook is None:
                cancelled[delivery.id] = "the webhook is not active"
            elif event is None:
                cancelled[delivery.id] = "the event is not in the log any more"
            elif not standing[webhook.user_id].exists:
                cancelled[delivery.id] = "the owner is not an active user any more"
            else:
                what = _sending(delivery, event, standing[webhook.user_id].labels)
                if what is Sending.NOTHING:
                    # What this owner is told, or is being told, says it already?
                    told_under = owner_labels(claimed.served.get(webhook.user_id, []))
                    if _sending(delivery, event, told_under) is Sending.NOTHING:
                        cancelled[delivery.id] = "superseded"
                    # Else the owner lost rights a moment ago. Dispatch tells what
                    # that means; until then the lease keeps this waiting.
                    continue
                try:
                    body = self._body(delivery, webhook, event.row, what, entities)
                except Exception as error:  # one that cannot be written stops no other
                    outcome = Outcome(error=_log_failure(delivery, error))
                    self.unsettled.append(Attempted(delivery, int(claimed.now()), outcome))
                else:
                    ready.append(_Ready(delivery, webhook, body))
        settle.cancel(cancelled)
        return ready

    def _body(
        self,
        delivery: Any,
        webhook: Any,
        event: Any,
        what: Sending,
        entities: dict[tuple[str, bool], str],
    ) -> bytes:
        """Write a body.

        :param entities: what was written of the set's entities so far
        """
        as_stub = what is Sending.STUB
        key = (event.id, as_stub)
        if key not in entities:
            entities[key] = message.entity_json(event, as_stub)
        facts = self._facts(delivery, webhook, event, entities[key], as_stub)
        return message.compose(facts, delivery.format)

    def _facts(
        self, delivery: Any, webhook: Any, event: Any, entity: str, as_stub: bool
    ) -> message.Facts:
        return message.Facts(
            event_id=event.id,
            topic=delivery.topic,
            entity_id=event.entity_id,
            entity=entity,
            occurred_at=event.occurred_at,
            sequence=delivery.sequence,
            site_url=self.site_url,
            address=delivery.address,
            webhook_id=webhook.id,
            user_id=webhook.user_id,
            dataset=message.dataset_reference(event, as_stub)
            if event.entity_type == "resource"
            else None,
            changed=event.changed,
        )

    def _attempt(self, ready: _Ready, claimed: Claimed) -> None:
        """Sign and send; runs in a thread of the pool, and must not raise."""
        sent_at = int(claimed.now())
        try:
            outcome = transport.post(self._request(ready, sent_at))
        except Exception as error:
            outcome = Outcome(error=_log_failure(ready.delivery, error))
        _inbox.put(Attempted(ready.delivery, sent_at, outcome))

    def _request(self, ready: _Ready, sent_at: int) -> Request:
        webhook = ready.webhook
        tokens = [webhook.secret]
        if webhook.previous_is_valid and webhook.previous_secret:
            tokens.append(webhook.previous_secret)
        secrets = [encryption.decrypt(token, self.keys) for token in tokens]
        custom = (
            json.loads(encryption.decrypt(webhook.headers, self.keys)) if webhook.headers else {}
        )
        return Request(
            webhook.address,
            {
                **custom,
                "Content-Type": message.CONTENT_TYPES[ready.delivery.format],
                "User-Agent": USER_AGENT,
                "Accept-Encoding": "identity",
                **signing.headers(ready.delivery.event_id, sent_at, ready.body, secrets),
            },
            ready.body,
            self.timeout,
            self.allowed_networks,
        )


def _log_failure(delivery: Any, error: Exception) -> str:
    """Log what no endpoint is to blame for, and say it in words for the attempt."""
    log.exception(
        "webhooks [%s]: delivery %s could not be sent and is tried again later",
        uuid.uuid4(),
        delivery.id,
    )
    return f"{type(error).__name__}: {error}"


def _sending(delivery: Any, event: Logged, labels: OwnerLabels) -> Sending:
    return event.sending(delivery.topic.split("/")[1], labels)
