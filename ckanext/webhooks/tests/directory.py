"""A labels plugin that asks a directory, which may be away or take its time."""

from __future__ import annotations

import time
from typing import Any

import sqlalchemy as sa
from ckan import model
from ckan.lib.plugins import DefaultPermissionLabels


class Directory(DefaultPermissionLabels):
    """CKAN's own labels, for as long as the directory answers.

    :ivar away_for: ids of users whom it cannot tell of
    :ivar takes: seconds, by user id
    :ivar asked: ids of users, one for each time
    """

    def __init__(self) -> None:
        self.away_for: set[str] = set()
        self.takes: dict[str, float] = {}
        self.asked: list[str] = []

    def get_user_dataset_labels(self, user_obj: Any) -> list[str]:
        self.asked.append(user_obj.id)
        time.sleep(self.takes.get(user_obj.id, 0.0))
        if user_obj.id in self.away_for:
            model.Session.execute(sa.text("SELECT * FROM the_directory_is_away"))
        labels: list[str] = super().get_user_dataset_labels(user_obj)
        return labels
