"""A labels plugin that asks a directory, which may be away."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from ckan import model
from ckan.lib.plugins import DefaultPermissionLabels


class Directory(DefaultPermissionLabels):
    """CKAN's own labels, for as long as the directory answers.

    :ivar away_for: ids of users whom it cannot tell of
    """

    def __init__(self) -> None:
        self.away_for: set[str] = set()

    def get_user_dataset_labels(self, user_obj: Any) -> list[str]:
        if user_obj.id in self.away_for:
            model.Session.execute(sa.text("SELECT * FROM the_directory_is_away"))
        labels: list[str] = super().get_user_dataset_labels(user_obj)
        return labels
