"""What was purged is forgotten here, too."""

from __future__ import annotations

from collections.abc import Sequence

import sqlalchemy as sa
from sqlalchemy.engine import Connection


def blank(connection: Connection, dataset_ids: Sequence[str]) -> None:
    """Forget what purged datasets held, also where endpoints sent it back."""
    if dataset_ids:
        connection.execute(_BLANK_CONTENT, {"ids": dataset_ids})
        connection.execute(_BLANK_ANSWERS, {"ids": dataset_ids})


# Datasets' own rows by their index, and by another the rows that have them as their source.
_ROWS_OF = """
    WITH own AS MATERIALIZED (
        SELECT id FROM webhooks_event
        WHERE dataset_id = ANY(CAST(:ids AS text[])) AND version IS NOT NULL)
    SELECT id FROM own
    UNION SELECT e.id FROM own JOIN webhooks_event e ON e.source_id = own.id
"""


def _without_tags(facets: str) -> str:
    # It may be NULL, and JSON's null.
    return f"""CASE WHEN {facets} ? 'tag' THEN {facets} || '{{"tag": []}}' ELSE {facets} END"""


# What it was called stays: without that, nobody could be told what is gone.
_BLANK_CONTENT = sa.text(
    f"""
    UPDATE webhooks_event
    SET content = NULL, facets = {_without_tags("facets")},
        facets_before = {_without_tags("facets_before")}
    WHERE id = ANY(ARRAY({_ROWS_OF})) AND (
        content IS NOT NULL OR facets -> 'tag' <> '[]' OR facets_before -> 'tag' <> '[]')
    """
)
_BLANK_ANSWERS = sa.text(
    f"""
    UPDATE webhooks_attempt a SET answer = NULL
    FROM webhooks_event e JOIN webhooks_delivery d ON d.sequence = e.sequence
    WHERE e.id = ANY(ARRAY({_ROWS_OF})) AND a.delivery_id = d.id AND a.answer IS NOT NULL
    """
)
