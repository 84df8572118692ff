"""What a check gives."""

from __future__ import annotations

import enum
from dataclasses import dataclass


class Level(enum.Enum):
    """How a thing is."""

    GOOD = "good"
    ODD = "odd"  # it works, but something is not as it should be
    WRONG = "wrong"  # it keeps webhooks from being called


@dataclass(frozen=True)
class Finding:
    """
    :param what: what was found, in words
    :param advice: what to do about it, empty where nothing is to be done
    """

    level: Level
    what: str
    advice: str = ""
