"""Events as the log has them, with what became of their datasets since."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from .. import config, owners
from ..model import State
from ..owners import Since
from ..visibility import (
    OwnerLabels,
    Replaced,
    Sending,
    publishable,
    sending,
    sending_again,
    sending_late,
    was_seen_then,
)


class Seen(NamedTuple):
    """A state in which the log has a dataset."""

    state: str
    labels_before: list[str] | None
    labels: list[str] | None


@dataclass(frozen=True)
class Logged:
    """An event.

    :param row: columns of its row, with ``source_content`` of the dataset's
        row where that has the content, ``is_noted``: a change of rights was
        noted that this process did not know when it read the row, and
        ``last_noted``: the number of the last one
    :param since: the states in which the log has the dataset from it on: a
        resource may be removed by the very change that hides its dataset
    """

    row: Any
    since: Sequence[Seen]

    def sending(self, verb: str, labels: OwnerLabels) -> Sending:
        """Say what of this event may be sent now to somebody with these labels.

        :param verb: what is told: create, update or delete
        """
        what = sending(
            verb,
            labels,
            self.row.labels_before,
            self.row.labels,
            self.row.state == State.DELETED,
            [
                publishable(state.state == State.DELETED, state.labels_before, state.labels)
                for state in self.since
            ],
        )
        if what is not Sending.CONTENT or config.entity() == "full":
            return what
        return Sending.STUB if verb == "delete" else Sending.SHORT

    def sending_again(
        self, verb: str, labels: OwnerLabels, since: Since, replaced: Replaced
    ) -> Sending:
        """Say so where it is asked for after it was told.

        :param since: since when its reader has had these labels
        :param replaced: see :func:`replaced`
        """
        published = publishable(verb == "delete", self.row.labels_before, self.row.labels)
        return sending_again(
            self.sending(verb, labels),
            # What is gone is nobody's newest: who came after it could see neither it nor its name.
            Replaced.ALL if verb == "delete" else replaced,
            was_seen_then(published, since.lasting, self._told_as_of, since.sequence),
        )

    def sending_old(
        self, verb: str, labels: OwnerLabels, since: Since, replaced: Replaced, is_again: bool
    ) -> Sending:
        """Say so of a delivery for which :meth:`is_old`.

        :param is_again: what :meth:`is_told_again` says of it
        """
        again = self.sending_again(verb, labels, since, replaced)
        return again if is_again else sending_late(verb, again)

    def is_old(self, delivery: Any) -> bool:
        """Tell whether its owner may not have seen what it says when that was the newest."""
        return self.is_older_than_a_right or self.is_told_again(delivery)

    def is_told_again(self, delivery: Any) -> bool:
        """Tell whether a delivery was asked for, rather than written when the event was told.

        What waited behind something that was put aside was told late, which is the same to
        its readers.
        """
        told_at = self.row.dispatched_at
        is_late = told_at is not None and bool(delivery.created_at > told_at)
        return is_late or self.row.held_from is not None

    @property
    def is_older_than_a_right(self) -> bool:
        """Tell whether somebody's rights changed after the event was captured."""
        return bool(self._told_as_of < self.row.last_noted)

    @property
    def _told_as_of(self) -> int:
        """The number that tells which changes of rights came after the event."""
        held_from: int | None = self.row.held_from
        return self.row.sequence if held_from is None else held_from


def logged(connection: Connection, event_ids: Collection[str]) -> dict[str, Logged]:
    """Read events by their ids; those that are no longer in the log are left out."""
    if not event_ids:
        return {}
    values = {"ids": list(event_ids), "known_up_to": owners.known_up_to()}
    events = connection.execute(_EVENTS, values).all()
    return {event.id: Logged(event, _since(event)) for event in events}


def replaced(connection: Connection, event_ids: Collection[str]) -> dict[str, Replaced]:
    """Say how much of each of some events was replaced: all of one that is no longer in the log."""
    if not event_ids:
        return {}
    found = connection.execute(_REPLACED, {"ids": list(event_ids)})
    return {
        **dict.fromkeys(event_ids, Replaced.ALL),
        **{row.id: Replaced(row.replaced) for row in found},
    }


def _since(event: Any) -> list[Seen]:
    return [Seen(*seen) for version, *seen in event.since or () if version >= event.version]


# Since an event there is mostly one state, and never more than the ways in which its
# dataset was visible.
_EVENTS = sa.text(
    f"""
    WITH found AS (
        SELECT e.id, e.user_id, e.entity_type, e.entity_id, e.dataset_id, e.state, e.occurred_at,
               e.labels_before, e.labels, e.facets_before, e.facets, e.changed, e.content,
               e.sequence, e.held_from, e.dispatched_at,
               coalesce(e.version, source.version) AS version, source.content AS source_content
        FROM webhooks_event e LEFT JOIN webhooks_event source ON source.id = e.source_id
        WHERE e.id = ANY(CAST(:ids AS text[]))),
    seen AS (
        SELECT e.dataset_id, state, labels_before, labels, max(e.version) AS version
        FROM webhooks_event e
            JOIN (SELECT dataset_id, min(version) AS version FROM found GROUP BY dataset_id) oldest
            ON e.dataset_id = oldest.dataset_id AND e.version >= oldest.version
        GROUP BY e.dataset_id, state, labels_before, labels)
    SELECT found.*, since.states AS since, {owners.HAS_NEWS} AS is_noted,
           {owners.LAST_NOTED} AS last_noted
    FROM found LEFT JOIN (
        SELECT dataset_id, jsonb_agg(jsonb_build_array(version, state, labels_before, labels))
            AS states
        FROM seen GROUP BY dataset_id) since USING (dataset_id)
    """
)
# A resource is what it was for as long as no newer version of its dataset tells of it;
# one that was removed is told as the version before had it. What its event says of the
# dataset is what there is now where the newest version says the same. Of a version whose
# `changed` nobody knows, not yet or since it could not be compared, nobody knows its resources.
_REPLACED = sa.text(
    """
    WITH asked AS MATERIALIZED (
        SELECT e.id, e.entity_type, e.entity_id, e.dataset_id, e.facets,
               e.content IS NOT NULL AS has_own,
               coalesce(e.version, source.version) AS version
        FROM webhooks_event e LEFT JOIN webhooks_event source ON source.id = e.source_id
        WHERE e.id = ANY(CAST(:ids AS text[]))),
    newer AS MATERIALIZED (
        SELECT e.id, e.dataset_id, e.version, e.changed
        FROM webhooks_event e
            JOIN (SELECT dataset_id, min(version) AS version FROM asked GROUP BY dataset_id) oldest
            ON e.dataset_id = oldest.dataset_id AND e.version > oldest.version)
    SELECT id, CASE
        WHEN (entity_type = 'resource' AND has_own) OR EXISTS (
            SELECT FROM newer
            WHERE newer.dataset_id = asked.dataset_id AND newer.version > asked.version
                AND (asked.entity_type = 'dataset' OR newer.changed IS NULL OR EXISTS (
                    SELECT FROM webhooks_event r
                    WHERE r.source_id = newer.id AND r.entity_id = asked.entity_id
                        AND r.origin <> 'rights'
                        -- What only moved with its dataset, into a group say, is what it was.
                        AND (r.changed IS DISTINCT FROM '{}'
                            OR r.labels_before IS NULL OR r.labels IS NULL)))) THEN 'all'
        WHEN EXISTS (
            SELECT FROM (
                SELECT facets FROM webhooks_event e
                WHERE e.dataset_id = asked.dataset_id AND e.version IS NOT NULL
                ORDER BY e.version DESC LIMIT 1) newest
            WHERE newest.facets -> 'dataset' IS DISTINCT FROM asked.facets -> 'dataset'
                OR newest.facets -> 'organization'
                    IS DISTINCT FROM asked.facets -> 'organization') THEN 'reference'
        ELSE 'nothing' END AS replaced
    FROM asked
    """
)
