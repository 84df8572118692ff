"""Events as the log has them, with what became of their datasets since."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from .. import config
from ..model import State
from ..visibility import OwnerLabels, Sending, publishable, sending


@dataclass(frozen=True)
class Logged:
    """An event.

    :param row: columns of its row, with ``source_content`` of the dataset's
        row where that has the content
    :param since: the states in which the log has the dataset from it on: a
        resource may be removed by the very change that hides its dataset
    """

    row: Any
    since: Sequence[Any]

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
    oldest: dict[str, int] = {}
    for event in events:
        oldest[event.dataset_id] = min(event.version, oldest.get(event.dataset_id, event.version))
    states = defaultdict(list)
    for state in connection.execute(
        _SINCE, {"ids": list(oldest), "versions": list(oldest.values())}
    ):
        states[state.dataset_id].append(state)
    return {
        event.id: Logged(event, [s for s in states[event.dataset_id] if s.version >= event.version])
        for event in events
    }


_EVENTS = sa.text(
    """
    SELECT e.id, e.user_id, e.entity_type, e.entity_id, e.dataset_id, e.state, e.occurred_at,
           e.labels_before, e.labels, e.facets_before, e.facets, e.changed, e.content,
           coalesce(e.version, source.version) AS version, source.content AS source_content
    FROM webhooks_event e LEFT JOIN webhooks_event source ON source.id = e.source_id
    WHERE e.id = ANY(CAST(:ids AS text[]))
    """
)
# Mostly one, and never more than the ways in which a dataset was visible.
_SINCE = sa.text(
    """
    SELECT dataset_id, state, labels_before, labels, max(e.version) AS version
    FROM webhooks_event e
        JOIN unnest(CAST(:ids AS text[]), CAST(:versions AS int[])) AS asked(id, version)
        ON dataset_id = asked.id AND e.version >= asked.version
    GROUP BY dataset_id, state, labels_before, labels
    """
)
