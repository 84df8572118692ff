"""What can be subscribed to.

A topic is ``entity/verb``. A subscription names topics or patterns of them
(``dataset/*``, ``resource/*``, ``*``), so that a topic added later reaches
those who asked for everything.
"""

from __future__ import annotations

from collections.abc import Iterable

ENTITIES = ("dataset", "resource")
VERBS = ("create", "update", "delete")

TOPICS: dict[str, str] = {
    "dataset/create": "A dataset came into the subscriber's sight.",
    "dataset/update": "A dataset in the subscriber's sight changed.",
    "dataset/delete": "A dataset went out of the subscriber's sight.",
    "resource/create": "A resource came into the subscriber's sight.",
    "resource/update": "A resource in the subscriber's sight changed.",
    "resource/delete": "A resource went out of the subscriber's sight.",
}

EVERYTHING = "*"
# Not to be subscribed to: it is sent when a person asks for it.
PING = "ping"
PATTERNS = (EVERYTHING, *(f"{entity}/*" for entity in ENTITIES))


def is_subscribable(name: str) -> bool:
    """Tell whether ``name`` is a topic or a pattern of topics."""
    return name in TOPICS or name in PATTERNS


def matching(topic: str) -> tuple[str, ...]:
    """Give what a webhook may have subscribed to so that ``topic`` reaches it.

    >>> matching("dataset/update")
    ('dataset/update', 'dataset/*', '*')
    """
    entity = topic.split("/", 1)[0]
    return (topic, f"{entity}/*", EVERYTHING)


def column_text(names: Iterable[str]) -> str:
    """Write topics as the ``topic`` column of the 2015 extension holds them."""
    return ",".join(names)
