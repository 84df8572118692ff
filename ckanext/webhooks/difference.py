"""What counts as a difference between two states of a dataset: no I/O.

CKAN moves several values by itself (counts, positions, the titles of the
organization); a change of these alone is told to nobody, and the same are
left out wherever a mirror is compared with the catalogue.

The schema of another plugin may show anything that JSON can hold, wherever CKAN
shows a list or a dict. What is not as CKAN shows it counts as it is.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

DATASET_IGNORED = frozenset(
    {
        "metadata_modified",
        "num_resources",
        "num_tags",
        "tracking_summary",
        "isopen",
        "license_title",
        "license_url",
        "relationships_as_object",
        "relationships_as_subject",
    }
)
RESOURCE_IGNORED = frozenset(
    {"metadata_modified", "position", "datastore_active", "tracking_summary"}
)
# Of a group or organization only what says which one it is.
GROUP_KEPT = ("id", "name")


def _group(group: Any) -> Any:
    if not isinstance(group, dict):
        return group
    return {key: group.get(key) for key in GROUP_KEPT}


def _group_order(group: Any) -> str:
    return str(group.get("id")) if isinstance(group, dict) else _tag_order(group)


def _tag_order(tag: Any) -> str:
    # A plugin's schema may show tags in a form of its own.
    return json.dumps(tag, sort_keys=True)


def _of_each(function: Callable[[Any], Any], value: Any) -> Any:
    return [function(item) for item in value] if isinstance(value, list) else value


def _in_order(value: Any, key: Callable[[Any], str]) -> Any:
    return sorted(value, key=key) if isinstance(value, list) else value


def resources(dataset: dict[str, Any]) -> list[dict[str, Any]]:
    """Give the resources of a dataset that have an id.

    Any other is a part of its dataset, but nothing is told of it alone.
    """
    shown = dataset.get("resources")
    return [
        resource
        for resource in (shown if isinstance(shown, list) else [])
        if isinstance(resource, dict) and isinstance(resource.get("id"), str)
    ]


def comparable_resource(resource: Any) -> Any:
    """Give what counts of a resource dict."""
    if not isinstance(resource, dict):
        return resource
    # Of 500 resources, a comprehension would take 0.7 ms more of a save.
    kept = dict(resource)
    for key in RESOURCE_IGNORED:
        kept.pop(key, None)
    return kept


def comparable(dataset: dict[str, Any]) -> dict[str, Any]:
    """Give what counts of a dataset dict as ``package_show`` has it.

    The order of resources counts, that of groups and tags does not: CKAN
    keeps none for them.
    """
    kept = {k: v for k, v in dataset.items() if k not in DATASET_IGNORED}
    kept["organization"] = _group(kept.get("organization"))
    kept["groups"] = _in_order(_of_each(_group, kept.get("groups") or []), _group_order)
    kept["tags"] = _in_order(kept.get("tags") or [], _tag_order)
    kept["resources"] = _of_each(comparable_resource, kept.get("resources") or [])
    return kept


def digest(dataset: dict[str, Any]) -> str:
    """Give a short text that differs where two datasets differ."""
    text = json.dumps(comparable(dataset), sort_keys=True, default=str)
    # 128 bits: two states of one dataset must not collide by accident.
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def changed_keys(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    """Name the top-level keys whose values differ, in order.

    Both are given in their comparable form.
    """
    missing = object()
    return sorted(
        key
        for key in before.keys() | after.keys()
        if not _are_equal(before.get(key, missing), after.get(key, missing))
    )


def _are_equal(before: Any, after: Any) -> bool:
    """Tell whether two values are one to a reader of JSON: 1 is 1.0, and is not true."""
    if before != after:
        return False
    # Most values are texts, and are done with here.
    return isinstance(before, str) or before is after or _have_the_same_booleans(before, after)


def _have_the_same_booleans(before: Any, after: Any) -> bool:
    """Compare what Python has for equal; by a stack, since JSON may be nested deep."""
    pairs = [(before, after)]
    while pairs:
        one, other = pairs.pop()
        if isinstance(one, dict):
            pairs += [(value, other[key]) for key, value in one.items()]
        elif isinstance(one, list):
            pairs += zip(one, other, strict=True)
        elif isinstance(one, bool) is not isinstance(other, bool):
            return False
    return True


@dataclass(frozen=True)
class ResourceDifference:
    """What one transaction made of one resource of a dataset.

    :param id: of the resource
    :param before: it was part of the dataset before
    :param after: it is part of the dataset now
    :param changed: top-level keys that differ; ``None`` where unknown
    """

    id: str
    before: bool
    after: bool
    changed: list[str] | None


def resource_differences(
    before: list[dict[str, Any]], after: list[dict[str, Any]]
) -> list[ResourceDifference]:
    """Compare the resources of two states, those of the new state first.

    Every resource of either state is named, also where nothing differs:
    whether that matters depends on who could see the dataset.

    :param before, after: what :func:`resources` gives
    """
    old = {r["id"]: comparable_resource(r) for r in before}
    new = {r["id"]: comparable_resource(r) for r in after}
    found = [
        ResourceDifference(
            id_,
            id_ in old,
            True,
            changed_keys(old[id_], resource) if id_ in old else [],
        )
        for id_, resource in new.items()
    ]
    found += [ResourceDifference(id_, True, False, []) for id_ in old if id_ not in new]
    return found


def facets(dataset: dict[str, Any]) -> dict[str, list[str]]:
    """Give what the filters of a webhook are matched against.

    ``dataset`` holds the id and then the name: a filter may give either.

    :param dataset: with both
    """
    organization = dataset.get("owner_org")
    return {
        "dataset": [dataset["id"], dataset["name"]],
        "organization": [organization] if organization and isinstance(organization, str) else [],
        "group": _named(dataset.get("groups"), "id"),
        "tag": _named(dataset.get("tags"), "name"),
        "type": [dataset.get("type") or "dataset"],
    }


def _named(shown: Any, key: str) -> list[str]:
    """Give what each of a list of dicts says by a key; also of a list of texts."""
    found = _of_each(lambda item: item.get(key) if isinstance(item, dict) else item, shown)
    return sorted(n for n in found if isinstance(n, str)) if isinstance(found, list) else []
