"""The body of a request, in each format: no I/O.

The same delivery gives the same bytes on every try. The entity is spliced in
as the text that the log has, not parsed and written again.
"""

from __future__ import annotations

import datetime
import json
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any, NamedTuple

from .. import difference, wellformed
from ..model import Format, epoch
from ..topics import PING
from ..version import __version__
from ..visibility import Sending

USER_AGENT = f"ckanext-webhooks/{__version__}"
CONTENT_TYPES: dict[str, str] = {
    Format.CLASSIC.value: "application/json",
    Format.STANDARD.value: "application/json",
    # CloudEvents, HTTP protocol binding 1.0.2, section 3.2.
    Format.CLOUDEVENTS.value: "application/cloudevents+json",
}


class Facts(NamedTuple):
    """What a message says, in whichever format.

    :param topic: what this subscriber is told
    :param entity: the dataset or resource, as JSON text
    :param dataset: of a resource: which dataset it belongs to
    :param changed: of an update: the keys that differ, None where unknown
    :param address, webhook_id, user_id: of the subscription
    :param challenge: what an endpoint is to answer, None where nothing is asked
    """

    event_id: str
    topic: str
    entity_id: str
    entity: str
    occurred_at: datetime.datetime
    sequence: int
    site_url: str
    address: str
    webhook_id: str
    user_id: str
    dataset: dict[str, Any] | None
    changed: list[str] | None
    challenge: str | None = None


def compose(facts: Facts, format_: str) -> bytes:
    """Lay the facts out in a :class:`Format`."""
    return _LAYOUTS[format_](facts)


def facts_of(
    event: Any, delivery: Any, user_id: str, site_url: str, what: Sending, entity: str | None = None
) -> Facts:
    """Give what a delivery says, by the rows that it refers to.

    :param event: as for :func:`entity_json`
    :param user_id: the webhook's owner
    :param what: how much of it may be sent
    :param entity: what :func:`entity_of` gives of it, where that is at hand
    """
    return Facts(
        event_id=event.id,
        topic=delivery.topic,
        entity_id=event.entity_id,
        entity=entity_of(event, what) if entity is None else entity,
        occurred_at=event.occurred_at,
        sequence=delivery.sequence,
        site_url=site_url,
        address=delivery.address,
        webhook_id=delivery.webhook_id,
        user_id=user_id,
        dataset=reference_of(event, what) if event.entity_type == "resource" else None,
        # Of several changes in one, nobody noted it.
        changed=None if delivery.coalesced else event.changed,
    )


def ping(
    event_id: str,
    occurred_at: datetime.datetime,
    site_url: str,
    address: str,
    webhook_id: str,
    user_id: str,
    format_: str,
    challenge: str | None,
) -> bytes:
    """Lay out a ping: what every message has, about no entity.

    :param challenge: what the endpoint is to answer, None where nothing is asked
    """
    facts = Facts(
        event_id=event_id,
        topic=PING,
        entity_id=webhook_id,
        entity="null",
        occurred_at=occurred_at,
        sequence=0,
        site_url=site_url,
        address=address,
        webhook_id=webhook_id,
        user_id=user_id,
        dataset=None,
        changed=None,
        challenge=challenge,
    )
    return compose(facts, format_)


def headers(format_: str, custom: Mapping[str, str]) -> dict[str, str]:
    """Give what goes along with a body, but for the headers of ``signing``."""
    return {
        # Firewalls refuse requests without it (OWASP's core rule set, rule 920300).
        **({} if any(name.lower() == "accept" for name in custom) else {"Accept": "*/*"}),
        **custom,
        "Content-Type": CONTENT_TYPES[format_],
        "User-Agent": USER_AGENT,
        "Accept-Encoding": "identity",
    }


def entity_of(event: Any, what: Sending) -> str:
    """Give as much of an event's entity as may be sent, as JSON."""
    if event.entity_type == "dataset" and what is not Sending.CONTENT:
        return json.dumps(reference_of(event, what))
    return entity_json(event, as_stub=what not in (Sending.CONTENT, Sending.UNNAMED))


def reference_of(event: Any, what: Sending) -> dict[str, Any]:
    """Say which dataset an event is about, by as much as may be sent."""
    is_now = what in (Sending.CONTENT, Sending.SHORT)
    reference = dataset_reference(event, as_stub=not is_now)
    if what is Sending.SHORT:
        del reference["owner_org"]
    if what in (Sending.UNNAMED, Sending.MARKER):
        reference["name"] = None
    return reference


def entity_json(event: Any, as_stub: bool) -> str:
    """Give what an event says of its entity, as JSON.

    :param event: row of an event, with ``source_content`` of the dataset's
        row where that has the content
    :param as_stub: only what says which entity it was
    """
    if event.entity_type == "dataset":
        content = event.content if event.content is not None else event.source_content
        if as_stub or content is None:
            return json.dumps(dataset_reference(event, as_stub=True))
        return wellformed.json_text(content)
    if not as_stub:
        if event.content is not None:
            return _resource_text(wellformed.loads(event.content), event.dataset_id)
        for resource in difference.resources(wellformed.loads(event.source_content or "{}")):
            if resource["id"] == event.entity_id:
                return _resource_text(resource, event.dataset_id)
    return json.dumps({"id": event.entity_id, "package_id": event.dataset_id})


def dataset_reference(event: Any, as_stub: bool) -> dict[str, Any]:
    """Say which dataset an event is about.

    :param as_stub: by what its receiver could see before the event, since
        what it is called now may not be for them
    """
    facets = (event.facets_before if as_stub else None) or event.facets or {}
    known = facets.get("dataset") or [event.dataset_id, None]
    reference = {
        "id": event.dataset_id,
        "name": known[1],
        "type": (facets.get("type") or [None])[0],
    }
    if not as_stub:
        reference["owner_org"] = (facets.get("organization") or [None])[0]
    return reference


# Deliveries of one event come together.
@lru_cache(maxsize=1024)
def timestamp(moment: datetime.datetime) -> str:
    """Write a time as RFC 3339 in UTC."""
    utc = moment.astimezone(datetime.timezone.utc)
    return utc.isoformat(timespec="microseconds").replace("+00:00", "Z")


def _resource_text(resource: dict[str, Any], dataset_id: str) -> str:
    return wellformed.dumps({**resource, "package_id": dataset_id})


def _about(facts: Facts) -> dict[str, Any]:
    # A ping is no event, and its number none of theirs.
    about: dict[str, Any] = {} if facts.topic == PING else {"epoch": epoch.of(facts.sequence)}
    if facts.dataset is not None:
        about["dataset"] = facts.dataset
    if facts.topic.endswith("/update"):
        about["changed"] = facts.changed
    if facts.challenge is not None:
        about["challenge"] = facts.challenge
    return about


def _with_entity(facts: Facts, rest: Mapping[str, Any]) -> str:
    return f'{{"entity": {facts.entity}, {json.dumps(rest)[1:]}'


def _classic(facts: Facts) -> bytes:
    rest = {
        "address": facts.address,
        "webhook_id": facts.webhook_id,
        "ckan": facts.site_url,
        "topic": facts.topic,
        "user_ref": facts.user_id,
        "event_id": facts.event_id,
        "occurred_at": timestamp(facts.occurred_at),
        "sequence": facts.sequence,
        **_about(facts),
    }
    return _with_entity(facts, rest).encode()


def _data(facts: Facts) -> str:
    rest = {"topic": facts.topic, "sequence": facts.sequence, **_about(facts)}
    return _with_entity(facts, rest)


def _standard(facts: Facts) -> bytes:
    rest = {
        # Full stops, by the Standard Webhooks specification.
        "type": facts.topic.replace("/", "."),
        "timestamp": timestamp(facts.occurred_at),
        "ckan": facts.site_url,
        "event_id": facts.event_id,
    }
    return f'{json.dumps(rest)[:-1]}, "data": {_data(facts)}}}'.encode()


def _cloudevents(facts: Facts) -> bytes:
    rest = {
        "specversion": "1.0",
        "id": facts.event_id,
        "source": facts.site_url,
        "type": "org.ckan." + facts.topic.replace("/", "."),
        "subject": facts.entity_id,
        "time": timestamp(facts.occurred_at),
        "datacontenttype": "application/json",
        # The sequence extension wants text that sorts as the numbers do.
        "sequence": f"{facts.sequence:019d}",
    }
    return f'{json.dumps(rest)[:-1]}, "data": {_data(facts)}}}'.encode()


_LAYOUTS: dict[str, Callable[[Facts], bytes]] = {
    Format.CLASSIC.value: _classic,
    Format.STANDARD.value: _standard,
    Format.CLOUDEVENTS.value: _cloudevents,
}
