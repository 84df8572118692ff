"""How the portal is set up: versions, options, and what they open."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator

import ckan
import ckan.plugins as p

from .. import config
from ..deliver import addresses, engine_name
from ..model import Webhook
from .finding import Finding, Level

# What the tests run on.
_TESTED = ("2.10", "2.11", "2.12")
# CKAN's own that add something there, the same for each reader.
_ADDING = ("datastore", "multilingual_dataset", "tracking")
_LOOPBACK = (ipaddress.ip_network("127.0.0.0/8"), ipaddress.ip_network("::1/128"))


def check_ckan() -> Iterator[Finding]:
    version = ckan.__version__
    if ".".join(version.split(".")[:2]) in _TESTED:
        yield Finding(Level.GOOD, f"ckan: {version}")
    else:
        yield Finding(
            Level.ODD,
            f"ckan: {version} is none of {', '.join(_TESTED)}, on which this version was tested",
            "look for a newer ckanext-webhooks, and run `ckan webhooks reconcile` after a few days:"
            " it should find no changes",
        )


def check_options() -> Iterator[Finding]:
    mistakes = list(config.mistakes())
    for mistake in mistakes:
        yield Finding(Level.WRONG, f"options: {mistake}", "correct it in ckan.ini")
    if not mistakes:
        yield Finding(Level.GOOD, "options: all make sense")


def check_secrets() -> Iterator[Finding]:
    """Keys that are not the web process's read nothing that it stores."""
    try:
        unreadable = Webhook.all_unreadable()
    except ValueError:  # no key can be used, which the options' check says
        yield Finding(Level.WRONG, "secrets: none can be read", f"correct {config.key_option()}")
        return
    if unreadable:
        yield Finding(
            Level.WRONG,
            f"secrets: those of {len(unreadable)} webhooks cannot be read, of {unreadable[0]} for"
            " example; nothing is sent to their endpoints",
            f"give web processes and workers the same {config.key_option()}; where that was"
            " changed, add the old key at the end of ckanext.webhooks.secret_keys",
        )
    else:
        yield Finding(Level.GOOD, "secrets: all can be read")


def check_engine() -> Iterator[Finding]:
    if engine_name() == "curl":
        yield Finding(Level.GOOD, "engine: curl")
    else:
        yield Finding(
            Level.ODD,
            "engine: requests, which takes a thread for each request under way",
            "for thousands of endpoints install pycurl: pip install 'ckanext-webhooks[curl]'",
        )


def check_addresses() -> Iterator[Finding]:
    """What the owner of any webhook may have the portal call."""
    entries = config.allowed_networks()
    allowed = addresses.read_allowed(tuple(entries))
    open_metadata = addresses.open_metadata(allowed)
    if open_metadata:
        yield Finding(
            Level.ODD,
            f"addresses: webhooks may call what gives away the credentials of this machine:"
            f" {', '.join(open_metadata)}",
            f"take it out of {addresses.OPTION}",
        )
    if any(_meets_loopback(network) for network in allowed.networks):
        yield Finding(
            Level.ODD,
            "addresses: webhooks may call every port of this machine, Solr's and Redis' too",
            f"in {addresses.OPTION} list what is to be called with its port, as 127.0.0.1:8080",
        )
    also = f", and {' '.join(entries)}" if entries else ""
    yield Finding(Level.GOOD, f"addresses: webhooks may call the public internet{also}")


def check_mail() -> Iterator[Finding]:
    """Owners are told of endpoints that fail by CKAN's mailer."""
    missing = [
        option
        for option, value in (
            ("smtp.server", config.mail_server()),
            ("smtp.mail_from", config.mail_from()),
        )
        if not value
    ]
    if missing:
        yield Finding(
            Level.ODD,
            f"mail: without {' and '.join(missing)} owners are not told that endpoints fail",
            "set that in ckan.ini; `ckan notify send_emails` and CKAN's other mails need it, too",
        )
    else:
        yield Finding(Level.GOOD, f"mail: from {config.mail_from()} by {config.mail_server()}")


def check_redaction() -> Iterator[Finding]:
    """An extension that changes what package_show gives may leave out fields for some readers."""
    names = sorted(_changing_what_is_shown())
    if names and config.entity() == "full" and config.content() == "full":
        yield Finding(
            Level.ODD,
            f"content: package_show is changed by {', '.join(names)}",
            "where that leaves out fields for some readers, set ckanext.webhooks.content ="
            " anonymous, or ckanext.webhooks.entity = stub: one body cannot suit them all",
        )


def _changing_what_is_shown() -> Iterator[str]:
    for plugin in p.PluginImplementations(p.IActions):
        if "package_show" in plugin.get_actions():
            yield plugin.name
    for interface, hook in (
        (p.IPackageController, "after_dataset_show"),
        (p.IResourceController, "before_resource_show"),
    ):
        for plugin in p.PluginImplementations(interface):
            function = getattr(type(plugin), hook, None)
            is_own = function is not None and function.__module__ != interface.__module__
            if is_own and plugin.name not in _ADDING:
                yield f"{plugin.name} ({hook})"


CHECKS = (
    check_ckan,
    check_options,
    check_secrets,
    check_engine,
    check_addresses,
    check_mail,
    check_redaction,
)


def _meets_loopback(network: addresses.IPNetwork) -> bool:
    return any(
        network.version == loopback.version and network.overlaps(loopback) for loopback in _LOOPBACK
    )
