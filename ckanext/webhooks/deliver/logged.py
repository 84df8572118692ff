"""Events as the log has them, with what became of their datasets since."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from .. import config
from ..model import State
from ..visibility import OwnerLabels, Sending, publishable, sending


class Seen(NamedTuple):
    """A state in which the log has a dataset."""

    state: str
    labels_before: list[str] | None
    labels: list[str] | None


@dataclass(frozen=True)
class Logged:
    """An event.

    :param row: columns of its row, with ``source_content`` of the dataset's
        row where that has the content
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
        return Sending.STUB if what is Sending.CONTENT and config.entity() != "full" else what


def logged(connection: Connection, event_ids: Collection[str]) -> dict[str, Logged]:
    """Read events by their ids; those that are no longer in the log are left out."""
    if not event_ids:
        return {}
    events = connection.execute(_EVENTS, {"ids": list(event_ids)}).all()
    return {event.id: Logged(event, _since(event)) for event in events}


def _since(event: Any) -> list[Seen]:
    return [Seen(*seen) for version, *seen in event.since or () if version >= event.version]


# Since an event there is mostly one state, and never more than the ways in which its
# dataset was visible.
_EVENTS = sa.text(
    """
    WITH found AS (
        SELECT e.id, e.user_id, e.entity_type, e.entity_id, e.dataset_id, e.state, e.occurred_at,
               e.labels_before, e.labels, e.facets_before, e.facets, e.changed, e.content,
               coalesce(e.version, source.version) AS version, source.content AS source_content
        FROM webhooks_event e LEFT JOIN webhooks_event source ON source.id = e.source_id
        WHERE e.id = ANY(CAST(:ids AS text[]))),
    seen AS (
        SELECT e.dataset_id, state, labels_before, labels, max(e.version) AS version
        FROM webhooks_event e
            JOIN (SELECT dataset_id, min(version) AS version FROM found GROUP BY dataset_id) oldest
            ON e.dataset_id = oldest.dataset_id AND e.version >= oldest.version
        GROUP BY e.dataset_id, state, labels_before, labels)
    SELECT found.*, since.states AS since
    FROM found LEFT JOIN (
        SELECT dataset_id, jsonb_agg(jsonb_build_array(version, state, labels_before, labels))
            AS states
        FROM seen GROUP BY dataset_id) since USING (dataset_id)
    """
)
