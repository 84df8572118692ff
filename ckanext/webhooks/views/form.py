"""The form of a webhook: what its fields hold, and what the actions take."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime, timezone
from typing import Any

import ckan.plugins.toolkit as tk
from ckan import model

from ..deliver import message
from ..model import Format
from ..topics import ENTITIES, EVERYTHING, TOPICS
from ..visibility import Sending

FACETS = ("organization", "group", "tag", "dataset", "type")
_OF_GROUPS = ("organization", "group")


def empty() -> dict[str, Any]:
    """Give the fields of a webhook that is still to be made."""
    return {"topic": [], "format": Format.CLASSIC.value, "filters": {}}


def of(webhook: dict[str, Any]) -> dict[str, Any]:
    """Give the fields of a webhook that there is. Its headers' values nobody is shown."""
    filters = {
        facet: ", ".join(_names(facet, webhook["filters"].get(facet, []))) for facet in FACETS
    }
    kept = ("id", "address", "description", "format", "max_rate", "coalesce")
    fields = {name: webhook[name] for name in kept}
    return {**fields, "topic": webhook["topics"], "filters": filters, "names": webhook["headers"]}


def sent(form: Any) -> dict[str, Any]:
    """Give the fields as somebody filled them in, to show them again."""
    fields = {name: form.get(name, "").strip() for name in _TEXTS}
    return {
        **fields,
        "topic": form.getlist("topic"),
        "coalesce": "coalesce" in form,
        "no_headers": "no_headers" in form,
        "filters": {facet: form.get(f"filter-{facet}", "").strip() for facet in FACETS},
    }


def data(fields: dict[str, Any], is_new: bool) -> dict[str, Any]:
    """Give what an action takes of what was filled in.

    :param is_new: of one that exists, headers that were not touched stay
    :raises ValidationError: the headers are no lines of names and values
    """
    filters = {facet: _values(text) for facet, text in fields["filters"].items()}
    found = {
        "topic": fields["topic"],
        "address": fields["address"],
        "description": fields["description"],
        "format": fields["format"],
        "max_rate": fields["max_rate"] or None,
        "coalesce": fields["coalesce"],
        "filters": {facet: values for facet, values in filters.items() if values},
    }
    if fields["headers"] or is_new or fields["no_headers"]:
        found["headers"] = {} if fields["no_headers"] else _headers(fields["headers"])
    return found


def in_words(errors: dict[str, Any]) -> dict[str, Any]:
    """Say of what was left out what would be right; CKAN says that it is missing."""
    wanted = {
        "topic": tk._("Choose at least one topic"),
        "address": tk._("Must be a URL, as in https://example.com/callback"),
    }
    left_out = [name for name in wanted if errors.get(name) == [tk._("Missing value")]]
    return {**errors, **{name: [wanted[name]] for name in left_out}}


def example(fields: Mapping[str, Any], site_url: str, user_id: str) -> str:
    """Give a body as it will be sent, for the first topic that was chosen.

    :param fields: as :func:`sent` gives them; what makes no sense counts as its default
    """
    topic = next((t for t in map(_one_of, fields["topic"]) if t), "dataset/update")
    formats = [format_.value for format_ in Format]
    format_ = fields["format"] if fields["format"] in formats else formats[0]
    delivery = _Row(
        topic=topic,
        sequence=4711,
        address=fields.get("address") or "https://example.com/callback",
        webhook_id="6e53a0b4-1c0c-4b0e-a8a5-6d7a0a5a7f11",
        coalesced=None,
    )
    event = _Row(
        id="0b2f6a0e-5d0c-4a53-9d5e-0d0b3a9f6f57",
        entity_type=topic.split("/")[0],
        entity_id=_RESOURCE["id"] if topic.startswith("resource") else _DATASET["id"],
        dataset_id=_DATASET["id"],
        occurred_at=datetime(2026, 11, 24, 18, 27, 56, 260417, timezone.utc),
        changed=["url"] if topic.startswith("resource") else ["title"],
        facets={
            "dataset": [_DATASET["id"], _DATASET["name"]],
            "type": ["dataset"],
            "organization": [_DATASET["owner_org"]],
        },
        facets_before=None,
        content=None,
        source_content=json.dumps(_DATASET),
    )
    facts = message.facts_of(event, delivery, user_id, site_url, Sending.CONTENT)
    return message.compose(facts, format_).decode()


class _Row:
    """What a row of a table would say."""

    def __init__(self, **columns: Any) -> None:
        self.__dict__.update(columns)


_TEXTS = ("address", "description", "format", "max_rate", "headers")
# A few of the keys that package_show gives: the shape is to be seen, not each of them.
_RESOURCE = {
    "id": "f9a4c1de-2d2a-4a5f-8a7c-0f1a2b3c4d5e",
    "name": "Measurements of 2026",
    "format": "CSV",
    "url": "https://data.example.org/air-2026.csv",
    "state": "active",
}
_DATASET: dict[str, Any] = {
    "id": "d7e7c1a2-93b1-4f0a-9d0e-8f6a5b4c3d2e",
    "name": "air-quality",
    "title": "Air quality",
    "notes": "Hourly means of all stations.",
    "type": "dataset",
    "owner_org": "3c2b1a09-8f7e-4d6c-b5a4-938271605f4e",
    "private": False,
    "state": "active",
    "tags": [{"name": "air", "display_name": "air"}],
    "resources": [_RESOURCE],
}


def _one_of(topic: str) -> str | None:
    """Give a topic that a pattern stands for."""
    if topic == EVERYTHING:
        return "dataset/update"
    if topic in [f"{entity}/*" for entity in ENTITIES]:
        return topic.replace("*", "update")
    return topic if topic in TOPICS else None


def _values(text: str) -> list[str]:
    return [value.strip() for value in text.split(",") if value.strip()]


def _names(facet: str, values: list[str]) -> list[str]:
    """Give the names of organizations and groups, which filters hold by their ids."""
    if facet not in _OF_GROUPS:
        return values
    groups = ((value, model.Group.get(value)) for value in values)
    return [value if group is None else str(group.name) for value, group in groups]


def _headers(text: str) -> dict[str, str]:
    headers = {}
    for line in filter(None, map(str.strip, text.splitlines())):
        name, colon, value = line.partition(":")
        if not colon:
            # The line stays unsaid: it may be a credential.
            raise tk.ValidationError({"headers": [tk._("Must be lines of Name: value")]})
        headers[name.strip()] = value.strip()
    return headers
