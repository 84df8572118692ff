"""Web pages. Each module is a family of them, and says where they are (``PAGES``).

Whatever a page shows or does goes through an action, as the user who is
logged in: who may do what is decided there alone.
"""

from __future__ import annotations

import ckan.plugins.toolkit as tk
import flask

from . import administration, dataset, deliveries, metrics, registry
from .guard import log_in, require_token, say

blueprint = flask.Blueprint("webhooks", __name__)
blueprint.before_request(log_in)
blueprint.before_request(require_token)
blueprint.register_error_handler(tk.ValidationError, say)
for _family in (registry, deliveries, administration, dataset):
    for _rule, _name, _view, _methods in _family.PAGES:
        blueprint.add_url_rule(_rule, _name, _view, methods=_methods)


def blueprints() -> list[flask.Blueprint]:
    return [blueprint, metrics.blueprint]
