"""Which CKAN interfaces this extension implements, and by what."""

from __future__ import annotations

from typing import Any

import ckan.plugins as p
import ckan.plugins.toolkit as tk
from ckan.lib.plugins import DefaultTranslation

from . import capture, cli, config, helpers, queue, views
from .logic import action, auth, validators


@tk.blanket.actions(action.actions)
@tk.blanket.auth_functions(auth.auth_functions)
@tk.blanket.validators(validators.validators)
@tk.blanket.cli(cli.get_commands)
@tk.blanket.blueprints(views.blueprints)
@tk.blanket.helpers(helpers.helpers)
@tk.blanket.config_declarations
class WebhooksPlugin(p.SingletonPlugin, DefaultTranslation):
    """Tells subscribers what changed in what they may see."""

    p.implements(p.IConfigurable)
    p.implements(p.IConfigurer)
    p.implements(p.IPackageController, inherit=True)
    p.implements(p.IResourceController, inherit=True)
    p.implements(p.ITranslation)

    def update_config(self, config_: Any) -> None:
        """Say where the pages' templates, styles and scripts are."""
        tk.add_template_directory(config_, "templates")
        tk.add_resource("assets", "webhooks")

    def configure(self, config_: Any) -> None:
        """Start hearing CKAN's sessions, after CKAN's own listeners."""
        config.report_mistakes()
        queue.configure()
        capture.listen()

    def read(self, entity: Any) -> None:
        """Hear that ``package_show`` has looked at whether its reader may have the dataset."""
        capture.authorized()

    def before_dataset_index(self, pkg_dict: dict[str, Any]) -> dict[str, Any]:
        """Take the dict that CKAN built, so that it need not be built again."""
        capture.keep_built(pkg_dict)
        return pkg_dict
