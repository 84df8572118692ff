"""What a dataset looks like: the dict that ``package_show`` gives, as JSON.

With ``ckanext.webhooks.content = anonymous`` that is what it gives to who is not logged in. Else:

CKAN builds it for Solr in most write paths, and ``before_dataset_index``
hands it over; building it again would cost 10 ms and more. Where it was not
built, it is built here by the same steps, so that both are the same text.
"""

from __future__ import annotations

import datetime
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import ckan.plugins.toolkit as tk
import flask
from ckan import logic, model
from ckan.lib import plugins as lib_plugins
from ckan.lib.navl.dictization_functions import Missing

from .. import config, difference, wellformed
from . import touched

# What says which dataset it is, to receivers and to filters.
_IDENTIFYING = ("id", "name", "type")


# The context of the package_show of nobody that is under way in this thread.
_nobodys = threading.local()


def keep_built(index_dict: dict[str, Any]) -> None:
    """Keep the dict that CKAN built for Solr, where it shows this transaction.

    A search-index rebuild passes here too, with datasets nobody touched. What is built for the
    index is built with all rights, and so is of no use for what anonymous readers get.
    """
    if config.content() == "anonymous":
        return
    datasets = touched.current(model.Session()).datasets
    dataset = datasets.get(index_dict["id"])
    if dataset is not None and not dataset.stale:
        text = index_dict.get("validated_data_dict")
        dataset.built = touched.Built(wellformed.json_text(text)) if text else None


def authorized() -> None:
    """Note that CKAN is about to show a dataset, after it looked at whether it may.

    From here on extensions ask what the reader may.
    """
    context = getattr(_nobodys, "context", None)
    if context is not None:
        context.pop("ignore_auth", None)


def of_dataset(package_id: str, built: touched.Built | None) -> tuple[dict[str, Any], str]:
    """Give the dataset as ``package_show`` gives it: to CKAN itself, or to an anonymous reader.

    :param built: what CKAN built of it, if it did
    :returns: the dict, and the same as JSON
    """
    if built is None:
        show = _show_to_nobody if config.content() == "anonymous" else _show
        text = json.dumps(show(package_id), default=_as_json, skipkeys=True)
        built = touched.Built(wellformed.json_text(text))
    dataset = _identified(built.dataset, package_id)
    if _put_into_default_locale(dataset) or dataset is not built.dataset:
        return dataset, wellformed.dumps(dataset)
    return dataset, built.text


def _as_json(value: Any) -> str | None:
    """Give what stands for a value that JSON has no form for."""
    if isinstance(value, Missing):  # as CKAN does it
        return None
    return value.isoformat() if isinstance(value, datetime.date) else str(value)


def _identified(dataset: dict[str, Any], package_id: str) -> dict[str, Any]:
    """Give the dict with what identifies the dataset, which a plugin may have taken away."""
    lost = [key for key in _IDENTIFYING if not isinstance(dataset.get(key), str)]
    if not lost:
        return dataset
    package = model.Session.get(model.Package, package_id)
    return {**dataset, **{key: getattr(package, key) for key in lost}}


def _show(package_id: str) -> dict[str, Any]:
    """Build the dict by the steps of CKAN's search index."""
    if hasattr(logic, "package_show_default_and_custom_schemas"):  # CKAN 2.12
        shown: dict[str, Any] = logic.package_show_default_and_custom_schemas({}, package_id)[1]
        return shown
    context: Any = {"ignore_auth": True, "validate": False, "use_cache": False, "model": model}
    dataset = tk.get_action("package_show")(context, {"id": package_id})
    dataset.pop("tracking_summary", None)
    plugin = lib_plugins.lookup_package_plugin(dataset.get("type"))
    show_context: Any = {"model": model, "session": model.Session}
    validated, _errors = lib_plugins.plugin_validate(
        plugin, show_context, dataset, plugin.show_package_schema(), "package_show"
    )
    return dict(validated)


def _show_to_nobody(package_id: str) -> dict[str, Any]:
    """Call ``package_show`` as who is not logged in, also of what such a reader may not see.

    Who may be told decide the permission labels. So the rights to read it are not looked at,
    while extensions that leave something out find nobody with rights.
    """
    context: Any = {"user": "", "auth_user_obj": None, "ignore_auth": True, "use_cache": False}
    _nobodys.context = context
    try:
        with _logged_out():
            shown: dict[str, Any] = tk.get_action("package_show")(context, {"id": package_id})
    finally:
        _nobodys.context = None
    shown.pop("tracking_summary", None)  # it is told to nobody, and is not of this transaction
    return shown


@contextmanager
def _logged_out() -> Iterator[None]:
    """Let extensions that ask who makes the request find nobody, rather than the editor."""
    if not flask.has_request_context():
        yield
        return
    nobodys = _where_users_are(model.AnonymousUser())
    before = [(place, name, getattr(place, name, _MISSING)) for place, name, _ in nobodys]
    _set_each(nobodys)
    try:
        yield
    finally:
        _set_each(before)


def _where_users_are(user: Any) -> list[tuple[Any, str, Any]]:
    """Name what of a request says who makes it, and give what says that it is nobody.

    :param user: for ``tk.current_user``, which flask-login looks up
    """
    places = [(flask.g, "user", ""), (flask.g, "userobj", None), (flask.g, "_login_user", user)]
    stack = getattr(flask, "_request_ctx_stack", None)  # on CKAN 2.10 flask-login looks there
    return places if stack is None else [*places, (stack.top, "user", user)]


def _set_each(values: list[tuple[Any, str, Any]]) -> None:
    for place, name, value in values:
        if value is not _MISSING:
            setattr(place, name, value)
        elif hasattr(place, name):
            delattr(place, name)


_MISSING = object()


def _put_into_default_locale(dataset: dict[str, Any]) -> bool:
    """Undo the editor's language in the URLs of uploads (``/de/dataset/…``).

    :returns: something was changed
    """
    if not flask.has_request_context() or tk.request.environ.get("CKAN_LANG_IS_DEFAULT", True):
        return False
    uploads = [
        resource
        for resource in difference.resources(dataset)
        if resource.get("url_type") == "upload" and isinstance(resource.get("url"), str)
    ]
    for resource in uploads:
        resource["url"] = tk.h.url_for(
            f"{dataset.get('type') or 'dataset'}_resource.download",
            id=dataset["id"],
            resource_id=resource["id"],
            filename=resource["url"].rsplit("/", 1)[-1],
            qualified=True,
            locale="default",
        )
    return bool(uploads)
