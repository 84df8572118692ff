"""What is between this portal and endpoints: a proxy, and the certificates that are trusted."""

from __future__ import annotations

import functools
import os
import ssl
from urllib.parse import urlsplit


def check_proxy(url: str) -> None:
    """:raises ValueError: it is no proxy's; the text leaves it out, for it may hold a password"""
    wrong = _wrong_with_proxy(url)
    if wrong:
        raise ValueError(f"{wrong}; write it as http://proxy.internal:3128")


def _wrong_with_proxy(url: str) -> str | None:
    try:
        parts = urlsplit(url)
        host = parts.hostname
    except ValueError:
        return "is no URL"
    if parts.scheme not in ("http", "https"):
        return "is no URL that starts with http:// or https://"
    if not host or any(c.isspace() for c in url):
        return "names no host"
    try:
        is_port = parts.port != 0
    except ValueError:
        is_port = False
    return None if is_port else "has a port that is none from 1 to 65535"


def check_certificates(path: str) -> None:
    """:raises ValueError: nothing can be verified by what is there"""
    try:
        about = os.stat(path)
        wrong = _wrong_with_certificates(path, about.st_ctime_ns, about.st_size)
    except OSError as error:
        wrong = error.strerror
    if wrong:
        raise ValueError(
            f"{path} has no certificates that can be read ({wrong}); name a file of them in PEM, as"
            " /etc/ssl/certs/ca-certificates.crt"
        )


# Each drive of deliveries asks, and to read a system's bundle takes longer than a handshake.
@functools.lru_cache(maxsize=1)
def _wrong_with_certificates(path: str, _changed: int, _size: int) -> str | None:
    try:
        ssl.create_default_context(cafile=path)
    except ssl.SSLError as error:
        return error.reason or str(error)
    except OSError as error:
        return error.strerror
    return None
