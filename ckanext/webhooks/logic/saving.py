"""The end of an action that changed something."""

from __future__ import annotations

from typing import Any

from ckan import model


def commit(context: Any) -> None:
    """Commit, unless the caller does so with more, as CKAN's own actions let it."""
    if not context.get("defer_commit"):
        model.repo.commit()
