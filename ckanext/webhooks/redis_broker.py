"""Redis as the broker: what its URL says, to redis-py and to Celery.

``ckan.redis.url`` is written for redis-py. Celery knows no ``unix://``, takes no options
of redis-py's in a URL, and verifies no certificate unless it is told to.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import quote, urlsplit

import redis
from redis.backoff import NoBackoff
from redis.connection import parse_url
from redis.retry import Retry

_SCHEMES = ("redis://", "rediss://", "unix://")
# As Celery writes unix://.
_SOCKET = "redis+socket://"


def is_redis(url: str) -> bool:
    """Tell whether it is the URL of one Redis; Celery takes several in one, with semicolons."""
    return url.startswith((*_SCHEMES, _SOCKET)) and ";" not in url


def celery_settings(url: str) -> dict[str, Any]:
    """Give what Celery calls what a URL of redis-py's says.

    How long to wait, which such a URL may say too, is the webhooks' own: they know whether
    anybody waits for them.

    :raises ValueError: redis-py cannot read it
    """
    parts = _parts(url)
    userinfo = ""
    if parts.get("username") or parts.get("password"):
        names = (quote(str(parts.get(name) or ""), safe="") for name in ("username", "password"))
        userinfo = ":".join(names) + "@"
    database = parts.get("db") or 0
    if "path" in parts:
        path = quote(parts["path"])
        return {
            "broker_url": f"{_SOCKET}{userinfo}{path}?virtual_host={database}",
            "broker_use_ssl": None,
        }
    host = parts.get("host") or "localhost"
    host = f"[{host}]" if ":" in host else quote(host)
    scheme = urlsplit(url).scheme
    return {
        "broker_url": f"{scheme}://{userinfo}{host}:{parts.get('port') or 6379}/{database}",
        "broker_use_ssl": _tls(parts) if scheme == "rediss" else None,
    }


def client(settings: Mapping[str, Any], patience: float) -> redis.Redis:
    """Give a client that tries once.

    :param settings: see :func:`celery_settings`
    :param patience: seconds to wait for the connection, and for each answer
    """
    parts = _parts(settings["broker_url"])
    named = ("host", "port", "db", "username", "password", "path", "connection_class")
    options = {name: parts[name] for name in named if name in parts}
    if "path" not in parts:
        options["socket_connect_timeout"] = patience
    pool = redis.ConnectionPool(
        **options,
        **(settings.get("broker_use_ssl") or {}),
        socket_timeout=patience,
        retry=Retry(NoBackoff(), 0),
    )
    return redis.Redis(connection_pool=pool)


def _parts(url: str) -> dict[str, Any]:
    if url.startswith(_SOCKET):
        url = "unix://" + url[len(_SOCKET) :].replace("virtual_host=", "db=")
    found: dict[str, Any] = parse_url(url)
    if url.startswith("unix://") and "path" not in found:
        raise ValueError("it names no socket")
    return found


def _tls(parts: Mapping[str, Any]) -> dict[str, Any]:
    """Give the options of TLS: the certificate is verified unless they say otherwise."""
    options = {name: value for name, value in parts.items() if name.startswith("ssl_")}
    # As Celery writes it, too: CERT_REQUIRED.
    wanted = str(options.get("ssl_cert_reqs", "required")).lower().replace("cert_", "")
    is_named = str(options.get("ssl_check_hostname", True)).lower() not in ("false", "no", "0")
    return {
        **options,
        "ssl_cert_reqs": wanted,
        "ssl_check_hostname": is_named and wanted == "required",
    }
