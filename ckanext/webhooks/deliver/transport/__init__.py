"""From requests to outcomes: the only outbound connections of this software.

A name is resolved here, every answer is checked, and a checked address is what
is connected to, while SNI, certificate and Host stay the name's: a name that
changes between check and connect cannot lead elsewhere.

There are two engines of one behaviour, which tests/deliver/test_conformance.py
describes: ``curl`` (libcurl's multi interface) keeps thousands of requests
under way in one thread, ``requests`` has a thread for each.
"""

from __future__ import annotations

import os
from collections.abc import Callable

from ... import outbound
from . import by_requests
from .engine import Engine, Settings
from .resolving import is_own
from .target import NobodyTrusted, check_trust

_ENGINES: dict[str, Callable[[Settings, int], Engine]] = {"requests": by_requests.RequestsEngine}
try:
    from . import by_curl

    if hasattr(os, "eventfd"):  # of Linux, by which the engine is woken
        _ENGINES["curl"] = by_curl.CurlEngine
except ImportError:  # pycurl is not installed, or the libcurl that it was built for is not
    pass

__all__ = [
    "Engine",
    "NobodyTrusted",
    "Settings",
    "check_trust",
    "engine_name",
    "is_own",
    "open_engine",
]


def open_engine(settings: Settings, places: int = 0, name: str | None = None) -> Engine:
    """Open an engine: curl where pycurl can be imported, else requests.

    :param places: how many requests it is to have under way; 0 for as many as
        it is made for
    :param name: ``curl`` or ``requests``, where there is no choice
    :raises ValueError: the settings cannot be used at all
    :raises KeyError: there is no such engine here
    """
    if settings.proxy:
        try:
            outbound.check_proxy(settings.proxy)
        except ValueError as error:
            raise ValueError(f"the proxy {error}") from None
    return _ENGINES[name or engine_name()](settings, places)


def engine_name() -> str:
    """Give the name of the engine that is used where none is asked for."""
    return "curl" if "curl" in _ENGINES else "requests"
