"""What a receiver can know of a portal: a mirror that is built from deliveries alone."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from .. import difference
from .receiver import Received


@dataclass(frozen=True)
class Message:
    """One delivery, in whichever format it came.

    :ivar kind: ``dataset`` or ``resource``
    :ivar verb: ``create``, ``update`` or ``delete``
    """

    kind: str
    verb: str
    entity: dict[str, Any]
    sequence: int

    @classmethod
    def of(cls, request: Received) -> Message:
        # The formats standard and cloudevents carry the same facts one level down.
        facts = request.json.get("data") or request.json
        kind, verb = facts["topic"].split("/")
        return cls(kind, verb, facts["entity"], facts["sequence"])

    @property
    def dataset_id(self) -> str:
        return str(self.entity["id" if self.kind == "dataset" else "package_id"])

    @property
    def is_stub(self) -> bool:
        return self.entity.keys() <= {"id", "name", "type", "package_id"}


@dataclass
class Mirror:
    """Datasets and resources by id, each by its own events.

    Resources are kept twice, within their dataset and by themselves, since a
    receiver may have subscribed to either.

    :ivar sequences: newest sequence that was taken, by entity; it stays when
        the entity goes, so that what arrives late does not bring it back
    :ivar oddities: what at-least-once delivery allows, counted
    """

    datasets: dict[str, dict[str, Any]] = field(default_factory=dict)
    resources: dict[str, dict[str, Any]] = field(default_factory=dict)
    sequences: dict[str, int] = field(default_factory=dict)
    oddities: Counter[str] = field(default_factory=Counter)

    def take(self, message: Message) -> None:
        """Apply one delivery, unless it is older than what is known of its entity."""
        id_ = message.entity["id"]
        if message.sequence < self.sequences.get(id_, 0):
            self.oddities["late"] += 1
            return
        self.sequences[id_] = message.sequence
        known = self.datasets if message.kind == "dataset" else self.resources
        if message.verb == "delete":
            if known.pop(id_, None) is None:
                self.oddities["delete of something unknown"] += 1
            return
        if message.verb == "create" and id_ in known:
            self.oddities["create of something known"] += 1
        if message.verb == "update" and id_ not in known:
            self.oddities["update of something unknown"] += 1
        known[id_] = message.entity

    def differences(self, datasets: list[dict[str, Any]]) -> list[str]:
        """Compare with what CKAN gives, dataset by dataset and resource by resource.

        :param datasets: as ``package_show`` gives them
        """
        resources = [r for dataset in datasets for r in dataset["resources"]]
        return [
            *_differences("dataset", difference.comparable, datasets, self.datasets),
            *_differences("resource", difference.comparable_resource, resources, self.resources),
        ]


def _differences(
    kind: str,
    comparable: Any,
    expected: list[dict[str, Any]],
    mirrored: dict[str, dict[str, Any]],
) -> list[str]:
    there = {entity["id"]: comparable(entity) for entity in expected}
    here = {id_: comparable(entity) for id_, entity in mirrored.items()}
    found = [f"{kind} {id_} is missing" for id_ in there.keys() - here.keys()]
    found += [f"{kind} {id_} should not be there" for id_ in here.keys() - there.keys()]
    for id_ in there.keys() & here.keys():
        for key in difference.changed_keys(here[id_], there[id_]):
            found.append(
                f"{kind} {id_}: {key} is {here[id_].get(key)!r},"
                f" and CKAN says {there[id_].get(key)!r}"
            )
    return found
