"""The only reader of CKAN's configuration.

Options, defaults and their reasons are declared in config_declaration.yaml.
"""

from __future__ import annotations

import ipaddress
import logging
import math
import os
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import ckan.plugins.toolkit as tk

from . import encryption

log = logging.getLogger(__name__)

ENTITY = ("full", "stub")
MINIMUM_AUTH = ("none", "editor", "admin", "sysadmin")
# Days, where what is configured is none.
_DISABLE_AFTER = 5.0
_RETENTION_DAYS = 30.0


def minimum_auth() -> str:
    """Give the role a user needs to create webhooks, as it was written."""
    return str(tk.config["ckanext.webhooks.minimum_auth"]).strip().lower()


def site_url() -> str:
    return str(tk.config["ckan.site_url"])


def site_title() -> str:
    return str(tk.config["ckan.site_title"])


def site_id() -> str:
    return str(tk.config["ckan.site_id"])


def mail_server() -> str:
    return str(tk.config.get("smtp.server") or "")


def mail_from() -> str:
    return str(tk.config.get("smtp.mail_from") or "")


def exclude_types() -> frozenset[str]:
    return frozenset(tk.config["ckanext.webhooks.exclude_types"])


def entity() -> str:
    """Give how much of an entity is told: ``full`` or ``stub``."""
    return str(tk.config["ckanext.webhooks.entity"]).strip().lower()


def allowed_networks() -> list[str]:
    """Give what may be called although not public; an entry that makes no sense allows nothing."""
    entries = tk.config["ckanext.webhooks.allowed_networks"]
    return [text for text in entries if _is_network(text) or _is_endpoint(text)]


def broker_url() -> str:
    """Give the URL of Celery's broker: an own one, or CKAN's Redis."""
    return str(tk.config["ckanext.webhooks.broker_url"] or tk.config["ckan.redis.url"])


def timeout() -> float:
    """Give the seconds that one attempt may take, from resolving to the last byte."""
    return float(tk.config["ckanext.webhooks.timeout"])


def retry_schedule() -> list[float]:
    """Give the seconds before each try; there are as many tries as entries."""
    return [float(text) for text in tk.config["ckanext.webhooks.retry_schedule"]]


def max_in_flight() -> int:
    """Give the requests that one worker has under way, 0 for what its engine is made for."""
    return int(tk.config["ckanext.webhooks.max_in_flight"])


def max_in_flight_per_webhook() -> int:
    return int(tk.config["ckanext.webhooks.max_in_flight_per_webhook"])


def max_in_flight_per_host() -> int:
    """Give how many of them may go to one host, 0 for half of all."""
    return int(tk.config["ckanext.webhooks.max_in_flight_per_host"])


def max_in_flight_per_owner() -> int:
    """Give how many of them may be of one user's webhooks, 0 for half of all."""
    return int(tk.config["ckanext.webhooks.max_in_flight_per_owner"])


def proxy() -> str | None:
    """Give the URL of the proxy that requests go through, None for none: an own one, or CKAN's."""
    own = tk.config["ckanext.webhooks.proxy"]
    url = str(own or tk.config.get("ckan.download_proxy") or "").strip()
    # requests, which CKAN gives its option to, reads it so too.
    return (url if "://" in url else f"http://{url}") if url else None


def ca_bundle() -> str | None:
    """Give the file of certificates that are trusted, None for the usual ones."""
    return str(tk.config["ckanext.webhooks.ca_bundle"]).strip() or None


def disable_after() -> float:
    """Give the seconds for which an endpoint may fail before its webhook is disabled."""
    days = _positive(tk.config["ckanext.webhooks.disable_after"])
    return (days or _DISABLE_AFTER) * 86400


def verify() -> bool:
    """Tell whether endpoints must show that they want to be called."""
    return bool(tk.config["ckanext.webhooks.verify"])


def max_per_user() -> int:
    return int(tk.config["ckanext.webhooks.max_per_user"])


def max_per_host() -> int:
    return int(tk.config["ckanext.webhooks.max_per_host"])


def loop_bound() -> int:
    """Give how many changes of one dataset in an hour are told at once."""
    return int(tk.config["ckanext.webhooks.loop_bound"])


def loop_pause() -> float:
    """Give the seconds between changes of a dataset above that."""
    return float(tk.config["ckanext.webhooks.loop_pause"])


def retention_days() -> float:
    """Give the days, or parts of them, for which events and ended deliveries are kept."""
    return _positive(tk.config["ckanext.webhooks.retention_days"]) or _RETENTION_DAYS


def log_max_size() -> int:
    """Give the MiB of content that the log may hold beside what it keeps in any case."""
    return int(tk.config["ckanext.webhooks.log_max_size"])


def secret_keys() -> list[str]:
    """Give the Fernet keys for secrets at rest: the first writes, all read."""
    keys = list(tk.config["ckanext.webhooks.secret_keys"])
    if keys:
        return keys
    # CKAN 2.10 may have a beaker secret alone.
    site_secret = tk.config.get("SECRET_KEY") or tk.config.get("beaker.session.secret")
    return [encryption.derived_key(str(site_secret))]


def report_mistakes() -> None:
    """Log options whose values make no sense, when CKAN starts."""
    for mistake in mistakes():
        log.error("%s", mistake)


def mistakes() -> Iterator[str]:
    """Say of each option whose value makes no sense what that does, and what would be right."""
    if entity() not in ENTITY:
        yield (
            f"ckanext.webhooks.entity = {entity()} is none of {', '.join(ENTITY)}: until it is,"
            " only stubs are sent"
        )
    if minimum_auth() not in MINIMUM_AUTH:
        yield (
            f"ckanext.webhooks.minimum_auth = {minimum_auth()} is none of"
            f" {', '.join(MINIMUM_AUTH)}: until it is, only sysadmins may create and change"
            " webhooks"
        )
    for text in tk.config["ckanext.webhooks.allowed_networks"]:
        if not _is_network(text) and not _is_endpoint(text):
            yield (
                f"ckanext.webhooks.allowed_networks: {text} is no network and allows nothing;"
                " write it as in 10.20.0.0/16 or airflow.internal:8080"
            )
    yield from _mistakes_of_transport()
    for name, default in (("disable_after", _DISABLE_AFTER), ("retention_days", _RETENTION_DAYS)):
        days = tk.config[f"ckanext.webhooks.{name}"]
        if _positive(days) is None:
            yield (
                f"ckanext.webhooks.{name} = {days} is no number of days above 0: until it is,"
                f" it counts as {default:g}"
            )
    try:
        encryption.encrypt("", secret_keys())
    except ValueError:
        # The value stays unsaid.
        yield (
            "ckanext.webhooks.secret_keys: each must be 32 bytes in urlsafe base64; until it is,"
            " webhooks can neither be created nor called"
        )


def _mistakes_of_transport() -> Iterator[str]:
    if not _is_proxy(proxy()):
        # The value stays unsaid: it may hold a password.
        yield (
            "The proxy (ckanext.webhooks.proxy or else ckan.download_proxy) is no URL that starts"
            " with http:// or https://: until it is, no webhook is called"
        )
    bundle = ca_bundle()
    if bundle and not os.access(bundle, os.R_OK):
        yield (
            f"ckanext.webhooks.ca_bundle = {bundle} cannot be read: until it can, no webhook is"
            " called"
        )


def _positive(text: Any) -> float | None:
    """Read a number above 0; None where it is something else."""
    try:
        number = float(text)
    except (TypeError, ValueError):
        return None
    return number if 0 < number < math.inf else None


def _is_network(text: str) -> bool:
    try:
        ipaddress.ip_network(text, strict=False)
    except ValueError:
        return False
    return True


def _is_endpoint(text: str) -> bool:
    """Tell whether it is a name or an address with a port, ``[::1]:8080`` for IPv6."""
    try:
        parts = urlsplit(f"//{text}")
        return bool(parts.hostname and parts.port) and parts.netloc == text
    except ValueError:
        return False


def _is_proxy(url: str | None) -> bool:
    return url is None or url.startswith(("http://", "https://"))
