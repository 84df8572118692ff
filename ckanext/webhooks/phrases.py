"""Why something is as it is: stored in English, said in the language of who reads it.

What decides is pure and knows no language, and what it decided is stored. So the
sentences stand here once more, for translators and for finding them in what was stored.
"""

from __future__ import annotations

import re

import ckan.plugins.toolkit as tk


def N_(text: str) -> str:
    """Mark words for translators that are translated where they are shown."""
    return text


_WORDS = (
    # of webhooks
    N_("by a person"),
    N_("its owner does not have the role of ckanext.webhooks.minimum_auth"),
    N_("its owner is not an active user any more"),
    N_(
        "its endpoint has still to answer a ping with the challenge in it, or its owner to confirm"
        " that by webhook_verify"
    ),
    N_("the endpoint answered 410 Gone: it is not there any more"),
    N_("a sysadmin gave it up, since the portal could not write what it is told"),
    # of deliveries that are not sent
    N_("a sysadmin gave it up, since the portal could not send it"),
    N_("superseded"),
    N_("coalesced"),
    N_("the webhook was deleted"),
    N_("the webhook is not active"),
    N_("the event is not in the log any more"),
    N_("the owner is not an active user any more"),
    N_("the address changed and is not verified yet"),
    N_("no worker took it in time"),
    N_("the portal could not send it and tries again; its administrators see why"),
    N_(
        "stored under a key that is neither among ckanext.webhooks.secret_keys nor comes from"
        " SECRET_KEY: the portal's operator is to add the old key at the end of that option"
    ),
    # of attempts
    N_("no answer"),
    N_("the name does not resolve: it is no name"),
    N_("the connection ended before the answer was complete, or what came is broken"),
    N_(
        "the portal cannot read the certificates that it is to trust (ckanext.webhooks.ca_bundle),"
        " so nothing is sent over TLS; its operator is to mend that"
    ),
    N_("the answer is not HTTP/1.1"),
    N_("the answer has more than 99 headers, or more than 64 KiB of them"),
    # of addresses
    N_("must not contain spaces, control characters or backslashes"),
    N_("must be a URL that starts with http:// or https://"),
    N_("must name a host, as in https://example.com/callback"),
    N_("must not have a host that ends in a number and is no IPv4 address"),
    N_("must not hold a user name or password; send credentials in `headers` instead"),
    N_("must name a port from 1 to 65535"),
    N_("must not have a percent sign in its host"),
    *(N_("this network"), N_("private"), N_("carrier-grade NAT"), N_("loopback")),
    *(N_("link-local"), N_("reserved"), N_("documentation"), N_("benchmarking")),
    *(N_("multicast"), N_("unspecified"), N_("local-use NAT64"), N_("discard-only")),
    N_(
        "the name leads to an address that is not public; the portal's operator may allow it by"
        " ckanext.webhooks.allowed_networks"
    ),
    *(N_("segment routing"), N_("site-local"), N_("this machine's own")),
)
# With a figure in them, or with words that may be one of these or somebody else's. What
# fits two fits the first.
_SENTENCES = (
    N_("it failed for %(days)s days without a success"),
    N_("the endpoint answered %(status)s; redirects are not followed"),
    N_("the endpoint answered %(status)s"),
    N_("no complete answer within %(seconds)s s"),
    N_("could not connect: %(why)s"),
    N_("the proxy refused: %(why)s"),
    N_("certificate refused: %(why)s"),
    N_("TLS failed: %(why)s"),
    N_("address refused: %(why)s"),
    N_("the name does not resolve: %(why)s"),
    N_("the header %(name)s has characters that HTTP does not allow; it was not sent"),
    N_("must not be longer than %(most)s characters"),
    N_("is not a URL: %(why)s"),
    N_("cloud metadata: %(cloud)s"),
    N_(
        "%(address)s is not a public address (%(why)s), and the name leads to it; the portal's"
        " operator may allow it by %(option)s"
    ),
    N_(
        "%(address)s is not a public address (%(why)s); the portal's operator may allow it by"
        " %(option)s"
    ),
)
_PATTERNS = tuple(
    (sentence, re.compile(re.sub(r"%\\\((\w+)\\\)s", r"(?P<\1>.+)", re.escape(sentence))))
    for sentence in _SENTENCES
)


# What a name led to is for sysadmins: a webhook would be a way to ask the portal's name server.
_LED_TO = re.compile(r"\S+ is not a public address \([^)]*\), and the name leads to it")


def for_owner(text: str) -> str:
    """Leave out what the owner of a webhook is not to read: which address a name has."""
    return _LED_TO.sub("the name leads to an address that is not public", text)


def parts(text: str) -> tuple[str, dict[str, str]]:
    """Give the sentence that a text was made of, and what stands in its places.

    :returns: the text itself, and nothing, where it is of none that is known here
    """
    for sentence, pattern in _PATTERNS if text not in _WORDS else ():
        if found := pattern.fullmatch(text):
            return sentence, found.groupdict()
    return text, {}


def translated(text: str) -> str:
    """Say it in the language of who asks. Somebody else's words stay as they are."""
    sentence, values = parts(text)
    if not values:
        return str(tk._(sentence))
    return str(tk._(sentence) % {name: translated(value) for name, value in values.items()})
