"""On a dataset's page: what was told about it, for those who may edit it."""

from __future__ import annotations

from typing import Any

import ckan.plugins.toolkit as tk
import flask

from .calling import call, show


def told(id_: str) -> Any:
    """What was told, and to how many."""
    before = flask.request.args.get("before", "")
    given = {"before": before} if before.isdecimal() and len(before) < 19 else {}
    page = show("webhook_dataset_told", id=id_, **given)
    dataset = call("package_show", id=id_)
    return tk.render(
        "webhooks/dataset.html",
        {
            # As CKAN's own templates of a dataset have it.
            "pkg": dataset,
            "pkg_dict": dataset,
            "dataset_type": dataset["type"],
            "events": page["events"],
            "before": page["before"],
            "is_first": not given,
        },
    )


PAGES = (("/dataset/webhooks/<id_>", "told", told, ["GET"]),)
